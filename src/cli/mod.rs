//! The roof: arguments in, a verb or a query done, text or JSON and an exit code out.
//!
//! Only this room prints. It decides nothing about backups: it asks `app` for doors and verbs for outcomes.

pub mod arguments;
pub mod output;
pub mod progress;

use std::process::ExitCode;

use clap::Parser as _;

/// Runs the process.
pub fn main() -> ExitCode {
    let _arguments = arguments::Arguments::parse();
    ExitCode::SUCCESS
}
