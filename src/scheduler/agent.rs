//! The agent: one loop that owns the board, wakes when something is due, and does what the board says.
//!
//! Decides nothing itself. Every effect is here: tasks, history, events, answers. The surprising thing: a run history
//! that cannot be written stops nothing, since a backup without a note is better than no backup; it is told instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::catalog::history::{Entry, History, Interruption, RunRecord, RunResult};
use crate::host::Clock;
use crate::model::event::{Event, Events};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;
use crate::model::outcome::Outcome;
use crate::scheduler::board::Board;
use crate::scheduler::event::AgentEvent;
use crate::scheduler::place::{Action, Moment};
use crate::scheduler::{Command, Job, Leadership, Limits, RunRequest, Runner};

/// How long a stopping agent waits for dropped runs to let go of what they hold, such as child processes.
const LETTING_GO: Duration = Duration::from_secs(1);

/// What the agent works with, opened by app.
pub struct Doors {
    /// Carries out runs.
    pub runner: Arc<dyn Runner>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The run history.
    pub history: Arc<History>,
    /// Whether this agent leads. When its sender is gone, it does not.
    pub leadership: watch::Receiver<Leadership>,
    /// What the agent is asked.
    pub commands: mpsc::Receiver<Command>,
    /// What the agent tells.
    pub events: mpsc::UnboundedSender<AgentEvent>,
    /// Random numbers in `0.0..1.0`, for jitter and backoff.
    pub random: fn() -> f64,
}

/// A run that has a task.
struct Live {
    cancel: CancellationToken,
    task: AbortHandle,
    answer: Option<oneshot::Sender<Result<RunRecord, Failure>>>,
}

/// The agent. [`Agent::run`] works until it is told to stop.
pub struct Agent {
    doors: Doors,
    board: Board,
    tasks: JoinSet<Result<Outcome, Failure>>,
    runs: HashMap<Id, RunId>,
    live: HashMap<RunId, Live>,
}

impl Agent {
    /// An agent with nothing to do yet.
    pub fn new(limits: Limits, doors: Doors) -> Self {
        let board = Board::new(limits, doors.random);
        Self { doors, board, tasks: JoinSet::new(), runs: HashMap::new(), live: HashMap::new() }
    }

    /// Works through `jobs` until told to stop.
    pub async fn run(mut self, jobs: Vec<Job>) {
        self.settle_unfinished().await;
        self.set_jobs(jobs).await;
        loop {
            self.notice_leadership().await;
            self.tick().await;
            if self.board.is_drained() {
                break;
            }
            self.wait().await;
        }
        self.let_go().await;
        self.tell(AgentEvent::Stopped);
    }

    /// Waits until something is due or something happens, and takes it in.
    async fn wait(&mut self) {
        let quiet = self.board.quiet_for(self.now());
        tokio::select! {
            biased;
            Ok(()) = self.doors.leadership.changed() => {}
            Some(joined) = self.tasks.join_next_with_id() => self.ended(joined).await,
            Some(command) = self.doors.commands.recv() => self.obey(command).await,
            () = self.doors.clock.sleep(quiet) => {}
        }
    }

    async fn tick(&mut self) {
        let actions = self.board.tick(self.now());
        self.carry_out(actions).await;
    }

    /// Runs that an agent died in are ended now, in words.
    async fn settle_unfinished(&self) {
        for record in self.doors.history.unfinished() {
            let end = RunResult::Interrupted(Interruption::AgentDied);
            self.finish(record.ended(self.now().wall, end)).await;
        }
    }

    async fn set_jobs(&mut self, jobs: Vec<Job>) {
        let history = Arc::clone(&self.doors.history);
        let actions = self.board.set_jobs(jobs, |job| history.past(job), self.now());
        self.carry_out(actions).await;
    }

