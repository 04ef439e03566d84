//! Whether WAL is still being archived: every way in which archiving stops without a word, as a finding.
//!
//! Pure: what the server and the disk say comes in, findings come out.

use chrono::TimeDelta;

use crate::host::Space;
use crate::model::outcome::{Finding, Severity};
use crate::model::size::ByteSize;
use crate::model::status::age;
use crate::postgres::archiver::{ArchiverFacts, Slot};

/// A failure older than this, with no success since, is no hiccup.
const HICCUP: TimeDelta = TimeDelta::minutes(5);

/// When a backlog or a filling disk is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Thresholds {
    /// Bytes that wait to be archived: a warning, critical.
    pub backlog: (u64, u64),
    /// Percent used of the volume of pg_wal: a warning, critical.
    pub volume: (u8, u8),
}

/// What is wrong with archiving; nothing when all is well. `volume` is that of pg_wal, where this machine has it.
pub fn findings(facts: &ArchiverFacts, volume: Option<Space>, thresholds: &Thresholds) -> Vec<Finding> {
    let settings = settings(facts);
    let failing = failing(facts);
    let rest = [backlog(facts, thresholds), volume.and_then(|volume| filling(volume, thresholds)), timeout(facts)];
    let slots = facts.slots.iter().filter_map(|each| slot(each, thresholds)).chain(unbounded(&facts.slots));
    settings.into_iter().chain(failing).chain(rest.into_iter().flatten()).chain(slots).collect()
}

fn settings(facts: &ArchiverFacts) -> Option<Finding> {
    let critical = |code: &str, message: String, remedy: &str| {
        Some(Finding::new(Severity::Critical, code, message).remedy(remedy.to_owned()))
    };
    let command = "ALTER SYSTEM SET archive_command = 'dbagent wal push \"%p\"'; SELECT pg_reload_conf()";
    if facts.wal_level == "minimal" {
        let message = "wal_level is minimal: WAL cannot be recovered from".to_owned();
        return critical("wal-level", message, "ALTER SYSTEM SET wal_level = replica; then restart PostgreSQL");
    }
    match facts.mode.as_str() {
        "off" => {
            let remedy = "ALTER SYSTEM SET archive_mode = on; then restart PostgreSQL";
            critical("archiving-off", "archive_mode is off: no WAL is archived".to_owned(), remedy)
        }
        "on" if facts.in_recovery => None,
        _ if !facts.library.is_empty() => {
            let message = format!("archive_library is {}: WAL goes there, not to dbagent", facts.library);
            critical("archive-command", message, "ALTER SYSTEM RESET archive_library; SELECT pg_reload_conf()")
        }
        _ if facts.command.is_empty() || facts.command == "(disabled)" => {
            critical("archive-command", "archive_command is empty: WAL piles up in pg_wal".to_owned(), command)
        }
        _ if ["true", "/bin/true", "/usr/bin/true", ":", "exit 0"].contains(&facts.command.trim()) => {
            let message = format!("archive_command is {:?}: PostgreSQL throws WAL away", facts.command);
            critical("archive-command", message, command)
        }
        _ if !facts.command.contains("wal push") => {
            let message =
                format!("archive_command is {:?}: it does not say that it calls `dbagent wal push`", facts.command);
            Some(Finding::new(Severity::Warning, "archive-command", message).remedy(command.to_owned()))
        }
        _ => None,
    }
}

fn failing(facts: &ArchiverFacts) -> Option<Finding> {
    let (file, at) = facts.failed.as_ref()?;
    if facts.archived.as_ref().is_some_and(|(_, archived)| archived > at) {
        return None;
    }
    let since = facts.archived.as_ref().map(|(_, archived)| facts.now - *archived);
    let lasts = since.is_none_or(|since| since > HICCUP);
    let severity = if lasts { Severity::Critical } else { Severity::Warning };
    let last = match since {
        Some(since) => format!("the last success was {} ago", age(since.num_seconds().max(0))),
        None => "nothing was ever archived".to_owned(),
    };
    let message = format!("the archiver fails on {file} ({} failures in all); {last}", facts.failed_count);
    let remedy =
        "the server's log has our message; `dbagent wal push` on that file, as the server's user, shows it again";
    Some(Finding::new(severity, "archiver-failing", message).remedy(remedy))
}

