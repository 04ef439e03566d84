//! Carries out one job of the plan: from the plan's words to a verb's options and opened doors.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::thread::available_parallelism;
use std::time::Duration;

use crate::app::App;
use crate::config::Job;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;
use crate::model::outcome::Outcome;
use crate::model::span::Span;
use crate::model::verb::Verb;
use crate::ops::complete::{self, Completion};
use crate::ops::{Setting, base_backup, check, dump, expire, increment, partition, restore, wal};
use crate::pipeline::deflate::Level;

/// Longest silence of pg_dump unless the job says otherwise.
const NO_PROGRESS: Duration = Duration::from_secs(15 * 60);

/// Longest a repository may take nothing.
const STALL: Duration = Duration::from_secs(10 * 60);

/// More compressing threads than this are not taken unasked.
const THREADS_UNASKED: usize = 4;

/// What a run has left for another one.
#[derive(Clone, Debug)]
pub struct Rest {
    /// The repositories still without the artifact; empty for all.
    pub repositories: Vec<String>,
    /// The artifact that they are to have, where others have it.
    pub artifact: Option<ArtifactId>,
}

impl App {
    /// The job `name` of the plan.
    pub fn job(&self, name: &str) -> Result<&Job, Failure> {
        let plan = self.plan()?;
        plan.job.get(name).ok_or_else(|| {
            let names: Vec<&str> = plan.job.keys().map(String::as_str).collect();
            Failure::new(FailureKind::NothingMatches, format!("find the job {name} in the plan {}", plan.name))
                .hint(format!("Its jobs are: {}.", names.join(", ")))
        })
    }

    /// Runs the job `name` once; `rest` limits it to what a run before has left.
    pub async fn run_job(&self, name: &str, rest: Option<&Rest>, setting: &Setting) -> Result<Outcome, Failure> {
        let job = self.job(name)?;
        if let (Verb::Dump | Verb::Increment, Some(rest), Some(artifact)) =
            (job.verb, rest, rest.and_then(|rest| rest.artifact))
        {
            match Box::pin(self.complete(job, rest, artifact, setting)).await? {
                Completion::Told(outcome) => return Ok(outcome),
                Completion::Impossible(reason) => {
                    setting
                        .events
                        .note(format!("making a new backup, the one that is there cannot be copied: {reason}"));
                }
            }
        }
        let only = rest.map(|rest| rest.repositories.as_slice()).filter(|only| !only.is_empty());
        match job.verb {
            Verb::Dump => {
                let doors = self.dump_doors(job, only).await?;
                dump::run(&self.dump_options(name, job)?, &doors, setting).await
            }
            Verb::Increment => {
                let doors = self.dump_doors(job, only).await?;
                let log = self.log(&doors.connection).await;
                increment::run(&self.dump_options(name, job)?, &doors, log.as_ref(), setting).await
            }
            Verb::WalSync => wal::sync::run(&self.wal_sync_doors().await?, setting).await,
            Verb::BaseBackup if job.is_built() => {
                let doors = self.base_doors(job, only).await?;
                base_backup::run(&self.base_options(name, job)?, &doors, setting).await
            }
            Verb::Expire => expire::run(&self.expire_doors().await?, &self.expire_options()?, setting).await,
            Verb::Partition => {
                let (options, doors) = (self.partition_options(name, job, false)?, self.partition_doors(job).await?);
                Box::pin(partition::run(&options, &doors, setting)).await
            }
            Verb::AuditVerify => Box::pin(self.run_audit_verify(job, setting)).await,
            Verb::AuditCheckpoint => Box::pin(self.audit_checkpoint(Some(job), None, setting)).await,
            Verb::Check => Ok(check::outcome(&self.check(setting).await)),
            verb => Err(not_built(name, verb)),
        }
    }

    /// Errors unless the job `name` is there and this version can run it.
    pub fn require_built(&self, name: &str) -> Result<(), Failure> {
        let job = self.job(name)?;
        if job.is_built() { Ok(()) } else { Err(not_built(name, job.verb)) }
    }

    async fn complete(
        &self,
        job: &Job,
        rest: &Rest,
        artifact: ArtifactId,
        setting: &Setting,
    ) -> Result<Completion, Failure> {
        let wanted = |name: &str| job.writes_to(name) && rest.repositories.iter().any(|each| each == name);
        let (sources, mut unopened) = self.try_repositories(None).await?;
        unopened.retain(|(name, _)| wanted(name));
        let destinations = sources.iter().filter(|repository| wanted(&repository.name)).cloned().collect();
        let former_systems = self.loaded.config.former_systems.clone();
        let options = complete::Options { artifact, storage_class: self.storage_classes(job), former_systems };
        complete::run(&options, &complete::Doors { sources, destinations, unopened }, setting).await
    }

