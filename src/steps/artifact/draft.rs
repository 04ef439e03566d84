//! The manifest of an artifact, drafted for each repository's own place, versions and parent.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::catalog::repository::Place;
use crate::model::id::ArtifactId;
use crate::model::manifest::{FORMAT, LargeObjects, Manifest, ObjectRecord, ParentRecord, TableRecord, Verification};
use crate::model::verb::Verb;
use crate::postgres::Coordinator;
use crate::steps::Setting;
use crate::steps::artifact::{Doors, Options};
use crate::steps::hold::Hold;

/// Everything a manifest is made of that is the same in every repository.
pub struct Draft<'a> {
    /// What was asked for.
    pub options: &'a Options,
    /// What it is made with.
    pub doors: &'a Doors,
    /// The run.
    pub setting: &'a Setting,
    /// The snapshot.
    pub coordinator: &'a Coordinator,
    /// What keeps expiry from it.
    pub hold: &'a Hold,
    /// Dump or increment.
    pub verb: Verb,
    /// When it was begun.
    pub started: DateTime<Utc>,
    /// The artifact.
    pub id: ArtifactId,
    /// The covered tables.
    pub tables: Vec<TableRecord>,
    /// What it says about large objects.
    pub large_objects: LargeObjects,
    /// What it builds upon, by repository: each has a manifest of its own.
    pub parents: BTreeMap<String, ParentRecord>,
}

impl Draft<'_> {
    /// The manifest at `place` of `repository`, for the `objects` it holds.
    pub(super) fn manifest(
        &self,
        repository: &str,
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
            verb: self.verb,
            job: self.options.job.clone(),
            plan: self.options.plan.clone(),
            cluster: self.options.cluster.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            finished,
            source,
            objects,
            recipients: self.doors.recipients.as_ref().map(|all| all.fingerprints()).unwrap_or_default(),
            tables: self.tables.clone(),
            sequences: self.coordinator.sequences().to_vec(),
            schema_fingerprint: Some(self.coordinator.schema_fingerprint()),
            large_objects: self.large_objects,
            fencing_token: place.fencing_token,
            catalog: place.position,
            verification,
            parent: self.parents.get(repository).cloned(),
            base: None,
        }
    }
}
