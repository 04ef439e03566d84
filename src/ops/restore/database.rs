//! A whole database from a dump, into a new one that takes its name when it is proven.
//!
//! Order: schema before data, rows by COPY on several connections, increments, indexes and constraints and triggers after
//! data (a table's owner cannot silence them), sequences, ANALYZE, beside these the proof, and only then the name. With
//! increments the schema is the last one's, and the full dump's rows go straight into the relations as they are called and placed now.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::Duration;

use crate::host::failpoint::{FailPoint, pass};
use crate::host::{Child, ChildSpec};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lineage::{Lineage, inexact};
use crate::model::manifest::{Manifest, ObjectRole, TableRecord};
use crate::model::table::QualifiedTable;
use crate::ops::Setting;
use crate::ops::restore::large_objects::LargeObjects;
use crate::ops::restore::source::Choice;
use crate::ops::restore::{Doors, Restored, Unrestored, properties};
use crate::postgres::{Connection, PostgresError, Session, copy, databases, pg_restore, tables};
use crate::steps::load_dump::{self, Routing};
use crate::steps::prove::{self, Proof};
use crate::steps::replay::{Place, Replay};

/// Where to and how.
#[derive(Clone, Debug)]
pub struct DatabaseOptions {
    /// Name of the database to make; absent takes the name of the one dumped.
    pub to_database: Option<String>,
    /// Replace a database of that name.
    pub replace: bool,
    /// Leave owners and privileges out.
    pub no_owner: bool,
}

/// Errors when the database `target` is there and is not to be replaced: asked before any byte of a backup is read.
pub async fn require_free_target(target: &str, replace: bool, doors: &Doors) -> Result<(), Failure> {
    let maintenance = doors.connection.with_database("postgres").connect().await?;
    require_free(&maintenance, target, replace).await.map(|_| ())
}

/// Restores the database of `choice`, and gives its leases back however that ends.
pub async fn restore_database(
    options: &DatabaseOptions,
    choice: &Choice,
    doors: &Doors,
    setting: &Setting,
) -> Result<Restored, Failure> {
    let restored = restore_proven(options, choice, doors, setting).await;
    choice.release(setting).await;
    restored
}

async fn restore_proven(
    options: &DatabaseOptions,
    choice: &Choice,
    doors: &Doors,
    setting: &Setting,
) -> Result<Restored, Failure> {
    let manifest = choice.manifest();
    let target = options.to_database.clone().unwrap_or_else(|| manifest.source.database.clone());
    let maintenance = doors.connection.with_database("postgres").connect().await?;
    let there = require_free(&maintenance, &target, options.replace).await?;
    note_leftovers(&maintenance, setting).await?;
    let staging = format!("{}{}", databases::INCOMPLETE, setting.run);
    let work = Work { options, choice, doors, setting, connection: doors.connection.with_database(&staging) };

    databases::create_like(maintenance.client(), &staging, &manifest.source).await?;
    let mut restored = match setting.unless_stopped("restore the database", work.fill()).await {
        Ok(restored) => restored,
        Err(failure) => return Err(clear_away(&maintenance, &staging, failure).await),
    };
    // The session of the beginning may have been idle for hours.
    let maintenance =
        doors.connection.with_database("postgres").connect().await.map_err(|error| proven(&staging, error))?;
    if let Err(failure) = setting.require_going_on("give the restored database its name") {
        return Err(clear_away(&maintenance, &staging, failure).await);
    }
    properties::apply(options, choice, doors, (&maintenance, &staging), setting).await?;
    let aside = there.then(|| format!("dbagent_replaced_{}", setting.run));
    let renamed = databases::rename(maintenance.client(), &staging, &target, aside.as_deref()).await;
    renamed.map_err(|error| proven(&staging, error))?;
    if let Some(aside) = aside
        && let Err(error) = databases::drop(maintenance.client(), &aside).await
    {
        setting.events.note(format!("the database that was replaced is still there as {aside}; drop it: {error}"));
    }
    restored.target = target;
    Ok(restored)
}

