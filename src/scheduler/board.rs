//! The state of every job and what follows from it: who may start, who must stop, what is told.
//!
//! Pure: takes time and random numbers as parameters, touches nothing, says what to do as a list of [`Action`]s in
//! order. The agent does them. Nothing starts unless this agent leads and is not draining.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalog::history::{Interruption, Past, RecordedFailure};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;
use crate::model::outcome::Outcome;
use crate::model::side::Side;
use crate::scheduler::event::AgentEvent;
use crate::scheduler::place::{Action, Moment, Place, Stop};
use crate::scheduler::{Job, JobStatus, Leadership, Limits};

/// The agent looks at the clock at least this often, to notice suspends and steps.
const LOOKS_AT_LEAST_EVERY: Duration = Duration::from_secs(60);

/// Every job and what it does.
#[derive(Debug)]
pub(super) struct Board {
    limits: Limits,
    /// Random numbers in `0.0..1.0`.
    random: fn() -> f64,
    places: BTreeMap<String, Place>,
    fencing_token: Option<u64>,
    /// On which side of a replication it leads, if it does.
    side: Side,
    /// Why it does not lead, where that is not because another does.
    apart: Option<RecordedFailure>,
    drain: Option<Drain>,
}

/// When runs are cancelled and dropped, on the monotonic clock.
#[derive(Clone, Copy, Debug)]
struct Drain {
    cancel_at: Duration,
    drop_at: Duration,
}

impl Board {
    /// A board without jobs, of an agent that does not lead.
    pub(super) fn new(limits: Limits, random: fn() -> f64) -> Self {
        let side = Side::Primary;
        Self { limits, random, places: BTreeMap::new(), fencing_token: None, side, apart: None, drain: None }
    }

    /// Replaces the jobs. Runs go on; what the history remembers of a job that is new here is `past`.
    pub(super) fn set_jobs(&mut self, jobs: Vec<Job>, past: impl Fn(&str) -> Past, now: Moment) -> Vec<Action> {
        let (mut actions, mut added, mut changed) = (Vec::new(), Vec::new(), Vec::new());
        let mut old = std::mem::take(&mut self.places);
        for job in jobs {
            let name = job.name.clone();
            let place = match old.remove(&name) {
                Some(mut place) => {
                    if place.retired {
                        added.push(name.clone());
                    } else if place.job != job {
                        changed.push(name.clone());
                    }
                    place.replace_job(job, now, &mut actions);
                    place
                }
                None => {
                    added.push(name.clone());
                    Place::new(job, past(&name), now, (self.random)(), &mut actions)
                }
            };
            self.places.insert(name, place);
        }
        let removed = old.iter().filter(|(_, place)| !place.retired).map(|(name, _)| name.clone()).collect();
        self.places.extend(old.into_iter().filter_map(|(name, mut place)| (!place.retire()).then_some((name, place))));
        actions.push(Action::Tell(AgentEvent::Reloaded { added, removed, changed }));
        actions
    }

    /// Does what the time asks for.
    pub(super) fn tick(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        self.enforce(now, &mut actions);
        if let Some(fencing_token) = self.fencing_token.filter(|_| self.drain.is_none()) {
            for place in self.places.values_mut().filter(|place| place.job.side == self.side) {
                place.decide(now, (self.random)(), &mut actions);
            }
            self.begin_waiting(fencing_token, now, &mut actions);
        }
        actions
    }

    /// Stops and drops runs whose time is up.
    fn enforce(&mut self, now: Moment, actions: &mut Vec<Action>) {
        for place in self.places.values_mut() {
            if let Some(drain) = self.drain.filter(|drain| drain.cancel_at <= now.steady) {
                place.stop(Stop::Interrupted(Interruption::Shutdown), drain.drop_at, actions);
            }
            place.enforce(now, self.limits.cancel_grace, (self.random)(), actions);
        }
    }

