//! Carries out what the scheduler asks for, with the configuration in force.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::app::App;
use crate::app::agent::Current;
use crate::app::terms::Terms;
use crate::app::verbs::Rest;
use crate::config::Job;
use crate::model::failure::Failure;
use crate::model::outcome::{Outcome, Severity};
use crate::model::side::Side;
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::scheduler::{Command, RunRequest, Runner};

pub(super) struct AppRunner {
    current: Current,
    /// By fencing token: all runs of one leadership write under the same terms.
    terms: Mutex<BTreeMap<u64, Terms>>,
    /// Receives the fencing token of a leadership that a repository refused.
    deposed: watch::Sender<u64>,
    /// Takes runs that an ended one has made necessary.
    commands: mpsc::Sender<Command>,
}

impl AppRunner {
    pub(super) fn new(current: Current, deposed: watch::Sender<u64>, commands: mpsc::Sender<Command>) -> Self {
        Self { current, terms: Mutex::default(), deposed, commands }
    }

    /// Asks for a base backup where `outcome` tells of a gap in the log that no base backup leads over: until there is one,
    /// nothing that is committed can be recovered.
    fn close_gap(&self, app: &App, outcome: &Outcome) {
        let is_open = outcome.findings.iter().any(|each| each.code == "wal-gap" && each.severity == Severity::Critical);
        let Some(plan) = app.plan().ok().filter(|_| is_open) else { return };
        // The log is looked after where the primary is.
        let is_base = |job: &Job| job.enabled && job.verb == Verb::BaseBackup && job.side() == Side::Primary;
        let mut bases: Vec<_> = plan.job.iter().filter(|(_, job)| is_base(job)).collect();
        bases.sort_by_key(|(_, job)| job.is_incremental_base());
        let Some((name, _)) = bases.first() else { return };
        tracing::warn!(job = name.as_str(), "the log has a gap that no base backup leads over: making one now");
        // Nobody waits for it; if it cannot be begun, the next look at the log asks again.
        let (answer, _) = oneshot::channel();
        if let Err(error) = self.commands.try_send(Command::Run { job: (*name).clone(), answer }) {
            tracing::warn!(%error, "no base backup is begun");
        }
    }

    fn app(&self) -> App {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn terms(&self, fencing_token: u64) -> Terms {
        let mut terms = self.terms.lock().unwrap_or_else(PoisonError::into_inner);
        terms.retain(|&token, _| token >= fencing_token);
        terms.entry(fencing_token).or_insert_with(Terms::of_leadership).clone()
    }
}

#[async_trait]
impl Runner for AppRunner {
    async fn run(&self, request: RunRequest) -> Result<Outcome, Failure> {
        let app = self.app();
        // On a standby nobody leads the cluster: what is made there is added under the primary's terms.
        let terms = match app.job(&request.job).map(|job| job.side()) {
            Ok(Side::Standby) => Terms::default(),
            _ => self.terms(request.fencing_token),
        };
        let app = app.leading(terms.clone());
        let setting =
            Setting { run: request.run, clock: app.clock.clone(), events: request.events, stop: request.cancel };
        let rest = Rest { repositories: request.only_repositories, artifact: request.completes };
        let result = app.run_job(&request.job, Some(&rest), &setting).await;
        if let Ok(outcome) = &result {
            self.close_gap(&app, outcome);
        }
        if terms.are_deposed() {
            self.deposed.send_replace(request.fencing_token);
        }
        result
    }
}
