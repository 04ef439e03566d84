//! Opens the doors for `check` and `status`. One that does not open is handed on as its failure, never left out.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::app::{App, secrets};
use crate::catalog::Repository;
use crate::config::{self, Checklist, Job, LogScan, Plan, Redis, VerifyMode};
use crate::host::Spool;
use crate::model::cost::{CostStatus, Prices};
use crate::model::drill::DrillStatus;
use crate::model::failure::{Failure, FailureKind};
use crate::model::schedule::Schedule;
use crate::model::span::Span;
use crate::model::status::{StatusModel, WalStatus, longest_age};
use crate::model::verb::Verb;
use crate::ops::check::{self, CheckLine, Encryption, Keys, Services};
use crate::ops::{Setting, status};
use crate::postgres::DumpScope;
use crate::steps::chain_facts::{self, ChainDoor};
use crate::steps::wal::survey;

/// Longest wait for a table's lock in a rehearsal: a check holds nobody up.
const REHEARSAL_LOCK: Duration = Duration::from_secs(2);

type Opened = Result<(Vec<Repository>, Vec<(String, Failure)>), Failure>;

impl App {
    /// Works through the checklist.
    pub async fn check(&self, setting: &Setting) -> Vec<CheckLine> {
        self.check_with(false, setting).await
    }

    /// The same; with `switch` the segment being written is ended and followed into the repositories.
    pub async fn check_with(&self, switch: bool, setting: &Setting) -> Vec<CheckLine> {
        let opened = self.try_repositories(None).await;
        let status = match &opened {
            Ok((repositories, unopened)) => Ok(self.status_of(repositories, unopened, setting).await),
            Err(failure) => Err(check::again(failure)),
        };
        let server = self.connection(Verb::Check, None);
        let tools = match self.connection(Verb::Dump, None) {
            Ok(connection) => self.tools(&connection).await,
            Err(failure) => Err(failure),
        };
        let plan = self.loaded.plan.as_ref();
        let doors = check::Doors {
            warnings: self.loaded.warnings.clone(),
            unbuilt: plan.map(unbuilt).unwrap_or_default(),
            state_directory: self.loaded.config.state_dir.to_path_buf(),
            disk_percent: plan.and_then(|plan| plan.check.disk_percent),
            services: plan.map(|plan| services(&plan.check)).unwrap_or_default(),
            security: plan.map(|plan| self.security(plan)).unwrap_or_default(),
            buckets: plan.is_some_and(|plan| plan.check.buckets),
            server,
            tools,
            dumps: self.rehearsals(),
            partitions: self.partition_checks(),
            audit: self.audit_chain(),
            repositories: self.repository_doors(opened),
            keys: self.keys(),
            wal: self.wal_check(switch).await,
            status,
        };
        check::run(&doors, setting).await
    }

