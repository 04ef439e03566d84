//! What is wrong between the log and its side table, looked for in SQL once the sums have said that something is.

use tokio_postgres::types::ToSql;

use crate::model::audit::finding::FirstBad;
use crate::model::audit::row::RowKey;
use crate::model::audit::seal::SealedRanges;
use crate::postgres::audit::snapshot::Partition;
use crate::postgres::connection::Session;
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// How a row and its place differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageClass {
    /// A place without a row.
    Missing,
    /// A row without a place.
    Extra,
    /// The row has another hash than its place.
    Altered,
    /// The row does not follow the place before.
    Unlinked,
    /// Places are gone.
    Gap,
}

/// All differences of one class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// How they differ.
    pub class: DamageClass,
    /// Whether there is a partition for them.
    pub covered: bool,
    /// How many.
    pub rows: u64,
    /// The first of them.
    pub first: FirstBad,
    /// What the side table says.
    pub expected: Option<String>,
    /// What the log says.
    pub actual: Option<String>,
}

/// Compares the log with its side table, on the session's snapshot, past what is `sealed` and gone; `genesis` stands for nothing
/// in the first row's link. Reads and joins everything: minutes on a large log.
pub async fn diagnose(
    session: &Session,
    partitions: &[Partition],
    sealed: &SealedRanges,
    genesis: Option<&str>,
) -> Result<Vec<Damage>, PostgresError> {
    let ranges = partitions.iter().filter(|partition| !partition.is_default);
    let open = |bound: &Option<String>, end: &str| bound.clone().unwrap_or_else(|| end.to_owned());
    let (lower, upper): (Vec<String>, Vec<String>) =
        ranges.map(|range| (open(&range.lower, "-infinity"), open(&range.upper, "infinity"))).unzip();
    let gone = sealed.stretches();
    let (first, last): (Vec<i64>, Vec<i64>) = gone.iter().map(|stretch| (stretch.first, stretch.last)).unzip();
    let hashes: Vec<String> = gone.iter().map(|stretch| stretch.tail.to_string()).collect();
    // The joins of a diagnosis need sorting, which streaming does without.
    session.batch("SET LOCAL enable_sort = on").await?;
    let parameters: [&(dyn ToSql + Sync); 6] = [&lower, &upper, &last, &hashes, &first, &genesis];
    let rows = session.client().query(include_str!("../../../sql/audit/diagnose.sql"), &parameters).await?;
    rows.iter().map(damage).collect()
}

fn damage(row: &tokio_postgres::Row) -> Result<Damage, PostgresError> {
    let class = match row.get::<_, &str>(0) {
        "missing" => DamageClass::Missing,
        "extra" => DamageClass::Extra,
        "altered" => DamageClass::Altered,
        "unlinked" => DamageClass::Unlinked,
        "gap" => DamageClass::Gap,
        other => {
            let message = format!("compare the log with its side table: unknown class {other}");
            return Err(PostgresError::new(PostgresErrorKind::Other, message));
        }
    };
    let first = FirstBad { seq: row.get(3), id: row.get(4), recorded_at: row.get(5), partition: row.get(6) };
    Ok(Damage {
        class,
        covered: row.get(1),
        rows: u64::try_from(row.get::<_, i64>(2)).unwrap_or_default(),
        first,
        expected: row.get(7),
        actual: row.get(8),
    })
}

/// Where rows stand in the chain, the one with the lowest place first; those without a place come last.
pub async fn places_of(session: &Session, keys: &[RowKey]) -> Result<Vec<(usize, FirstBad)>, PostgresError> {
    let ids: Vec<String> = keys.iter().map(|key| uuid::Uuid::from_bytes(key.id).to_string()).collect();
    let times: Vec<i64> = keys.iter().map(|key| key.recorded_at).collect();
    let rows = session.client().query(include_str!("../../../sql/audit/places_of.sql"), &[&ids, &times]).await?;
    let place = |row: &tokio_postgres::Row| {
        let ordinal = usize::try_from(row.get::<_, i64>(0) - 1).unwrap_or_default();
        (ordinal, FirstBad { seq: row.get(1), id: row.get(2), recorded_at: row.get(3), partition: None })
    };
    Ok(rows.iter().map(place).collect())
}

/// The first row that follows a row which another follows too, and how many do; nothing where there is none.
pub async fn forks(session: &Session, genesis: Option<&str>) -> Result<Option<(FirstBad, u64)>, PostgresError> {
    let row = session.client().query_opt(include_str!("../../../sql/audit/forks.sql"), &[&genesis]).await?;
    Ok(row.map(|row| {
        let first = FirstBad { seq: row.get(0), id: row.get(1), recorded_at: row.get(2), partition: row.get(3) };
        (first, u64::try_from(row.get::<_, i64>(4)).unwrap_or_default())
    }))
}
