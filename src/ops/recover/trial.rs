//! A trial of what the copy's server will do for each segment of the log: call this program, as its own user, with what
//! that user may read and what its environment has. Better said before the whole backup is there than after.
//!
//! The surprising thing: our own variables (`DBAGENT_…`) are not handed on, since they may be secrets; a key that only
//! they name opens the backup for this process, and nothing for the server.

use std::path::Path;
use std::time::Duration;

use crate::host::{ChildSpec, Throwaway, durable, run_to_end};
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::ops::recover::directory::owner;
use crate::ops::recover::{Doors, Options, Plan};

/// How its directory is called, with something random after it.
const KIND: &str = "dbagent-trial-";
/// Longest that fetching one segment may take.
const FETCH_TIME: Duration = Duration::from_secs(600);

/// Errors unless the server that will run on the copy which `options` describe can fetch from the log. One segment is
/// written below `directory` and removed.
pub async fn require_fetch(
    plan: &Plan,
    options: &Options,
    directory: &Path,
    doors: &Doors,
    setting: &Setting,
) -> Result<(), Failure> {
    let owner = owner(&options.to)?;
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, format!("make a place in {} to try to fetch into", directory.display()))
            .because(error)
            .hint("Set [restore] scratch_directory to a directory that this user and PostgreSQL's can reach.")
    };
    let parent = directory.to_owned();
    let making = tokio::task::spawn_blocking(move || Throwaway::make(KIND, &parent, owner)).await;
    let place = making.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
    try_fetch(plan, &place, doors, setting).await?;
    let clearing = tokio::task::spawn_blocking(move || place.clear()).await;
    clearing.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
}

/// Errors unless the owner of `place` can fetch the first segment of the log with the very command that it will be given.
pub(super) async fn try_fetch(plan: &Plan, place: &Throwaway, doors: &Doors, setting: &Setting) -> Result<(), Failure> {
    setting.events.step("trying to fetch from the log");
    let probe = place.path().join("probe");
    let command = filled_in(&doors.restore_command(plan), &plan.reach.first.to_string(), &probe.display().to_string());
    let directory = Some(place.path().to_owned());
    let spec = ChildSpec {
        directory,
        inherits_all: true,
        run_as: place.owner(),
        label: "dbagent wal fetch".into(),
        ..ChildSpec::new("/bin/sh", ["-c".to_owned(), command])
    };
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, "fetch from the log as the copy's server will").because(error).hint(
            "Nothing was restored. The server calls `dbagent wal fetch` itself: as root, run this command as the user \
                 that PostgreSQL runs as, who must be able to read the configuration and the key; what only DBAGENT_ \
                 variables say it does not get: write it into the configuration file.",
        )
    };
    let running = async {
        let running = tokio::task::spawn_blocking(move || run_to_end(&spec, FETCH_TIME));
        running.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    };
    setting.unless_stopped("try to fetch from the log", running).await?;
    durable::remove(&probe).map_err(|error| failed(error.into()))
}

/// `%f` and `%p` of a restore_command replaced, and `%%` by one (manual, "restore_command").
fn filled_in(command: &str, file: &str, path: &str) -> String {
    let mut filled = String::new();
    let mut rest = command.chars();
    while let Some(character) = rest.next() {
        match (character, if character == '%' { rest.next() } else { None }) {
            ('%', Some('f')) => filled.push_str(file),
            ('%', Some('p')) => filled.push_str(path),
            (_, next) => filled.push(next.unwrap_or(character)),
        }
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::filled_in;

    #[test]
    fn only_the_command_s_own_signs_are_replaced() {
        assert_eq!(filled_in("x '/a%%p' \"%f\" \"%p\"", "0001", "/b%f"), "x '/a%p' \"0001\" \"/b%f\"");
    }
}
