//! PostgreSQL's own programs: where they are and whether they are new enough for the server.
//!
//! A client tool older than the server refuses to run or, worse, misses what is new; so the major of every tool must
//! be the server's or a later one (pg_dump manual page, "Notes"). Messages always name path and version.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::error::{PostgresError, PostgresErrorKind};
use crate::host::child::{find_on_search_path, is_program};
use crate::host::{ChildSpec, run_to_end};

const ANSWER_TIME: Duration = Duration::from_secs(20);
/// Where distributions install the programs of several majors side by side: what stands before and after the number.
const INSTALLATIONS: [(&str, &str, &str); 2] = [("/usr/lib/postgresql", "", "bin"), ("/usr", "pgsql-", "bin")];

/// One program and its version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tool {
    /// Full path.
    pub path: PathBuf,
    /// Its version line: `pg_dump (PostgreSQL) 15.14`.
    pub version: String,
    /// Its major version.
    pub major: u32,
}

impl Tool {
    fn ask(path: PathBuf) -> Result<Self, PostgresError> {
        let unusable = || PostgresError::new(PostgresErrorKind::Other, format!("use {}", path.display()));
        let said = run_to_end(&ChildSpec::new(&path, ["--version"]), ANSWER_TIME);
        let said = said.map_err(|error| unusable().because(error))?;
        let version = String::from_utf8_lossy(&said.stdout).trim().to_owned();
        match major_of(&version) {
            Some(major) => Ok(Self { path, version, major }),
            None => Err(unusable().because(format!("it says its version is {version:?}"))),
        }
    }
}

/// The major in `pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.chars().take_while(char::is_ascii_digit).collect::<String>().parse().ok()
}

/// The programs of a dump and a restore, all of one installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientTools {
    /// pg_dump.
    pub pg_dump: Tool,
    /// pg_dumpall.
    pub pg_dumpall: Tool,
    /// pg_restore.
    pub pg_restore: Tool,
}

impl ClientTools {
    /// Finds tools for a server of `server_major`: only in `bin_directory` where it is given, else wherever
    /// [`bin_directories`] looks, those of the very same major first. Errors when none is new enough.
    pub fn find(bin_directory: Option<&Path>, server_major: u32) -> Result<Self, PostgresError> {
        let directories = bin_directories(bin_directory);
        let complete = |directory: &PathBuf| is_program(&directory.join("pg_dump"));
        let mut found = Vec::new();
        for directory in directories.iter().filter(|directory| complete(directory)) {
            let tools = Self::in_directory(directory)?;
            if tools.major() == server_major {
                return Ok(tools);
            }
            found.push(tools);
        }
        let newest = found.iter().max_by_key(|tools| tools.major()).cloned();
        let fitting = found.into_iter().filter(|tools| tools.major() >= server_major);
        match (fitting.min_by_key(Self::major), newest) {
            (Some(tools), _) => Ok(tools),
            (None, Some(newest)) => Err(newest.too_old_for(server_major)),
            (None, None) => Err(none_found("pg_dump", &directories)),
        }
    }

    fn in_directory(directory: &Path) -> Result<Self, PostgresError> {
        let ask = |name: &str| Tool::ask(directory.join(name));
        Ok(Self { pg_dump: ask("pg_dump")?, pg_dumpall: ask("pg_dumpall")?, pg_restore: ask("pg_restore")? })
    }

    /// The version line of every tool, with its path.
    pub fn versions(&self) -> Vec<String> {
        let tools = [&self.pg_dump, &self.pg_dumpall, &self.pg_restore];
        tools.map(|tool| format!("{} at {}", tool.version, tool.path.display())).to_vec()
    }

    /// The lowest major among them.
    pub fn major(&self) -> u32 {
        self.pg_dump.major.min(self.pg_dumpall.major).min(self.pg_restore.major)
    }

