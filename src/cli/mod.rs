//! The roof: arguments in, a verb or a query done, text or JSON and an exit code out.
//!
//! Only this room prints. It decides nothing about backups: it asks `app` for doors and verbs for outcomes.

mod alert;
mod arguments;
mod audit;
mod backup;
mod check;
mod config;
mod contract;
mod demo;
mod expire;
mod init;
mod job;
mod output;
mod partition;
mod past;
mod plan;
mod progress;
mod prompt;
mod recover;
mod restore;
mod run;
mod signals;
mod status;
mod tables;
mod wal;

use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};

use crate::app::App;
use crate::config::{Environment, LoadRequest};
use crate::model::failure::{Failure, FailureKind};
use arguments::{Arguments, Command, Global};
use contract::Contract;
use output::Output;

/// How long threads that still work are waited for when everything is done.
const PATIENCE_AT_THE_END: Duration = Duration::from_millis(250);
/// Threads that drive connections and timers; work on bytes has threads of its own.
const WORKER_THREADS: usize = 2;

/// Exit code of a command.
pub type Code = u8;

/// Runs the process.
pub fn main() -> ExitCode {
    let contract = Contract::of(std::env::args_os());
    ExitCode::from(contract.guard(|| run_to_code(contract)))
}

fn run_to_code(contract: Contract) -> Code {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return unparsed(&error, contract),
    };
    let no_color = Environment::of_process().get("NO_COLOR").is_some_and(|value| !value.is_empty());
    let output = Output::new(&arguments.global, no_color);
    match carry_out(arguments, &output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            contract.code(failure.kind)
        }
    }
}

/// Help and version are no failures; a bad command line is, also for a program that reads JSON.
fn unparsed(error: &clap::Error, contract: Contract) -> Code {
    let help = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
    if !help && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.render().to_string();
        let message = text.trim().trim_start_matches("error: ").to_owned();
        output::json_failure(&Failure::new(FailureKind::Usage, message));
        return contract.code(FailureKind::Usage);
    }
    // Nobody reads what cannot be printed.
    let _gone = error.print();
    if help { 0 } else { contract.code(FailureKind::Usage) }
}

fn carry_out(arguments: Arguments, output: &Output) -> Result<Code, Failure> {
    match &arguments.command {
        Command::Completions { shell } => {
            clap_complete::generate(*shell, &mut Arguments::command(), "dbagent", &mut std::io::stdout());
            return Ok(0);
        }
        Command::Man { directory } => return config::manual(directory, output),
        Command::Config(command) => return config::run(command, &arguments.global, output),
        Command::Init(command) if !command.install_sql => return init::run(command, output),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FailureKind::Failed, "start the runtime").because(error))?;
    run::log(&arguments, output);
    let code = runtime.block_on(carry_out_async(arguments, output));
    // Threads are joined: to detach one that is just ending may read memory that it has given back (glibc's pthread_detach
    // looks at the thread after letting it go). One that is blocked, by a name look-up say, must not hold the process up.
    runtime.shutdown_timeout(PATIENCE_AT_THE_END);
    code
}

async fn carry_out_async(arguments: Arguments, output: &Output) -> Result<Code, Failure> {
    let global = &arguments.global;
    match &arguments.command {
        Command::Demo(command) => demo::run(command, output).await,
        Command::Init(command) => init::install_sql(&load(global)?, command, output).await,
        Command::Run => run::run(load(global)?).await,
        Command::Status => status::run(&load(global)?, output).await,
        Command::Check(command) => check::run(&load(global)?, command, output).await,
        Command::Plan => plan::run(&load(global)?, output),
        Command::Job(command) => job::run(&load(global)?, command, output).await,
        Command::Backup(command) => backup::run(&load(global)?, command, output).await,
        Command::Restore(command) => restore::run(&load(global)?, command, output).await,
        Command::Alert(command) => alert::run(&load(global)?, command, output).await,
        Command::Audit(command) => audit::run(&load(global)?, command, output).await,
        Command::Expire(command) => expire::run(&load(global)?, command, output).await,
        Command::Wal(command) => wal::run(&load(global)?, command, output).await,
        Command::Partition(command) => partition::run(&load(global)?, command, output).await,
        Command::Healthcheck => run::healthcheck(&load(global)?, output).await,
        Command::Completions { .. } | Command::Man { .. } | Command::Config(_) => Ok(0),
    }
}

/// The configuration, as the global flags point at it; its warnings are told.
fn load(global: &Global) -> Result<App, Failure> {
    let app = App::load(LoadRequest { path: global.config.clone(), ..LoadRequest::default() })?;
    for warning in &app.loaded.warnings {
        tracing::info!("{warning}");
    }
    Ok(app)
}
