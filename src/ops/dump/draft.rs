//! The manifest of a dump, drafted for each repository's own place and versions.

use chrono::{DateTime, Utc};

use crate::catalog::repository::Place;
use crate::model::id::ArtifactId;
use crate::model::manifest::{FORMAT, Manifest, ObjectRecord, ObjectRole, TableRecord, Verification};
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::dump::object::Content;
use crate::ops::dump::{Doors, Options, large_objects};
use crate::postgres::Coordinator;

/// Everything a manifest is made of that is the same in every repository.
pub(super) struct Draft<'a> {
    pub(super) options: &'a Options,
    pub(super) doors: &'a Doors,
    pub(super) setting: &'a Setting,
    pub(super) coordinator: &'a Coordinator,
    pub(super) content: &'a [Content],
    pub(super) started: DateTime<Utc>,
    pub(super) id: ArtifactId,
}

impl Draft<'_> {
    /// The manifest at `place` of one repository, for the `objects` it holds.
    pub(super) fn manifest(
        &self,
        place: Place,
        objects: Vec<ObjectRecord>,
        verification: Verification,
        finished: DateTime<Utc>,
    ) -> Manifest {
        let mut source = self.coordinator.source_record();
        source.tools = self.doors.tools.versions();
        Manifest {
            format: FORMAT,
            id: self.id,
            run: self.setting.run,
            verb: Verb::Dump,
            job: self.options.job.clone(),
            plan: self.options.plan.clone(),
            cluster: self.options.cluster.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            finished,
            source,
            objects,
            recipients: self.doors.recipients.as_ref().map(|all| all.fingerprints()).unwrap_or_default(),
            tables: self.tables(),
            sequences: self.coordinator.sequences().to_vec(),
            schema_fingerprint: Some(self.coordinator.schema_fingerprint()),
            large_objects: large_objects(self.coordinator, self.options),
            fencing_token: place.fencing_token,
            catalog: place.position,
            verification,
            parent: None,
        }
    }

    /// The covered tables with what their rows added up to on their way through.
    fn tables(&self) -> Vec<TableRecord> {
        let data = self.content.iter().find(|content| content.role == ObjectRole::Data);
        let mut records = self.coordinator.table_records();
        for record in &mut records {
            let sum = data.and_then(|content| content.tables.get(&record.table));
            record.content = sum.copied();
        }
        records
    }
}
