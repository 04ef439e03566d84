//! Archived WAL: whether the server still archives, whether what it archived last comes back, and whether there are gaps.

use std::time::Duration;

use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Severity};
use crate::model::size::ByteSize;
use crate::model::wal::WalFile;
use crate::ops::Setting;
use crate::ops::check::{CheckLine, Doors, Wal, again};
use crate::postgres::Session;
use crate::postgres::archiver::ArchiverFacts;
use crate::steps::wal::{Back, archiving_findings, read_back, survey, survey_findings};

const ROUND_TRIP: &str = "wal-round-trip";
/// Longest wait for the archiver after a switch that was asked for.
const SWITCH_TIME: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(100);

pub(super) async fn check(doors: &Doors, setting: &Setting) -> Vec<CheckLine> {
    let Some(wal) = &doors.wal else { return Vec::new() };
    let facts = async {
        let session = doors.server.as_ref().map_err(again)?.connect().await?;
        if wal.switch {
            switch(&session, setting).await?;
        }
        Ok::<_, Failure>(ArchiverFacts::read(&session).await?)
    };
    let mut found = match facts.await {
        Ok(facts) => {
            let last = facts.archived.as_ref().map_or("nothing yet", |(file, _)| file.as_str());
            let good = format!("WAL is archived; the last file was {last}");
            let mut found = lines("wal-archiving", good, archiving_findings(&facts, wal.volume, &wal.thresholds));
            found.extend(round_trip(&facts, wal, setting).await);
            found
        }
        Err(failure) => vec![CheckLine::failed("wal-archiving", "the archiver", &failure)],
    };
    found.extend(stored(wal, setting).await);
    found
}

/// Ends the segment being written and waits until the archiver is past it.
async fn switch(session: &Session, setting: &Setting) -> Result<(), Failure> {
    let failed = |error| session.failed("end the segment being written", error);
    let ended = session.client().query_one(include_str!("../../../sql/wal/switch.sql"), &[]).await.map_err(failed)?;
    let ended: String = ended.get(0);
    let deadline = setting.clock.monotonic() + SWITCH_TIME;
    while ArchiverFacts::read(session).await?.archived.is_none_or(|(last, _)| last < ended) {
        setting.require_going_on("wait for the archiver")?;
        if setting.clock.monotonic() > deadline {
            let message = format!("see the segment {ended} archived: the archiver did not within a minute");
            return Err(Failure::new(FailureKind::Failed, message)
                .hint("The server's log says what archive_command told; `dbagent wal list` what is stored."));
        }
        setting.clock.sleep(ASK_EVERY).await;
    }
    Ok(())
}

/// Whether what the archiver says it archived last can be read back from every repository.
async fn round_trip(facts: &ArchiverFacts, wal: &Wal, setting: &Setting) -> Vec<CheckLine> {
    let last = facts.archived.as_ref().and_then(|(name, _)| name.parse::<WalFile>().ok());
    let Some(last) = last else { return Vec::new() };
    let mut read = Vec::new();
    for repository in &wal.repositories {
        let back = read_back(repository, last, wal.keys.as_ref(), setting.clock.now()).await;
        read.push((&repository.name, back));
    }
    let somewhere = read.iter().any(|(_, back)| matches!(back, Ok(Some(_))));
    let line = |(name, back): (&String, Result<Option<Back>, Failure>)| match back {
        Ok(Some(Back { bytes, content })) => {
            let how = match content {
                true => "read, decrypted, equal to what was pushed",
                false => "read as stored; no key here to decrypt it",
            };
            CheckLine::ok(ROUND_TRIP, format!("{last} comes back from {name}: {} {how}", ByteSize(bytes)))
        }
        Ok(None) => {
            let message = format!("{last} was archived, the server says, and {name} does not have it");
            let remedy =
                "`dbagent wal sync` carries it there if another repository or pg_wal has it; look at archive_command";
            if somewhere {
                CheckLine::warn(ROUND_TRIP, message, remedy)
            } else {
                CheckLine::fail(ROUND_TRIP, message, remedy)
            }
        }
        Err(failure) => CheckLine::failed(ROUND_TRIP, &format!("{last} in {name}"), &failure),
    };
    read.into_iter().map(line).collect()
}

async fn stored(wal: &Wal, setting: &Setting) -> Vec<CheckLine> {
    let found = survey(&wal.repositories, wal.local.as_ref(), setting.clock.now()).await;
    let held = found.timelines.iter().flat_map(|timeline| &timeline.held);
    match held.filter_map(|(_, coverage)| coverage.last()).max() {
        Some(last) => lines("wal-stored", format!("stored without a gap up to {last}"), survey_findings(&found)),
        None if found.unread.is_empty() => {
            vec![CheckLine::warn("wal-stored", "no WAL is stored yet", "set archive_command as the README says")]
        }
        None => lines("wal-stored", String::new(), survey_findings(&found)),
    }
}

/// A line for each finding; one that says `good` where there is none.
fn lines(check: &'static str, good: String, findings: Vec<Finding>) -> Vec<CheckLine> {
    if findings.is_empty() {
        return vec![CheckLine::ok(check, good)];
    }
    let line = |finding: Finding| {
        let remedy = finding.remedy.unwrap_or_else(|| "look into it".to_owned());
        match finding.severity {
            Severity::Critical => CheckLine::fail(check, finding.message, remedy),
            _ => CheckLine::warn(check, finding.message, remedy),
        }
    };
    findings.into_iter().map(line).collect()
}
