//! Asking a running agent from another process.

use std::io;
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::app::App;
use crate::app::agent::socket::{self, Request};
use crate::catalog::history::{RecordedFailure, RunRecord};
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::wal::{Asked, WalFile};
use crate::ops::wal::push::Pushed;

/// An agent that does not say how it stands within this time is not well.
const STATUS_WITHIN: Duration = Duration::from_secs(10);

/// An agent that has not dealt with a WAL file within this time is passed over: PostgreSQL must not wait for ever.
const WAL_WITHIN: Duration = Duration::from_secs(120);

/// A connection to the running agent, good for one question.
#[derive(Debug)]
pub struct AgentClient(UnixStream);

/// What the agent answered.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The run has ended.
    Run(Box<RunRecord>),
    /// How the jobs stand, as JSON.
    Status(serde_json::Value),
    /// The WAL file is archived.
    Pushed(Pushed),
    /// The WAL file is in place, or proven not to be archived.
    Fetched(bool),
    /// The agent has other settings: what it would find proves nothing.
    OtherSettings,
    /// It could not be done.
    Failed(RecordedFailure),
}

impl AgentClient {
    /// Connects to the agent on this configuration's state directory; nothing when none is running.
    pub async fn connect(app: &App) -> Result<Option<Self>, Failure> {
        let path = socket::path(app);
        match UnixStream::connect(&path).await {
            Ok(stream) => Ok(Some(Self(stream))),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                Ok(None)
            }
            Err(error) => {
                let message = format!("ask the agent on {}", path.display());
                Err(Failure::new(FailureKind::Failed, message)
                    .because(error)
                    .hint("Run this as the user that the agent runs as."))
            }
        }
    }

    /// Asks for a run of `job` and waits for its end.
    pub async fn run(self, job: &str) -> Result<Answer, Failure> {
        self.ask(&Request::Run { job: job.to_owned() }).await
    }

    /// Asks how the jobs stand.
    pub async fn status(self) -> Result<Answer, Failure> {
        tokio::time::timeout(STATUS_WITHIN, self.ask(&Request::Status)).await.unwrap_or_else(|_| {
            let message = format!("ask the running agent: no answer within {STATUS_WITHIN:?}");
            Err(Failure::new(FailureKind::Failed, message).hint("See what it logs; it may be out of resources."))
        })
    }

    /// Asks for the file `path` to be archived. Nothing when the agent does not answer: then nobody knows, and the file
    /// may be pushed again.
    pub async fn wal_push(self, path: &Path) -> Option<Answer> {
        self.ask_for_wal(Request::WalPush { path: path.to_owned() }).await
    }

    /// Asks for `file` to be fetched to `place`, if the agent has the same `settings`. Nothing when it does not answer.
    pub async fn wal_fetch(self, file: WalFile, place: &Path, asked: &Asked, settings: Digest) -> Option<Answer> {
        let (place, asked) = (place.to_owned(), asked.clone());
        self.ask_for_wal(Request::WalFetch { file, place, asked, settings: Some(settings) }).await
    }

    async fn ask_for_wal(self, request: Request) -> Option<Answer> {
        match tokio::time::timeout(WAL_WITHIN, self.ask(&request)).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(failure)) => {
                tracing::info!(error = failure.full_message(), "the agent does not answer; doing it here");
                None
            }
            Err(_) => {
                tracing::warn!("the agent does not answer within {WAL_WITHIN:?}; doing it here");
                None
            }
        }
    }

    async fn ask(self, request: &Request) -> Result<Answer, Failure> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(FailureKind::Failed, "ask the running agent")
                .because(error)
                .hint("`dbagent job history` shows whether the run took place.")
        };
        let mut text = serde_json::to_vec(request).map_err(|error| failed(error.into()))?;
        text.push(b'\n');
        let (read, mut write) = self.0.into_split();
        write.write_all(&text).await.map_err(|error| failed(error.into()))?;
        let mut line = String::new();
        BufReader::new(read).read_line(&mut line).await.map_err(|error| failed(error.into()))?;
        serde_json::from_str(&line).map_err(|error| failed(error.into()))
    }
}
