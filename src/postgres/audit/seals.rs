//! Seals as the database keeps them: a hint for people and a gate for SQL. The signed objects decide.

use tokio_postgres::types::ToSql;

use crate::model::audit::seal::Seal;
use crate::model::digest::Digest;
use crate::postgres::connection::Session;
use crate::postgres::error::PostgresError;

/// What the database says of one seal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// The partition, quoted.
    pub partition: String,
    /// Its place among the seals.
    pub number: i32,
    /// Digest of the signed seal; nothing for a text that is none.
    pub digest: Option<Digest>,
    /// Whether a relation of this name is there.
    pub is_there: bool,
    /// Whether its places are out of the side table.
    pub is_pruned: bool,
}

/// What is recorded; nothing where this database keeps no seals yet.
pub async fn recorded(session: &Session) -> Result<Vec<Recorded>, PostgresError> {
    let has = session.client().query_one(include_str!("../../../sql/audit/has_seals.sql"), &[]).await?;
    if !has.get::<_, bool>(0) {
        return Ok(Vec::new());
    }
    let rows = session.client().query(include_str!("../../../sql/audit/seals.sql"), &[]).await;
    let rows = rows.map_err(|error| session.failed("read which seals are recorded", error))?;
    let one = |row: &tokio_postgres::Row| Recorded {
        partition: row.get(0),
        number: row.get(1),
        digest: row.get::<_, &str>(2).parse().ok(),
        is_there: row.get(3),
        is_pruned: row.get(4),
    };
    Ok(rows.iter().map(one).collect())
}

/// Records `seal`, whose signed bytes have this digest.
pub async fn record(session: &Session, seal: &Seal, digest: Digest) -> Result<(), PostgresError> {
    let number = i32::try_from(seal.number).unwrap_or(i32::MAX);
    let rows = i64::try_from(seal.rows).unwrap_or(i64::MAX);
    let stretch = |stretch: &crate::model::audit::seal::Stretch| {
        format!("{{\"first\":{},\"last\":{}}}", stretch.first, stretch.last)
    };
    let stretches = format!("[{}]", seal.stretches.iter().map(stretch).collect::<Vec<_>>().join(","));
    let (root, artifact, digest) = (seal.root.to_string(), seal.archive.id.to_string(), digest.to_string());
    let (schema, name) = (&seal.partition.schema, &seal.partition.name);
    let parameters: [&(dyn ToSql + Sync); 10] =
        [schema, &number, &seal.lower, &seal.upper, &rows, &stretches, &root, &artifact, &digest, name];
    let done = session.client().query_one(include_str!("../../../sql/audit/record_seal.sql"), &parameters).await;
    done.map(|_| ()).map_err(|error| session.failed(&format!("record the seal of {}", seal.partition), error))
}

/// Takes at most `most` places of `partition` (quoted), which is gone, out of the side table. How many there were.
pub async fn prune(session: &Session, partition: &str, most: i32) -> Result<u64, PostgresError> {
    let query = include_str!("../../../sql/audit/prune_sealed.sql");
    let row = session.client().query_one(query, &[&partition, &most]).await;
    let row = row.map_err(|error| session.failed(&format!("prune the places of {partition}"), error))?;
    Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or_default())
}
