//! The audit chain of a recovered copy, verified there: what a restore to a moment brought back is the log that was signed.
//!
//! The copy is a thing of the past: only what was signed up to its last commit is held against it, and no alert is raised.
//! Nothing is signed either, unless it takes the primary's place.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::app::App;
use crate::app::audit::LOCK_TIMEOUT;
use crate::app::restored_chain::{RestoredChain, Stated};
use crate::catalog::Reading;
use crate::model::failure::{Failure, FailureKind};
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::audit_verify::{self, Scope, Signed};
use crate::ops::recover::Started;
use crate::postgres::{Connection, ConnectionRequest, audit};

/// What became of the chain in the copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "chain", rename_all = "snake_case")]
pub enum CopyChain {
    /// No chain is installed there.
    NotInstalled,
    /// It is whole.
    Whole {
        /// Rows verified.
        rows: u64,
        /// Its newest place.
        seq: i64,
        /// Checkpoints that it was held against.
        checkpoints: usize,
    },
    /// It is not the chain that it was.
    Broken {
        /// What is wrong, a sentence each.
        findings: Vec<String>,
    },
    /// It could not be verified: that is not the same as whole.
    Unknown {
        /// Why.
        reason: String,
    },
}

impl App {
    /// Verifies the chain of the copy that was `started` from a base backup of the moment `based`. Where the copy `takes_over`,
    /// for this reason, is a primary already, and its chain is whole, that is stated in the signed record: one that may
    /// still be thrown away has taken nobody's place. Nothing of one that is shut down and takes over from nobody.
    pub async fn chain_of_copy(
        &self,
        started: &Started,
        based: DateTime<Utc>,
        takes_over: Option<String>,
        setting: &Setting,
    ) -> Option<RestoredChain> {
        let is_down = started.state == "shut down";
        if is_down && takes_over.is_none() {
            return None;
        }
        let verified = match is_down {
            true => Err(Failure::new(FailureKind::Failed, "verify it: the copy is shut down")),
            false => self.verify_copy(started, based, setting).await,
        };
        let chain = verified.unwrap_or_else(|failure| CopyChain::Unknown { reason: failure.full_message() });
        let stated = match (&chain, takes_over) {
            (_, None) => Stated::NotNeeded,
            (CopyChain::NotInstalled, Some(_)) => self.stated_without_chain().await,
            (CopyChain::Whole { .. }, Some(reason)) if started.state == "promoted" => {
                match self.connection_of_copy(started) {
                    Ok(connection) => self.state_restore(connection, reason, setting).await,
                    Err(failure) => Stated::Missing { why: failure.full_message() },
                }
            }
            (CopyChain::Whole { .. }, Some(_)) => self.stated_once_promoted().await,
            (_, Some(_)) if is_down => self.stated_once_promoted().await,
            (CopyChain::Broken { .. } | CopyChain::Unknown { .. }, Some(_)) => Stated::not_whole(),
        };
        let is_of_no_chain = is_down && stated == Stated::NotNeeded;
        (!is_of_no_chain).then_some(RestoredChain { chain, rebuilt: None, stated })
    }

    /// The database of the chain in the copy, as the role that verifies.
    fn connection_of_copy(&self, started: &Started) -> Result<Connection, Failure> {
        let live = self.connection(Verb::AuditVerify, None)?;
        let request = ConnectionRequest {
            host: Some(started.socket.display().to_string()),
            port: Some(started.port),
            user: Some(live.user().to_owned()),
            database: Some(live.database().to_owned()),
            role: live.role().map(str::to_owned),
            ..ConnectionRequest::default()
        };
        Ok(request.resolve()?)
    }

    async fn verify_copy(
        &self,
        started: &Started,
        based: DateTime<Utc>,
        setting: &Setting,
    ) -> Result<CopyChain, Failure> {
        let connection = self.connection_of_copy(started)?;
        if !audit::is_installed(&connection.connect().await?).await? {
            return Ok(CopyChain::NotInstalled);
        }
        // Where no commit was replayed there was none while the backup was made.
        self.verified_as_of(&connection, Some(started.last_commit.unwrap_or(based)), setting).await
    }

    /// Everything that was ever signed of the chain.
    pub(in crate::app) async fn signed(&self) -> Result<Signed, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        Ok(Signed::read(&repositories, &unopened, Reading::Recent, self.clock.now()).await)
    }

    /// Verifies every row of a chain and holds it against what was signed until `state`, or against all of it.
    pub(in crate::app) async fn verified_as_of(
        &self,
        connection: &Connection,
        state: Option<DateTime<Utc>>,
        setting: &Setting,
    ) -> Result<CopyChain, Failure> {
        let mut signed = self.signed().await?;
        if let Some(state) = state {
            signed.forget_after(state);
        }
        let options = audit_verify::Options {
            scope: Scope::Full,
            workers: 2,
            lock_timeout: LOCK_TIMEOUT,
            terms: self.checkpoint_terms(None)?,
        };
        let verified = audit_verify::verify(&options, connection, &signed, setting).await?;
        if let (true, Some(trouble)) = (verified.findings.is_empty(), signed.troubles.first()) {
            return Ok(CopyChain::Unknown {
                reason: format!("compare it with all that was signed: {}", trouble.message),
            });
        }
        if verified.findings.is_empty() {
            let audit_verify::Verified { rows, seq, checkpoints, .. } = verified;
            return Ok(CopyChain::Whole { rows, seq, checkpoints });
        }
        Ok(CopyChain::Broken { findings: verified.findings.iter().map(|each| each.to_finding().message).collect() })
    }
}
