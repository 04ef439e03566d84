//! A full dump: one consistent logical dump of named tables into every repository at once.
//!
//! Three objects (the tables' rows, the whole schema, the roles) are streamed to all repositories under one snapshot, and
//! the sums of keys that came out of the rows on their way follow as a fourth: with them the next increment can tell
//! which keys are gone. Nothing is committed before all of them have ended well.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;

use crate::catalog::ArtifactName;
use crate::host::failpoint::{FailPoint, pass};
use crate::host::{Child, ChildSpec};
use crate::model::buckets::{KeySums, bucket_counts};
use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;
use crate::model::manifest::{Encoding, ObjectRole, TableRecord};
use crate::model::outcome::{Finding, Outcome};
use crate::model::table::QualifiedTable;
use crate::model::verb::Verb;
use crate::pipeline::archive::KeyPlan;
use crate::postgres::pg_dump::{self, DataOptions};
use crate::postgres::{ChildEnvironment, Coordinator, CoveredTable};
use crate::steps::Setting;
use crate::steps::artifact::{self, Doors, Draft, Made, ObjectMaker, Options, Supply, Target};
use crate::steps::hold::Hold;

/// Makes one artifact.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let started = setting.clock.now();
    let named = |at| ArtifactName::new(&options.folder, &options.name_prefix, at);
    let name = setting.unless_stopped("find a name for the dump", doors.free_name(started, named)).await?;
    doors.require_a_repository()?;
    let mut findings = artifact::encryption_findings(doors.recipients.as_ref(), started);
    setting.events.step("taking the snapshot");
    let scope = options.scope();
    let beginning = async { Ok(Coordinator::begin(&doors.connection, &scope, setting.clock.as_ref()).await?) };
    let coordinator = setting.unless_stopped("take the dump's snapshot", beginning).await?;
    pass(FailPoint::DumpSnapshot)?;
    findings.extend(artifact::large_object_finding(&coordinator, options));
    let opening = artifact::open_targets(options, doors, &coordinator, started);
    let targets = setting.unless_stopped("open the repositories", opening).await?;
    let hold = artifact::hold(&name, &targets, &BTreeMap::new(), setting).await?;
    let maker = ObjectMaker { options, doors, setting, name: &name };
    let dump = Dump { maker, coordinator: &coordinator, hold: &hold, started };
    let outcome = hold.around(dump.make(targets, findings).boxed()).await?;
    artifact::release(coordinator).await;
    Ok(outcome)
}

/// Which keys are summed, into how many buckets: those of every table with rows of its own and a key that COPY lists.
pub fn key_plans(tables: &[CoveredTable]) -> BTreeMap<QualifiedTable, KeyPlan> {
    let keyed: Vec<&CoveredTable> = tables.iter().filter(|covered| !covered.key.is_empty()).collect();
    let rows: Vec<u64> = keyed.iter().map(|covered| covered.guessed_rows()).collect();
    let plan = |(covered, buckets): (&&CoveredTable, u32)| {
        (covered.table.clone(), KeyPlan { positions: covered.key_positions(), buckets })
    };
    keyed.iter().zip(bucket_counts(&rows)).map(plan).collect()
}

struct Dump<'a> {
    maker: ObjectMaker<'a>,
    coordinator: &'a Coordinator,
    /// What keeps expiry from its objects.
    hold: &'a Hold,
    started: DateTime<Utc>,
}

