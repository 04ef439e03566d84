//! A plan: the jobs of one cluster, its partition and purge rules, its compliance minimum.
//!
//! Every key of every verb is read and checked, also of verbs that this version cannot run yet. What the keys of a job
//! mean together is `plan_rules`'s concern; three plans are compiled in.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::rules::{Checklist, PartitionRule, PurgeRule};
use crate::model::keep::{Keep, PerRepository};
use crate::model::schedule::{Schedule, Zone};
use crate::model::side::Side;
use crate::model::span::Span;
use crate::model::table::TableName;
use crate::model::verb::Verb;

/// The plans compiled in, by name.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("bc-003", include_str!("../../schedules/bc-003.toml")),
    ("dify", include_str!("../../schedules/dify.toml")),
    ("managed", include_str!("../../schedules/managed.toml")),
];

/// The whole plan.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Plan {
    /// Its name in manifests; the file's name without its ending when absent.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Whether the server is a managed one: no WAL, no data directory.
    pub managed: bool,
    /// The compliance minimum, by table.
    #[schemars(with = "BTreeMap<String, Span>")]
    pub retention_floor: BTreeMap<TableName, Span>,
    /// Jobs by name.
    pub job: BTreeMap<String, Job>,
    /// Partitioned tables, by name.
    #[schemars(with = "BTreeMap<String, PartitionRule>")]
    pub partition: BTreeMap<TableName, PartitionRule>,
    /// What may be deleted by key, by rule.
    pub purge: BTreeMap<String, PurgeRule>,
    /// What the daily checklist looks at besides the agent's own.
    pub check: Checklist,
}

/// One scheduled thing.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// What it does.
    pub verb: Verb,
    /// What it is for.
    pub description: Option<String>,
    /// When it is due; by hand only when absent.
    pub schedule: Option<Schedule>,
    /// The zone of the schedule; UTC when absent.
    pub timezone: Option<Zone>,
    /// The job of the same plan in whose run it takes part, right after it, instead of a schedule of its own.
    pub after: Option<String>,
    /// Whether it is scheduled at all.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// The database; that of the connection when absent.
    pub database: Option<String>,
    /// Tables by literal name, schema optional; the whole database when absent.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub tables: Vec<TableName>,
    /// Folder in the repository; the job's name when absent.
    pub folder: Option<String>,
    /// What the names of its artifacts begin with; the job's name when absent.
    pub name_prefix: Option<String>,
    /// What stays, in all repositories or by repository; for ever when absent.
    pub keep: Option<PerRepository<Keep>>,
    /// Storage class, in all repositories or by repository.
    pub storage_class: Option<PerRepository<String>>,
    /// The repositories it writes to; all when absent.
    pub repositories: Option<Vec<String>>,
    /// Longest it may take.
    pub timeout: Option<Span>,
    /// Longest it may take without a byte.
    pub no_progress_timeout: Option<Span>,
    /// How long to wait for a table's lock.
    pub lock_timeout: Option<Span>,
    /// Whether increments read every row. Without it those of `changed_at` are not exact.
    #[serde(default = "yes")]
    pub exact: bool,
    /// With `exact = false`: tables of which only rows with a recent time are read, and the column that has it.
    #[serde(default)]
    #[schemars(with = "BTreeMap<String, String>")]
    pub changed_at: BTreeMap<TableName, String>,
    /// Whether a dump holds the database's large objects.
    pub large_objects: Option<bool>,
    /// Whether a base backup is whole.
    pub kind: Option<BaseKind>,
    /// From which side of a replication a base backup is taken; the primary when absent. One from a standby is made by
    /// the agent on that standby's host, and by no other.
    pub source: Option<Side>,
    /// How much of the audit chain is verified.
    pub mode: Option<VerifyMode>,
    /// What a report covers.
    pub period: Option<Period>,
    /// The directory that `files` archives.
    pub directory: Option<PathBuf>,
    /// Object lock of checkpoints, where the bucket has it.
    pub object_lock: Option<bool>,
    /// Further tries after a failure that may go away.
    #[serde(default)]
    pub retry: Retry,
    /// Largest random delay after the scheduled time.
    pub jitter: Option<Span>,
    /// What becomes of missed runs; by verb when absent.
    pub catch_up: Option<CatchUp>,
}

fn yes() -> bool {
    true
}

/// Whether a base backup is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum BaseKind {
    /// The whole cluster.
    Full,
    /// What changed since its parent.
    Incremental,
}

/// How much of the audit chain is verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VerifyMode {
    /// All of it.
    Full,
    /// What is new since the last time.
    Incremental,
    /// One partition that is over, chosen at random.
    Sample,
}

/// What a report covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// A week.
    Weekly,
    /// A calendar month.
    Monthly,
}

/// What becomes of missed runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CatchUp {
    /// One run on return, however many were missed.
    Once,
    /// A run for each missed time.
    Each,
    /// None.
    None,
}

/// Further tries after a failure that may go away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Tries in all.
    pub attempts: u32,
    /// Wait before the second; doubled before each further one.
    pub backoff: Span,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, backoff: Span::seconds(60) }
    }
}

impl Job {
    /// When it is due, on the local time of its zone.
    pub fn due(&self) -> Option<Schedule> {
        let schedule = self.schedule.clone()?;
        Some(self.timezone.map_or(schedule.clone(), |zone| schedule.in_zone(zone)))
    }

    /// Whether this version can run it.
    pub fn is_built(&self) -> bool {
        self.verb.is_built()
    }

    /// On which side of a replication it runs.
    pub fn side(&self) -> Side {
        self.source.unwrap_or_default()
    }

    /// Whether it needs to be known which blocks the log touches.
    pub fn needs_blocks(&self) -> bool {
        self.enabled && (self.verb == Verb::Increment || self.is_incremental_base())
    }

    /// Whether it makes base backups of changed blocks.
    pub fn is_incremental_base(&self) -> bool {
        self.verb == Verb::BaseBackup && self.kind == Some(BaseKind::Incremental)
    }

    /// What becomes of its missed runs: each month of partitions is made up for, of other work the latest will do.
    pub fn catch_up(&self) -> CatchUp {
        self.catch_up.unwrap_or(if self.verb == Verb::Partition { CatchUp::Each } else { CatchUp::Once })
    }

    /// Whether it writes to the repository `name`.
    pub fn writes_to(&self, name: &str) -> bool {
        self.repositories.as_ref().is_none_or(|names| names.iter().any(|other| other == name))
    }

    /// Its rules in the repository `name`; absent means for ever.
    pub fn keep_in(&self, name: &str) -> Option<&Keep> {
        self.keep.as_ref()?.get(name)
    }

    /// Its storage class in the repository `name`.
    pub fn storage_class_in(&self, name: &str) -> Option<&str> {
        self.storage_class.as_ref()?.get(name).map(String::as_str)
    }

    /// Every repository it names.
    pub fn repositories_named(&self) -> impl Iterator<Item = &str> {
        let kept = self.keep.iter().flat_map(PerRepository::names);
        let classed = self.storage_class.iter().flat_map(PerRepository::names);
        kept.chain(classed).chain(self.repositories.iter().flatten().map(String::as_str))
    }
}