    async fn dump_doors(&self, job: &Job, only: Option<&[String]>) -> Result<dump::Doors, Failure> {
        let connection = self.connection(job.verb, job.database.as_deref())?;
        let tools = self.tools(&connection).await?;
        let wanted = |name: &str| job.writes_to(name) && only.is_none_or(|only| only.iter().any(|each| each == name));
        let (mut repositories, mut unopened) = self.try_repositories(None).await?;
        repositories.retain(|repository| wanted(&repository.name));
        unopened.retain(|(name, _)| wanted(name));
        Ok(dump::Doors { connection, tools, repositories, unopened, recipients: self.recipients()? })
    }

    pub(in crate::app) fn dump_options(&self, name: &str, job: &Job) -> Result<dump::Options, Failure> {
        let config = &self.loaded.config;
        let seconds = |span: Option<Span>, unless: Duration| span.map_or(unless, |span| span.to_duration());
        Ok(dump::Options {
            job: name.to_owned(),
            plan: self.plan()?.name.clone(),
            cluster: config.cluster.clone(),
            former_systems: config.former_systems.clone(),
            tables: job.tables.clone(),
            changed_at: job.changed_at.clone(),
            folder: job.folder.clone().unwrap_or_else(|| name.to_owned()),
            name_prefix: job.name_prefix.clone().unwrap_or_else(|| name.to_owned()),
            storage_class: self.storage_classes(job),
            large_objects: job.large_objects.unwrap_or(false),
            lock_timeout: seconds(job.lock_timeout, seconds(Some(config.dump.lock_timeout), Duration::from_secs(30))),
            no_progress_timeout: seconds(job.no_progress_timeout, NO_PROGRESS),
            stall_timeout: STALL,
            level: Level::new(config.dump.compression_level).unwrap_or_default(),
            threads: self.threads(),
        })
    }

    /// The storage class of what `job` stores, by repository.
    pub(super) fn storage_classes(&self, job: &Job) -> BTreeMap<String, String> {
        let classes = self.loaded.config.repository.iter().filter_map(|(repository, settings)| {
            let class = job.storage_class_in(repository).or(settings.storage_class.as_deref());
            Some((repository.clone(), class?.to_owned()))
        });
        classes.collect()
    }

    fn threads(&self) -> NonZeroUsize {
        let cores = available_parallelism().map_or(1, NonZeroUsize::get).min(THREADS_UNASKED);
        let threads = self.loaded.config.dump.threads.map_or(cores, usize::from);
        NonZeroUsize::new(threads).unwrap_or(NonZeroUsize::MIN)
    }

    /// What a restore works with, reading from all repositories or from the one called `only`.
    pub async fn restore_doors(&self, only: Option<&str>, jobs: Option<usize>) -> Result<restore::Doors, Failure> {
        let connection = self.connection(Verb::RestoreTest, None)?;
        let tools = self.tools(&connection).await?;
        let (repositories, unopened) = self.try_repositories(only).await?;
        for (name, failure) in &unopened {
            tracing::warn!(repository = name, error = failure.full_message(), "cannot be opened");
        }
        if let (true, Some((_, failure))) = (repositories.is_empty(), unopened.into_iter().next()) {
            return Err(failure);
        }
        let settings = &self.loaded.config.restore;
        let scratch_directory = self.scratch_directory();
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let jobs = jobs.or(settings.jobs.map(usize::from)).unwrap_or(cores).max(1);
        Ok(restore::Doors { connection, tools, repositories, keys: self.decryption_keys()?, scratch_directory, jobs })
    }

    /// Where a restore puts what it throws away.
    pub fn scratch_directory(&self) -> PathBuf {
        let configured = self.loaded.config.restore.scratch_directory.as_ref();
        configured.map_or_else(std::env::temp_dir, |directory| directory.to_path_buf())
    }
}

fn not_built(name: &str, verb: Verb) -> Failure {
    Failure::new(FailureKind::Usage, format!("run the job {name}: {verb} is not built yet"))
        .hint("`dbagent plan` shows which jobs this version runs.")
}
