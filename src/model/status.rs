//! What is protected now, as one value: the terminal, the page and the report show it, nobody works it out again.
//!
//! Plain values and the rules that judge them; `ops::status` fills them in. Everything that could not be found out says
//! so ([`Freshness::Unknown`], an absent [`Holdings`]) and is never green.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::model::chain_status::{CalendarStatus, ChainStatus};
use crate::model::cost::CostStatus;
use crate::model::drill::DrillStatus;
use crate::model::id::{ArtifactId, RunId};
use crate::model::lsn::Timeline;
use crate::model::manifest::{Verification, VerificationLevel};
use crate::model::outcome::{Finding, Severity};
use crate::model::schedule::Schedule;
use crate::model::verb::Verb;
use crate::model::wal::SegmentName;
use crate::model::window::RecoveryStatus;

/// What is protected now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusModel {
    /// The cluster's name in the configuration.
    pub cluster: String,
    /// The plan's name, if there is a plan.
    pub plan: Option<String>,
    /// When this was found out.
    pub at: DateTime<Utc>,
    /// Whether everything the plan promises is kept, as far as this version knows it.
    pub green: bool,
    /// What can be restored now and what is missing, for people.
    pub headline: String,
    /// Every job of the plan that is switched on.
    pub jobs: Vec<JobStatus>,
    /// Every configured repository.
    pub repositories: Vec<RepositoryStatus>,
    /// Archived WAL, by timeline and repository; empty where the plan archives none.
    #[serde(default)]
    pub wal: Vec<WalStatus>,
    /// The audit chain; absent where the plan verifies none.
    #[serde(default)]
    pub chain: Option<ChainStatus>,
    /// The months of the tables that the plan has partition rules for.
    #[serde(default)]
    pub partitions: Vec<CalendarStatus>,
    /// What a point-in-time recovery can reach.
    #[serde(default)]
    pub recovery: RecoveryStatus,
    /// When the holder of each private key last showed that it opens what is stored.
    #[serde(default)]
    pub drills: Vec<DrillStatus>,
    /// What all that is stored costs in a month; absent where no prices are configured.
    #[serde(default)]
    pub cost: Option<CostStatus>,
    /// Why the run history could not be read, if it could not: then no last run is known.
    pub history_unreadable: Option<String>,
}

/// The WAL of one timeline in one repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalStatus {
    /// The timeline.
    pub timeline: Timeline,
    /// The repository.
    pub repository: String,
    /// The first segment stored; absent when none is.
    pub first: Option<SegmentName>,
    /// The last segment stored.
    pub last: Option<SegmentName>,
    /// When the last was stored, by the store's clock.
    pub newest: Option<DateTime<Utc>>,
    /// Segments that are not there yet, and that another place has.
    pub delayed: u64,
    /// Segments that nobody has.
    pub lost: u64,
}

/// One job of the plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobStatus {
    /// Its name.
    pub name: String,
    /// What it does.
    pub verb: Verb,
    /// Whether this version can run it.
    pub built: bool,
    /// When it is due next; absent for one that is run by hand.
    pub next: Option<DateTime<Utc>>,
    /// Its last run that ended; absent when none is remembered.
    pub last: Option<LastRun>,
    /// When a run began that has not ended: it is going on, or its agent died.
    pub running_since: Option<DateTime<Utc>>,
    /// What a dump, an increment or a base backup has stored; absent for other verbs.
    pub dump: Option<DumpStatus>,
}

/// How the last run of a job ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastRun {
    /// The run.
    pub run: RunId,
    /// When it began.
    pub started: DateTime<Utc>,
    /// When it ended.
    pub finished: DateTime<Utc>,
    /// How.
    pub result: LastResult,
    /// Its summary, or why it failed.
    pub message: String,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LastResult {
    /// Everything asked for was done.
    Ok,
    /// Done, with findings.
    Findings,
    /// Some repositories have it and some do not.
    Incomplete,
    /// Nothing usable came of it.
    Failed,
    /// It was stopped for a reason that is not its own.
    Interrupted,
}