    /// What is protected now. Errors when not even the keys that check signatures can be read.
    pub async fn status(&self, setting: &Setting) -> Result<StatusModel, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        Ok(self.status_of(&repositories, &unopened, setting).await)
    }

    async fn status_of(
        &self,
        repositories: &[Repository],
        unopened: &[(String, Failure)],
        setting: &Setting,
    ) -> StatusModel {
        setting.events.step("reading the repositories");
        let now = setting.clock.now();
        let jobs = self.status_jobs();
        let wal = self.wal_status(repositories, setting).await;
        let chain = match self.chain_door() {
            Some(door) => Some(chain_facts::chain(&door, repositories, now).await),
            None => None,
        };
        let partitions = match self.partition_checks() {
            Some(check::Partitions { connection, reader, rules }) => {
                chain_facts::calendars(&connection, &reader, &rules, now).await
            }
            None => Vec::new(),
        };
        let read = status::read_repositories(repositories, unopened, now).await;
        let local_durable = self.loaded.config.wal.ack == config::Ack::Local;
        let recovery = status::recovery_status(&self.wal_takers(repositories), &read, local_durable, now).await;
        let (folder, of, own) = (self.history_folder(), jobs.clone(), setting.run);
        let runs = tokio::task::spawn_blocking(move || status::last_runs(&folder, &of, own)).await;
        let inputs = status::Inputs {
            cluster: self.loaded.config.cluster.clone(),
            plan: self.loaded.plan.as_ref().map(|plan| plan.name.clone()),
            jobs,
            repositories: read,
            runs: runs.unwrap_or_else(|error| Err(format!("read the run history: {error}"))),
            wal,
            chain,
            partitions,
            recovery,
            drills: self.drills(repositories, !unopened.is_empty(), now).await,
            cost: self.storage_cost(repositories, unopened).await,
        };
        status::assemble(&inputs, now)
    }

    /// The decrypt drills of the recipients; none where nothing is encrypted, or the recipients cannot be read, which
    /// `check` says.
    async fn drills(&self, repositories: &[Repository], unopened: bool, now: DateTime<Utc>) -> Vec<DrillStatus> {
        let Ok(Some(recipients)) = self.recipients() else { return Vec::new() };
        let settings = self.loaded.config.encryption.as_ref().and_then(config::Encryption::openpgp);
        let every = settings.and_then(|settings| settings.drill_every).unwrap_or(Span::months(1));
        status::drills(&recipients, every, repositories, unopened, now).await
    }

    async fn storage_cost(&self, repositories: &[Repository], unopened: &[(String, Failure)]) -> Option<CostStatus> {
        let prices = self.loaded.config.cost.as_ref().map(prices)?;
        let is_directory = |name: &str| {
            let settings = self.loaded.config.repository.get(name);
            settings.is_some_and(|settings| matches!(settings.url, config::Place::Directory(_)))
        };
        let listed: Vec<_> = repositories.iter().map(|each| (each.clone(), is_directory(&each.name))).collect();
        Some(status::storage_cost(&prices, &listed, unopened).await)
    }

    /// The archived WAL, where the plan archives any.
    async fn wal_status(&self, repositories: &[Repository], setting: &Setting) -> Vec<WalStatus> {
        if !self.archives_wal() {
            return Vec::new();
        }
        let local = self.local_wal().await;
        status::wal_status(&survey(&self.wal_takers(repositories), local.as_ref(), setting.clock.now()).await)
    }

    /// Those of `repositories` that take WAL.
    fn wal_takers(&self, repositories: &[Repository]) -> Vec<Repository> {
        let takes_wal = |name: &str| self.loaded.config.repository.get(name).is_some_and(|settings| settings.wal);
        repositories.iter().filter(|each| takes_wal(&each.name)).cloned().collect()
    }

    fn status_jobs(&self) -> Vec<status::Job> {
        let Some(plan) = &self.loaded.plan else { return Vec::new() };
        let repositories = || self.loaded.config.repository.keys();
        let job = |(name, job): (&String, &config::Job)| status::Job {
            name: name.clone(),
            verb: job.verb,
            built: job.is_built(),
            schedule: due(plan, job),
            database: job.database.clone(),
            tables: job.tables.len() as u64,
            repositories: repositories().filter(|name| job.writes_to(name)).cloned().collect(),
        };
        plan.job.iter().filter(|(_, job)| job.enabled).map(job).collect()
    }

    fn rehearsals(&self) -> Vec<check::Dump> {
        let dumps = self.loaded.plan.iter().flat_map(|plan| &plan.job);
        let dumps = dumps.filter(|(_, job)| job.enabled && matches!(job.verb, Verb::Dump | Verb::Increment));
        let rehearsal = |(name, job): (&String, &config::Job)| check::Dump {
            job: name.clone(),
            verb: job.verb,
            connection: self.connection(job.verb, job.database.as_deref()),
            scope: DumpScope {
                tables: job.tables.clone(),
                large_objects: job.large_objects.unwrap_or(false),
                lock_timeout: REHEARSAL_LOCK,
            },
        };
        dumps.map(rehearsal).collect()
    }

    /// The plan's partition rules, where a job of it maintains them.
    fn partition_checks(&self) -> Option<check::Partitions> {
        let (_, job) = self.partition_job().ok().filter(|(_, job)| job.enabled)?;
        let rules = self.partition_rules().ok().filter(|rules| !rules.is_empty())?;
        let database = job.database.as_deref();
        let (connection, reader) = (self.connection(Verb::Partition, database), self.connection(Verb::Dump, database));
        Some(check::Partitions { connection, reader, rules })
    }

    fn audit_chain(&self) -> Option<check::AuditChain> {
        let mut jobs = self.loaded.plan.iter().flat_map(|plan| plan.job.values());
        let job = jobs.find(|job| job.enabled && job.verb == Verb::AuditVerify)?;
        Some(check::AuditChain {
            connection: self.connection(Verb::AuditVerify, job.database.as_deref()),
            spool: Spool::new(self.loaded.config.state_dir.join("alerts")),
        })
    }

    /// Where the status looks at the chain, and how old what is signed of it may be.
    fn chain_door(&self) -> Option<ChainDoor> {
        let check::AuditChain { connection, spool } = self.audit_chain()?;
        let longest = |verb: Verb| self.longest_between(verb).map(|age| age.num_seconds());
        Some(ChainDoor {
            connection,
            spool,
            longest_without_checkpoint: longest(Verb::AuditCheckpoint),
            longest_unverified: longest(Verb::AuditVerify),
        })
    }

    /// How long what a verb signs may lie back: twice the shortest interval of its jobs.
    pub(in crate::app) fn longest_between(&self, verb: Verb) -> Option<TimeDelta> {
        let (plan, now) = (self.loaded.plan.as_ref()?, self.clock.now());
        // One month verified by itself says nothing of the chain.
        let counts = |job: &&Job| job.enabled && job.verb == verb && job.mode != Some(VerifyMode::Sample);
        let jobs = plan.job.values().filter(counts);
        jobs.filter_map(|job| longest_age(&due(plan, job)?, now)).min()
    }

    fn repository_doors(&self, opened: Opened) -> Vec<check::Door> {
        let mut found: BTreeMap<String, Result<Repository, Failure>> = BTreeMap::new();
        let failure = match opened {
            Ok((repositories, unopened)) => {
                found.extend(repositories.into_iter().map(|repository| (repository.name.clone(), Ok(repository))));
                found.extend(unopened.into_iter().map(|(name, failure)| (name, Err(failure))));
                Failure::new(FailureKind::Failed, "open the repository")
            }
            Err(failure) => failure,
        };
        let door = |(name, settings): (&String, &config::Repository)| check::Door {
            name: name.clone(),
            opened: found.remove(name).unwrap_or_else(|| Err(check::again(&failure))),
            directory: match &settings.url {
                config::Place::Directory(path) => Some(path.clone()),
                config::Place::S3 { .. } => None,
            },
            wants_lock: settings.object_lock.is_some(),
        };
        self.loaded.config.repository.iter().map(door).collect()
    }

    fn keys(&self) -> Keys {
        let settings = self.loaded.config.encryption.as_ref().and_then(config::Encryption::openpgp);
        Keys {
            encryption: self.recipients().map(|to| to.map_or(Encryption::None, Encryption::To)),
            signer: self.signer(),
            decryption: self.decryption_keys().map(|keys| keys.is_some()),
            rotate_after: settings.and_then(|settings| settings.rotate_after),
        }
    }
}