/// What is proven is not thrown away because its name could not be had.
fn proven(staging: &str, error: PostgresError) -> Failure {
    let failure = Failure::from(error);
    let message = format!("give the restored database its name: {}", failure.full_message());
    Failure::new(failure.kind, message).hint(format!(
        "The restored database is whole and proven, under the name {staging}: rename it when nobody is connected, or drop it."
    ))
}

/// Whether a database named `target` is there and is to be replaced.
async fn require_free(session: &Session, target: &str, replace: bool) -> Result<bool, Failure> {
    let there = databases::exists(session.client(), target).await?;
    if there && !replace {
        let message = format!("restore into the database {target}: there is one already");
        return Err(Failure::new(FailureKind::RefusedForSafety, message)
            .hint("Name another with --to-database, or replace it with --replace."));
    }
    Ok(there)
}

async fn note_leftovers(session: &Session, setting: &Setting) -> Result<(), Failure> {
    for name in databases::incomplete(session.client()).await? {
        setting
            .events
            .note(format!("the database {name} was left by a restore that did not end; drop it when none is running"));
    }
    Ok(())
}

/// Drops what a failed restore left; if that fails too, says where it is.
async fn clear_away(session: &Session, staging: &str, failure: Failure) -> Failure {
    match databases::drop(session.client(), staging).await {
        Ok(()) => failure,
        Err(error) => {
            let message = format!(
                "{}; and the incomplete database {staging} could not be dropped: {error}",
                failure.full_message()
            );
            Failure::new(failure.kind, message)
        }
    }
}

struct Work<'a> {
    options: &'a DatabaseOptions,
    choice: &'a Choice,
    doors: &'a Doors,
    setting: &'a Setting,
    connection: Connection,
}