/// What a job has stored that makes dumps, increments or base backups.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DumpStatus {
    /// The database, where the plan or an artifact names it.
    pub database: Option<String>,
    /// How many tables it names; 0 for the whole database.
    pub tables: u64,
    /// Age in seconds beyond which its newest artifact is overdue; absent for a job without a schedule.
    pub longest_age_seconds: Option<i64>,
    /// Whether any repository lacks a verified artifact that is new enough, as far as is known.
    pub overdue: bool,
    /// One for each repository it writes to.
    pub copies: Vec<CopyStatus>,
}

/// The newest good artifact of a dump job in one repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CopyStatus {
    /// The repository.
    pub repository: String,
    /// Whether it is as new as the schedule promises.
    pub freshness: Freshness,
    /// The artifact; absent when there is none or none is known.
    pub newest: Option<GoodArtifact>,
}

/// Whether a repository holds what the schedule promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Freshness {
    /// A verified artifact that is new enough.
    Current,
    /// Verified artifacts, the newest too old.
    Overdue,
    /// No verified artifact.
    Missing,
    /// The repository could not be read, or its log cannot be believed.
    Unknown,
}

/// An artifact whose bytes were checked and not found damaged since.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoodArtifact {
    /// Its identity.
    pub id: ArtifactId,
    /// The database it is of.
    pub database: String,
    /// Everything committed before this instant is in it.
    pub as_of: DateTime<Utc>,
    /// When its last object was complete.
    pub finished: DateTime<Utc>,
    /// How old its contents are, in seconds.
    pub age_seconds: i64,
    /// Bytes stored.
    pub stored_bytes: u64,
    /// How and when its bytes were last checked.
    pub verified: Verification,
}

/// One repository.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepositoryStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it holds; absent when it could not be read.
    pub holds: Option<Holdings>,
    /// Why it could not be read.
    pub unreadable: Option<String>,
    /// Why its log cannot be believed to the end, if it cannot.
    pub broken_log: Option<String>,
    /// What is wrong with it.
    pub findings: Vec<Finding>,
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holdings {
    /// Artifacts, damaged ones too.
    pub artifacts: u64,
    /// Bytes stored in them.
    pub bytes: u64,
    /// When the oldest was finished.
    pub oldest: Option<DateTime<Utc>>,
    /// When the newest was finished.
    pub newest: Option<DateTime<Utc>>,
}

/// How old the newest artifact of a job on `schedule` may be at `now`: twice the longer of the present interval and the
/// one before, so that a pause which the schedule itself makes (a weekend) is no delay.
pub fn longest_age(schedule: &Schedule, now: DateTime<Utc>) -> Option<TimeDelta> {
    let last = schedule.latest_at_or_before(now)?;
    let before = schedule.latest_at_or_before(last - TimeDelta::seconds(1))?;
    let next = schedule.next_after(now)?;
    Some((last - before).max(next - last) * 2)
}

/// An age for people, in its largest unit that is not coarse: `47 min`, `26 h`, `3 days`.
pub fn age(seconds: i64) -> String {
    match seconds {
        ..0 => "in the future".to_owned(),
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86400),
    }
}

impl StatusModel {
    /// The same model with its verdict and its headline worked out from everything else in it.
    pub fn judged(mut self) -> Self {
        let dumps = || self.jobs.iter().filter_map(|job| job.dump.as_ref());
        let all_current = dumps().all(|dump| !dump.copies.is_empty() && dump.is_current());
        let sound = self.repositories.iter().all(RepositoryStatus::is_sound);
        let wal_whole = self.wal.iter().all(|wal| wal.lost == 0);
        let watched = self.complaints().is_empty();
        let window_known = self.recovery.findings.iter().all(|finding| finding.severity != Severity::Critical);
        self.green = dumps().next().is_some() && all_current && sound && wal_whole && watched && window_known;
        self.headline = self.sentences();
        self
    }

