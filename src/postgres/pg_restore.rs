//! Command lines of pg_restore: one section of a schema archive into one database.
//!
//! Rows never go through it: they are loaded by COPY. It stops at the first error, because a schema that is half there
//! proves nothing.

use std::ffi::OsString;
use std::path::Path;

use crate::host::ChildSpec;
use crate::postgres::environment::ChildEnvironment;
use crate::postgres::tools::ClientTools;

/// How to run it.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// `pre-data` or `post-data` (PostgreSQL manual, pg_restore, `--section`).
    pub section: &'a str,
    /// Connections at once.
    pub jobs: usize,
    /// Leave owners and privileges out.
    pub no_owner: bool,
}

/// pg_restore of the archive `file` into `database`.
pub fn from_file(
    tools: &ClientTools,
    environment: &ChildEnvironment,
    database: &str,
    file: &Path,
    options: Options<'_>,
) -> ChildSpec {
    let mut arguments: Vec<OsString> = vec![
        "--exit-on-error".into(),
        "--no-password".into(),
        format!("--section={}", options.section).into(),
        format!("--jobs={}", options.jobs.max(1)).into(),
        format!("--dbname={}", connection_string(database)).into(),
    ];
    if options.no_owner {
        arguments.extend(["--no-owner".into(), "--no-privileges".into()]);
    }
    arguments.extend(environment.role_argument());
    arguments.push(file.into());
    let mut spec = ChildSpec::new(&tools.pg_restore.path, arguments);
    spec.environment = environment.variables().clone();
    spec.label = format!("pg_restore --section={}", options.section);
    spec
}

/// A connection string that names only the database; quoted, so that no name is taken for a string itself
/// (PostgreSQL manual, "Connection Strings").
fn connection_string(database: &str) -> String {
    format!("dbname='{}'", database.replace('\\', "\\\\").replace('\'', "\\'"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f81_a_database_name_is_never_a_connection_string() {
        assert_eq!(connection_string("a b"), "dbname='a b'");
        assert_eq!(connection_string("host=evil'\\"), "dbname='host=evil\\'\\\\'");
    }
}