impl Work<'_> {
    /// Fills the new database and proves it equal.
    async fn fill(&self) -> Result<Restored, Failure> {
        let mut phases = Phases::begin(self.setting);
        let schema = self.choice.read(ObjectRole::Schema, self.doors).await?;
        let schema = SchemaFile::write(&self.doors.scratch_directory, &schema)?;
        phases.end("fetch the schema");
        self.pg_restore("pre-data", &schema).await?;
        phases.end("tables");
        pass(FailPoint::RestoreBeforeLoad)?;
        let lineages = self.choice.lineages()?;
        let large_objects = LargeObjects::find(self.choice, self.doors).await?;
        if let Some(large_objects) = &large_objects {
            let making = large_objects.making(self.doors, &self.connection, self.options.no_owner)?;
            self.run(making.spec).await?;
        }
        self.load(&lineages).await?;
        if let Some(large_objects) = large_objects {
            let giving = large_objects.giving(self.doors, &self.connection, self.options.no_owner)?;
            self.run(giving.spec).await?;
        }
        let inexact = inexact(&lineages);
        phases.end("rows");
        let records = self.replay(lineages, &mut phases).await?;
        pass(FailPoint::RestoreBeforePostData)?;
        self.setting.require_going_on("go on with the restore")?;
        let proofs = self.finish_and_prove(&schema, &records).await?;
        phases.end("indexes, statistics and proof");
        let unrestored = Unrestored::default();
        Ok(Restored { target: String::new(), proofs, inexact, unrestored, phases: phases.done, places_cut: None })
    }

    /// Indexes, constraints, triggers, sequences, views and statistics, and beside them the proof: none of them changes a
    /// row, and neither has work for every core all the time. A failed proof waits for the others to end, because pg_restore
    /// does not end with who waits for it.
    async fn finish_and_prove(&self, schema: &SchemaFile, records: &[TableRecord]) -> Result<Vec<Proof>, Failure> {
        let proving = prove::prove(self.sessions().await?, records, &self.setting.events);
        let proving = async { Ok(proving.await) };
        let ((), proofs) = tokio::try_join!(self.finish(schema), proving)?;
        let proofs = proofs?;
        prove::require_equal(&proofs)?;
        Ok(proofs)
    }

    async fn finish(&self, schema: &SchemaFile) -> Result<(), Failure> {
        self.pg_restore("post-data", schema).await?;
        self.set_sequences(self.choice.manifest()).await?;
        self.refresh_views().await?;
        self.analyze().await
    }

    async fn pg_restore(&self, section: &str, schema: &SchemaFile) -> Result<(), Failure> {
        self.setting.events.step(format!("restoring {section}"));
        let options = pg_restore::Options { section, jobs: self.doors.jobs, no_owner: self.options.no_owner };
        let environment = self.connection.child_environment()?;
        let spec =
            pg_restore::from_file(&self.doors.tools, &environment, self.connection.database(), schema.path(), options);
        self.run(spec).await
    }

    async fn run(&self, spec: ChildSpec) -> Result<(), Failure> {
        run_child(spec, self.setting).await.map_err(|failure| {
            failure
                .hint("If roles are missing, create them first (the .roles.sql object lists them) or add --no-owner.")
        })
    }

    async fn load(&self, lineages: &[Lineage]) -> Result<(), Failure> {
        self.setting.events.step("loading rows");
        let source = self.choice.open(self.choice.full(), ObjectRole::Data, self.doors).await?;
        let sessions = self.sessions().await?;
        let routing: Box<dyn Routing> = match self.choice.increments().next() {
            None => Box::new(AsDumped),
            Some(_) => Box::new(AsNow::new(lineages)),
        };
        load_dump::load(source, sessions, routing, self.setting.events.clone()).await?;
        Ok(())
    }

    /// Puts the increments onto the rows. Gives the tables with what they must add up to in the end.
    async fn replay(&self, lineages: Vec<Lineage>, phases: &mut Phases<'_>) -> Result<Vec<TableRecord>, Failure> {
        let places = lineages.iter().map(|lineage| {
            let table = lineage.record.table.quoted();
            (lineage.oid, Place { table, origin: lineage.origin, sum: lineage.origin_sum })
        });
        let session = copy::connect(&self.connection, &self.choice.manifest().source.encoding).await?;
        let mut replay = Replay::new(&session, places.collect());
        for (at, link) in self.choice.increments() {
            self.setting.require_going_on("go on with the restore")?;
            self.setting.events.step(format!("putting {} onto it", link.name));
            let source = self.choice.open(link, ObjectRole::Data, self.doors).await?;
            replay.apply(at, &link.manifest, source).await?;
            pass(FailPoint::RestoreMidIncrements)?;
        }
        if self.choice.increments().next().is_some() {
            phases.end("increments");
        }
        let sums = replay.sums();
        let record = |lineage: Lineage| TableRecord { content: sums.get(&lineage.oid).copied(), ..lineage.record };
        Ok(lineages.into_iter().map(record).collect())
    }

    /// The rows of materialized views are in no dump.
    async fn refresh_views(&self) -> Result<(), Failure> {
        let session = self.connection.connect().await?;
        for (view, reason) in tables::refresh_views(session.client()).await? {
            self.setting.events.note(format!("the materialized view {view} is empty: {reason}"));
        }
        Ok(())
    }

    /// Sequences to their values at the snapshot.
    async fn set_sequences(&self, manifest: &Manifest) -> Result<(), Failure> {
        self.setting.events.step("setting sequences");
        let session = self.connection.connect().await?;
        for sequence in &manifest.sequences {
            tables::set_sequence(session.client(), sequence).await?;
        }
        Ok(())
    }

    async fn analyze(&self) -> Result<(), Failure> {
        Ok(self.connection.connect().await?.batch("ANALYZE").await?)
    }

    async fn sessions(&self) -> Result<Vec<Session>, Failure> {
        let encoding = &self.choice.manifest().source.encoding;
        let mut sessions = Vec::new();
        for _ in 0..self.doors.jobs.max(1) {
            sessions.push(copy::connect(&self.connection, encoding).await?);
        }
        Ok(sessions)
    }
}

