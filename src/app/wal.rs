//! Opens the doors for archiving WAL and for giving it back: only what these need, because PostgreSQL waits.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use crate::app::App;
use crate::app::agent::{AgentClient, Answer};
use crate::app::manual::again;
use crate::config::{Ack, Job};
use crate::host::{Space, durable};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::SystemId;
use crate::model::verb::Verb;
use crate::model::wal::{Asked, SegmentName, WalFile};
use crate::ops::check;
use crate::ops::increment;
use crate::ops::wal::push::{self, Doors, Pushed};
use crate::ops::wal::sync;
use crate::postgres::Connection;
use crate::postgres::control::DataDirectory;
use crate::steps::blocks::BlockStore;
use crate::steps::wal::{Fetched, Local, Owner, StoreOptions, Thresholds, WalDoors, fetch_file, require_within};
pub use crate::steps::wal::{Survey, TimelineSurvey, survey_findings};

/// More than this is not shipped at once unasked.
const PARALLEL_UNASKED: usize = 4;

impl App {
    /// What a push works with. `helpers` are threads of zstd's own for each file.
    pub async fn wal_push_doors(&self, helpers: u32) -> Result<Doors, Failure> {
        self.wal_doors(helpers, self.loaded.config.wal.ack == Ack::Local).await
    }

    async fn wal_doors(&self, helpers: u32, local: bool) -> Result<Doors, Failure> {
        let config = &self.loaded.config;
        let (repositories, unopened) = self.try_wal_repositories(local).await?;
        let options = StoreOptions {
            level: config.wal.compression_level.into(),
            helpers,
            recipients: self.recipients()?,
            owner: Owner::new(&config.cluster, &config.former_systems),
        };
        let data_directory = config.postgres.data_directory.as_ref().map(|path| path.to_path_buf());
        Ok(Doors { repositories, unopened, options, data_directory, blocks: self.block_store() })
    }

    /// Where it is kept which blocks the log touches, where a job of the plan needs that.
    pub(super) fn block_store(&self) -> Option<BlockStore> {
        let mut jobs = self.loaded.plan.iter().flat_map(|plan| plan.job.values());
        jobs.any(Job::needs_blocks).then(|| BlockStore::below(&self.loaded.config.state_dir))
    }

    /// Where an increment from `connection` learns which tables the log touches; nothing where this machine does not have
    /// the server's files.
    pub(super) async fn log(&self, connection: &Connection) -> Option<increment::Log> {
        let data_directory = match &self.loaded.config.postgres.data_directory {
            Some(directory) => directory.to_path_buf(),
            None => readable_directory(connection).await?,
        };
        let mut jobs = self.loaded.plan.iter().flat_map(|plan| plan.job.values());
        let prune = !jobs.any(|job| job.enabled && job.is_incremental_base());
        Some(increment::Log { blocks: self.block_store()?, data_directory, prune })
    }

    /// What `wal-sync`, `wal list` and `wal verify` work with.
    pub async fn wal_sync_doors(&self) -> Result<sync::Doors, Failure> {
        let Doors { repositories, unopened, options, data_directory, blocks } = self.wal_doors(0, false).await?;
        let wal = &self.loaded.config.wal;
        let thresholds = Thresholds {
            backlog: (wal.backlog_warning.bytes(), wal.backlog_critical.bytes()),
            volume: (wal.volume_warning, wal.volume_critical),
        };
        let server = self.connection(Verb::WalSync, None);
        let data_directory = match data_directory {
            Some(directory) => Some(directory),
            None => match &server {
                Ok(server) => readable_directory(server).await,
                Err(_) => None,
            },
        };
        Ok(sync::Doors { repositories, unopened, options, server, data_directory, thresholds, blocks })
    }

    /// Whether the plan has WAL archived.
    pub(super) fn archives_wal(&self) -> bool {
        let jobs = self.loaded.plan.iter().flat_map(|plan| plan.job.values());
        jobs.into_iter().any(|job| job.enabled && job.verb == Verb::WalSync)
    }

    /// What lies in the server's pg_wal, where this machine has it.
    pub(super) async fn local_wal(&self) -> Option<Local> {
        self.wal_sync_doors().await.ok()?.local()
    }

