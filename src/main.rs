//! The binary: hands the process's arguments to `cli` and its exit code back to the shell.
//!
//! Nothing is decided here.

use std::process::ExitCode;

fn main() -> ExitCode {
    dbagent::cli::main()
}
