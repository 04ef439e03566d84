//! Opens the doors for the audit chain and its alerts.

use std::path::Path;
use std::time::Duration;

use chrono::TimeDelta;
use secrecy::ExposeSecret as _;

use crate::app::App;
use crate::app::install::SqlInstaller;
use crate::config::{Job, VerifyMode};
use crate::host::{FileErrorKind, Spool, durable};
use crate::model::audit::finding::{ChainFinding, FindingKind, FirstBad};
use crate::model::audit::profile::Profiles;
use crate::model::audit::proof::Proof;
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::AlertId;
use crate::model::outcome::Outcome;
use crate::model::span::Span;
use crate::model::verb::Verb;
use crate::ops::audit_backfill::{self, Backfilled};
use crate::ops::audit_install::{self, Drift, Installed};
use crate::ops::audit_prove::{self, Proven};
use crate::ops::audit_verify::Scope;
use crate::ops::{Setting, alert, audit_checkpoint, audit_golden, audit_rebuild, audit_verify, audit_witness};
use crate::postgres::Connection;
use crate::postgres::audit::outbox::Kept;
use crate::steps::alert::AlertDoors;
use crate::steps::checkpoint::Terms;

/// Largest proof, in bytes: a row's bytes twice over, and a path.
const PROOF_LIMIT: u64 = 64 << 20;

/// Longest wait for the locks of the log.
pub(in crate::app) const LOCK_TIMEOUT: Duration = Duration::from_secs(3);

impl App {
    /// Where the chain is to be installed, and as whom: `admin_url`, or the agent's own login.
    pub fn audit_installer(&self, admin_url: Option<&str>, database: Option<&str>) -> Result<SqlInstaller, Failure> {
        self.sql_installer(admin_url, database)
    }

