//! Wiring: from a validated configuration to opened doors. The only room that knows all concrete types.
//!
//! Nothing is opened before it is needed: `plan` and `config` work without a database, `backup list` without a key.
//! Secrets are resolved anew each time a door is opened, and live no longer than it.

pub mod agent;
mod audit;
mod base;
pub mod copy_chain;
pub mod demo;
mod health;
pub mod init;
pub mod install;
pub mod keys;
pub mod manual;
mod pace;
mod partitions;
pub mod past;
pub mod policies;
mod postgres;
mod posture;
mod recover;
mod repositories;
pub mod restored_chain;
mod secrets;
mod sheet;
mod terms;
pub mod verbs;
pub mod wal;

use std::path::PathBuf;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::config::{self, Environment, LoadRequest, Loaded, Plan};
use crate::host::{Clock, SystemClock};
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::RunId;
use crate::ops::Setting;

/// A loaded configuration and what is needed to act on it.
#[derive(Clone, Debug)]
pub struct App {
    /// What the operator wrote.
    pub loaded: Arc<Loaded>,
    /// The environment it was loaded with, for PostgreSQL's own variables.
    pub environment: Arc<Environment>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    request: LoadRequest,
    terms: terms::Terms,
    /// The program that PostgreSQL is told to call; this one when absent.
    program: Option<PathBuf>,
}

impl App {
    /// Loads what `request` asks for, with the environment of this process, on the real clock.
    pub fn load(request: LoadRequest) -> Result<Self, Failure> {
        let environment = Environment::of_process();
        let loaded = config::load(&request, &environment).map_err(|errors| {
            Failure::new(FailureKind::Usage, errors.to_string())
                .hint("`dbagent config example` shows every key and what it means.")
        })?;
        let clock = Arc::new(SystemClock::new());
        Ok(Self {
            loaded: Arc::new(loaded),
            environment: Arc::new(environment),
            clock,
            request,
            terms: terms::Terms::default(),
            program: None,
        })
    }

    /// The same, loaded anew.
    pub fn reload(&self) -> Result<Self, Failure> {
        Ok(Self { clock: self.clock.clone(), ..Self::load(self.request.clone())? })
    }

    /// The same under `terms`: whoever leads writes to repositories under terms of its own.
    pub(in crate::app) fn leading(self, terms: terms::Terms) -> Self {
        Self { terms, ..self }
    }

    /// The plan, which jobs come from.
    pub fn plan(&self) -> Result<&Plan, Failure> {
        self.loaded.plan.as_ref().ok_or_else(|| {
            Failure::new(FailureKind::Usage, "find the plan: the configuration names none")
                .hint("Set plan = \"bc-003\" (built in) or the path of a plan's file in dbagent.toml.")
        })
    }

    /// What a verb is given for a run of its own.
    pub fn setting(&self, events: Events, stop: CancellationToken) -> Setting {
        Setting { run: RunId::new(self.clock.now()), clock: self.clock.clone(), events, stop }
    }
}
