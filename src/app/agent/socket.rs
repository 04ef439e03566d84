//! The agent's socket: other processes of the same user ask it to run a job, how it stands, to archive or fetch WAL.
//!
//! One request per connection, a line of JSON each way, on a socket that only this user can open.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::app::agent::wal::WalService;
use crate::catalog::history::{RecordedFailure, RunRecord};
use crate::host::durable;
use crate::model::digest::Digest;
use crate::model::failure::{Failure, FailureKind};
use crate::model::wal::{Asked, WalFile};
use crate::ops::wal::push::Pushed;
use crate::scheduler::{Command, JobStatus};

/// How long to wait before requests are taken again after one could not be.
const ACCEPT_AGAIN: Duration = Duration::from_millis(500);

/// What the agent is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Request {
    Run {
        job: String,
    },
    Status,
    WalPush {
        path: PathBuf,
    },
    WalFetch {
        file: WalFile,
        place: PathBuf,
        #[serde(default)]
        asked: Asked,
        /// What decides over the answer, as the asking process has it.
        #[serde(default)]
        settings: Option<Digest>,
    },
}

/// What it answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Reply {
    Run(Box<RunRecord>),
    Status(Vec<JobStatus>),
    Pushed(Pushed),
    Fetched(bool),
    OtherSettings,
    Failed(RecordedFailure),
}

pub(super) fn path(app: &App) -> PathBuf {
    app.loaded.config.state_dir.join("agent.sock")
}

/// Listens from now on. A socket left by a dead agent is replaced: the state directory's lock is ours.
pub(super) fn listen(
    app: &App,
    commands: mpsc::Sender<Command>,
    wal: WalService,
    answers: TaskTracker,
) -> Result<JoinHandle<()>, Failure> {
    let path = path(app);
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, format!("listen on {}", path.display()))
            .because(error)
            .hint("Set state_dir to a shorter path if it is too long for a socket.")
    };
    if path.exists() {
        durable::remove(&path).map_err(|error| failed(error.into()))?;
    }
    let listener = UnixListener::bind(&path).map_err(|error| failed(error.into()))?;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&path, private).map_err(|error| failed(error.into()))?;
    let clock = app.clock.clone();
    Ok(tokio::spawn(async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: it passes, and whoever asks waits in the queue.
                    tracing::warn!(%error, "cannot take a request; trying on");
                    clock.sleep(ACCEPT_AGAIN).await;
                    continue;
                }
            };
            let (commands, wal) = (commands.clone(), wal.clone());
            answers.spawn(async move {
                if let Err(error) = answer(stream, commands, wal).await {
                    tracing::debug!(%error, "a request on the socket was not answered");
                }
            });
        }
    }))
}

pub(super) fn remove(app: &App) {
    if let Err(error) = durable::remove(&path(app)) {
        tracing::warn!(%error, "the socket stays behind");
    }
}

async fn answer(stream: UnixStream, commands: mpsc::Sender<Command>, wal: WalService) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut line = String::new();
    BufReader::new(read).read_line(&mut line).await?;
    let reply = match serde_json::from_str(&line) {
        Ok(request) => reply(request, &commands, &wal).await,
        Err(error) => Reply::Failed((&Failure::new(FailureKind::Usage, "read a request").because(error)).into()),
    };
    let mut text = serde_json::to_vec(&reply)?;
    text.push(b'\n');
    write.write_all(&text).await?;
    write.shutdown().await
}

async fn reply(request: Request, commands: &mpsc::Sender<Command>, wal: &WalService) -> Reply {
    let gone = || Reply::Failed((&Failure::new(FailureKind::Failed, "ask the agent: it is stopping")).into());
    match request {
        Request::WalPush { path } => told(wal.push(&path).await, Reply::Pushed),
        Request::WalFetch { file, place, asked, settings } => match wal.has_other_settings(settings) {
            Ok(false) => told(wal.fetch(file, &place, &asked).await, Reply::Fetched),
            other => told(other, |_| Reply::OtherSettings),
        },
        Request::Run { job } => {
            let (answer, ended) = oneshot::channel();
            if commands.send(Command::Run { job, answer }).await.is_err() {
                return gone();
            }
            match ended.await {
                Ok(Ok(record)) => Reply::Run(Box::new(record)),
                Ok(Err(failure)) => Reply::Failed((&failure).into()),
                Err(_) => gone(),
            }
        }
        Request::Status => {
            let (answer, told) = oneshot::channel();
            if commands.send(Command::Status(answer)).await.is_err() {
                return gone();
            }
            told.await.map_or_else(|_| gone(), Reply::Status)
        }
    }
}

fn told<T>(result: Result<T, Failure>, reply: impl FnOnce(T) -> Reply) -> Reply {
    result.map_or_else(|failure| Reply::Failed((&failure).into()), reply)
}
