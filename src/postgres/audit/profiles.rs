//! Formulas of older rows as the database keeps them, and those rows before they have places.
//!
//! What stands there is a claim: the digest that checkpoints and seals have signed decides.

use std::collections::VecDeque;
use std::pin::Pin;

use futures_util::TryStreamExt as _;
use tokio_postgres::CopyOutStream;

use crate::model::audit::profile::{Profile, Profiles};
use crate::model::audit::row::{COPY_COLUMNS, RowFacts};
use crate::model::copy_binary::CopyReader;
use crate::postgres::connection::Session;
use crate::postgres::databases::literal;
use crate::postgres::error::PostgresError;

/// What the database says is pinned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// As far as it can be read.
    pub profiles: Profiles,
    /// Why a row of audit.profiles is none, in words.
    pub fault: Option<String>,
}

/// What is pinned; nothing where this database cannot pin yet.
pub async fn pinned(session: &Session) -> Result<Pinned, PostgresError> {
    let has = session.client().query_one(include_str!("../../../sql/audit/has_profiles.sql"), &[]).await?;
    if !has.get::<_, bool>(0) {
        return Ok(Pinned::default());
    }
    let rows = session.client().query(include_str!("../../../sql/audit/profiles.sql"), &[]).await;
    let rows = rows.map_err(|error| session.failed("read the formulas of older rows", error))?;
    let (mut profiles, mut fault) = (Vec::new(), None);
    for row in &rows {
        match read(row) {
            Ok(profile) => profiles.push(profile),
            Err(why) => fault = fault.or(Some(format!("{:?} of audit.profiles {why}", row.get::<_, &str>(0)))),
        }
    }
    let profiles = Profiles::of(profiles).unwrap_or_else(|unfit| {
        fault = Some(unfit.to_string());
        Profiles::default()
    });
    Ok(Pinned { profiles, fault })
}

fn read(row: &tokio_postgres::Row) -> Result<Profile, String> {
    let profile: Profile = serde_json::from_str(row.get(1)).map_err(|error| format!("is no definition: {error}"))?;
    let instant = |at: usize| row.get::<_, &str>(at).parse::<chrono::DateTime<chrono::Utc>>().ok();
    let definition = profile.definition();
    let range = (Some(definition.from), Some(definition.until));
    if profile.name() != row.get::<_, &str>(0) || (instant(3), instant(4)) != range {
        return Err("has another name or range than its definition".to_owned());
    }
    if profile.digest().to_string() != row.get::<_, &str>(2) {
        return Err("has another digest than its definition".to_owned());
    }
    Ok(profile)
}

/// Pins `profiles`.
pub async fn record(session: &Session, profiles: &Profiles) -> Result<(), PostgresError> {
    for profile in profiles.iter() {
        let definition = profile.definition();
        let (from, until) = (timestamp(definition.from), timestamp(definition.until));
        let (json, digest) = (profile.to_json(), profile.digest().to_string());
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&definition.name, &from, &until, &json, &digest];
        let done = session.client().execute(include_str!("../../../sql/audit/record_profile.sql"), &parameters).await;
        done.map_err(|error| session.failed(&format!("pin the profile {}", profile.name()), error))?;
    }
    Ok(())
}

/// An instant as PostgreSQL reads timestamps.
pub fn timestamp(at: chrono::DateTime<chrono::Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
}

/// Nothing when `instant` lies so far back that the trigger takes no row of before it any more, by the server's clock; else the
/// time from which on it does.
pub async fn not_over(
    session: &Session,
    instant: chrono::DateTime<chrono::Utc>,
) -> Result<Option<String>, PostgresError> {
    let query = include_str!("../../../sql/audit/is_over.sql");
    let row = session.client().query_one(query, &[&timestamp(instant)]).await?;
    Ok((!row.get::<_, bool>(0)).then(|| row.get(1)))
}

/// Rows of the log on their way, in the order of their times.
pub struct OldRows {
    stream: Pin<Box<CopyOutStream>>,
    reader: CopyReader,
    ready: VecDeque<RowFacts>,
    profiles: Profiles,
}

/// Rows whose recorded_at is before `until`, hashed by `profiles`. The session's client_encoding must be UTF8.
pub async fn rows_before(
    session: &Session,
    until: chrono::DateTime<chrono::Utc>,
    profiles: &Profiles,
) -> Result<OldRows, PostgresError> {
    let statement = format!(
        "COPY (SELECT {COPY_COLUMNS} FROM public.audit_logs WHERE recorded_at < {} ORDER BY recorded_at, id) TO STDOUT (FORMAT binary)",
        literal(&timestamp(until))
    );
    let stream = Box::pin(session.client().copy_out(&statement).await?);
    Ok(OldRows { stream, reader: CopyReader::default(), ready: VecDeque::new(), profiles: profiles.clone() })
}

impl OldRows {
    /// The next row; nothing at the end.
    pub async fn next(&mut self) -> Result<Option<RowFacts>, PostgresError> {
        loop {
            if let Some(row) = self.ready.pop_front() {
                return Ok(Some(row));
            }
            let Some(message) = self.stream.try_next().await? else {
                self.reader.finish()?;
                return Ok(None);
            };
            let ready = &mut self.ready;
            self.reader.take_rows(&message, &self.profiles, |row| {
                ready.push_back(row);
                Ok::<_, PostgresError>(())
            })?;
        }
    }
}