    /// Begins what waits, the longest due first, as far as the limit allows.
    fn begin_waiting(&mut self, fencing_token: u64, now: Moment, actions: &mut Vec<Action>) {
        let (room, side) = (self.room(), self.side);
        let is_ready = |place: &&mut Place| place.job.side == side && place.ready(now).is_some();
        let mut ready: Vec<_> = self.places.values_mut().filter(is_ready).collect();
        ready.sort_by_key(|place| place.ready(now));
        for place in ready.into_iter().take(room) {
            place.begin_waiting(fencing_token, now, actions);
        }
    }

    /// How many more runs may begin.
    fn room(&self) -> usize {
        self.limits.at_once.saturating_sub(self.places.values().filter(|place| place.running().is_some()).count())
    }

    /// Begins a run that somebody asked for.
    pub(super) fn begin_manual(&mut self, job: &str, now: Moment) -> Result<(RunId, Vec<Action>), Failure> {
        let refused = |kind, why: &str| Failure::new(kind, format!("run job {job}: {why}"));
        if self.drain.is_some() {
            return Err(refused(FailureKind::Failed, "the agent is stopping"));
        }
        let Some(place) = self.places.get_mut(job).filter(|place| !place.retired) else {
            return Err(refused(FailureKind::NothingMatches, "there is no such job")
                .hint("See `dbagent job list` for the names of the jobs."));
        };
        let Some(fencing_token) = self.fencing_token else {
            return Err(self.does_not_lead(job));
        };
        if place.job.side != self.side {
            let why = format!("it is done on {}, and this agent's server is {}", place.job.side, self.side);
            return Err(refused(FailureKind::LockHeld, &why)
                .hint("Run it on the host of such a server, or change `source` of the job in the plan."));
        }
        let mut actions = Vec::new();
        let run = place.begin_manual(fencing_token, now, &mut actions)?;
        Ok((run, actions))
    }