    fn too_old_for(&self, server_major: u32) -> PostgresError {
        let tools = [&self.pg_dump, &self.pg_dumpall, &self.pg_restore];
        let oldest = tools.into_iter().min_by_key(|tool| tool.major).unwrap_or(&self.pg_dump);
        let message = format!(
            "use {} at {}: it is older than the server, which is PostgreSQL {server_major}",
            oldest.version,
            oldest.path.display()
        );
        let hint = format!("install postgresql-client-{server_major}, or set postgres.bin_directory to newer programs");
        PostgresError::new(PostgresErrorKind::Other, message).hint(hint)
    }
}

/// The directories in which PostgreSQL's programs are looked for, best first: `explicit` alone where it is given, else
/// what `pg_config` says, the distributions' installations with the newest first, and that of `pg_dump` on `PATH`.
pub fn bin_directories(explicit: Option<&Path>) -> Vec<PathBuf> {
    if let Some(directory) = explicit {
        return vec![directory.to_owned()];
    }
    let mut found: Vec<PathBuf> = Vec::new();
    for directory in configured().into_iter().chain(installed()).chain(on_search_path()) {
        if !found.contains(&directory) {
            found.push(directory);
        }
    }
    found
}

/// The program `name` in the first of [`bin_directories`] that has it.
pub fn find_tool(explicit: Option<&Path>, name: &str) -> Result<PathBuf, PostgresError> {
    let directories = bin_directories(explicit);
    let found = directories.iter().map(|directory| directory.join(name)).find(|path| is_program(path));
    found.ok_or_else(|| none_found(name, &directories))
}

/// The directory with the server's programs of the major version `major`, where [`bin_directories`] looks. A data directory
/// runs under its own major alone (PostgreSQL manual, "Upgrading a PostgreSQL Cluster").
pub fn find_server(explicit: Option<&Path>, major: u32) -> Result<PathBuf, PostgresError> {
    let directories = bin_directories(explicit);
    let mut others = Vec::new();
    for directory in &directories {
        let (server, control) = (directory.join("postgres"), directory.join("pg_ctl"));
        if !is_program(&server) || !is_program(&control) {
            continue;
        }
        let tool = Tool::ask(control)?;
        if tool.major == major {
            return Ok(directory.clone());
        }
        others.push(format!("{} at {}", tool.version, directory.display()));
    }
    let found = if others.is_empty() { "none".to_owned() } else { others.join(", ") };
    let message = format!("find the server's programs of PostgreSQL {major}: found {found}");
    let hint = format!("install postgresql-{major} on this host, or set postgres.bin_directory to its programs");
    Err(PostgresError::new(PostgresErrorKind::Other, message).hint(hint))
}

fn none_found(name: &str, directories: &[PathBuf]) -> PostgresError {
    let looked: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
    let looked = if looked.is_empty() { "any usual place".to_owned() } else { looked.join(", ") };
    PostgresError::new(PostgresErrorKind::Other, format!("find {name} in {looked}"))
        .hint("install PostgreSQL's client programs, or set postgres.bin_directory")
}

fn configured() -> Option<PathBuf> {
    let asked = run_to_end(&ChildSpec::new(find_on_search_path("pg_config")?, ["--bindir"]), ANSWER_TIME);
    // A broken pg_config says nothing about where the programs are; the other places are looked at.
    let directory = String::from_utf8(asked.ok()?.stdout).ok()?;
    Some(PathBuf::from(directory.trim())).filter(|directory| directory.is_dir())
}

fn installed() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for (parent, prefix, below) in INSTALLATIONS {
        let Ok(entries) = std::fs::read_dir(parent) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(major) = name.strip_prefix(prefix).and_then(|number| number.parse().ok()) {
                found.push((major, entry.path().join(below)));
            }
        }
    }
    found.sort_by_key(|(major, _)| std::cmp::Reverse(*major));
    found.into_iter().map(|(_, directory)| directory).collect()
}

fn on_search_path() -> Option<PathBuf> {
    Some(find_on_search_path("pg_dump")?.parent()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_is_read_from_every_form_of_the_version_line() {
        assert_eq!(major_of("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(major_of("pg_restore (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(major_of("pg_dump 9.6"), None);
    }
}
