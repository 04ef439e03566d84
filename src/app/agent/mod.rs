//! The running agent: scheduler, leadership, signals and the socket, wired together.
//!
//! The scheduler owns the truth; everything here feeds it commands or consumes its events. The surprising thing: every
//! run opens its doors anew, so that a rotated secret or an edited certificate counts from the next run on.

mod client;
mod golden;
mod jobs;
mod leader;
mod log;
mod runner;
mod signals;
mod socket;
mod wal;

use std::sync::{Arc, RwLock};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::app::App;
use crate::catalog::history::{History, HistoryLimits};
use crate::host::{FileLock, LockError, durable};
use crate::model::failure::{Failure, FailureKind};
use crate::scheduler::{self, Agent, Doors, Limits};

pub use client::{AgentClient, Answer};
pub use jobs::unbuilt;

/// Commands waiting for the scheduler.
const WAITING_COMMANDS: usize = 16;

/// How long a stopping agent waits for its last answers to be taken.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// The same for an archiver that waits for a file that is on its way.
const LAST_FILES: Duration = Duration::from_secs(10);

/// The configuration in force; SIGHUP replaces it.
pub(crate) type Current = Arc<RwLock<App>>;

impl App {
    /// Where the run history lies.
    pub fn history_folder(&self) -> std::path::PathBuf {
        self.loaded.config.state_dir.join("history")
    }

    /// Makes the state directory and what lies in it, private to this user.
    pub fn prepare_state(&self) -> Result<(), Failure> {
        let state = &self.loaded.config.state_dir;
        let prepare = || {
            durable::private_directory(state)?;
            durable::private_directory(&state.join("catalog"))
        };
        prepare().map_err(|error| {
            Failure::new(FailureKind::Failed, format!("use the state directory {}", state.display()))
                .because(error)
                .hint("Set state_dir in dbagent.toml to a directory this user may write to and nobody else.")
        })
    }

    /// Only one process works on a state directory.
    pub(crate) fn lock_state(&self, label: &str) -> Result<FileLock, Failure> {
        let path = self.loaded.config.state_dir.join("agent.lock");
        FileLock::take(&path, label).map_err(|error| match error {
            LockError::Held { .. } => Failure::new(FailureKind::LockHeld, error.to_string())
                .hint("Stop the other one, or give this one another state_dir."),
            error => Failure::new(FailureKind::Failed, error.to_string()).because(error),
        })
    }

    /// The run history, open for writing.
    pub(crate) fn history(&self) -> Result<History, Failure> {
        History::open(&self.history_folder(), HistoryLimits::default(), self.clock.now())
            .map_err(|error| Failure::new(FailureKind::Failed, error.to_string()).because(error))
    }
}

/// Works through the plan until told to stop.
pub async fn run(app: App) -> Result<(), Failure> {
    app.prepare_state()?;
    let _lock = app.lock_state("dbagent run")?;
    let jobs = jobs::of_plan(&app)?;
    jobs::warn_unbuilt(&app)?;
    let (commands, waiting) = mpsc::channel(WAITING_COMMANDS);
    let (events, told) = mpsc::unbounded_channel();
    let (leadership, led) = watch::channel(leader::beginning());
    let (deposed, refused) = watch::channel(0);
    let current: Current = Arc::new(RwLock::new(app.clone()));
    let checking = tokio::spawn(golden::check(current.clone(), led.clone()));
    let doors = Doors {
        runner: Arc::new(runner::AppRunner::new(current.clone(), deposed, commands.clone())),
        clock: app.clock.clone(),
        history: Arc::new(app.history()?),
        leadership: led,
        commands: waiting,
        events,
        random: rand::random::<f64>,
    };
    let agent = Agent::new(limits(&app), doors);
    let answers = TaskTracker::new();
    let wal = wal::WalService::new(&app, current.clone());
    let listening = socket::listen(&app, commands.clone(), wal.clone(), answers.clone())?;
    let leading = tokio::spawn(leader::lead(current.clone(), leadership, refused));
    let signalled = tokio::spawn(signals::watch(current, commands)?);
    let logging = tokio::spawn(log::write(told));
    agent.run(jobs).await;
    for task in [&signalled, &leading, &listening, &checking] {
        task.abort();
    }
    answers.close();
    // Whoever asked for a run that has just ended is to hear of it; one who does not listen is not waited for.
    let patience = if wal.is_busy() { LAST_FILES } else { LAST_ANSWERS };
    if timeout(patience, answers.wait()).await.is_err() {
        tracing::debug!("a request on the socket was not answered before the end");
    }
    socket::remove(&app);
    logging.await.map_err(|error| Failure::new(FailureKind::Failed, "write the last events").because(error))
}

fn limits(app: &App) -> Limits {
    let settings = &app.loaded.config.agent;
    scheduler::Limits {
        at_once: usize::from(settings.concurrency.max(1)),
        grace: settings.shutdown_grace.to_duration(),
        ..Limits::default()
    }
}
