//! The verb `increment`: what changed in tables since the newest dump or increment of them, and which keys are gone.
//!
//! The parent's manifest is the only watermark. One reading of each relation finds changed rows by their xmin and adds up
//! the keys of all rows by bucket; where a parent's bucket has lost keys, the keys still there are written in a second
//! reading under the same snapshot. Why not in the first: which buckets those are is known only at its end, by when the
//! keys are gone past; to hold them would take memory with the table's size, to keep them on a disk would put plaintext
//! there. Most relations have no such bucket and are read once. What cannot be proven exact becomes a full dump.

mod parent;
mod reading;
mod relation;
mod untouched;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use crate::catalog::ArtifactName;
use crate::host::failpoint::{FailPoint, pass};
use crate::host::{Child, feed};
use crate::model::chain::{FullNeeded, Root};
use crate::model::failure::Failure;
use crate::model::id::ArtifactId;
use crate::model::manifest::{Encoding, LargeObjects, ObjectRole, TableRecord, Whole, is_exact};
use crate::model::outcome::{Finding, Outcome, Severity, Verdict};
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::postgres::{Coordinator, pg_dump};
use crate::steps::artifact::{self, Doors, Draft, ObjectMaker, Options, Supply, Target};
use crate::steps::full_dump;
use crate::steps::hold::Hold;

use parent::Parent;
use reading::Reading;
pub use untouched::Log;
use untouched::Untouched;
use writer::{Relations, Writer};

/// Makes one increment, or a full dump where there is nothing that an increment could build upon. With `log`, tables are
/// not read that it proves untouched.
pub async fn run(options: &Options, doors: &Doors, log: Option<&Log>, setting: &Setting) -> Result<Outcome, Failure> {
    let started = setting.clock.now();
    doors.require_a_repository()?;
    setting.events.step("taking the snapshot");
    let scope = options.scope();
    let beginning = async { Ok(Coordinator::begin(&doors.connection, &scope, setting.clock.as_ref()).await?) };
    let coordinator = setting.unless_stopped("take the increment's snapshot", beginning).await?;
    pass(FailPoint::DumpSnapshot)?;
    let opening = artifact::open_targets(options, doors, &coordinator, started);
    let mut targets = setting.unless_stopped("open the repositories", opening).await?;
    let finding = Parent::find(&coordinator, &mut targets, started);
    match setting.unless_stopped("find what to build upon", finding).await? {
        Ok(parent) => {
            let name = |at| ArtifactName::in_own_folder(&options.folder, &options.name_prefix, at);
            let naming = doors.free_name(started, name);
            let name = setting.unless_stopped("find a name for the increment", naming).await?;
            let untouched = match log {
                Some(log) => {
                    let finding = Untouched::find(log, &coordinator, &parent, setting);
                    setting.unless_stopped("find what the log touches", finding).await?
                }
                None => Untouched::default(),
            };
            let hold = artifact::hold(&name, &targets, &parent.records(), setting).await?;
            let (parent, untouched) = (Arc::new(parent), Arc::new(untouched));
            let (coordinating, hold) = (&coordinator, &hold);
            let work =
                Work { options, doors, setting, coordinator: coordinating, hold, name, parent, untouched, started };
            let outcome = match hold.around(work.make(targets).boxed()).await {
                Ok(outcome) => outcome,
                Err(failure) => return Err(artifact::advise(failure, &coordinator).await),
            };
            if let (Some(log), Some(root)) = (log, work.parent.root()) {
                untouched::prune(log, root);
            }
            artifact::release(coordinator).await;
            Ok(outcome)
        }
        Err(needed) => {
            drop(targets);
            coordinator.release().await?;
            full(options, doors, setting, &needed).await
        }
    }
}

/// A full dump in the increment's place, which says that it is one and why.
async fn full(options: &Options, doors: &Doors, setting: &Setting, needed: &FullNeeded) -> Result<Outcome, Failure> {
    let message = format!("a full dump was made instead of an increment: {needed}");
    setting.events.note(message.clone());
    let options = Options { name_prefix: format!("{}_full", options.name_prefix), ..options.clone() };
    let mut outcome = full_dump::run(&options, doors, setting).boxed().await?;
    let finding = Finding::new(Severity::Info, "full-instead-of-increment", message);
    outcome.findings.push(finding.remedy("nothing is to be done: the next increment builds upon it"));
    Ok(outcome)
}

struct Work<'a> {
    options: &'a Options,
    doors: &'a Doors,
    setting: &'a Setting,
    coordinator: &'a Coordinator,
    /// What keeps expiry from its objects and its parent.
    hold: &'a Hold,
    name: ArtifactName,
    parent: Arc<Parent>,
    untouched: Arc<Untouched>,
    started: DateTime<Utc>,
}

