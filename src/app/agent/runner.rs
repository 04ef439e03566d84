//! Carries out what the scheduler asks for, with the configuration in force.

use std::sync::PoisonError;

use async_trait::async_trait;

use crate::app::App;
use crate::app::agent::Current;
use crate::model::failure::Failure;
use crate::model::outcome::Outcome;
use crate::ops::Setting;
use crate::scheduler::{RunRequest, Runner};

pub(super) struct AppRunner {
    current: Current,
}

impl AppRunner {
    pub(super) fn new(current: Current) -> Self {
        Self { current }
    }

    fn app(&self) -> App {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[async_trait]
impl Runner for AppRunner {
    async fn run(&self, request: RunRequest) -> Result<Outcome, Failure> {
        let app = self.app();
        let setting =
            Setting { run: request.run, clock: app.clock.clone(), events: request.events, stop: request.cancel };
        let only = Some(request.only_repositories).filter(|only| !only.is_empty());
        app.run_job(&request.job, only.as_deref(), &setting).await
    }
}