    /// What `check` looks at; nothing where the plan archives no WAL.
    pub(super) async fn wal_check(&self, switch: bool) -> Option<check::Wal> {
        if !self.archives_wal() {
            return None;
        }
        let doors = self.wal_sync_doors().await.ok()?;
        let (local, thresholds) = (doors.local(), doors.thresholds);
        let volume = doors.data_directory.as_ref().and_then(|path| Space::at(&path.join("pg_wal")).ok());
        // A host that only takes backups has no key; what is wrong with one that should be there is another check's line.
        let keys = self.decryption_keys().ok().flatten();
        Some(check::Wal { repositories: doors.repositories, local, volume, thresholds, keys, switch })
    }

    /// What a fetch works with.
    pub async fn wal_fetch_doors(&self, asked: &Asked) -> Result<WalDoors, Failure> {
        let (mut repositories, mut unopened) = self.try_wal_repositories(false).await?;
        if let Asked::Believing(name) | Asked::Only(name) = asked {
            self.require_takes_wal(name)?;
            repositories.sort_by_key(|repository| repository.name != *name);
        }
        if let Asked::Only(name) = asked {
            repositories.retain(|repository| repository.name == *name);
            unopened.retain(|(other, _)| other == name);
        }
        let (cluster, former) = (self.loaded.config.cluster.clone(), self.loaded.config.former_systems.clone());
        Ok(WalDoors { repositories, unopened, keys: self.decryption_keys()?, cluster, former, asked: asked.clone() })
    }

    fn require_takes_wal(&self, name: &str) -> Result<(), Failure> {
        let all = self.loaded.config.repository.iter().filter(|(_, settings)| settings.wal);
        let names: Vec<&str> = all.map(|(name, _)| name.as_str()).collect();
        match names.contains(&name) {
            true => Ok(()),
            false => Err(Failure::new(FailureKind::Usage, format!("find a repository {name} that takes WAL"))
                .hint(format!("There are: {}.", names.join(", ")))),
        }
    }

    /// Archives the file `path` (absolute), through the running agent if there is one.
    pub async fn wal_push(&self, path: &Path) -> Result<Pushed, Failure> {
        match self.ask_agent(|agent| agent.wal_push(path)).await {
            Some(Answer::Pushed(pushed)) => Ok(pushed),
            Some(Answer::Failed(failure)) => Err(again(failure.kind, failure.message, failure.hint)),
            _ => self.wal_push_here(path).await,
        }
    }

    /// Fetches `file` to `place` (absolute), through the running agent if there is one; false when it is proven not to be
    /// archived. With `within` a segment is refused whose replay would write into somebody else's tablespace. Segments up to
    /// `through` were stored once: that one of them is not there now is no end of the log, but a failure.
    pub async fn wal_fetch(
        &self,
        file: WalFile,
        place: &Path,
        asked: &Asked,
        within: bool,
        through: Option<SegmentName>,
    ) -> Result<bool, Failure> {
        let there = self.wal_fetch_anyhow(file, place, asked).await?;
        if !there && through.is_some_and(|through| is_lost(file, place, through)) {
            let message = format!("fetch {file}: it was stored when this restore was planned, and is gone");
            return Err(Failure::new(FailureKind::Integrity, message).hint(
                "Ending the recovery here would lose what was committed since. `dbagent wal list` shows what is stored; \
                 bring the segment back, or restore to a moment before it.",
            ));
        }
        if let (true, true, WalFile::Segment(segment)) = (there, within, file)
            && let Some(copy) = DataDirectory::of_wal_file(place)
        {
            require_within(segment, place, &copy).inspect_err(|_| {
                if let Err(error) = durable::remove(place) {
                    tracing::warn!(%error, "a segment that must not be replayed stays where it was put");
                }
            })?;
        }
        Ok(there)
    }