    async fn notice_leadership(&mut self) {
        let leadership = match self.doors.leadership.has_changed() {
            Ok(_) => self.doors.leadership.borrow_and_update().clone(),
            Err(_) => Leadership::Follower,
        };
        let actions = self.board.lead(&leadership, self.now());
        self.carry_out(actions).await;
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Run { job, answer } => self.run_manually(&job, answer).await,
            Command::Reload(Ok(jobs)) => self.set_jobs(jobs).await,
            Command::Reload(Err(failure)) => {
                self.tell(AgentEvent::ReloadRefused { message: failure.full_message() });
            }
            Command::Status(answer) => {
                self.notice_leadership().await;
                self.tick().await;
                // Whoever asked may be gone.
                let _ = answer.send(self.board.status(self.now()));
            }
            Command::Stop => {
                let actions = self.board.drain(self.now());
                self.carry_out(actions).await;
            }
        }
    }

    async fn run_manually(&mut self, job: &str, answer: oneshot::Sender<Result<RunRecord, Failure>>) {
        self.notice_leadership().await;
        match self.board.begin_manual(job, self.now()) {
            Ok((run, actions)) => {
                self.carry_out(actions).await;
                if let Some(live) = self.live.get_mut(&run) {
                    live.answer = Some(answer);
                }
            }
            // Whoever asked may be gone.
            Err(failure) => drop(answer.send(Err(failure))),
        }
    }

    async fn ended(&mut self, joined: Result<(Id, Result<Outcome, Failure>), JoinError>) {
        let (id, result) = match joined {
            Ok(ended) => ended,
            Err(error) => {
                let failure = Failure::new(FailureKind::Failed, "carry out the run to its end");
                (error.id(), Err(failure.because(error)))
            }
        };
        if let Some(run) = self.runs.remove(&id) {
            let actions = self.board.ended(run, result, self.now());
            self.carry_out(actions).await;
        }
    }

    async fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Tell(event) => self.tell(event),
                Action::Settle(job, handled) => self.record(Entry::Settled { job, handled }).await,
                Action::Skip(skip) => {
                    self.record(Entry::Skipped(skip.clone())).await;
                    self.tell(AgentEvent::Skipped { skip });
                }
                Action::Begin(record, fencing_token) => self.begin(record, fencing_token).await,
                Action::Cancel(run) => self.live.get(&run).into_iter().for_each(|live| live.cancel.cancel()),
                Action::Drop(run) => self.live.get(&run).into_iter().for_each(|live| live.task.abort()),
                Action::Finish(record) => {
                    let answer = self.live.remove(&record.run).and_then(|live| live.answer);
                    self.finish(record.clone()).await;
                    // Whoever asked may be gone.
                    answer.into_iter().for_each(|answer| drop(answer.send(Ok(record.clone()))));
                }
            }
        }
    }

    async fn begin(&mut self, record: RunRecord, fencing_token: u64) {
        self.record(Entry::Begun(record.clone())).await;
        self.tell(AgentEvent::Started { record: record.clone() });
        let cancel = CancellationToken::new();
        let request = RunRequest {
            events: self.events_of(&record),
            job: record.job,
            run: record.run,
            scheduled: record.scheduled,
            attempt: record.attempt,
            only_repositories: record.only_repositories,
            completes: record.completes,
            fencing_token,
            cancel: cancel.clone(),
        };
        let runner = Arc::clone(&self.doors.runner);
        let task = self.tasks.spawn(async move { runner.run(request).await });
        self.runs.insert(task.id(), record.run);
        self.live.insert(record.run, Live { cancel, task, answer: None });
    }

    async fn finish(&self, record: RunRecord) {
        self.record(Entry::Ended(record.clone())).await;
        self.tell(AgentEvent::Finished { record });
    }

    /// Writes to the history, away from the threads that drive everything else.
    async fn record(&self, entry: Entry) {
        let (history, now) = (Arc::clone(&self.doors.history), self.now().wall);
        let written = tokio::task::spawn_blocking(move || history.append(&entry, now)).await;
        let message = match written {
            Ok(Ok(())) => return,
            Ok(Err(error)) => Failure::new(FailureKind::Failed, "write the run history").because(error),
            Err(error) => Failure::new(FailureKind::Failed, "write the run history").because(error),
        };
        self.tell(AgentEvent::HistoryFailed { message: message.full_message() });
    }

    /// Where a run tells: into the agent's one stream, its progress thinned out.
    fn events_of(&self, record: &RunRecord) -> Events {
        let (job, run) = (record.job.clone(), record.run);
        let (clock, events) = (Arc::clone(&self.doors.clock), self.doors.events.clone());
        let next = Mutex::new(Duration::ZERO);
        Events::to(move |event| {
            if matches!(event, Event::Progress { .. }) {
                let now = clock.monotonic();
                let mut next = next.lock().unwrap_or_else(PoisonError::into_inner);
                if now < *next {
                    return;
                }
                *next = now + Duration::from_secs(1);
            }
            // A stream without a reader is the reader's choice.
            let _ = events.send(AgentEvent::Progress { job: job.clone(), run, event });
        })
    }

    /// Waits a little for dropped runs to let go.
    async fn let_go(&mut self) {
        let all_gone = async { while self.tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = all_gone => {}
            () = self.doors.clock.sleep(LETTING_GO) => {}
        }
    }

    fn tell(&self, event: AgentEvent) {
        // A stream without a reader is the reader's choice.
        let _ = self.doors.events.send(event);
    }

    fn now(&self) -> Moment {
        Moment { wall: self.doors.clock.now(), steady: self.doors.clock.monotonic() }
    }
}
