//! One run of one job by hand: through the running agent if there is one, otherwise in this process under both locks.

use crate::app::App;
use crate::app::agent::{AgentClient, Answer};
use crate::app::terms::Terms;
use crate::catalog::history::{Entry, Interruption, RunRecord, RunResult, Trigger};
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::side::Side;
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::postgres::leader::{Attempt, LeaderLock};
use tokio_util::sync::CancellationToken;

impl App {
    /// Runs the job `name` now and gives its ended run.
    pub async fn run_manually(
        &self,
        name: &str,
        events: Events,
        stop: CancellationToken,
    ) -> Result<RunRecord, Failure> {
        self.require_built(name)?;
        if let Some(agent) = AgentClient::connect(self).await? {
            events.step(format!("asking the running agent to run {name}"));
            return match agent.run(name).await? {
                Answer::Run(record) => Ok(*record),
                Answer::Failed(failure) => Err(again(failure.kind, failure.message, failure.hint)),
                _ => Err(Failure::new(FailureKind::Failed, "understand the agent's answer")),
            };
        }
        self.run_here(name, events, stop).await
    }

    async fn run_here(&self, name: &str, events: Events, stop: CancellationToken) -> Result<RunRecord, Failure> {
        let (verb, side) = (self.job(name)?.verb, self.job(name)?.side());
        self.prepare_state()?;
        let _state = self.lock_state(&format!("dbagent job run {name}"))?;
        let history = self.history()?;
        let connection = self.connection(Verb::Check, None)?;
        let cluster = &self.loaded.config.cluster;
        let attempt = LeaderLock::take(&connection, cluster, side == Side::Standby).await?;
        let mut lock = leader(attempt, side, name, cluster)?;
        let setting = self.setting(events, stop);
        let now = self.clock.now();
        let record = RunRecord {
            run: setting.run,
            job: name.to_owned(),
            verb,
            trigger: Trigger::Manual,
            scheduled: now,
            started: now,
            attempt: 1,
            missed: 0,
            only_repositories: Vec::new(),
            completes: None,
            end: None,
        };
        // As in the agent: a run without a note is better than no run.
        let remember = |entry: &Entry| {
            if let Err(error) = history.append(entry, self.clock.now()) {
                tracing::warn!(error = with_causes(&error), "cannot write the run history");
            }
        };
        remember(&Entry::Begun(record.clone()));
        // Holding the primary's lock is a leadership, for this one run.
        let terms = match side {
            Side::Primary => Terms::of_leadership(),
            Side::Standby => Terms::default(),
        };
        let leader = self.clone().leading(terms);
        let result = leader.run_under(&mut lock, name, &setting).await;
        let record = record.ended(self.clock.now(), result);
        remember(&Entry::Ended(record.clone()));
        Ok(record)
    }

    /// Runs the job for as long as `lock` is held: losing it stops the run before it commits anything.
    async fn run_under(&self, lock: &mut LeaderLock, name: &str, setting: &Setting) -> RunResult {
        let mut running = std::pin::pin!(self.run_job(name, None, setting));
        let ended = tokio::select! {
            ended = &mut running => ended,
            why = lock.lost(self.clock.as_ref()) => {
                tracing::warn!(error = why, "lost the leader's lock");
                setting.stop.cancel();
                match running.await {
                    Err(_) => return RunResult::Interrupted(Interruption::LeadershipLost),
                    done => done,
                }
            }
        };
        match ended {
            Ok(outcome) => RunResult::Done(outcome),
            Err(failure) => RunResult::Failed((&failure).into()),
        }
    }
}

/// The lock, where the server is on the side that the job needs and nobody else has it.
fn leader(attempt: Attempt, side: Side, name: &str, cluster: &str) -> Result<LeaderLock, Failure> {
    let refused = |why: String| Failure::new(FailureKind::LockHeld, format!("run {name}: {why}"));
    if attempt.side != side {
        let hint = match side {
            Side::Primary => {
                "Run it on the primary's host. A base backup is taken here where its job in the plan says source = \"standby\"."
            }
            Side::Standby => "Run it on a standby's host, or take `source = \"standby\"` out of the job in the plan.",
        };
        return Err(refused(format!("it is done on {side}, and this server is {}", attempt.side)).hint(hint));
    }
    attempt.lock.ok_or_else(|| {
        refused(format!("another agent leads the cluster {cluster}"))
            .hint("Run it on that agent's host, or stop that agent first.")
    })
}

/// A failure that was recorded, told again.
pub fn again(kind: FailureKind, message: String, hint: Option<String>) -> Failure {
    let failure = Failure::new(kind, message);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
