//! Carries out what the scheduler asks for, with the configuration in force.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::app::App;
use crate::app::agent::Current;
use crate::app::terms::Terms;
use crate::app::verbs::Rest;
use crate::model::failure::Failure;
use crate::model::outcome::Outcome;
use crate::model::side::Side;
use crate::ops::Setting;
use crate::scheduler::{RunRequest, Runner};

pub(super) struct AppRunner {
    current: Current,
    /// By fencing token: all runs of one leadership write under the same terms.
    terms: Mutex<BTreeMap<u64, Terms>>,
    /// Receives the fencing token of a leadership that a repository refused.
    deposed: watch::Sender<u64>,
}

impl AppRunner {
    pub(super) fn new(current: Current, deposed: watch::Sender<u64>) -> Self {
        Self { current, terms: Mutex::default(), deposed }
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
        if terms.are_deposed() {
            self.deposed.send_replace(request.fencing_token);
        }
        result
    }
}
