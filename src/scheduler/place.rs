//! One job's place on the board: what it has settled, what waits, what runs.
//!
//! Decides for one job and pushes what follows from it; the board decides between jobs. No overlap is held here:
//! a place has room for one run.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::catalog::history::{
    Interruption, Past, RecordedFailure, RunRecord, RunResult, SkipReason, SkipRecord, Trigger,
};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::{ArtifactId, RunId};
use crate::model::outcome::Outcome;
use crate::scheduler::due::{CatchUp, due, is_believable};
use crate::scheduler::event::AgentEvent;
use crate::scheduler::retry::retry_after;
use crate::scheduler::{Job, JobStatus};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moment {
    /// For schedules and records.
    pub(super) wall: DateTime<Utc>,
    /// For waits and limits.
    pub(super) steady: Duration,
}

/// What the agent is to do, in this order.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Tell it.
    Tell(AgentEvent),
    /// Record that a job has settled everything up to an instant.
    Settle(String, DateTime<Utc>),
    /// Record and tell that instants get no run.
    Skip(SkipRecord),
    /// Record that the run begins, tell it, and carry it out.
    Begin(RunRecord, u64),
    /// Cancel the run's token.
    Cancel(RunId),
    /// Drop the run.
    Drop(RunId),
    /// Record that the run ended, tell it, and answer whoever asked for it.
    Finish(RunRecord),
}

/// A run that is due and not begun.
#[derive(Clone, Debug)]
struct Waiting {
    from: Duration,
    scheduled: DateTime<Utc>,
    trigger: Trigger,
    attempt: u32,
    missed: u64,
    only_repositories: Vec<String>,
    completes: Option<ArtifactId>,
}

/// Why a run is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Timeout,
    Interrupted(Interruption),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Going,
    Stopping {
        why: Stop,
        drop_at: Duration,
    },
    /// Its end is recorded; only its task is still there.
    Dropped,
}

#[derive(Clone, Debug)]
struct Running {
    record: RunRecord,
    fencing_token: u64,
    overdue_at: Option<Duration>,
    stage: Stage,
}

/// One job and what it does.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) job: Job,
    /// Gone from the plan, but still running.
    pub(super) retired: bool,
    handled: DateTime<Utc>,
    /// The first instant after `handled`.
    next: Option<DateTime<Utc>>,
    waiting: Option<Waiting>,
    running: Option<Running>,
}

impl Place {
    /// A place for a job of which the history remembers `past`.
    pub(super) fn new(job: Job, past: Past, now: Moment, random: f64, actions: &mut Vec<Action>) -> Self {
        let handled = past.handled.unwrap_or(now.wall);
        let next = job.schedule.next_after(handled);
        let mut place = Self { job, retired: false, handled, next, waiting: None, running: None };
        if past.handled.is_none() {
            actions.push(place.settled());
        }
        if let Some(last) = past.last {
            place.try_again(&last, now, random, actions);
        }
        place
    }

    /// The same place with a changed job: a new schedule owes nothing for the time before it.
    pub(super) fn replace_job(&mut self, job: Job, now: Moment, actions: &mut Vec<Action>) {
        let reschedules = job.schedule != self.job.schedule;
        self.job = job;
        self.retired = false;
        if reschedules {
            self.settle(self.handled.max(now.wall));
            actions.push(self.settled());
        }
    }

    /// Takes the job out of the plan; says whether the place can go at once.
    pub(super) fn retire(&mut self) -> bool {
        self.retired = true;
        self.waiting = None;
        self.running.is_none()
    }

    /// What another leader has settled needs no run here.
    pub(super) fn settled_elsewhere(&mut self, handled: DateTime<Utc>, actions: &mut Vec<Action>) {
        if self.waiting.as_ref().is_some_and(|waiting| waiting.scheduled <= handled) {
            self.waiting = None;
        }
        if self.handled < handled {
            self.settle(handled);
            actions.push(self.settled());
        }
    }

    /// Settles everything owed at `now`.
    pub(super) fn decide(&mut self, now: Moment, random: f64, actions: &mut Vec<Action>) {
        if self.retired {
            return;
        }
        if !is_believable(self.handled, now.wall) {
            let (job, handled) = (self.job.name.clone(), self.handled);
            self.settle(now.wall);
            self.waiting.take_if(|waiting| waiting.scheduled > now.wall);
            actions.push(Action::Tell(AgentEvent::ClockWentBack { job, handled }));
            actions.push(self.settled());
        }
        while self.next.is_some_and(|next| next <= now.wall) && !self.is_one_at_a_time() {
            let Some(due) = due(&self.job.schedule, self.job.catch_up, self.handled, now.wall) else { break };
            self.settle(due.scheduled);
            let joins = self.waiting.as_ref().is_some_and(|waiting| waiting.trigger != Trigger::Retry);
            if !joins && self.running.is_some() {
                actions.push(self.skipped(SkipReason::StillRunning, due.missed + 1, now));
            } else if joins || due.runs {
                let trigger = if due.late { Trigger::CatchUp } else { Trigger::Schedule };
                self.wait(trigger, due.missed, now.steady + self.job.jitter.mul_f64(random), actions);
            } else {
                actions.push(self.skipped(SkipReason::Missed, due.missed + 1, now));
            }
        }
    }

