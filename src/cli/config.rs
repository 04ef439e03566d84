//! `dbagent config` and `dbagent man`.

use std::path::Path;

use clap::CommandFactory as _;
use serde_json::json;

use crate::app::App;
use crate::cli::arguments::{Arguments, Config, Global};
use crate::cli::output::Output;
use crate::cli::{Code, load, tables};
use crate::config;
use crate::model::failure::{Failure, FailureKind};

pub fn run(command: &Config, global: &Global, output: &Output) -> Result<Code, Failure> {
    match command {
        Config::Example => output.result(&json!({"example": config::example()}), || config::example().to_owned()),
        Config::Schema => {
            let schemas = json!({"configuration": config::schema(), "plan": config::plan_schema()});
            output.result(&schemas, || format!("{schemas:#}"));
        }
        Config::Show => show(&load(global)?, output)?,
        Config::Check => return check(&load(global)?, output),
    }
    Ok(0)
}

fn show(app: &App, output: &Output) -> Result<(), Failure> {
    let rows = config::show(&app.loaded)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("show the configuration: {error}")))?;
    let values: Vec<_> =
        rows.iter().map(|row| json!({"key": row.key, "value": row.value, "origin": row.origin.to_string()})).collect();
    output.result(&json!({"file": app.loaded.file, "values": values}), || {
        let row = |row: &config::Row| vec![row.key.clone(), row.value.clone(), row.origin.to_string()];
        tables::table(&["key", "value", "from"], rows.iter().map(row).collect())
    });
    Ok(())
}

/// Exit 3 when something is allowed and probably not meant.
fn check(app: &App, output: &Output) -> Result<Code, Failure> {
    let warnings = &app.loaded.warnings;
    output.result(&json!({"file": app.loaded.file, "warnings": warnings}), || {
        let file = app.loaded.file.as_ref().map_or("the environment".to_owned(), |file| file.display().to_string());
        let lines: Vec<String> = warnings.iter().map(|warning| format!("warning: {warning}")).collect();
        format!("{file} is sound\n{}", lines.join("\n"))
    });
    Ok(if warnings.is_empty() { 0 } else { FailureKind::Findings.exit_code() })
}

/// Writes a manual page for the program and for each command.
pub fn manual(directory: &Path, output: &Output) -> Result<Code, Failure> {
    clap_mangen::generate_to(Arguments::command(), directory).map_err(|error| {
        let message = format!("write the manual pages into {}", directory.display());
        Failure::new(FailureKind::Failed, message).because(error).hint("The directory must be there.")
    })?;
    output.result(&json!({"directory": directory}), || format!("manual pages are in {}", directory.display()));
    Ok(0)
}