    fn sentences(&self) -> String {
        let can: Vec<String> = self.recovery.sentence().into_iter().chain(self.restorable()).collect();
        let mut missing = self.missing();
        if can.is_empty() {
            return format!(
                "{}.",
                if missing.is_empty() { self.nothing().to_owned() } else { self.nothing_for(missing) }
            );
        }
        for repository in self.repositories.iter().filter(|repository| !repository.is_sound()) {
            missing.extend(repository.trouble());
        }
        let lost = self.wal.iter().filter(|wal| wal.lost > 0);
        missing.extend(
            lost.map(|wal| format!("{} lacks {}", wal.repository, counted(wal.lost, "WAL segment", "WAL segments"))),
        );
        missing.extend(self.complaints());
        missing.dedup();
        let but = if missing.is_empty() { String::new() } else { format!(" But {}.", missing.join("; ")) };
        format!("You can restore {}.{but}", can.join(" and "))
    }

    /// What is wrong with the audit chain, the months of partitioned tables and the decrypt drills.
    fn complaints(&self) -> Vec<String> {
        let chain = self.chain.iter().flat_map(|chain| chain.complaints(self.at));
        let chain = chain.chain(self.partitions.iter().filter_map(CalendarStatus::complaint));
        chain.chain(self.drills.iter().filter_map(DrillStatus::complaint)).collect()
    }

    fn nothing(&self) -> &'static str {
        match self.plan {
            Some(_) => "Nothing is protected: no job of the plan dumps a database",
            None => "Nothing is protected: the configuration names no plan",
        }
    }

    fn nothing_for(&self, missing: Vec<String>) -> String {
        let known = |repository: &RepositoryStatus| repository.holds.is_some() && repository.broken_log.is_none();
        let unknown = !self.repositories.iter().all(known);
        let what = if unknown { "It is not known whether anything can be restored" } else { "Nothing can be restored" };
        format!("{what}: {}", missing.join("; "))
    }

    /// For each database, the newest good artifact of the job that covers most of it.
    fn restorable(&self) -> Vec<String> {
        let mut best: BTreeMap<&str, (u64, &GoodArtifact, &DumpStatus)> = BTreeMap::new();
        let dumps = self.jobs.iter().filter(|job| job.verb != Verb::BaseBackup);
        for dump in dumps.filter_map(|job| job.dump.as_ref()) {
            let coverage = if dump.tables == 0 { u64::MAX } else { dump.tables };
            for good in dump.copies.iter().filter_map(|copy| copy.newest.as_ref()) {
                let place = best.entry(&good.database).or_insert((coverage, good, dump));
                if (coverage, good.as_of) > (place.0, place.1.as_of) {
                    *place = (coverage, good, dump);
                }
            }
        }
        best.into_values().map(|(_, good, dump)| dump.restorable(good)).collect()
    }

    fn missing(&self) -> Vec<String> {
        let mut sentences = Vec::new();
        for job in &self.jobs {
            for copy in job.dump.iter().flat_map(|dump| &dump.copies) {
                let (name, repository) = (&job.name, &copy.repository);
                match copy.freshness {
                    Freshness::Current => {}
                    Freshness::Overdue => sentences.push(format!("{name} is overdue in {repository}")),
                    Freshness::Missing => sentences.push(format!("{name} has no verified backup in {repository}")),
                    Freshness::Unknown => sentences.push(format!("what {repository} holds is not known")),
                }
            }
        }
        sentences.dedup();
        sentences
    }
}

impl DumpStatus {
    fn is_current(&self) -> bool {
        self.copies.iter().all(|copy| copy.freshness == Freshness::Current)
    }

    fn restorable(&self, good: &GoodArtifact) -> String {
        let copies = self.copies.iter().filter_map(|copy| copy.newest.as_ref()).filter(|other| other.id == good.id);
        let (mut count, mut level) = (0, VerificationLevel::ReadBack);
        for copy in copies {
            count += 1;
            level = level.min(copy.verified.level);
        }
        let tables =
            if self.tables == 0 { String::new() } else { format!("{}, ", counted(self.tables, "table", "tables")) };
        format!(
            "{} as of {} ({tables}{}, {})",
            good.database,
            good.as_of.format("%Y-%m-%dT%H:%M:%SZ"),
            counted(count, "copy", "copies"),
            level_in_words(level)
        )
    }
}

/// A level of verification for people.
pub fn level_in_words(level: VerificationLevel) -> &'static str {
    match level {
        VerificationLevel::ReadBack => "verified",
        VerificationLevel::StoreChecksum => "checked by the store only",
    }
}

fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
}

impl RepositoryStatus {
    /// Whether it could be read and nothing critical was found.
    pub fn is_sound(&self) -> bool {
        let critical = self.findings.iter().any(|finding| finding.severity == Severity::Critical);
        self.holds.is_some() && self.broken_log.is_none() && !critical
    }

    fn trouble(&self) -> Option<String> {
        let name = &self.name;
        if self.holds.is_none() {
            return Some(format!("what {name} holds is not known"));
        }
        let critical = self.findings.iter().filter(|finding| finding.severity == Severity::Critical).count() as u64;
        (critical > 0).then(|| format!("{name} has {}", counted(critical, "critical finding", "critical findings")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::window::{WindowSpan, WindowStatus};

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn good(as_of: &str, level: VerificationLevel) -> GoodArtifact {
        let as_of = at(as_of);
        GoodArtifact {
            id: "0193a0c0-0000-7000-8000-000000000001".parse().unwrap(),
            database: "shop".into(),
            as_of,
            finished: as_of,
            age_seconds: 3600,
            stored_bytes: 1,
            verified: Verification { level, at: as_of },
        }
    }

    fn copy(repository: &str, freshness: Freshness, newest: Option<GoodArtifact>) -> CopyStatus {
        CopyStatus { repository: repository.into(), freshness, newest }
    }

    fn job(name: &str, tables: u64, copies: Vec<CopyStatus>) -> JobStatus {
        let dump = DumpStatus { database: None, tables, longest_age_seconds: None, overdue: false, copies };
        JobStatus {
            name: name.into(),
            verb: Verb::Dump,
            built: true,
            next: None,
            last: None,
            running_since: None,
            dump: Some(dump),
        }
    }

    fn repository(name: &str) -> RepositoryStatus {
        let holds = Some(Holdings::default());
        RepositoryStatus { name: name.into(), holds, unreadable: None, broken_log: None, findings: Vec::new() }
    }

    fn model(jobs: Vec<JobStatus>, repositories: Vec<RepositoryStatus>) -> StatusModel {
        StatusModel {
            cluster: "c".into(),
            plan: Some("p".into()),
            at: at("2026-03-01T04:00:00Z"),
            green: true,
            headline: String::new(),
            jobs,
            repositories,
            history_unreadable: None,
            wal: Vec::new(),
            chain: None,
            partitions: Vec::new(),
            recovery: RecoveryStatus::default(),
            drills: Vec::new(),
            cost: None,
        }
        .judged()
    }

    const T: &str = "2026-03-01T03:00:12Z";

    #[test]
    fn the_headline_says_what_can_be_restored_from_how_many_copies() {
        let newest = || Some(good(T, VerificationLevel::ReadBack));
        let copies = vec![copy("local", Freshness::Current, newest()), copy("s3", Freshness::Current, newest())];
        let model = model(vec![job("full", 0, copies)], vec![repository("local"), repository("s3")]);
        assert_eq!(model.headline, "You can restore shop as of 2026-03-01T03:00:12Z (2 copies, verified).");
        assert!(model.green);
    }

    #[test]
    fn the_window_leads_and_a_base_backup_that_is_missing_is_not_green() {
        let newest = || Some(good(T, VerificationLevel::ReadBack));
        let full = job("full", 0, vec![copy("local", Freshness::Current, newest())]);
        let base = |freshness, newest| JobStatus {
            verb: Verb::BaseBackup,
            ..job("base", 0, vec![copy("local", freshness, newest)])
        };
        let span = WindowSpan { from: at("2026-02-27T02:00:00Z"), until: at(T), backups: 1, gap: None };
        let window = WindowStatus {
            repository: "local".into(),
            timeline: Timeline(1),
            current: true,
            spans: vec![span],
            rpo_seconds: 3600,
        };
        let recovery = RecoveryStatus { windows: vec![window], ..RecoveryStatus::default() };
        let jobs = vec![full.clone(), base(Freshness::Current, newest())];
        let status = StatusModel { recovery, ..model(jobs, vec![repository("local")]) }.judged();
        let said = "You can restore to any moment from 2026-02-27T02:00:00Z to 2026-03-01T03:00:12Z and shop as of \
                    2026-03-01T03:00:12Z (1 copy, verified).";
        assert_eq!((status.headline.as_str(), status.green), (said, true));
        let without = model(vec![full, base(Freshness::Missing, None)], vec![repository("local")]);
        assert!(!without.green);
        assert!(without.headline.ends_with("But base has no verified backup in local."), "{}", without.headline);
    }

    #[test]
    fn the_job_that_covers_most_speaks_for_a_database_even_when_it_is_older() {
        let old = Some(good("2026-02-28T03:00:00Z", VerificationLevel::ReadBack));
        let full = job("full", 11, vec![copy("local", Freshness::Overdue, old)]);
        let archive =
            job("archive", 1, vec![copy("local", Freshness::Current, Some(good(T, VerificationLevel::ReadBack)))]);
        let model = model(vec![archive, full], vec![repository("local")]);
        let said = "You can restore shop as of 2026-02-28T03:00:00Z (11 tables, 1 copy, verified). But full is overdue in local.";
        assert_eq!(model.headline, said);
        assert!(!model.green);
    }

    #[test]
    fn bytes_that_were_not_read_are_not_called_verified() {
        let copies = vec![copy("s3", Freshness::Current, Some(good(T, VerificationLevel::StoreChecksum)))];
        let model = model(vec![job("archive", 0, copies)], vec![repository("s3")]);
        assert!(model.headline.contains("checked by the store only"), "{}", model.headline);
    }

    #[test]
    fn unknown_is_unknown_and_nothing_is_nothing() {
        let unread = RepositoryStatus { holds: None, unreadable: Some("open".into()), ..repository("s3") };
        let unknown = model(vec![job("full", 0, vec![copy("s3", Freshness::Unknown, None)])], vec![unread]);
        assert_eq!(unknown.headline, "It is not known whether anything can be restored: what s3 holds is not known.");
        let missing = model(vec![job("full", 0, vec![copy("s3", Freshness::Missing, None)])], vec![repository("s3")]);
        assert_eq!(missing.headline, "Nothing can be restored: full has no verified backup in s3.");
        let nothing = model(Vec::new(), vec![repository("s3")]);
        assert_eq!(nothing.headline, "Nothing is protected: no job of the plan dumps a database.");
        assert!(!unknown.green && !missing.green && !nothing.green);
        let nowhere = model(vec![job("full", 0, Vec::new())], Vec::new());
        assert!(!nowhere.green, "a dump that writes to no repository protects nothing");
    }

    #[test]
    fn a_critical_finding_is_never_green_and_a_warning_may_be() {
        let with = |severity| {
            let findings = vec![Finding::new(severity, "code", "message")];
            let copies = vec![copy("local", Freshness::Current, Some(good(T, VerificationLevel::ReadBack)))];
            model(vec![job("full", 0, copies)], vec![RepositoryStatus { findings, ..repository("local") }])
        };
        assert!(with(Severity::Warning).green);
        let critical = with(Severity::Critical);
        assert!(!critical.green);
        assert!(critical.headline.ends_with("But local has 1 critical finding."), "{}", critical.headline);
    }

    #[test]
    fn the_longest_age_is_twice_the_interval_and_knows_weekends() {
        let limit = |schedule: &str, now: &str| longest_age(&schedule.parse().unwrap(), at(now)).unwrap().num_hours();
        assert_eq!(limit("0 3 * * *", "2026-03-01T04:00:00Z"), 48);
        assert_eq!(limit("0 * * * *", "2026-03-01T04:30:00Z"), 2);
        assert_eq!(limit("0 2 * * 1-5", "2026-03-01T04:00:00Z"), 144, "Friday to Monday, seen on a Sunday");
        assert_eq!(limit("0 2 * * 1-5", "2026-03-04T04:00:00Z"), 48);
        assert_eq!(limit("0 4 * * 0", "2026-03-04T04:00:00Z"), 336);
    }

    #[test]
    fn ages_read_well() {
        let ages = [-5, 59, 119, 120, 7199, 7200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["in the future", "59 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