    /// Whether the job must do what it has before it looks at what else it owes: months are never merged.
    fn is_one_at_a_time(&self) -> bool {
        self.job.catch_up == CatchUp::EachMonth && (self.running.is_some() || self.waiting.is_some())
    }

    /// Lets a run for the instant just settled wait. One that waits already takes it along, or a retry makes room.
    fn wait(&mut self, trigger: Trigger, missed: u64, from: Duration, actions: &mut Vec<Action>) {
        let older = self.waiting.take().filter(|older| older.trigger != Trigger::Retry);
        let count = missed + u64::from(older.is_some());
        if count > 0 {
            let (job, scheduled) = (self.job.name.clone(), self.handled);
            actions.push(Action::Tell(AgentEvent::Missed { job, count, scheduled }));
        }
        self.waiting = Some(Waiting {
            from: older.as_ref().map_or(from, |older| older.from.min(from)),
            scheduled: self.handled,
            trigger,
            attempt: 1,
            missed: count + older.map_or(0, |older| older.missed),
            only_repositories: Vec::new(),
            completes: None,
        });
    }

    /// The instant of the run that could begin at `now`.
    pub(super) fn ready(&self, now: Moment) -> Option<DateTime<Utc>> {
        let waiting = self.waiting.as_ref().filter(|waiting| waiting.from <= now.steady)?;
        self.running.is_none().then_some(waiting.scheduled)
    }

    /// Begins the run that waits.
    pub(super) fn begin_waiting(&mut self, fencing_token: u64, now: Moment, actions: &mut Vec<Action>) {
        if let Some(waiting) = self.waiting.take() {
            self.begin(waiting, fencing_token, now, actions);
        }
    }

    /// Begins a run that somebody asked for, unless one is there.
    pub(super) fn begin_manual(
        &mut self,
        fencing_token: u64,
        now: Moment,
        actions: &mut Vec<Action>,
    ) -> Result<RunId, Failure> {
        if let Some(running) = &self.running {
            let message = format!("run job {}: it has been running since {}", self.job.name, running.record.started);
            return Err(Failure::new(FailureKind::LockHeld, message).hint("Ask again when that run has ended."));
        }
        let waiting = Waiting {
            from: now.steady,
            scheduled: now.wall,
            trigger: Trigger::Manual,
            attempt: 1,
            missed: 0,
            only_repositories: Vec::new(),
            completes: None,
        };
        Ok(self.begin(waiting, fencing_token, now, actions))
    }

    fn begin(&mut self, waiting: Waiting, fencing_token: u64, now: Moment, actions: &mut Vec<Action>) -> RunId {
        let run = RunId::new(now.wall);
        let record = RunRecord {
            run,
            job: self.job.name.clone(),
            verb: self.job.verb,
            trigger: waiting.trigger,
            scheduled: waiting.scheduled,
            started: now.wall,
            attempt: waiting.attempt,
            missed: waiting.missed,
            only_repositories: waiting.only_repositories,
            completes: waiting.completes,
            end: None,
        };
        actions.push(Action::Begin(record.clone(), fencing_token));
        let overdue_at = self.job.timeout.map(|timeout| now.steady + timeout);
        self.running = Some(Running { record, fencing_token, overdue_at, stage: Stage::Going });
        run
    }

    /// The run begun under another token than `fencing_token` may no longer commit.
    pub(super) fn is_led_by_another(&self, fencing_token: Option<u64>) -> bool {
        self.running.as_ref().is_some_and(|running| Some(running.fencing_token) != fencing_token)
    }

    /// Cancels the run, to be dropped at `drop_at`; one that stops already is dropped no later than that.
    pub(super) fn stop(&mut self, why: Stop, drop_at: Duration, actions: &mut Vec<Action>) {
        let Some(running) = &mut self.running else { return };
        match &mut running.stage {
            Stage::Going => {
                running.stage = Stage::Stopping { why, drop_at };
                actions.push(Action::Cancel(running.record.run));
            }
            Stage::Stopping { drop_at: at, .. } => *at = drop_at.min(*at),
            Stage::Dropped => {}
        }
    }

    /// Stops a run that takes too long, and drops one that was stopped and does not end.
    pub(super) fn enforce(&mut self, now: Moment, cancel_grace: Duration, random: f64, actions: &mut Vec<Action>) {
        let overdue = |running: &Running| running.overdue_at.is_some_and(|at| at <= now.steady);
        if self.running.as_ref().is_some_and(overdue) {
            self.stop(Stop::Timeout, now.steady + cancel_grace, actions);
        }
        let Some(running) = &mut self.running else { return };
        let Stage::Stopping { why, drop_at } = running.stage else { return };
        if drop_at <= now.steady {
            let record = running.record.clone().ended(now.wall, self.job.stopped(why, None));
            running.stage = Stage::Dropped;
            actions.push(Action::Drop(record.run));
            actions.push(Action::Finish(record.clone()));
            self.try_again(&record, now, random, actions);
        }
    }

