//! Opens the doors of a point-in-time restore: repositories that take WAL, keys, and the command PostgreSQL is given.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;

use crate::app::App;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::recover;
use crate::postgres::find_server;

impl App {
    /// What a restore to a moment works with, reading from all repositories or from the one called `only`.
    pub async fn recover_doors(&self, only: Option<&str>, jobs: Option<usize>) -> Result<recover::Doors, Failure> {
        let (mut repositories, unopened) = self.try_repositories(only).await?;
        for (name, failure) in &unopened {
            tracing::warn!(repository = name, error = failure.full_message(), "cannot be opened");
        }
        let config = &self.loaded.config;
        let takes_wal = |name: &str| config.repository.get(name).is_some_and(|each| each.wal);
        repositories.retain(|repository| takes_wal(&repository.name));
        let mut unopened: Vec<_> = unopened.into_iter().filter(|(name, _)| takes_wal(name)).collect();
        if repositories.is_empty() && !unopened.is_empty() {
            return Err(unopened.swap_remove(0).1);
        }
        let cores = available_parallelism().map_or(1, NonZeroUsize::get);
        let jobs = jobs.or(config.restore.jobs.map(usize::from)).unwrap_or(cores).max(1);
        Ok(recover::Doors {
            repositories,
            unopened,
            only: only.map(str::to_owned),
            keys: self.decryption_keys()?,
            cluster: config.cluster.clone(),
            program: self.command()?,
            jobs,
        })
    }

    /// What starts the copy that `plan` makes. Errors where this host has no server of its major version.
    pub async fn starter(&self, plan: &recover::Plan) -> Result<recover::Starter, Failure> {
        let manifest = &plan.artifact.manifest;
        let connection = self.connection(manifest.verb, None)?;
        let (explicit, major) = (self.loaded.config.postgres.bin_directory.clone(), plan.base.major);
        let found = tokio::task::spawn_blocking(move || find_server(explicit.as_deref(), major)).await;
        let found = found.map_err(|error| Failure::new(FailureKind::Failed, "look for PostgreSQL").because(error))?;
        Ok(recover::Starter {
            bin_directory: Some(found?),
            user: connection.user().to_owned(),
            database: manifest.source.database.clone(),
            settings: Vec::new(),
            is_thrown_away: false,
        })
    }

    /// How PostgreSQL calls this program, with absolute paths: it does so in its data directory and without our
    /// environment.
    pub(in crate::app) fn command(&self) -> Result<String, Failure> {
        let program = self.program()?;
        let Some(file) = &self.loaded.file else {
            return Err(Failure::new(FailureKind::Usage, "write restore_command: there is no configuration file")
                .hint("PostgreSQL calls dbagent without its environment: put the configuration into a file, and name it with --config."));
        };
        let file = std::path::absolute(file)
            .map_err(|error| Failure::new(FailureKind::Failed, "find the configuration file").because(error))?;
        Ok(format!("{} --config {}", quoted(&program), quoted(&file)))
    }

    /// The program itself.
    pub(in crate::app) fn program(&self) -> Result<PathBuf, Failure> {
        match &self.program {
            Some(program) => Ok(program.clone()),
            None => std::env::current_exe()
                .map_err(|error| Failure::new(FailureKind::Failed, "find this program").because(error)),
        }
    }
}

/// For a POSIX shell, and for PostgreSQL, which takes `%` for its own.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/._-+=:,@%".contains(&byte));
    if plain { text } else { format!("'{}'", text.replace('\'', "'\\''")) }
}
