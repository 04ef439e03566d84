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
use crate::model::failure::Failure;
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
    /// Verifies the chain of the copy that was `started`; its server must be up. Where the copy `takes_over`, for this reason, and
    /// its chain is whole, that is stated in the signed record.
    pub async fn chain_of_copy(
        &self,
        started: &Started,
        takes_over: Option<String>,
        setting: &Setting,
    ) -> RestoredChain {
        let chain = match self.verify_copy(started, setting).await {
            Ok(chain) => chain,
            Err(failure) => CopyChain::Unknown { reason: failure.full_message() },
        };
        let stated = match (&chain, takes_over) {
            (CopyChain::Whole { .. }, Some(reason)) => match self.connection_of_copy(started) {
                Ok(connection) => self.state_restore(connection, reason, setting).await,
                Err(failure) => Stated::Missing { why: failure.full_message() },
            },
            (CopyChain::Broken { .. } | CopyChain::Unknown { .. }, Some(_)) => Stated::not_whole(),
            _ => Stated::NotNeeded,
        };
        RestoredChain { chain, rebuilt: None, stated }
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

    async fn verify_copy(&self, started: &Started, setting: &Setting) -> Result<CopyChain, Failure> {
        let connection = self.connection_of_copy(started)?;
        if !audit::is_installed(&connection.connect().await?).await? {
            return Ok(CopyChain::NotInstalled);
        }
        self.verified_as_of(&connection, started.last_commit, setting).await
    }

    /// Whether checkpoints of the chain were ever signed.
    pub(in crate::app) async fn has_signed_chain(&self) -> Result<bool, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        let signed = Signed::read(&repositories, &unopened, Reading::Recent, self.clock.now()).await;
        Ok(signed.count() > 0 || !signed.troubles.is_empty())
    }

    /// Verifies every row of a chain and holds it against what was signed until `state`, or against all of it.
    pub(in crate::app) async fn verified_as_of(
        &self,
        connection: &Connection,
        state: Option<DateTime<Utc>>,
        setting: &Setting,
    ) -> Result<CopyChain, Failure> {
        let (repositories, unopened) = self.try_repositories(None).await?;
        let mut signed = Signed::read(&repositories, &unopened, Reading::Recent, self.clock.now()).await;
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
        if verified.findings.is_empty() {
            let audit_verify::Verified { rows, seq, checkpoints, .. } = verified;
            return Ok(CopyChain::Whole { rows, seq, checkpoints });
        }
        Ok(CopyChain::Broken { findings: verified.findings.iter().map(|each| each.to_finding().message).collect() })
    }
}