impl Dump<'_> {
    /// Sends everything and commits it.
    async fn make(&self, mut targets: Vec<Target>, findings: Vec<Finding>) -> Result<Outcome, Failure> {
        let Self { maker: ObjectMaker { options, doors, setting, name }, coordinator, hold, started } = self;
        let tables = match self.make_all(&mut targets).await {
            Ok(tables) => tables,
            Err(failure) => return Err(artifact::advise(failure, coordinator).await),
        };
        coordinator.require_alive().await?;
        setting.require_going_on("commit the dump")?;

        setting.events.step("committing and reading back");
        let rows: u64 = tables.iter().filter_map(|record| record.content).map(|content| content.rows).sum();
        let summary = format!("{name}: {rows} rows of {} tables", coordinator.tables().len());
        let draft = Draft {
            options,
            doors,
            setting,
            coordinator,
            hold,
            verb: Verb::Dump,
            started: *started,
            id: ArtifactId::new(*started),
            tables,
            large_objects: artifact::large_objects(coordinator, options),
            parents: BTreeMap::new(),
        };
        artifact::commit(&draft, name, targets, findings, summary).await
    }

    /// Sends all objects at once. Gives the tables with what they add up to.
    async fn make_all(&self, targets: &mut [Target]) -> Result<Vec<TableRecord>, Failure> {
        let mut records = self.coordinator.table_records();
        // Holds the password's file: the programs read it whenever they connect, which may be after all are started.
        let environment = self.maker.doors.connection.child_environment()?;
        let mut supplies = Vec::new();
        for role in [ObjectRole::Roles, ObjectRole::Schema, ObjectRole::Data] {
            supplies.push(self.supply(role, &environment)?);
        }
        let rows = self.maker.make_all(supplies, targets).await?.pop().unwrap_or_default();
        self.record(rows, &mut records, targets).await?;
        Ok(records)
    }

    async fn record(&self, made: Made, records: &mut [TableRecord], targets: &mut [Target]) -> Result<(), Failure> {
        let absent = |covered: &&CoveredTable| !covered.is_partitioned && !made.tables.contains_key(&covered.table);
        if let Some(covered) = self.coordinator.tables().iter().find(absent) {
            let message = format!("dump the rows of {}: pg_dump left the table out", covered.table);
            return Err(Failure::new(FailureKind::Failed, message)
                .hint("A table that belongs to an extension is not dumped; take it out of the job's `tables`."));
        }
        let sum = |record: &TableRecord| -> Option<TableSum> { made.tables.get(&record.table).copied() };
        records.iter_mut().for_each(|record| record.content = sum(record));
        let mut sums = made.keys;
        let mut keyed = |covered: &CoveredTable| -> Option<(QualifiedTable, (Vec<String>, KeySums))> {
            Some((covered.table.clone(), (covered.key.clone(), sums.remove(&covered.table)?)))
        };
        let keys = self.coordinator.tables().iter().filter_map(&mut keyed).collect();
        self.maker.put_buckets(keys, records, targets).await
    }

    fn supply(&self, role: ObjectRole, environment: &ChildEnvironment) -> Result<Supply, Failure> {
        let (spec, step, coding) = self.source(role, environment)?;
        self.maker.setting.events.step(step);
        let child = Child::spawn(&spec)?;
        pass(FailPoint::DumpSpawned)?;
        let mut supply = Supply::program(role, coding, child);
        if role == ObjectRole::Data {
            supply.expected = Some(self.coordinator.estimated_bytes());
            supply.rows = Some(key_plans(self.coordinator.tables()));
        }
        Ok(supply)
    }

    fn source(
        &self,
        role: ObjectRole,
        environment: &ChildEnvironment,
    ) -> Result<(ChildSpec, String, Encoding), Failure> {
        let Doors { tools, connection, .. } = self.maker.doors;
        let (mut spec, step, coding) = match role {
            ObjectRole::Roles => {
                let spec = pg_dump::roles(tools, environment, connection.database());
                (spec, "dumping the roles".into(), Encoding::Sql)
            }
            ObjectRole::Schema => {
                let spec = pg_dump::schema(tools, environment, self.coordinator);
                (spec, "dumping the schema".into(), Encoding::PgDumpCustom)
            }
            _ => {
                let options = DataOptions { large_objects: self.maker.options.large_objects };
                let spec = pg_dump::data(tools, environment, self.coordinator, options)?;
                let step = format!("dumping {} tables", self.coordinator.tables().len());
                (spec, step, Encoding::PgDumpCustom)
            }
        };
        spec.no_progress = Some(self.maker.options.no_progress_timeout);
        Ok((spec, step, coding))
    }
}