/// The schedule of `job`, or of the job that it follows.
fn due(plan: &Plan, job: &config::Job) -> Option<Schedule> {
    let mut job = job;
    // A plan of jobs that follow each other in a circle is refused on loading; the limit is for what that lets through.
    for _ in 0..plan.job.len() {
        match job.due() {
            Some(schedule) => return Some(schedule),
            None => job = plan.job.get(job.after.as_ref()?)?,
        }
    }
    None
}

fn unbuilt(plan: &Plan) -> Vec<String> {
    let unbuilt = plan.job.iter().filter(|(_, job)| job.enabled && !job.is_built());
    unbuilt.map(|(name, job)| format!("{name} ({})", job.verb)).collect()
}

fn prices(cost: &config::Cost) -> Prices {
    Prices {
        currency: cost.currency.clone().unwrap_or_default(),
        monthly_limit: cost.monthly_limit,
        per_gib: cost.per_gib.clone(),
    }
}

fn services(checklist: &Checklist) -> Services {
    let password = |redis: &Redis| match redis.secret() {
        Some(secret) => secrets::resolve(&secret, &format!("the password of the Redis {}", redis.address)).map(Some),
        None => Ok(None),
    };
    let log = |log: &LogScan| check::Log {
        file: log.file.clone(),
        lines: usize::try_from(log.lines).unwrap_or(usize::MAX),
        words: log.words.clone(),
    };
    Services {
        http: checklist.http.clone(),
        tcp: checklist.tcp.clone(),
        redis: checklist.redis.iter().map(|redis| (redis.address.clone(), password(redis))).collect(),
        logs: checklist.log.iter().map(log).collect(),
        memory_percent: checklist.memory_percent,
        processor_percent: checklist.cpu_percent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_follows_another_is_due_when_that_one_is() {
        let plan: Plan = toml::from_str(
            "[job.a]\nverb = 'dump'\nschedule = '0 3 * * *'\n[job.b]\nverb = 'dump'\nafter = 'a'\n[job.c]\nverb = 'dump'\n",
        )
        .unwrap();
        assert_eq!(due(&plan, &plan.job["b"]), plan.job["a"].due());
        assert_eq!(due(&plan, &plan.job["c"]), None);
    }
}
