//! Command lines of pg_dump and pg_dumpall. Names are given as literal patterns, passwords never.
//!
//! Where to connect goes through the environment (`Connection::child_environment`); compression is ours, so `-Z0`.

use std::ffi::OsString;

use crate::host::ChildSpec;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::QualifiedTable;
use crate::postgres::coordinator::Coordinator;
use crate::postgres::environment::ChildEnvironment;
use crate::postgres::tools::ClientTools;

/// Room left for one program's arguments, in bytes; Linux allows 2 MiB with the environment.
const ARGUMENT_BYTES: usize = 1 << 20;

/// What of the data goes into the archive besides the tables.
#[derive(Clone, Copy, Debug)]
pub struct DataOptions {
    /// Whether large objects are dumped.
    pub large_objects: bool,
}

/// The rows (and definitions) of the coordinator's tables, at its snapshot.
pub fn data(
    tools: &ClientTools,
    environment: &ChildEnvironment,
    coordinator: &Coordinator,
    options: DataOptions,
) -> Result<ChildSpec, Failure> {
    let mut arguments = archive_arguments(coordinator);
    arguments.push(if options.large_objects { "--blobs" } else { "--no-blobs" }.into());
    if !coordinator.covers_all_tables() {
        arguments
            .extend(coordinator.tables().iter().map(|covered| format!("--table={}", covered.table.quoted()).into()));
    }
    let bytes: usize = arguments.iter().map(|argument: &OsString| argument.len() + 1).sum();
    if bytes > ARGUMENT_BYTES {
        let message =
            format!("name {} tables to pg_dump: the command line would be too long", coordinator.tables().len());
        return Err(Failure::new(FailureKind::Usage, message)
            .hint("Leave `tables` out of the job to dump every table, or split the job."));
    }
    Ok(spec(&tools.pg_dump.path, arguments, environment, "pg_dump"))
}

/// The schema of the whole database, at the coordinator's snapshot.
pub fn schema(tools: &ClientTools, environment: &ChildEnvironment, coordinator: &Coordinator) -> ChildSpec {
    let mut arguments = archive_arguments(coordinator);
    arguments.push("--schema-only".into());
    spec(&tools.pg_dump.path, arguments, environment, "pg_dump --schema-only")
}

/// The definitions of `tables` and what belongs to them, as an archive; no rows. Of the server as it is: nobody may be
/// changing it.
pub fn table_schema(tools: &ClientTools, environment: &ChildEnvironment, tables: &[QualifiedTable]) -> ChildSpec {
    let mut arguments: Vec<OsString> =
        ["--format=custom", "--compress=0", "--no-password", "--schema-only"].map(OsString::from).to_vec();
    arguments.extend(tables.iter().map(|table| format!("--table={}", table.quoted()).into()));
    spec(&tools.pg_dump.path, arguments, environment, "pg_dump --schema-only")
}

/// The roles of the cluster as SQL, without passwords, for people to read.
pub fn roles(tools: &ClientTools, environment: &ChildEnvironment, database: &str) -> ChildSpec {
    let mut arguments: Vec<OsString> =
        vec!["--roles-only".into(), "--no-role-passwords".into(), "--no-password".into()];
    arguments.push(format!("--database={database}").into());
    spec(&tools.pg_dumpall.path, arguments, environment, "pg_dumpall --roles-only")
}

fn archive_arguments(coordinator: &Coordinator) -> Vec<OsString> {
    vec![
        "--format=custom".into(),
        "--compress=0".into(),
        "--no-password".into(),
        format!("--snapshot={}", coordinator.snapshot()).into(),
        // A lock that somebody else asked for in the meantime queues between our locks and pg_dump's; without a limit
        // pg_dump would wait for them, they for us, and the application for both.
        format!("--lock-wait-timeout={}", coordinator.lock_timeout().as_millis()).into(),
    ]
}

fn spec(
    program: &std::path::Path,
    mut arguments: Vec<OsString>,
    environment: &ChildEnvironment,
    label: &str,
) -> ChildSpec {
    arguments.extend(environment.role_argument());
    let mut spec = ChildSpec::new(program, arguments);
    spec.environment = environment.variables().clone();
    spec.label = label.to_owned();
    spec
}