/// WAL is never dropped to save space: it is told, early and again.
fn backlog(facts: &ArchiverFacts, thresholds: &Thresholds) -> Option<Finding> {
    let files = facts.waiting?;
    let bytes = files.saturating_mul(facts.segment_size);
    let severity = severity(bytes, thresholds.backlog)?;
    let message = format!("{files} files ({}) wait to be archived", ByteSize(bytes));
    let remedy = "look at `dbagent wal list` and the archiver; a running agent ships several files at once";
    Some(Finding::new(severity, "archive-backlog", message).remedy(remedy))
}

fn filling(volume: Space, thresholds: &Thresholds) -> Option<Finding> {
    let used = 100 - volume.free_percent().min(100);
    let (warning, critical) = thresholds.volume;
    let severity = severity(used, (warning.into(), critical.into()))?;
    let message = format!("the volume of pg_wal is used to {used} %; {} are free", ByteSize(volume.free));
    let remedy = "PostgreSQL stops when it is full: give it room, or mend archiving; never delete from pg_wal by hand";
    Some(Finding::new(severity, "pg-wal-volume", message).remedy(remedy))
}

/// A slot that has lost its WAL, or holds more of it than may wait to be archived.
fn slot(slot: &Slot, thresholds: &Thresholds) -> Option<Finding> {
    let name = &slot.name;
    let drop = format!("drop it if its consumer is gone: SELECT pg_drop_replication_slot('{name}')");
    match slot.wal_status.as_deref() {
        Some("lost") => {
            let message = format!("the replication slot {name} has lost its WAL: its consumer can never go on from it");
            let remedy = format!("{drop}; a standby is made anew, and what streamed the log needs a new base backup");
            return Some(Finding::new(Severity::Critical, "slot-lost", message).remedy(remedy));
        }
        Some("unreserved") => {
            let message = format!("the replication slot {name} loses its WAL at the next checkpoint");
            return Some(Finding::new(Severity::Critical, "slot-unreserved", message).remedy(drop));
        }
        _ => {}
    }
    let severity = severity(slot.held, thresholds.backlog)?;
    let state = if slot.active { "is behind by" } else { "has no consumer and holds" };
    let message = format!("the replication slot {name} {state} {} of WAL", ByteSize(slot.held));
    Some(Finding::new(severity, "slot-lag", message).remedy(drop))
}

/// Without a bound a slot that nobody reads from fills the disk, and PostgreSQL stops.
fn unbounded(slots: &[Slot]) -> Option<Finding> {
    let slot = slots.iter().find(|slot| !slot.bounded)?;
    let message =
        format!("max_slot_wal_keep_size is -1: the replication slot {} may fill the volume of pg_wal", slot.name);
    let remedy = "ALTER SYSTEM SET max_slot_wal_keep_size = '10GB'; SELECT pg_reload_conf()";
    Some(Finding::new(Severity::Warning, "slot-unbounded", message).remedy(remedy))
}

fn severity(value: u64, (warning, critical): (u64, u64)) -> Option<Severity> {
    match value {
        value if value >= critical => Some(Severity::Critical),
        value if value >= warning => Some(Severity::Warning),
        _ => None,
    }
}

