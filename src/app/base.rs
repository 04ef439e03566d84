//! Opens the doors of base backups: the server, its data directory, the repositories that take WAL as well.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::app::App;
use crate::config::{self, Compression, Job};
use crate::model::base::BaseKind;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::base_backup;
use crate::pipeline::pack::Codec;

/// More parts than this are not sent at once unasked.
const PARALLEL_UNASKED: usize = 4;

/// Longest a repository may take nothing.
const STALL: Duration = Duration::from_secs(10 * 60);

impl App {
    /// What a base backup works with. A repository without WAL could never hold a complete one.
    pub(super) async fn base_doors(&self, job: &Job, only: Option<&[String]>) -> Result<base_backup::Doors, Failure> {
        let connection = self.connection(job.verb, job.database.as_deref())?;
        let (mut repositories, mut unopened) = self.try_repositories(None).await?;
        let takes_wal = |name: &str| self.loaded.config.repository.get(name).is_some_and(|each| each.wal);
        let asked = |name: &str| only.is_none_or(|only| only.iter().any(|each| each == name));
        let wanted = |name: &str| job.writes_to(name) && asked(name) && takes_wal(name);
        repositories.retain(|repository| wanted(&repository.name));
        unopened.retain(|(name, _)| wanted(name));
        if repositories.is_empty() && unopened.is_empty() {
            let message = "make a base backup: no repository of the job takes WAL";
            return Err(Failure::new(FailureKind::Usage, message)
                .hint("Set wal = true in [repository.NAME]: without its log a base backup cannot be restored."));
        }
        let data_directory: Option<PathBuf> =
            self.loaded.config.postgres.data_directory.as_ref().map(|path| path.to_path_buf());
        let (recipients, blocks) = (self.recipients()?, self.block_store());
        let bin_directory = self.loaded.config.postgres.bin_directory.as_ref().map(|path| path.to_path_buf());
        let app = self.clone();
        let remote = base_backup::Remote { login: Arc::new(move || app.replication_connection()), bin_directory };
        let journals = Some(self.loaded.config.state_dir.join("base"));
        Ok(base_backup::Doors {
            connection,
            data_directory,
            repositories,
            unopened,
            recipients,
            blocks,
            journals,
            remote,
        })
    }

    pub(super) fn base_options(&self, name: &str, job: &Job) -> Result<base_backup::Options, Failure> {
        let config = &self.loaded.config;
        let base = &config.base_backup;
        let codec = match base.compression {
            Compression::Zstd => Codec::Zstd(base.compression_level.into()),
            Compression::Gzip => Codec::Gzip(base.compression_level.into()),
            Compression::Lz4 => Codec::Lz4,
        };
        let cores = available_parallelism().map_or(1, NonZeroUsize::get).min(PARALLEL_UNASKED);
        let parallel = NonZeroUsize::new(base.parallel.map_or(cores, usize::from)).unwrap_or(NonZeroUsize::MIN);
        Ok(base_backup::Options {
            kind: match job.kind {
                Some(config::BaseKind::Incremental) => BaseKind::Incremental,
                Some(config::BaseKind::Full) | None => BaseKind::Full,
            },
            source: job.side(),
            job: name.to_owned(),
            plan: self.plan()?.name.clone(),
            cluster: config.cluster.clone(),
            former_systems: config.former_systems.clone(),
            storage_class: self.storage_classes(job),
            codec,
            parallel,
            part_bytes: base.part_size.bytes(),
            fast_checkpoint: base.fast_checkpoint,
            verify_pages: base.verify_pages,
            stall_timeout: STALL,
            expire_grace: self.expire_grace(),
            wal_timeout: base.wal_timeout.to_duration(),
        })
    }
}