    async fn wal_fetch_anyhow(&self, file: WalFile, place: &Path, asked: &Asked) -> Result<bool, Failure> {
        let settings = self.fetch_settings()?;
        match self.ask_agent(|agent| agent.wal_fetch(file, place, asked, settings)).await {
            Some(Answer::Fetched(there)) => Ok(there),
            Some(Answer::OtherSettings) => {
                tracing::info!("the running agent has other settings (reload it with SIGHUP); doing it here");
                self.wal_fetch_here(file, place, asked).await.map(|fetched| fetched == Fetched::There(()))
            }
            Some(Answer::Failed(failure)) => Err(again(failure.kind, failure.message, failure.hint)),
            _ => self.wal_fetch_here(file, place, asked).await.map(|fetched| fetched == Fetched::There(())),
        }
    }

    /// The agent's answer; nothing when none is running, or it may not be asked: the work is then done here.
    async fn ask_agent<F: Future<Output = Option<Answer>>>(
        &self,
        ask: impl FnOnce(AgentClient) -> F,
    ) -> Option<Answer> {
        match AgentClient::connect(self).await {
            Ok(agent) => ask(agent?).await,
            Err(failure) => {
                tracing::info!(error = failure.full_message(), "doing it here");
                None
            }
        }
    }

    /// Archives the file `path` in this process.
    pub async fn wal_push_here(&self, path: &Path) -> Result<Pushed, Failure> {
        let doors = self.wal_push_doors(1).await?;
        push::push(path, &doors, self.clock.as_ref()).await
    }

    /// Fetches `file` to `place` in this process.
    pub async fn wal_fetch_here(&self, file: WalFile, place: &Path, asked: &Asked) -> Result<Fetched<()>, Failure> {
        let doors = self.wal_fetch_doors(asked).await?;
        match fetch_file(file, place, system_of(place)?, &doors, self.clock.now()).await? {
            Fetched::There(arrived) => arrived.put().map(Fetched::There),
            Fetched::NotThere => Ok(Fetched::NotThere),
        }
    }

    /// Stands for everything that decides what a fetch finds and can read: two processes with the same one give the same
    /// answer. The content of key files is not in it.
    pub(super) fn fetch_settings(&self) -> Result<Digest, Failure> {
        let config = &self.loaded.config;
        let deciding = (&config.cluster, &config.former_systems, &config.repository, &config.encryption);
        let text = serde_json::to_vec(&deciding)
            .map_err(|error| Failure::new(FailureKind::Failed, "compare the settings").because(error))?;
        Ok(Digest::of(&text))
    }

    /// How many files the agent ships at once: more than there are cores, which would be idle while a file is synced.
    pub(super) fn wal_shipped_at_once(&self) -> usize {
        self.wal_at_once(2)
    }

    /// How many segments the agent fetches at once.
    pub(super) fn wal_fetched_at_once(&self) -> usize {
        self.wal_at_once(1)
    }

    fn wal_at_once(&self, per_core: usize) -> usize {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let unasked = (per_core * cores).min(PARALLEL_UNASKED);
        self.loaded.config.wal.parallel.map_or(unasked, usize::from).max(1)
    }
}

/// Whether `file` is one of the segments up to `through`, and the server that wants it into `place` has it not either: one
/// that was fetched before may expire.
fn is_lost(file: WalFile, place: &Path, through: SegmentName) -> bool {
    let WalFile::Segment(segment) = file else { return false };
    through.is_at_or_after(segment) && !place.with_file_name(segment.to_string()).exists()
}

/// Whose WAL belongs into `place`: that of the data directory whose pg_wal it is in; nobody knows for another place.
pub(super) fn system_of(place: &Path) -> Result<Option<SystemId>, Failure> {
    let directory = DataDirectory::of_wal_file(place).filter(|directory| directory.join("PG_VERSION").exists());
    let Some(directory) = directory else { return Ok(None) };
    let read = DataDirectory::read(&directory)
        .map_err(|error| Failure::new(FailureKind::Failed, "tell which cluster recovers").because(error))?;
    Ok(Some(read.system_identifier))
}
/// The server's data directory, where the server tells it and this machine can read it.
async fn readable_directory(server: &Connection) -> Option<PathBuf> {
    let directory = server.data_directory().await.ok()??;
    directory.join("PG_VERSION").exists().then_some(directory)
}