fn timeout(facts: &ArchiverFacts) -> Option<Finding> {
    if facts.timeout > 0 || facts.mode == "off" || facts.in_recovery {
        return None;
    }
    let message = "archive_timeout is 0: on a quiet server the last segment waits for ever, and so does what is in it";
    let remedy = "ALTER SYSTEM SET archive_timeout = '60s'; SELECT pg_reload_conf()";
    Some(Finding::new(Severity::Warning, "archive-timeout", message).remedy(remedy))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Thresholds = Thresholds { backlog: (64 << 20, 256 << 20), volume: (75, 90) };

    fn well() -> ArchiverFacts {
        let now = "2026-01-05T03:00:00Z".parse().unwrap();
        ArchiverFacts {
            mode: "on".into(),
            command: "dbagent wal push \"%p\"".into(),
            library: String::new(),
            wal_level: "replica".into(),
            timeout: 60,
            segment_size: 16 << 20,
            archived: Some(("000000010000000000000001".into(), now)),
            failed: None,
            failed_count: 0,
            now,
            in_recovery: false,
            waiting: Some(0),
            slots: Vec::new(),
        }
    }

    fn found(facts: &ArchiverFacts) -> Vec<(String, Severity)> {
        findings(facts, None, &LIMITS).into_iter().map(|finding| (finding.code, finding.severity)).collect()
    }

    fn one(code: &str, severity: Severity) -> Vec<(String, Severity)> {
        vec![(code.to_owned(), severity)]
    }

    #[test]
    fn archiving_that_is_well_is_silent() {
        assert_eq!(found(&well()), []);
        let standby = ArchiverFacts { in_recovery: true, command: String::new(), timeout: 0, ..well() };
        assert_eq!(found(&standby), [], "archive_mode = on does nothing on a standby");
    }

    #[test]
    fn every_setting_that_stops_archiving_is_critical() {
        let critical = Severity::Critical;
        assert_eq!(found(&ArchiverFacts { mode: "off".into(), ..well() }), one("archiving-off", critical));
        assert_eq!(found(&ArchiverFacts { wal_level: "minimal".into(), ..well() }), one("wal-level", critical));
        for command in ["", "(disabled)", "/bin/true", ":"] {
            let facts = ArchiverFacts { command: command.into(), ..well() };
            assert_eq!(found(&facts), one("archive-command", critical), "{command:?}");
        }
        let other = ArchiverFacts { command: "cp %p /mnt/%f".into(), ..well() };
        assert_eq!(found(&other), one("archive-command", Severity::Warning));
        let library = ArchiverFacts { library: "basic_archive".into(), ..well() };
        assert_eq!(found(&library), one("archive-command", critical));
        assert_eq!(found(&ArchiverFacts { timeout: 0, ..well() }), one("archive-timeout", Severity::Warning));
    }

    #[test]
    fn an_archiver_that_fails_is_told_until_it_succeeds() {
        let failed = |minutes: i64, archived: Option<i64>| {
            let ago = |minutes| well().now - TimeDelta::minutes(minutes);
            let failed = Some(("000000010000000000000002".to_owned(), ago(minutes)));
            let archived = archived.map(|minutes| ("000000010000000000000001".to_owned(), ago(minutes)));
            found(&ArchiverFacts { failed, archived, failed_count: 3, ..well() })
        };
        assert_eq!(failed(1, Some(0)), [], "it has succeeded since");
        assert_eq!(failed(0, Some(1)), one("archiver-failing", Severity::Warning));
        assert_eq!(failed(0, Some(6)), one("archiver-failing", Severity::Critical));
        assert_eq!(failed(0, None), one("archiver-failing", Severity::Critical));
    }

    #[test]
    fn f72_a_slot_that_holds_wal_or_has_lost_it_is_told() {
        let with = |wal_status: &str, held, bounded| {
            let slot = Slot { name: "s".into(), active: false, wal_status: Some(wal_status.into()), held, bounded };
            found(&ArchiverFacts { slots: vec![slot], ..well() })
        };
        assert_eq!(with("reserved", 1 << 20, true), []);
        assert_eq!(with("reserved", 64 << 20, true), one("slot-lag", Severity::Warning));
        assert_eq!(with("extended", 256 << 20, true), one("slot-lag", Severity::Critical));
        assert_eq!(with("unreserved", 0, true), one("slot-unreserved", Severity::Critical));
        assert_eq!(with("lost", 0, true), one("slot-lost", Severity::Critical));
        assert_eq!(with("reserved", 0, false), one("slot-unbounded", Severity::Warning));
    }

    #[test]
    fn f18_a_backlog_and_a_filling_volume_are_told_at_two_thresholds() {
        let waiting = |files| found(&ArchiverFacts { waiting: Some(files), ..well() });
        assert_eq!(waiting(3), []);
        assert_eq!(waiting(4), one("archive-backlog", Severity::Warning));
        assert_eq!(waiting(16), one("archive-backlog", Severity::Critical));
        let used = |percent: u64| {
            let volume = Space { total: 1000, free: 1000 - percent * 10 };
            findings(&well(), Some(volume), &LIMITS).into_iter().map(|finding| finding.severity).collect::<Vec<_>>()
        };
        assert_eq!([used(74), used(75), used(90)], [vec![], vec![Severity::Warning], vec![Severity::Critical]]);
    }
}
