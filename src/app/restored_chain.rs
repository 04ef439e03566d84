//! The audit chain after a restore into a server that is in use: its side tables rebuilt where the backup had the log alone,
//! its rows verified, and the restore stated in the signed record where it takes the place of the database that was signed,
//! so that nobody has to remember another command, and the next verification knows.
//!
//! A restore that was proven equal to its backup stays what it is, whatever is said here.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::app::App;
use crate::app::copy_chain::CopyChain;
use crate::config::Job;
use crate::model::failure::Failure;
use crate::model::verb::Verb;
use crate::ops::{Setting, audit_rebuild};
use crate::postgres::audit::schema;
use crate::postgres::{Connection, audit};

/// What was put back.
#[derive(Clone, Debug)]
pub struct PutBack {
    /// The database that holds it now.
    pub database: String,
    /// Which state it has; nothing where rows were only added to what was there.
    pub state: Option<DateTime<Utc>>,
    /// Why the chain may be another one than was signed, in words for the signed record.
    pub reason: String,
}

/// What became of the audit chain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RestoredChain {
    /// Whether it is whole.
    #[serde(flatten)]
    pub chain: CopyChain,
    /// Rows that were given their places, where the backup had none.
    pub rebuilt: Option<u64>,
    /// Whether the restore is in the signed record.
    #[serde(flatten)]
    pub stated: Stated,
}

/// Whether a restore is in the signed record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "stated", rename_all = "snake_case")]
pub enum Stated {
    /// Every repository has it.
    Signed,
    /// It need not be: nothing was signed of this chain, or it is in another database than the one that is signed.
    NotNeeded,
    /// It should be, and is not.
    Missing {
        /// Why.
        why: String,
    },
}

impl Stated {
    /// Only what is known to be whole is signed.
    pub(in crate::app) fn not_whole() -> Self {
        Self::Missing { why: "the chain is not known to be whole".to_owned() }
    }
}

impl RestoredChain {
    /// Whether nothing is left to do.
    pub fn is_settled(&self) -> bool {
        let told = matches!(self.chain, CopyChain::Whole { .. } | CopyChain::NotInstalled);
        told && !matches!(self.stated, Stated::Missing { .. })
    }
}

impl App {
    /// Looks after the chain of what was put `back`.
    pub async fn chain_after_restore(&self, back: &PutBack, setting: &Setting) -> RestoredChain {
        let (rebuilt, chain) = match self.rebuilt_and_verified(back, setting).await {
            Ok(done) => done,
            Err(failure) => (None, CopyChain::Unknown { reason: failure.full_message() }),
        };
        let stated = match (&chain, back.state) {
            (_, None) => Stated::NotNeeded,
            (chain, Some(_)) => match self.signed_connection() {
                Ok(signed) if signed.database() != back.database => Stated::NotNeeded,
                _ if *chain == CopyChain::NotInstalled => self.stated_without_chain().await,
                Ok(signed) if matches!(chain, CopyChain::Whole { .. }) => {
                    self.state_restore(signed, back.reason.clone(), setting).await
                }
                Ok(_) => Stated::not_whole(),
                Err(failure) => Stated::Missing { why: failure.full_message() },
            },
        };
        RestoredChain { chain, rebuilt, stated }
    }

    async fn rebuilt_and_verified(
        &self,
        back: &PutBack,
        setting: &Setting,
    ) -> Result<(Option<u64>, CopyChain), Failure> {
        let administrator = self.connection(Verb::RestoreTest, Some(&back.database))?;
        let session = administrator.connect().await?;
        if !audit::is_installed(&session).await? {
            return Ok((None, CopyChain::NotInstalled));
        }
        let rebuilt = match schema::lacks_places(&session).await? {
            true => Some(self.rebuild_places(&administrator, setting).await?),
            false => None,
        };
        setting.events.step("verifying the audit chain that was restored");
        let connection = self.connection(Verb::AuditVerify, Some(&back.database))?;
        Ok((rebuilt, self.verified_as_of(&connection, back.state, setting).await?))
    }

    async fn rebuild_places(&self, administrator: &Connection, setting: &Setting) -> Result<u64, Failure> {
        let (repositories, _) = self.try_repositories(None).await?;
        audit_rebuild::run(administrator, &repositories, &self.audit_profiles()?, setting).await
    }

    /// The job that signs checkpoints, if the plan has one.
    fn signing_job(&self) -> Option<&Job> {
        let jobs = self.loaded.plan.iter().flat_map(|plan| plan.job.values());
        jobs.into_iter().find(|job| job.verb == Verb::AuditCheckpoint)
    }

    /// The database that checkpoints are signed of.
    fn signed_connection(&self) -> Result<Connection, Failure> {
        self.connection(Verb::AuditCheckpoint, self.signing_job().and_then(|job| job.database.as_deref()))
    }

    /// States in the signed record that the chain which `connection` leads to was put back on purpose, for this reason.
    pub(in crate::app) async fn state_restore(
        &self,
        connection: Connection,
        reason: String,
        setting: &Setting,
    ) -> Stated {
        setting.events.step("stating the restore in the signed record of the audit chain");
        match self.try_to_state(connection, reason, setting).await {
            Ok(stated) => stated,
            Err(failure) => Stated::Missing { why: failure.full_message() },
        }
    }

    /// Of a restore that brought no chain: that there is none any more must be known, where there was one.
    pub(in crate::app) async fn stated_without_chain(&self) -> Stated {
        let why = match self.signed().await {
            Ok(signed) if signed.count() > 0 => {
                "the backup has no chain, and one was signed: `dbagent audit install` makes a new one".to_owned()
            }
            // Whoever signs nothing need not hear of it.
            Ok(signed) if signed.troubles.is_empty() || self.signing_job().is_none() => return Stated::NotNeeded,
            Ok(_) => "the backup has no chain, and whether one was signed is not known".to_owned(),
            Err(failure) => failure.full_message(),
        };
        Stated::Missing { why }
    }

    /// Of a copy that is to take the primary's place and has not yet.
    pub(in crate::app) async fn stated_once_promoted(&self) -> Stated {
        match self.signed().await {
            Ok(signed) if !signed.may_be_chain() => Stated::NotNeeded,
            Ok(_) => Stated::Missing { why: "the copy is not promoted yet: say so once it is".to_owned() },
            Err(failure) => Stated::Missing { why: failure.full_message() },
        }
    }

    async fn try_to_state(&self, connection: Connection, reason: String, setting: &Setting) -> Result<Stated, Failure> {
        if !self.signed().await?.may_be_chain() {
            return Ok(Stated::NotNeeded);
        }
        let outcome = self.audit_checkpoint_of(connection, self.signing_job(), Some(reason), setting).await?;
        let missing: Vec<String> = outcome
            .repositories
            .iter()
            .filter_map(|each| Some(format!("{}: {}", each.repository, each.error.as_ref()?)))
            .collect();
        Ok(match missing.as_slice() {
            [] => Stated::Signed,
            missing => Stated::Missing { why: missing.join("; ") },
        })
    }
}
