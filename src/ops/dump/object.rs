//! One object of a dump: a client program's output through the pipeline into every repository that is still going.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::catalog::ArtifactName;
use crate::host::failpoint::FailPoint;
use crate::host::{Child, ChildSpec};
use crate::model::digest::TableSum;
use crate::model::event::{Event, Events};
use crate::model::failure::Failure;
use crate::model::manifest::{Encoding, ObjectRecord, ObjectRole};
use crate::model::table::QualifiedTable;
use crate::ops::Setting;
use crate::ops::dump::target::{Pending, Target, require_one};
use crate::ops::dump::{Doors, Options, pass};
use crate::pipeline::store::{self, Destination, Flowed, Progress, Recipe};
use crate::postgres::pg_dump::{self, DataOptions};
use crate::postgres::{ChildEnvironment, Coordinator};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_millis(500);

/// What went into one object, the same for every repository.
pub(super) struct Content {
    pub(super) role: ObjectRole,
    pub(super) tables: BTreeMap<QualifiedTable, TableSum>,
}

/// Makes the objects of one dump.
pub(super) struct ObjectMaker<'a> {
    pub(super) options: &'a Options,
    pub(super) doors: &'a Doors,
    pub(super) setting: &'a Setting,
    pub(super) coordinator: &'a Coordinator,
    pub(super) name: &'a ArtifactName,
}

impl ObjectMaker<'_> {
    /// Sends all three objects; the small ones first, because they fail first.
    pub(super) async fn make_all(&self, targets: &mut [Target]) -> Result<Vec<Content>, Failure> {
        let mut made = Vec::new();
        for role in [ObjectRole::Roles, ObjectRole::Schema, ObjectRole::Data] {
            self.setting.require_going_on("go on with the dump")?;
            made.push(self.make(role, targets).await?);
        }
        Ok(made)
    }

    async fn make(&self, role: ObjectRole, targets: &mut [Target]) -> Result<Content, Failure> {
        let environment = self.doors.connection.child_environment()?;
        let (spec, step, content_encoding) = self.source(role, &environment)?;
        self.setting.events.step(step);
        let mut encoding = vec![content_encoding, Encoding::Gzip];
        encoding.extend(self.doors.recipients.is_some().then_some(Encoding::OpenPgp));
        let key = self.name.object(role, &encoding)?;
        let expected = (role == ObjectRole::Data).then(|| self.coordinator.estimated_bytes());
        let mut destinations = Vec::new();
        for target in targets.iter_mut().filter(|target| target.is_going()) {
            match target.begin(&key, expected).await {
                Ok(upload) => destinations.push(Destination {
                    name: target.repository.name.clone(),
                    upload,
                    stall_timeout: self.options.stall_timeout,
                }),
                Err(error) => target.give_up(error),
            }
        }
        require_one(targets)?;
        let flowed = self.flow(role, spec, destinations, expected).await?;
        let tables = hand_over(flowed, targets, |flowed, target| ObjectRecord {
            role,
            key: key.clone(),
            version: None,
            content_size: flowed.content.0,
            content_digest: flowed.content.1,
            stored_size: flowed.stored.0,
            stored_digest: flowed.stored.1,
            encoding: encoding.clone(),
            storage_class: target.storage_class(),
            sse: None,
        });
        require_one(targets)?;
        Ok(Content { role, tables })
    }

    fn source(
        &self,
        role: ObjectRole,
        environment: &ChildEnvironment,
    ) -> Result<(ChildSpec, String, Encoding), Failure> {
        let tools = &self.doors.tools;
        Ok(match role {
            ObjectRole::Roles => {
                let spec = pg_dump::roles(tools, environment, self.doors.connection.database());
                (spec, "dumping the roles".into(), Encoding::Sql)
            }
            ObjectRole::Schema => {
                let spec = pg_dump::schema(tools, environment, self.coordinator);
                (spec, "dumping the schema".into(), Encoding::PgDumpCustom)
            }
            ObjectRole::Data | ObjectRole::Checksums => {
                let options = DataOptions { large_objects: self.options.large_objects };
                let mut spec = pg_dump::data(tools, environment, self.coordinator, options)?;
                spec.no_progress = Some(self.options.no_progress_timeout);
                let step = format!("dumping {} tables", self.coordinator.tables().len());
                (spec, step, Encoding::PgDumpCustom)
            }
        })
    }

    async fn flow(
        &self,
        role: ObjectRole,
        spec: ChildSpec,
        destinations: Vec<Destination>,
        expected: Option<u64>,
    ) -> Result<Flowed, Failure> {
        let child = Child::spawn(&spec)?;
        let stopper = child.stopper();
        // The thread that reads it may wait for its next byte for as long as the limits allow: a run that is stopped or
        // dropped must not leave it behind.
        let _killed = stopper.kill_on_drop();
        pass(FailPoint::DumpSpawned)?;
        let recipe = Recipe {
            rows: role == ObjectRole::Data,
            level: self.options.level,
            threads: self.options.threads,
            recipients: self.doors.recipients.clone(),
        };
        let progress = Arc::new(Progress::default());
        let flowing = store::store(Box::new(child), recipe, destinations, &progress, self.setting.stop.clone());
        let stopped = async {
            self.setting.stop.cancelled().await;
            stopper.stop();
            std::future::pending().await
        };
        tokio::select! {
            flowed = telling(&self.setting.events, &progress, expected, flowing) => Ok(flowed?),
            never = stopped => never,
        }
    }
}

/// Runs `work` and tells its progress until it is done.
async fn telling<T>(events: &Events, progress: &Progress, expected: Option<u64>, work: impl Future<Output = T>) -> T {
    let mut work = std::pin::pin!(work);
    let mut ticks = tokio::time::interval(TELL_EVERY);
    loop {
        tokio::select! {
            done = &mut work => return done,
            _ = ticks.tick() => events.tell(Event::Progress {
                bytes: progress.bytes(),
                expected_bytes: expected,
                rows: progress.rows(),
            }),
        }
    }
}

/// Gives every repository its sent object, or the reason why it has none.
fn hand_over(
    mut flowed: Flowed,
    targets: &mut [Target],
    record: impl Fn(&Flowed, &Target) -> ObjectRecord,
) -> BTreeMap<QualifiedTable, TableSum> {
    for (name, sent) in std::mem::take(&mut flowed.destinations) {
        let Some(target) = targets.iter_mut().find(|target| target.repository.name == name) else { continue };
        match sent {
            Ok(upload) => {
                let record = record(&flowed, target);
                target.hold(Pending { upload, proof: flowed.proof.clone(), record });
            }
            Err(error) => target.give_up(error.into()),
        }
    }
    flowed.tables
}