    /// Takes note that the task of `run` came to its end with `result`.
    pub(super) fn ended(
        &mut self,
        run: RunId,
        result: Result<Outcome, Failure>,
        now: Moment,
        random: f64,
        actions: &mut Vec<Action>,
    ) {
        let Some(running) = self.running.take_if(|running| running.record.run == run) else { return };
        let result = match (running.stage, result) {
            (Stage::Dropped, _) => return,
            (_, Ok(outcome)) => RunResult::Done(outcome),
            (Stage::Stopping { why, .. }, Err(failure)) => self.job.stopped(why, Some(&failure)),
            (Stage::Going, Err(failure)) => RunResult::Failed(RecordedFailure::from(&failure)),
        };
        let record = running.record.ended(now.wall, result);
        actions.push(Action::Finish(record.clone()));
        self.try_again(&record, now, random, actions);
    }

    /// Lets the next attempt wait, if `record` is to be tried again and nothing newer waits.
    fn try_again(&mut self, record: &RunRecord, now: Moment, random: f64, actions: &mut Vec<Action>) {
        let Some(retry) = retry_after(&self.job.retry, record, random) else { return };
        if self.retired || self.waiting.is_some() {
            return;
        }
        let attempt = record.attempt + 1;
        actions.push(Action::Tell(AgentEvent::RetryAt {
            job: self.job.name.clone(),
            attempt,
            at: now.wall + retry.delay,
            only_repositories: retry.only_repositories.clone(),
        }));
        self.waiting = Some(Waiting {
            from: now.steady + retry.delay,
            scheduled: record.scheduled,
            trigger: Trigger::Retry,
            attempt,
            missed: record.missed,
            only_repositories: retry.only_repositories,
            completes: retry.completes,
        });
    }

    /// The run's identity and whether its end is not yet recorded, if a run is there.
    pub(super) fn running(&self) -> Option<(RunId, bool)> {
        self.running.as_ref().map(|running| (running.record.run, running.stage != Stage::Dropped))
    }

    /// How long nothing happens here. Only a leader decides; only with `room` a run may begin.
    pub(super) fn quiet_for(&self, now: Moment, leads: bool, room: bool) -> Option<Duration> {
        let until = |at: Duration| at.saturating_sub(now.steady);
        let stage = self.running.as_ref().and_then(|running| match running.stage {
            Stage::Going => running.overdue_at.map(until),
            Stage::Stopping { drop_at, .. } => Some(until(drop_at)),
            Stage::Dropped => None,
        });
        let start = self.waiting.as_ref().filter(|_| leads && room && self.running.is_none());
        let instant = self.next.filter(|_| leads && !self.retired && !self.is_one_at_a_time());
        let instant = instant.map(|instant| (instant - now.wall).to_std().unwrap_or_default());
        [stage, start.map(|waiting| until(waiting.from)), instant].into_iter().flatten().min()
    }

    /// What the job does at present.
    pub(super) fn status(&self, now: Moment) -> JobStatus {
        JobStatus {
            job: self.job.name.clone(),
            verb: self.job.verb,
            next: self.job.schedule.next_after(self.handled.max(now.wall)).filter(|_| !self.retired),
            running: self.running.as_ref().map(|running| running.record.clone()),
            waiting_until: self.waiting.as_ref().map(|waiting| now.wall + waiting.from.saturating_sub(now.steady)),
        }
    }

    fn settle(&mut self, handled: DateTime<Utc>) {
        self.handled = handled;
        self.next = self.job.schedule.next_after(handled);
    }

    fn settled(&self) -> Action {
        Action::Settle(self.job.name.clone(), self.handled)
    }

    fn skipped(&self, reason: SkipReason, count: u64, now: Moment) -> Action {
        let (job, verb) = (self.job.name.clone(), self.job.verb);
        Action::Skip(SkipRecord { job, verb, scheduled: self.handled, count, at: now.wall, reason })
    }
}

impl Job {
    /// The end of a run that was stopped because of `why` and failed with `failure`, or did not end by itself.
    fn stopped(&self, why: Stop, failure: Option<&Failure>) -> RunResult {
        let interruption = match why {
            Stop::Interrupted(interruption) => return RunResult::Interrupted(interruption),
            Stop::Timeout => self.timeout.unwrap_or_default(),
        };
        let mut message = format!("run job {} within its timeout of {} s", self.name, interruption.as_secs());
        if let Some(failure) = failure {
            message = format!("{message}: {}", failure.full_message());
        }
        let hint = "Raise the job's timeout, or look at what holds it up.".to_owned();
        RunResult::Failed(RecordedFailure { kind: FailureKind::Failed, message, hint: Some(hint) })
    }
}
