//! Archived WAL: whether the server still archives, and whether what is stored has gaps.

use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Severity};
use crate::ops::Setting;
use crate::ops::check::{CheckLine, Doors, Wal, again};
use crate::postgres::archiver::ArchiverFacts;
use crate::steps::wal::{archiving_findings, survey, survey_findings};

pub(super) async fn check(doors: &Doors, setting: &Setting) -> Vec<CheckLine> {
    let Some(wal) = &doors.wal else { return Vec::new() };
    let facts = async {
        let session = doors.server.as_ref().map_err(again)?.connect().await?;
        Ok::<_, Failure>(ArchiverFacts::read(&session).await?)
    };
    let archiving = match facts.await {
        Ok(facts) => {
            let last = facts.archived.as_ref().map_or("nothing yet", |(file, _)| file.as_str());
            let good = format!("WAL is archived; the last file was {last}");
            lines("wal-archiving", good, archiving_findings(&facts, wal.volume, &wal.thresholds))
        }
        Err(failure) => vec![CheckLine::failed("wal-archiving", "the archiver", &failure)],
    };
    archiving.into_iter().chain(stored(wal, setting).await).collect()
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
