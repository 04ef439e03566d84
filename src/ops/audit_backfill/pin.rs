//! Rows that an earlier application has hashed: each is held to the formula of its range and followed by its own link, and gets a
//! place; `hash` and `previous_hash` stay as they are. The formulas are pinned with the places, in one transaction.
//!
//! Nothing is taken that is not one chain, whole, by these formulas: what is pinned is signed from then on.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use crate::model::audit::placing::Placing;
use crate::model::audit::profile::Profiles;
use crate::model::audit::row::{Link, RowFacts};
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::postgres::audit::profiles::{not_over, pinned, record, rows_before, timestamp};
use crate::postgres::audit::schema;
use crate::postgres::copy::CopySink;
use crate::postgres::{Connection, Session, copy};
use crate::steps::profiles::settle;

/// Bytes sent at once.
const PIECE: usize = 1 << 18;

/// Pins `profiles` with the rows in their ranges, unless that is done already. How many rows keep their hashes by this run.
pub(super) async fn pin(connection: &Connection, profiles: &Profiles, setting: &Setting) -> Result<u64, Failure> {
    let session = copy::connect(connection, "UTF8").await?;
    let before = pinned(&session).await?;
    if before.fault.is_some() || !before.profiles.is_empty() {
        return match settle(&before, profiles, None).finding {
            None => Ok(0),
            Some(finding) => Err(refused(&finding.message, "Put [audit.profile] back as it was pinned.")),
        };
    }
    let Some(until) = profiles.end() else { return Ok(0) };
    session.batch("BEGIN").await?;
    session.settle(pin_on(&session, connection, (profiles, until), setting).await).await
}

async fn pin_on(
    session: &Session,
    connection: &Connection,
    (profiles, until): (&Profiles, DateTime<Utc>),
    setting: &Setting,
) -> Result<u64, Failure> {
    schema::lock_head(session).await?;
    if !schema::side_tables_are_empty(session).await? {
        let hint =
            "Their old hashes are gone: go on without [audit.profile], or load the dump of before and begin again.";
        return Err(refused("rows are chained by v1 already", hint));
    }
    let mut sink = copy::copy_in(session, "COPY audit.chain_seq (seq, id, recorded_at, hash) FROM STDIN").await?;
    let placing = survey(connection, (profiles, until), Some(&mut sink), setting).await?;
    sink.finish().await?;
    schema::set_head(session, placing.seq, placing.tail.as_deref()).await?;
    record(session, profiles).await?;
    Ok(placing.rows)
}

/// How many rows would keep their hashes; an error when they would not.
pub(super) async fn survey_only(
    connection: &Connection,
    profiles: &Profiles,
    setting: &Setting,
) -> Result<u64, Failure> {
    match profiles.end() {
        Some(until) => Ok(survey(connection, (profiles, until), None, setting).await?.rows),
        None => Ok(0),
    }
}

/// Reads every row of the ranges, on one snapshot, holds it to its formula and follows it; places go into `sink`.
async fn survey(
    connection: &Connection,
    (profiles, until): (&Profiles, DateTime<Utc>),
    mut sink: Option<&mut CopySink>,
    setting: &Setting,
) -> Result<Placing, Failure> {
    let reader = copy::connect(connection, "UTF8").await?;
    if let Some(from) = not_over(&reader, until).await? {
        let why = format!("a range ends at {}, and the trigger takes rows of the last hour", timestamp(until));
        return Err(refused(
            &why,
            &format!("Let the earlier application stop writing, and run it again after {from} UTC."),
        ));
    }
    setting.events.step("following the rows that an earlier application has hashed");
    let mut rows = rows_before(&reader, until, profiles).await?;
    let mut placing = Placing::new(BTreeMap::new(), profiles.genesis().map(|genesis| genesis.to_string()));
    let mut held = Held::new(profiles);
    while let Some(row) = rows.next().await? {
        held.take(&row)?;
        follow(&mut placing, &row)?;
        if placing.pending() >= PIECE {
            setting.require_going_on("go on chaining the audit log")?;
            let lines = Bytes::from(placing.lines());
            if let Some(sink) = &mut sink {
                sink.write(lines).await?;
            }
        }
    }
    held.finish()?;
    placing.finish().map_err(|error| not_one_chain(&error.0))?;
    if let Some(sink) = sink {
        sink.write(Bytes::from(placing.lines())).await?;
    }
    Ok(placing)
}