    fn does_not_lead(&self, job: &str) -> Failure {
        let Some(RecordedFailure { kind, message, hint }) = &self.apart else {
            return Failure::new(FailureKind::LockHeld, format!("run job {job}: another agent leads"))
                .hint("Ask the agent that leads; `dbagent status` names it.");
        };
        let failure = Failure::new(*kind, format!("run job {job}: {message}"));
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    /// Takes note that the task of `run` came to its end with `result`.
    pub(super) fn ended(&mut self, run: RunId, result: Result<Outcome, Failure>, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let name = self.places.iter().find(|(_, place)| place.running().is_some_and(|(its, _)| its == run));
        let Some(name) = name.map(|(name, _)| name.clone()) else { return actions };
        if let Some(place) = self.places.get_mut(&name) {
            place.ended(run, result, now, (self.random)(), &mut actions);
            if place.retired {
                self.places.remove(&name);
            }
        }
        actions
    }

    /// Takes note of who leads. A run begun under another token is cancelled: it may no longer commit.
    pub(super) fn lead(&mut self, leadership: &Leadership, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let (fencing_token, side) = match leadership {
            Leadership::Leader { fencing_token, side, .. } => (Some(*fencing_token), *side),
            Leadership::Follower | Leadership::Apart(_) => (None, self.side),
        };
        self.apart = match leadership {
            Leadership::Apart(why) => Some(why.clone()),
            Leadership::Leader { .. } | Leadership::Follower => None,
        };
        for place in self.places.values_mut().filter(|place| place.is_led_by_another(fencing_token)) {
            let drop_at = now.steady + self.limits.cancel_grace;
            place.stop(Stop::Interrupted(Interruption::LeadershipLost), drop_at, &mut actions);
        }
        if self.fencing_token == fencing_token {
            return actions;
        }
        (self.fencing_token, self.side) = (fencing_token, side);
        actions.push(Action::Tell(AgentEvent::Leadership { fencing_token }));
        if let Leadership::Leader { handled, .. } = leadership {
            for (job, handled) in handled {
                if let Some(place) = self.places.get_mut(job) {
                    place.settled_elsewhere(*handled, &mut actions);
                }
            }
        }
        actions
    }

    /// Stops: nothing new starts, runs have the grace to end. A second time, stops at once.
    pub(super) fn drain(&mut self, now: Moment) -> Vec<Action> {
        let mut actions = Vec::new();
        let Limits { grace, .. } = self.limits;
        if self.drain.is_some() {
            self.drain = Some(Drain { cancel_at: now.steady, drop_at: now.steady });
        } else {
            self.drain = Some(Drain { cancel_at: now.steady + grace * 3 / 5, drop_at: now.steady + grace });
            self.places.retain(|_, place| !place.retire());
            actions.push(Action::Tell(AgentEvent::Draining { running: self.places.keys().cloned().collect() }));
        }
        self.enforce(now, &mut actions);
        actions
    }

    /// Whether the agent was told to stop and every run's end is recorded.
    pub(super) fn is_drained(&self) -> bool {
        let is_open = |place: &Place| place.running().is_some_and(|(_, open)| open);
        self.drain.is_some() && !self.places.values().any(is_open)
    }

    /// How long to wait before the next [`Board::tick`], unless something happens.
    pub(super) fn quiet_for(&self, now: Moment) -> Duration {
        let leads = self.fencing_token.is_some() && self.drain.is_none();
        let drain = self.drain.map(|drain| drain.cancel_at.saturating_sub(now.steady)).filter(|wait| !wait.is_zero());
        let leads = |place: &Place| leads && place.job.side == self.side;
        let places = self.places.values().filter_map(|place| place.quiet_for(now, leads(place), self.room() > 0));
        places.chain(drain).min().unwrap_or(LOOKS_AT_LEAST_EVERY).min(LOOKS_AT_LEAST_EVERY)
    }

    /// What every job does at present.
    pub(super) fn status(&self, now: Moment) -> Vec<JobStatus> {
        self.places.values().map(|place| place.status(now)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use chrono::{DateTime, Datelike, TimeDelta, Utc};
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    use super::*;
    use crate::catalog::history::{Entry, Memory, RunRecord, RunResult, SkipRecord, Trigger};
    use crate::model::verb::Verb;
    use crate::scheduler::{CatchUp, RetryPolicy};

    fn plan() -> Vec<Job> {
        let job = |name: &str, schedule: &str, catch_up| Job {
            name: name.to_owned(),
            verb: Verb::Dump,
            schedule: schedule.parse().unwrap(),
            catch_up,
            jitter: Duration::from_secs(if name == "full" { 900 } else { 0 }),
            timeout: Some(Duration::from_secs(3 * 3600)),
            retry: RetryPolicy::default(),
            side: Side::Primary,
        };
        vec![
            job("full", "0 3 * * *", CatchUp::Once),
            job("partitions", "0 1 1,11,21 * *", CatchUp::EachMonth),
            job("sync", "0 18 * * 1-5", CatchUp::Skip),
            job("restore-test", "0 6 1 * *", CatchUp::Once),
        ]
    }

    /// What became of the instants of one job.
    #[derive(Default)]
    struct Ledger {
        begun: BTreeSet<DateTime<Utc>>,
        without_a_run: u64,
    }

    /// A machine, its disk, and agents that come and go on it.
    struct World {
        random: StdRng,
        plan: Vec<Job>,
        now: Moment,
        began: DateTime<Utc>,
        /// The run history, which survives agents.
        disk: Memory,
        board: Board,
        live: HashMap<RunId, String>,
        fencing_token: u64,
        ledgers: BTreeMap<String, Ledger>,
        happened: BTreeMap<&'static str, u64>,
    }

    impl World {
        fn new(seed: u64) -> Self {
            let began = "2024-01-15T12:00:00Z".parse().unwrap();
            let now = Moment { wall: began, steady: Duration::ZERO };
            let mut world = Self {
                random: StdRng::seed_from_u64(seed),
                plan: plan(),
                now,
                began,
                disk: Memory::default(),
                board: Board::new(Limits::default(), || 0.5),
                live: HashMap::new(),
                fencing_token: 0,
                ledgers: plan().into_iter().map(|job| (job.name, Ledger::default())).collect(),
                happened: BTreeMap::new(),
            };
            world.start();
            world
        }

        /// An agent starts on what is on the disk and leads.
        fn start(&mut self) {
            for record in self.disk.unfinished() {
                let end = RunResult::Interrupted(Interruption::AgentDied);
                self.disk.take_in(&Entry::Ended(record.ended(self.now.wall, end)));
            }
            self.board = Board::new(Limits::default(), || 0.5);
            let disk = self.disk.clone();
            let actions = self.board.set_jobs(self.plan.clone(), |job| disk.past(job), self.now);
            self.carry_out(actions);
            self.lead();
        }

        fn lead(&mut self) {
            self.fencing_token += 1;
            let leader = {
                let (fencing_token, side) = (self.fencing_token, Side::Primary);
                Leadership::Leader { fencing_token, side, handled: BTreeMap::new() }
            };
            let actions = self.board.lead(&leader, self.now);
            self.carry_out(actions);
        }

        fn carry_out(&mut self, actions: Vec<Action>) {
            for action in actions {
                match action {
                    Action::Settle(job, handled) => self.disk.take_in(&Entry::Settled { job, handled }),
                    Action::Skip(skip) => self.skip(skip),
                    Action::Begin(record, _) => self.begin(record),
                    Action::Finish(record) => self.disk.take_in(&Entry::Ended(record)),
                    Action::Cancel(run) if self.random.random_bool(0.7) => self.end(run),
                    Action::Drop(run) => self.end(run),
                    Action::Tell(_) | Action::Cancel(_) => {}
                }
            }
        }

        fn begin(&mut self, record: RunRecord) {
            self.disk.take_in(&Entry::Begun(record.clone()));
            assert!(!self.live.values().any(|job| *job == record.job), "{} overlaps itself", record.job);
            self.live.insert(record.run, record.job.clone());
            assert!(self.live.len() <= Limits::default().at_once, "too many at once");
            if record.trigger == Trigger::Retry {
                return self.count("retry");
            }
            self.count(if record.missed > 0 { "missed" } else { "plain run" });
            let ledger = self.ledgers.get_mut(&record.job).unwrap();
            assert!(ledger.begun.insert(record.scheduled), "{} {} is run twice", record.job, record.scheduled);
            ledger.without_a_run += record.missed;
        }

        fn skip(&mut self, skip: SkipRecord) {
            self.count("skip");
            self.ledgers.get_mut(&skip.job).unwrap().without_a_run += skip.count;
            self.disk.take_in(&Entry::Skipped(skip));
        }

        /// The task of a run comes to its end.
        fn end(&mut self, run: RunId) {
            if self.live.remove(&run).is_none() {
                return;
            }
            let result = match self.random.random_range(0..4) {
                0 => Err(Failure::new(FailureKind::Failed, "dump")),
                1 => Err(Failure::new(FailureKind::Integrity, "dump")),
                _ => Ok(Outcome::ok("done")),
            };
            let actions = self.board.ended(run, result, self.now);
            self.carry_out(actions);
        }

        fn count(&mut self, what: &'static str) {
            *self.happened.entry(what).or_default() += 1;
        }

        /// Both clocks go on; the agent looks.
        fn pass(&mut self, duration: Duration) {
            self.now.steady += duration;
            self.now.wall += duration;
            let actions = self.board.tick(self.now);
            self.carry_out(actions);
        }

        fn step(&mut self) {
            let minutes = |random: &mut StdRng, most: i64| TimeDelta::minutes(random.random_range(0..most));
            match self.random.random_range(0..100) {
                0 => {
                    self.count("agent dies");
                    self.live.clear();
                    self.now.wall += minutes(&mut self.random, 60 * 24 * 40);
                    self.start();
                }
                1 => {
                    self.count("suspend");
                    self.now.wall += minutes(&mut self.random, 60 * 48);
                }
                2 => {
                    self.count("clock set back");
                    self.now.wall -= minutes(&mut self.random, 60 * 6);
                }
                3 => {
                    self.count("leadership lost");
                    let actions = self.board.lead(&Leadership::Follower, self.now);
                    self.carry_out(actions);
                    let gap = minutes(&mut self.random, 60 * 12);
                    self.pass(gap.to_std().unwrap());
                    self.lead();
                }
                4..60 => {
                    let runs: Vec<_> = self.live.keys().copied().collect();
                    runs.into_iter().for_each(|run| self.end(run));
                }
                _ => {}
            }
            let next = self.next_instant();
            let wait = if self.random.random_bool(0.5) { next } else { TimeDelta::hours(20) };
            self.pass(wait.to_std().unwrap());
        }

        /// How long it is until an hour at which something may be scheduled.
        fn next_instant(&self) -> TimeDelta {
            let midnight = self.now.wall.date_naive().and_time(chrono::NaiveTime::MIN).and_utc();
            let instants = [1, 3, 6, 18, 25].map(|hour| midnight + TimeDelta::hours(hour));
            instants.into_iter().map(|instant| instant - self.now.wall).find(|wait| *wait > TimeDelta::zero()).unwrap()
        }

        /// In the end everything is settled: each instant either has one run or is reported.
        fn judge(mut self, seed: u64) -> BTreeMap<&'static str, u64> {
            for _ in 0..200 {
                let runs: Vec<_> = self.live.keys().copied().collect();
                runs.into_iter().for_each(|run| self.end(run));
                self.pass(Duration::from_secs(6 * 3600));
            }
            self.plan.iter().for_each(|job| self.judge_job(job, seed));
            self.count("world");
            *self.happened.entry("day").or_default() += (self.now.wall - self.began).num_days() as u64;
            self.happened
        }

        fn judge_job(&self, job: &Job, seed: u64) {
            let (ledger, handled) = (&self.ledgers[&job.name], self.disk.past(&job.name).handled.unwrap());
            let instants = job.schedule.between(self.began, handled) as u64;
            let settled = ledger.begun.len() as u64 + ledger.without_a_run;
            assert_eq!(settled, instants, "seed {seed}: instants of {} settled and owed differ", job.name);
            assert!(job.schedule.between(handled, self.now.wall) <= 1, "seed {seed}: {} stands still", job.name);
            if job.catch_up == CatchUp::EachMonth {
                let months: BTreeSet<_> = ledger.begun.iter().map(|run| (run.year(), run.month())).collect();
                let (first, last) = (self.began, *ledger.begun.last().unwrap());
                let all = (last.year() - first.year()) * 12 + last.month() as i32 - first.month() as i32 + 1;
                assert_eq!(months.len() as i32, all, "seed {seed}: a month has no run");
            }
        }
    }

    /// Lives through at least `days` days in worlds of a few years.
    fn live_through(days: u64) {
        let mut happened: BTreeMap<&'static str, u64> = BTreeMap::new();
        for seed in 0.. {
            let mut world = World::new(seed);
            (0..3000).for_each(|_| world.step());
            for (what, count) in world.judge(seed) {
                *happened.entry(what).or_default() += count;
            }
            if happened["day"] >= days {
                break;
            }
        }
        let faults = ["agent dies", "suspend", "clock set back", "leadership lost", "retry", "missed", "skip"];
        assert!(faults.iter().all(|fault| happened.get(fault) > Some(&100)), "{happened:?}");
    }

    #[test]
    fn g11_in_a_hundred_thousand_days_no_run_is_lost_or_doubled() {
        live_through(100_000);
    }

    #[cfg(feature = "long")]
    #[test]
    fn g11_in_a_million_days_no_run_is_lost_or_doubled() {
        live_through(1_000_000);
    }
}
