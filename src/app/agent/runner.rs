//! Carries out what the scheduler asks for, with the configuration in force.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use crate::app::App;
use crate::app::agent::Current;
use crate::app::terms::Terms;
use crate::app::verbs::Rest;
use crate::catalog::history::{RunEnd, RunRecord, RunResult};
use crate::config::Job;
use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Outcome, Severity};
use crate::model::side::Side;
use crate::model::verb::Verb;
use crate::model::wal::SegmentName;
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
    /// Gaps in the log that a base backup is or was made for.
    asked: Arc<Mutex<BTreeSet<Gap>>>,
}

/// A gap in the log: the repository, and the last segment that is lost.
type Gap = (String, SegmentName);

impl AppRunner {
    pub(super) fn new(current: Current, deposed: watch::Sender<u64>, commands: mpsc::Sender<Command>) -> Self {
        Self { current, terms: Mutex::default(), deposed, commands, asked: Arc::default() }
    }

    /// Asks for a base backup where `outcome` tells of a gap in the log that no base backup leads over: until there is one,
    /// nothing that is committed can be recovered. One is made for each gap; where one does not help, another would not.
    async fn close_gaps(&self, app: &App, outcome: &mut Outcome, setting: &Setting) {
        let is_open = outcome.findings.iter().any(|each| each.code == "wal-gap" && each.severity == Severity::Critical);
        let Some(plan) = app.plan().ok().filter(|_| is_open) else { return };
        let found = match app.wal_sync_doors().await {
            Ok(doors) => doors.survey(setting).await,
            Err(failure) => {
                tracing::warn!(error = failure.full_message(), "no base backup is begun");
                return;
            }
        };
        let mut wanted: BTreeMap<&str, Vec<Gap>> = BTreeMap::new();
        for gap in found.timelines.iter().flat_map(|timeline| &timeline.missing).filter(|gap| gap.is_open()) {
            match base_job(&plan.job, &gap.repository) {
                Some(job) => wanted.entry(job).or_default().push((gap.repository.clone(), gap.range.last)),
                None => outcome.findings.push(stays(&gap.repository)),
            }
        }
        wanted.into_iter().for_each(|(job, gaps)| self.ask_for_base(job, gaps));
    }

    fn ask_for_base(&self, job: &str, mut gaps: Vec<Gap>) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        gaps.retain(|gap| asked.insert(gap.clone()));
        drop(asked);
        if gaps.is_empty() {
            return;
        }
        tracing::warn!(job, "the log has a gap that no base backup leads over: making one now");
        let (answer, ended) = oneshot::channel();
        if let Err(error) = self.commands.try_send(Command::Run { job: job.to_owned(), answer }) {
            tracing::warn!(%error, "no base backup is begun");
        }
        let asked = self.asked.clone();
        tokio::spawn(async move {
            // Where none was made, the next look at the log asks again.
            if !matches!(ended.await, Ok(Ok(run)) if has_made_one(&run)) {
                asked.lock().unwrap_or_else(PoisonError::into_inner).retain(|gap| !gaps.contains(gap));
            }
        });
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

/// The job that makes base backups in `repository`, a full one if there is one. The log is looked after where the primary is.
fn base_job<'a>(jobs: &'a BTreeMap<String, Job>, repository: &str) -> Option<&'a str> {
    let is_base = |job: &Job| job.enabled && job.verb == Verb::BaseBackup && job.side() == Side::Primary;
    let bases = jobs.iter().filter(|(_, job)| is_base(job) && job.writes_to(repository));
    bases.min_by_key(|(_, job)| job.is_incremental_base()).map(|(name, _)| name.as_str())
}

fn stays(repository: &str) -> Finding {
    let message = format!(
        "no job makes base backups of the primary in repository {repository}, so that nothing leads over its gap in the log"
    );
    let remedy = "name the repository in a base-backup job of the plan, or set wal = false in its section";
    Finding::new(Severity::Warning, "wal-gap-stays", message).remedy(remedy)
}

fn has_made_one(run: &RunRecord) -> bool {
    matches!(&run.end, Some(RunEnd { result: RunResult::Done(outcome), .. }) if outcome.artifact.is_some())
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
        let mut result = app.run_job(&request.job, Some(&rest), &setting).await;
        if let Ok(outcome) = &mut result {
            self.close_gaps(&app, outcome, &setting).await;
        }
        if terms.are_deposed() {
            self.deposed.send_replace(request.fencing_token);
        }
        result
    }
}