fn follow(placing: &mut Placing, row: &RowFacts) -> Result<(), Failure> {
    let before = match row.previous {
        Link::None => None,
        Link::Hash(hash) => Some(hash.to_string()),
        Link::Malformed => return Err(not_one_chain(&format!("previous_hash of {} is no hash", id_of(row)))),
    };
    // A row whose hash is none is refused by its formula at the end; what follows it is not looked at.
    let Link::Hash(hash) = row.stored else { return Ok(()) };
    let key = format!("{}\t{}", id_of(row), time_of(row));
    placing.take(key, before, hash.to_string()).map_err(|error| not_one_chain(&error.0))
}

fn id_of(row: &RowFacts) -> uuid::Uuid {
    uuid::Uuid::from_bytes(row.key.id)
}

fn time_of(row: &RowFacts) -> String {
    crate::model::audit::row::instant(row.key.recorded_at).map_or("infinity".to_owned(), timestamp)
}

/// What was found of each range.
struct Held<'a> {
    profiles: &'a Profiles,
    rows: BTreeMap<&'a str, u64>,
    bad: u64,
    first_bad: Option<String>,
}

impl<'a> Held<'a> {
    fn new(profiles: &'a Profiles) -> Self {
        let rows = profiles.iter().map(|profile| (profile.name(), 0)).collect();
        Self { profiles, rows, bad: 0, first_bad: None }
    }

    fn take(&mut self, row: &RowFacts) -> Result<(), Failure> {
        let Some(profile) = self.profiles.at(row.key.recorded_at) else {
            let why = format!("row {} of {} comes before a range that it is not in", id_of(row), time_of(row));
            let hint = "A chain goes from range to range and ends with v1: let the first range begin with the first row, and each go \
                        on where the one before it ends.";
            return Err(refused(&why, hint));
        };
        *self.rows.entry(profile.name()).or_default() += 1;
        if !row.is_sound() {
            self.bad += 1;
            self.first_bad.get_or_insert_with(|| {
                let stored = match row.stored {
                    Link::Hash(hash) => hash.to_string(),
                    Link::None | Link::Malformed => "no 64 lower-case digits".to_owned(),
                };
                let (id, at, name) = (id_of(row), time_of(row), profile.name());
                format!("the first is {id} of {at}: {name} gives {}, its hash is {stored}", row.computed)
            });
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Failure> {
        let rows: u64 = self.rows.values().sum();
        if let Some(first) = self.first_bad {
            let why =
                format!("{} of {rows} rows have another hash than the formula of their range gives; {first}", self.bad);
            let hint = "All of them: the formula is not this one. A few: they were altered, or written by something else. Nothing \
                        was changed; without [audit.profile] every row is chained anew.";
            return Err(refused(&why, hint));
        }
        match self.rows.into_iter().find(|(_, rows)| *rows == 0) {
            None => Ok(()),
            Some((name, _)) => {
                let why = format!("no row lies in the range of {name:?}");
                Err(refused(&why, "Correct from and until, which are UTC, or take the profile away."))
            }
        }
    }
}

fn not_one_chain(how: &str) -> Failure {
    let why = format!("the rows that an earlier application has hashed are not one chain: {how}");
    let hint =
        "Nothing was changed. Such rows cannot keep their hashes: without [audit.profile] every row is chained anew.";
    refused(&why, hint)
}

fn refused(why: &str, hint: &str) -> Failure {
    Failure::new(FailureKind::RefusedForSafety, format!("chain the audit log: {why}")).hint(hint)
}
