//! What a base backup's manifest says, and committing it in one repository.

use crate::model::base::{BackupLabel, BaseKind, BaseRecord};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;
use crate::model::manifest::{FORMAT, LargeObjects, Manifest, SourceRecord, Verification};
use crate::model::verb::Verb;
use crate::ops::base_backup::parent::Parent;
use crate::ops::base_backup::places::Place;
use crate::ops::base_backup::{Taken, Work};
use crate::postgres::Stopped;
use crate::postgres::base_backup::MUST_MATCH;
use crate::steps::hold::require_standing;

/// What the label says that the server gave.
pub(super) fn label(stopped: &Stopped) -> Result<BackupLabel, Failure> {
    BackupLabel::parse(&stopped.label).ok_or_else(|| {
        Failure::new(FailureKind::Failed, "understand the label that the server gave the base backup")
            .hint("Is this a PostgreSQL from 14 to 18? `dbagent check` tells.")
    })
}

impl Work<'_> {
    /// Where the backup begins and ends and what a copy needs.
    pub(super) fn base_record(&self, taken: &Taken) -> Result<BaseRecord, Failure> {
        let (facts, parent) = (&self.cluster.facts, taken.basis.parent());
        let stopped = &taken.stopped;
        let label = label(stopped)?;
        let segment_bytes = facts.number("wal_segment_size").ok_or_else(|| {
            Failure::new(FailureKind::Failed, "find the size of WAL segments: the server does not tell it")
        })?;
        let carried = MUST_MATCH.into_iter().chain(["shared_preload_libraries", "wal_level", "data_checksums"]);
        let settings = carried.filter_map(|name| Some((name.to_owned(), facts.settings.get(name)?.clone())));
        taken.basis.require_timeline(label.timeline)?;
        Ok(BaseRecord {
            kind: if parent.is_some() { BaseKind::Incremental } else { BaseKind::Full },
            timeline: label.timeline,
            start: label.start,
            stop: stopped.lsn,
            stopped: stopped.at,
            segment_bytes,
            from_standby: label.from_standby,
            major: facts.server.major(),
            backup_label: stopped.label.clone(),
            tablespace_map: stopped.map.clone(),
            tablespaces: facts.tablespaces.clone(),
            settings: settings.collect(),
            files: taken.files,
            bytes: taken.bytes,
            changed_since: parent.map(|parent| parent.start()),
            pages_verified: self.options.verify_pages && self.cluster.verifies_pages(),
            damaged: taken.damaged.clone(),
        })
    }

    /// Gives the backup its manifest in one repository.
    pub(super) async fn commit(
        &self,
        place: &Place,
        id: ArtifactId,
        record: &BaseRecord,
        parent: Option<&Parent>,
    ) -> Result<(), Failure> {
        if let Some(parent) = parent {
            require_standing(&parent.name, &place.repository).await?;
        }
        let parent = parent.and_then(|parent| parent.record(&place.repository.name));
        let (objects, level) = place.close(&self.name, self.setting).await?;
        self.setting.require_going_on("commit the base backup")?;
        let now = self.setting.clock.now();
        let facts = &self.cluster.facts.server;
        let source = SourceRecord {
            system_identifier: facts.system_identifier,
            timeline: Some(record.timeline),
            database: facts.database.clone(),
            database_oid: facts.database_oid,
            server_version: facts.version.clone(),
            encoding: facts.encoding.clone(),
            locale: None,
            tools: Vec::new(),
            snapshot: None,
            lsn: Some(record.stop),
            log: None,
            taken: Some(record.stopped),
        };
        let recipients = self.doors.recipients.as_ref().map(|all| all.fingerprints()).unwrap_or_default();
        let draft = |at: crate::catalog::repository::Place| Manifest {
            format: FORMAT,
            id,
            run: self.setting.run,
            verb: Verb::BaseBackup,
            job: self.options.job.clone(),
            plan: self.options.plan.clone(),
            cluster: self.options.cluster.clone(),
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.started,
            finished: now,
            source: source.clone(),
            objects: objects.clone(),
            recipients: recipients.clone(),
            tables: Vec::new(),
            sequences: Vec::new(),
            schema_fingerprint: None,
            large_objects: LargeObjects::Included,
            fencing_token: at.fencing_token,
            catalog: at.position,
            verification: Verification { level, at: now },
            parent: parent.cloned(),
            base: Some(record.clone()),
        };
        let committed = place.repository.commit(&self.name.manifest()?, now, draft).await?;
        place.committed(committed.manifest.stored_size());
        Ok(())
    }
}