impl Work<'_> {
    async fn make(&self, mut targets: Vec<Target>) -> Result<Outcome, Failure> {
        let Self { options, doors, setting, coordinator, .. } = self;
        let mut findings = artifact::encryption_findings(doors.recipients.as_ref(), self.started);
        findings.extend(self.large_object_finding());
        let maker = ObjectMaker { options, doors, setting, name: &self.name };
        self.setting.events.step(format!("building upon {}", self.parent.name()));
        let mut relations = self.make_objects(&maker, &mut targets).await?;
        let mut tables = coordinator.table_records();
        let mut keys = BTreeMap::new();
        for record in &mut tables {
            let Some(found) = relations.remove(&record.oid) else { continue };
            found.record(record, self.parent.record(record.oid));
            keys.extend(found.into_key_sums().map(|sums| (record.table.clone(), sums)));
        }
        maker.put_buckets(keys, &mut tables, &mut targets).await?;
        coordinator.require_alive().await?;
        setting.require_going_on("commit the increment")?;
        self.parent.require_standing(&mut targets).await?;
        setting.events.step("committing and reading back");
        findings.extend(contradiction_finding(&tables));
        findings.extend(inexact_finding(&tables));
        let summary = summary(&self.name, &tables);
        let draft = Draft {
            options,
            doors,
            setting,
            coordinator,
            hold: self.hold,
            verb: Verb::Increment,
            started: self.started,
            id: ArtifactId::new(self.started),
            tables,
            large_objects: match coordinator.large_object_count() {
                0 => LargeObjects::None,
                _ => LargeObjects::Excluded,
            },
            parents: self.parent.records(),
        };
        let mut outcome = artifact::commit(&draft, &self.name, targets, findings, summary).await?;
        if outcome.verdict == Verdict::Ok && outcome.findings.iter().any(|finding| finding.severity > Severity::Info) {
            outcome.verdict = Verdict::Findings;
        }
        Ok(outcome)
    }

    /// Reads all relations and sends what has to be kept of them, and beside that the whole schema as it is now:
    /// partitions may have come or gone, and functions and views belong to the state too.
    async fn make_objects(&self, maker: &ObjectMaker<'_>, targets: &mut [Target]) -> Result<Relations, Failure> {
        self.setting.events.step(format!("reading {} tables", self.coordinator.tables().len()));
        // Holds the password's file: the program reads it whenever it connects.
        let environment = self.doors.connection.child_environment()?;
        let mut spec = pg_dump::schema(&self.doors.tools, &environment, self.coordinator);
        spec.no_progress = Some(self.options.no_progress_timeout);
        let child = Child::spawn(&spec)?;
        pass(FailPoint::DumpSpawned)?;
        let schema = Supply::program(ObjectRole::Schema, Encoding::PgDumpCustom, child);
        let (feeder, source) = feed(writer::WAITING);
        let writer = Writer::new(feeder);
        let reading = Reading {
            connection: &self.doors.connection,
            coordinator: self.coordinator,
            parent: &self.parent,
            untouched: &self.untouched,
            setting: self.setting,
            changed_at: &self.options.changed_at,
            sessions: self.options.threads.get(),
            no_progress: self.options.no_progress_timeout,
        };
        let rows = Supply::plain(ObjectRole::Data, Encoding::Tar, Box::new(source));
        let sending = maker.make_all(vec![schema, rows], targets);
        let (read, sent) = futures_util::future::join(reading.run(writer), sending).await;
        // A reading that fails breaks the stream off, and a stream that fails ends the reading: the first of both tells.
        match (read, sent) {
            (Ok(relations), Ok(_)) => Ok(relations),
            (Err(failure), Err(_)) if !writer::is_broken_off(&failure) => Err(failure),
            (_, Err(failure)) | (Err(failure), Ok(_)) => Err(failure),
        }
    }

    fn large_object_finding(&self) -> Option<Finding> {
        let count = self.coordinator.large_object_count();
        (count > 0 && self.options.large_objects).then(|| {
            let message =
                format!("{count} large objects are not part of increments: a restore has them as of its full dump");
            Finding::new(Severity::Warning, "large-objects-not-incremental", message)
        })
    }
}

fn contradiction_finding(tables: &[TableRecord]) -> Option<Finding> {
    let whole =
        |record: &&TableRecord| record.change.as_ref().is_some_and(|change| change.whole == Some(Whole::Contradiction));
    let names: Vec<String> = tables.iter().filter(whole).map(|record| record.table.to_string()).collect();
    (!names.is_empty()).then(|| {
        let message = format!("rows were there that nobody wrote; copied whole: {}", names.join(", "));
        Finding::new(Severity::Warning, "rows-out-of-nowhere", message)
            .remedy("find out what put rows into the table past transactions, such as pg_resetwal or a copied file")
    })
}

fn inexact_finding(tables: &[TableRecord]) -> Option<Finding> {
    let names: Vec<String> = tables.iter().filter(|record| !is_exact(record)).map(|it| it.table.to_string()).collect();
    (!names.is_empty()).then(|| {
        let message =
            format!("not exact, as the job allows: deletions and late rows are missing of {}", names.join(", "));
        Finding::new(Severity::Info, "not-exact", message)
            .remedy("the next full dump is exact; so are increments without `exact = false`")
    })
}

fn summary(name: &ArtifactName, tables: &[TableRecord]) -> String {
    let changes = || tables.iter().filter_map(|record| record.change.as_ref());
    let rows: u64 = changes().map(|change| change.rows).sum();
    let stored: u64 = changes().map(|change| change.stored.rows).sum();
    let whole = changes().filter(|change| change.whole.is_some()).count();
    let touched = changes().filter(|change| change.stored.rows > 0 || change.marked.is_some()).count();
    let exact = if tables.iter().all(is_exact) { "" } else { "; not exact" };
    format!("{name}: {stored} of {rows} rows, from {touched} tables ({whole} of them whole){exact}")
}

/// The tables that are no partitions of others, as the rules of a chain see them.
fn roots(coordinator: &Coordinator) -> Vec<Root> {
    let root = |record: TableRecord| Some(Root { table: record.table, fingerprint: record.fingerprint? });
    coordinator.table_records().into_iter().filter_map(root).collect()
}