/// Runs a client program to its end; asked to stop, it ends the program.
async fn run_child(spec: ChildSpec, setting: &Setting) -> Result<(), Failure> {
    let mut child = Child::spawn(&spec)?;
    let stopper = child.stopper();
    let running = tokio::task::spawn_blocking(move || {
        let mut said = Vec::new();
        child.read_to_end(&mut said)
    });
    let mut running = std::pin::pin!(running);
    let ended = tokio::select! {
        ended = &mut running => ended,
        () = setting.stop.cancelled() => {
            stopper.stop();
            running.await
        }
    };
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| Failure::new(FailureKind::Failed, error.to_string());
    ended.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
    Ok(())
}

/// Every table goes where the archive says.
struct AsDumped;

impl Routing for AsDumped {
    fn copy_statement(&self, _: &QualifiedTable, statement: &str) -> Option<String> {
        Some(statement.trim_end().trim_end_matches(';').to_owned())
    }

    fn made(&self, table: &QualifiedTable) -> Option<QualifiedTable> {
        Some(table.clone())
    }

    fn wants_large_objects(&self) -> bool {
        true
    }
}

/// Rows go into the relation that they belong to, as it is called now; those of relations that are gone go nowhere.
struct AsNow(BTreeMap<QualifiedTable, (QualifiedTable, String)>);

impl AsNow {
    fn new(lineages: &[Lineage]) -> Self {
        let statement = |lineage: &Lineage| {
            let record = &lineage.record;
            let columns = tables::column_list(&record.columns);
            let statement = format!("COPY {} ({columns}) FROM STDIN", record.table.quoted());
            (lineage.origin_table.clone(), (record.table.clone(), statement))
        };
        Self(lineages.iter().filter(|lineage| lineage.origin == 0).map(statement).collect())
    }
}

impl Routing for AsNow {
    fn copy_statement(&self, table: &QualifiedTable, _: &str) -> Option<String> {
        self.0.get(table).map(|(_, statement)| statement.clone())
    }

    fn made(&self, table: &QualifiedTable) -> Option<QualifiedTable> {
        self.0.get(table).map(|(made, _)| made.clone())
    }

    fn wants_large_objects(&self) -> bool {
        true
    }
}

/// The schema archive (no rows) on disk for pg_restore, which cannot work in parallel from a pipe. Gone when dropped.
pub(super) struct SchemaFile {
    file: tempfile::NamedTempFile,
}

impl SchemaFile {
    /// An empty one.
    pub(super) fn create(directory: &std::path::Path) -> Result<Self, Failure> {
        let file = tempfile::Builder::new().prefix("dbagent-schema-").tempfile_in(directory);
        Ok(Self { file: file.map_err(|error| unkept(directory, error))? })
    }

    pub(super) fn write(directory: &std::path::Path, bytes: &[u8]) -> Result<Self, Failure> {
        let mut file = Self::create(directory)?;
        file.append(bytes)?;
        Ok(file)
    }

    /// Adds to its end.
    pub(super) fn append(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        use std::io::Write as _;
        self.file.write_all(bytes).map_err(|error| unkept(self.file.path().parent().unwrap_or(self.file.path()), error))
    }

    pub(super) fn path(&self) -> &std::path::Path {
        self.file.path()
    }
}

impl std::io::Write for SchemaFile {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.file.flush()
    }
}

fn unkept(directory: &std::path::Path, error: std::io::Error) -> Failure {
    let message = format!("keep the schema archive in {}", directory.display());
    Failure::new(FailureKind::Failed, message).because(error).hint("Set [restore] scratch_directory to one with room.")
}

/// How long each phase took.
struct Phases<'a> {
    setting: &'a Setting,
    since: Duration,
    done: Vec<(&'static str, f64)>,
}

impl<'a> Phases<'a> {
    fn begin(setting: &'a Setting) -> Self {
        Self { setting, since: setting.clock.monotonic(), done: Vec::new() }
    }

    fn end(&mut self, phase: &'static str) {
        let now = self.setting.clock.monotonic();
        self.done.push((phase, (now - self.since).as_secs_f64()));
        self.since = now;
    }
}