    /// What `audit install` would apply.
    pub async fn audit_install_plan(&self, installer: &SqlInstaller) -> Result<Vec<&'static str>, Failure> {
        audit_install::plan(installer.connection()).await
    }

    /// Installs the chain.
    pub async fn audit_install(&self, installer: &SqlInstaller, setting: &Setting) -> Result<Installed, Failure> {
        audit_install::run(installer.connection(), setting).await
    }

    /// Puts the protection of the chain back as it is installed: what was not so before, and what is not so still.
    pub async fn audit_repair(
        &self,
        installer: &SqlInstaller,
        setting: &Setting,
    ) -> Result<(Vec<Drift>, Vec<Drift>), Failure> {
        audit_install::repair(installer.connection(), setting).await
    }

    /// Chains a log that has rows.
    pub async fn audit_backfill(
        &self,
        installer: &SqlInstaller,
        batch: u32,
        setting: &Setting,
    ) -> Result<Backfilled, Failure> {
        audit_backfill::run(installer.connection(), batch, &self.audit_profiles()?, setting).await
    }

    /// Of how many rows `audit backfill` would keep the hashes.
    pub async fn audit_backfill_plan(&self, installer: &SqlInstaller, setting: &Setting) -> Result<u64, Failure> {
        audit_backfill::plan(installer.connection(), &self.audit_profiles()?, setting).await
    }

    /// The formulas that are configured for older rows.
    pub(in crate::app) fn audit_profiles(&self) -> Result<Profiles, Failure> {
        let unfit = |why| Failure::new(FailureKind::Usage, "use [audit.profile] of the configuration").because(why);
        self.loaded.config.audit.profiles().map_err(unfit)
    }

    /// Rebuilds the side tables of a restored log.
    pub async fn audit_rebuild(&self, installer: &SqlInstaller, setting: &Setting) -> Result<u64, Failure> {
        let (repositories, _) = self.try_repositories(None).await?;
        audit_rebuild::run(installer.connection(), &repositories, &self.audit_profiles()?, setting).await
    }

    /// Verifies the chain of `database` (that of the connection when absent).
    pub async fn audit_verify(
        &self,
        scope: Scope,
        database: Option<&str>,
        setting: &Setting,
    ) -> Result<Outcome, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        let alerts = self.alert_doors(database, repositories.clone())?;
        let connection = self.connection(Verb::AuditVerify, database)?;
        let workers = std::thread::available_parallelism().map_or(1, usize::from).clamp(2, 8);
        let options =
            audit_verify::Options { scope, workers, lock_timeout: LOCK_TIMEOUT, terms: self.checkpoint_terms(None)? };
        audit_verify::run(&options, &audit_verify::Doors { connection, repositories, unopened, alerts }, setting).await
    }

    /// Whether rows of `database` are hashed there as the chain's profile says.
    pub(in crate::app) async fn audit_check_golden_rows(
        &self,
        database: Option<&str>,
        setting: &Setting,
    ) -> Result<Outcome, Failure> {
        let (repositories, _) = self.try_repositories(None).await?;
        audit_golden::run(&self.alert_doors(database, repositories)?, setting).await
    }

    /// The job's words for [`App::audit_verify`].
    pub(in crate::app) async fn run_audit_verify(&self, job: &Job, setting: &Setting) -> Result<Outcome, Failure> {
        let scope = match job.mode {
            Some(VerifyMode::Incremental) => Scope::Incremental,
            Some(VerifyMode::Sample) => Scope::Sample,
            Some(VerifyMode::Full) | None => Scope::Full,
        };
        self.audit_verify(scope, job.database.as_deref(), setting).await
    }

    /// Signs a checkpoint; `restored` says why a chain that contradicts earlier ones is believed.
    pub async fn audit_checkpoint(
        &self,
        job: Option<&Job>,
        restored: Option<String>,
        setting: &Setting,
    ) -> Result<Outcome, Failure> {
        let database = job.and_then(|job| job.database.as_deref());
        let connection = self.connection(Verb::AuditCheckpoint, database)?;
        self.audit_checkpoint_of(connection, job, restored, setting).await
    }

    /// The same of the chain that `connection` leads to.
    pub(in crate::app) async fn audit_checkpoint_of(
        &self,
        connection: Connection,
        job: Option<&Job>,
        restored: Option<String>,
        setting: &Setting,
    ) -> Result<Outcome, Failure> {
        let (mut repositories, mut unopened) = self.try_repositories(None).await?;
        repositories.retain(|repository| job.is_none_or(|job| job.writes_to(&repository.name)));
        unopened.retain(|(name, _)| job.is_none_or(|job| job.writes_to(name)));
        let role = self.loaded.config.postgres.roles.get(&Verb::AuditVerify);
        let told = connection.with_role(role.map(String::as_str));
        let alerts = AlertDoors { connection: told, ..self.alert_doors(None, repositories.clone())? };
        // What was just put back was verified when it was, and the record says so.
        let is_restore = restored.is_some();
        let options = audit_checkpoint::Options {
            terms: self.checkpoint_terms(job)?,
            restored,
            lock_timeout: LOCK_TIMEOUT,
            longest_unverified: job.filter(|_| !is_restore).and_then(|_| self.longest_between(Verb::AuditVerify)),
        };
        let doors = audit_checkpoint::Doors { connection, repositories, unopened, alerts };
        audit_checkpoint::run(&options, &doors, setting).await
    }

    /// Proves one archived row, without the database.
    pub async fn audit_prove(&self, options: &audit_prove::Options, setting: &Setting) -> Result<Proven, Failure> {
        let doors = audit_prove::Doors { repositories: self.readable().await?, keys: self.decryption_keys()? };
        audit_prove::from_archive(options, &doors, setting).await
    }

    /// Checks the proof of row `id` in `file` (what `audit prove --json` prints), with the row's canonical bytes in
    /// hexadecimal digits from `row` where that is given.
    pub async fn audit_check_proof(
        &self,
        id: uuid::Uuid,
        file: &Path,
        row: Option<&Path>,
        setting: &Setting,
    ) -> Result<Proven, Failure> {
        let read = |path: &Path| {
            let bytes = durable::read_bounded(path, PROOF_LIMIT);
            bytes.map_err(|error| Failure::new(FailureKind::Usage, format!("read {}", path.display())).because(error))
        };
        let no_proof =
            |error| Failure::new(FailureKind::Usage, format!("read {} as a proof", file.display())).because(error);
        let printed: serde_json::Value = serde_json::from_slice(&read(file)?).map_err(no_proof)?;
        let mut proof: Proof = serde_json::from_value(printed["proof"].clone()).map_err(no_proof)?;
        proof.id = id.to_string();
        if let Some(row) = row {
            proof.row = String::from_utf8_lossy(&read(row)?).trim().to_owned();
        }
        audit_prove::check(proof, &self.readable().await?, setting).await
    }

    /// The repositories that can be opened; an error when none can.
    async fn readable(&self) -> Result<Vec<crate::catalog::Repository>, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        match (repositories.is_empty(), unopened.into_iter().next()) {
            (true, Some((_, failure))) => Err(failure),
            _ => Ok(repositories),
        }
    }

    /// Looks at the checkpoints of every repository, without the database unless rows between `pairs` of them are wanted too.
    pub async fn audit_witness(&self, silence: Span, pairs: usize, setting: &Setting) -> Result<Outcome, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        if let Some((_, failure)) = unopened.into_iter().next() {
            return Err(failure);
        }
        let memory = self.loaded.config.state_dir.to_path_buf();
        durable::private_directory(&memory)
            .map_err(|error| Failure::new(FailureKind::Failed, "use the state directory").because(error))?;
        let silence = TimeDelta::from_std(silence.to_duration()).unwrap_or(TimeDelta::MAX);
        let sample = match pairs {
            0 => None,
            pairs => {
                let connection = self.connection(Verb::AuditVerify, None)?;
                let profiles = self.audit_profiles()?;
                Some(audit_witness::Sample { connection, pairs, lock_timeout: LOCK_TIMEOUT, profiles })
            }
        };
        audit_witness::run(&repositories, &audit_witness::Options { silence, memory, sample }, setting).await
    }

    /// What every signed statement about the chain says, and for how long it is locked: as `job` has it, and what is signed
    /// by another verb or by hand as the plan's job for checkpoints.
    pub(in crate::app) fn checkpoint_terms(&self, job: Option<&Job>) -> Result<Terms, Failure> {
        let config = &self.loaded.config;
        let shown = serde_json::to_vec(config)
            .map_err(|error| Failure::new(FailureKind::Failed, "digest the configuration").because(error))?;
        let jobs = || self.loaded.plan.iter().flat_map(|plan| plan.job.values());
        let job = job.or_else(|| jobs().find(|job| job.verb == Verb::AuditCheckpoint));
        // No longer than the store that keeps them for the shortest time, or `expire` could not do what it is told to.
        let locking = config.repository.iter().filter(|(_, repository)| repository.object_lock.is_some());
        let ages =
            |job: &Job| locking.filter_map(|(name, _)| Some(job.keep_in(name)?.age?.after(self.clock.now()))).min();
        let locked_until = job.filter(|job| job.object_lock == Some(true)).and_then(ages);
        let (configuration, profiles) = (Digest::of(&shown), self.audit_profiles()?);
        Ok(Terms { cluster: config.cluster.clone(), configuration, locked_until, profiles })
    }

    /// Where alerts of `database` go.
    fn alert_doors(
        &self,
        database: Option<&str>,
        repositories: Vec<crate::catalog::Repository>,
    ) -> Result<AlertDoors, Failure> {
        let connection = self.connection(Verb::AuditVerify, database)?;
        let spool = Spool::new(self.loaded.config.state_dir.join("alerts"));
        Ok(AlertDoors { connection, spool, key: self.alert_key()?, repositories })
    }

    /// The key of the alerts' codes, made when it is first needed. Listeners are given it by the operator.
    fn alert_key(&self) -> Result<Vec<u8>, Failure> {
        let unusable = |error| {
            Failure::new(FailureKind::Authentication, "use the key of the alerts")
                .because(error)
                .hint("It is alert.key in state_dir, readable by this user alone.")
        };
        durable::private_directory(&self.loaded.config.state_dir).map_err(unusable)?;
        let path = self.loaded.config.state_dir.join("alert.key");
        let made = Digest::from(rand::random::<[u8; 32]>()).to_string();
        match durable::write_new(&path, made.as_bytes()) {
            Err(error) if error.kind != FileErrorKind::Exists => return Err(unusable(error)),
            _ => {}
        }
        let key = durable::read_secret_file(&path).map_err(unusable)?;
        Ok(key.expose_secret().as_bytes().to_vec())
    }

    /// Alerts of the outbox, and how many wait in the spool.
    pub async fn alerts(&self, all: bool) -> Result<(Vec<Kept>, Vec<String>), Failure> {
        alert::list(&self.alert_doors(None, Vec::new())?, all).await
    }

    /// Acknowledges one alert, or all.
    pub async fn acknowledge_alerts(
        &self,
        id: Option<AlertId>,
        by: &str,
        note: Option<&str>,
    ) -> Result<Vec<String>, Failure> {
        alert::acknowledge(&self.alert_doors(None, Vec::new())?, id, by, note).await
    }

    /// Raises an alert that says that it is a test.
    pub async fn test_alert(&self, setting: &Setting) -> Result<Outcome, Failure> {
        let (repositories, _) = self.try_repositories(None).await?;
        let doors = self.alert_doors(None, repositories)?;
        let finding = ChainFinding::new(FindingKind::VerifyFailedToRun, "a test of the alerts: nothing is wrong");
        // Told apart from a verification that really did not run.
        let test = FirstBad { partition: Some("test".to_owned()), ..FirstBad::default() };
        let finding = finding.rows(test, 0);
        alert::test(&doors, &finding, setting).await
    }
}
