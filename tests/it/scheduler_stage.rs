//! An agent with hand-driven runs on a hand-driven clock, its history in a temporary directory.

use std::collections::BTreeMap;
use std::future::pending;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use dbagent::catalog::history::{History, HistoryLimits, RunRecord, RunResult};
use dbagent::host::clock::{Clock, ManualClock};
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::outcome::Outcome;
use dbagent::model::side::Side;
use dbagent::model::verb::Verb;
use dbagent::scheduler::{
    Agent, AgentEvent, CatchUp, Command, Doors, Job, JobStatus, Leadership, Limits, RetryPolicy, RunRequest, Runner,
};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub fn at(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

pub fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

pub fn hours(hours: u64) -> Duration {
    seconds(hours * 3600)
}

/// A job without jitter, timeout and retries.
pub fn job(name: &str, schedule: &str) -> Job {
    Job {
        name: name.to_owned(),
        verb: Verb::Dump,
        schedule: schedule.parse().unwrap(),
        catch_up: CatchUp::Once,
        jitter: Duration::ZERO,
        timeout: None,
        retry: RetryPolicy { attempts: 1, ..RetryPolicy::default() },
        side: Side::Primary,
    }
}

pub fn leader(fencing_token: u64) -> Leadership {
    Leadership::Leader { fencing_token, side: Side::Primary, handled: BTreeMap::new() }
}

pub fn failure(kind: FailureKind) -> Failure {
    Failure::new(kind, "dump the tables")
}

/// A run that waits for the test to end it.
pub struct Asked {
    pub request: RunRequest,
    reply: oneshot::Sender<Result<Outcome, Failure>>,
}

impl Asked {
    pub fn end(self, result: Result<Outcome, Failure>) {
        self.reply.send(result).unwrap();
    }

    /// Succeeds, unless the run was cancelled or dropped meanwhile.
    pub fn succeed_if_waited_for(self) {
        drop(self.reply.send(Ok(Outcome::ok("done"))));
    }

    pub fn succeed(self) {
        self.end(Ok(Outcome::ok("done")));
    }
}

struct HandDriven {
    asked: mpsc::UnboundedSender<Asked>,
    stubborn: Arc<AtomicBool>,
}

#[async_trait]
impl Runner for HandDriven {
    async fn run(&self, request: RunRequest) -> Result<Outcome, Failure> {
        let cancel = request.cancel.clone();
        let (reply, ended) = oneshot::channel();
        self.asked.send(Asked { request, reply }).unwrap();
        let cancelled = async {
            cancel.cancelled().await;
            if self.stubborn.load(Ordering::SeqCst) {
                pending::<()>().await;
            }
        };
        tokio::select! {
            Ok(result) = ended => result,
            () = cancelled => Err(Failure::new(FailureKind::Failed, "go on: cancelled")),
        }
    }
}

/// What outlives an agent: the clock and the state directory.
pub struct Machine {
    pub clock: ManualClock,
    state: TempDir,
}

impl Machine {
    pub fn at(now: &str) -> Self {
        Self { clock: ManualClock::at(at(now)), state: tempfile::tempdir().unwrap() }
    }

    /// Where the history is.
    pub fn folder(&self) -> PathBuf {
        self.state.path().join("history")
    }

    pub fn history(&self) -> History {
        History::open(&self.folder(), HistoryLimits::default(), self.clock.now()).unwrap()
    }

    /// Starts an agent that leads.
    pub fn start(&self, jobs: Vec<Job>) -> Running {
        self.start_as(leader(1), jobs)
    }

    pub fn start_as(&self, leadership: Leadership, jobs: Vec<Job>) -> Running {
        let (asked, asks) = mpsc::unbounded_channel();
        let (leadership, watched) = watch::channel(leadership);
        let (commands, received) = mpsc::channel(8);
        let (events, told) = mpsc::unbounded_channel();
        let stubborn = Arc::new(AtomicBool::new(false));
        let doors = Doors {
            runner: Arc::new(HandDriven { asked, stubborn: Arc::clone(&stubborn) }),
            clock: Arc::new(self.clock.clone()),
            history: Arc::new(self.history()),
            leadership: watched,
            commands: received,
            events,
            random: || 0.5,
        };
        let agent = tokio::spawn(Agent::new(Limits::default(), doors).run(jobs));
        Running { clock: self.clock.clone(), asks, leadership, commands, told, stubborn, agent }
    }
}

/// An agent at work.
pub struct Running {
    pub clock: ManualClock,
    pub asks: mpsc::UnboundedReceiver<Asked>,
    pub leadership: watch::Sender<Leadership>,
    pub commands: mpsc::Sender<Command>,
    pub told: mpsc::UnboundedReceiver<AgentEvent>,
    pub stubborn: Arc<AtomicBool>,
    pub agent: JoinHandle<()>,
}

impl Running {
    /// Waits until the agent has done all that is due now.
    pub async fn status(&self) -> Vec<JobStatus> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Status(answer)).await.unwrap();
        answered.await.unwrap()
    }

    /// Lets time pass, as one step, once the agent has nothing left to do.
    pub async fn advance(&self, duration: Duration) {
        self.status().await;
        self.clock.advance(duration);
        self.status().await;
    }

    pub async fn advance_to(&self, instant: &str) {
        let duration = (at(instant) - self.clock.now()).to_std().unwrap();
        self.advance(duration).await;
    }

    /// The run that begins next.
    pub async fn asked(&mut self) -> Asked {
        self.asks.recv().await.unwrap()
    }

    /// Holds if nothing has begun, after all that is due was done.
    pub async fn nothing_begins(&mut self) -> bool {
        self.status().await;
        tokio::task::yield_now().await;
        self.asks.try_recv().is_err()
    }

    /// The next event that `wanted` picks; those before it are dropped.
    pub async fn told<T>(&mut self, wanted: impl Fn(AgentEvent) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.told.recv().await.unwrap()) {
                return found;
            }
        }
    }

    /// The next run that ends.
    pub async fn finished(&mut self) -> RunRecord {
        self.told(|event| match event {
            AgentEvent::Finished { record } => Some(record),
            _ => None,
        })
        .await
    }

    /// Asks for a run by hand.
    pub async fn ask_for(&self, job: &str) -> oneshot::Receiver<Result<RunRecord, Failure>> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(Command::Run { job: job.to_owned(), answer }).await.unwrap();
        answered
    }

    pub async fn stop(&self) {
        self.commands.send(Command::Stop).await.unwrap();
    }

    /// Lets the agent and its runs go as far as they can without time passing; says whether the agent has ended.
    pub async fn has_ended_when_at_rest(&mut self) -> bool {
        for _ in 0..5 {
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                biased;
                ended = &mut self.agent => {
                    ended.unwrap();
                    return true;
                }
                () = self.clock.slept_on_by(1) => {}
            }
        }
        false
    }

    /// Kills the agent as `kill -9` does: nothing more is written or told.
    pub async fn kill(self) {
        self.status().await;
        self.agent.abort();
        assert!(self.agent.await.unwrap_err().is_cancelled());
    }
}

pub fn result_of(record: &RunRecord) -> &RunResult {
    &record.end.as_ref().unwrap().result
}
