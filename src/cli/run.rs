//! `dbagent run` and `dbagent healthcheck`, and what the process logs.

use std::io;

use serde_json::json;
use tracing_subscriber::EnvFilter;

use crate::app::App;
use crate::app::agent::{self, AgentClient, Answer};
use crate::cli::Code;
use crate::cli::arguments::{Arguments, Command};
use crate::cli::output::Output;
use crate::model::failure::{Failure, FailureKind};

/// Log lines go to standard error: as JSON with `--json`, otherwise as text.
pub fn log(arguments: &Arguments, output: &Output) {
    let agent = matches!(arguments.command, Command::Run);
    let level = match (arguments.global.verbose, agent, output.quiet) {
        (0, _, true) => "error",
        (0, true, false) => "info",
        (0, false, false) => "warn",
        (1, ..) => "info",
        _ => "debug",
    };
    let ours = format!("error,dbagent={level}");
    let builder = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(ours)).with_writer(io::stderr);
    if agent && output.json {
        builder.json().flatten_event(true).init();
    } else {
        builder.with_target(false).with_ansi(output.bars).init();
    }
}

/// Works through the plan until told to stop.
pub async fn run(app: App) -> Result<Code, Failure> {
    agent::run(app).await.map(|()| 0)
}

/// Whether a running agent answers.
pub async fn healthcheck(app: &App, output: &Output) -> Result<Code, Failure> {
    let Some(client) = AgentClient::connect(app).await? else {
        return Err(
            Failure::new(FailureKind::Failed, "reach the agent: none is running here").hint("`dbagent run` starts it.")
        );
    };
    match client.status().await? {
        Answer::Status(jobs) => {
            output.result(&json!({"healthy": true, "jobs": jobs}), || "healthy".to_owned());
            Ok(0)
        }
        Answer::Failed(failure) => Err(crate::app::manual::again(failure.kind, failure.message, failure.hint)),
        _ => Err(Failure::new(FailureKind::Failed, "understand the agent's answer")),
    }
}
