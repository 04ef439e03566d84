//! People and exit codes.

use std::process::ExitCode;

/// Runs the process.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
