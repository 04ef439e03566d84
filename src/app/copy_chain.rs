//! The audit chain of a recovered copy, verified there: what a restore to a moment brought back is the log that was signed.
//!
//! The copy is read-only and a thing of the past: only what was signed up to its last commit is held against it, no alert
//! is raised and nothing is signed.

use serde::Serialize;

use crate::app::App;
use crate::app::audit::LOCK_TIMEOUT;
use crate::catalog::Reading;
use crate::model::failure::Failure;
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::audit_verify::{self, Scope, Signed};
use crate::ops::recover::Started;
use crate::postgres::{ConnectionRequest, audit};

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
    /// Verifies the chain of the copy that was `started`; its server must be up.
    pub async fn chain_of_copy(&self, started: &Started, setting: &Setting) -> CopyChain {
        match self.verify_copy(started, setting).await {
            Ok(chain) => chain,
            Err(failure) => CopyChain::Unknown { reason: failure.full_message() },
        }
    }

    async fn verify_copy(&self, started: &Started, setting: &Setting) -> Result<CopyChain, Failure> {
        let live = self.connection(Verb::AuditVerify, None)?;
        let request = ConnectionRequest {
            host: Some(started.socket.display().to_string()),
            port: Some(started.port),
            user: Some(live.user().to_owned()),
            database: Some(live.database().to_owned()),
            role: live.role().map(str::to_owned),
            ..ConnectionRequest::default()
        };
        let connection = request.resolve()?;
        if !audit::is_installed(&connection.connect().await?).await? {
            return Ok(CopyChain::NotInstalled);
        }
        let (repositories, unopened) = self.try_repositories(None).await?;
        let mut signed = Signed::read(&repositories, &unopened, Reading::Recent, self.clock.now()).await;
        if let Some(last) = started.last_commit {
            signed.forget_after(last);
        }
        let options = audit_verify::Options {
            scope: Scope::Full,
            workers: 2,
            lock_timeout: LOCK_TIMEOUT,
            terms: self.checkpoint_terms(None)?,
        };
        let verified = audit_verify::verify(&options, &connection, &signed, setting).await?;
        if verified.findings.is_empty() {
            let audit_verify::Verified { rows, seq, checkpoints, .. } = verified;
            return Ok(CopyChain::Whole { rows, seq, checkpoints });
        }
        Ok(CopyChain::Broken { findings: verified.findings.iter().map(|each| each.to_finding().message).collect() })
    }
}
