//! A copy of the cluster for one piece of work: recovered in a throw-away directory, read over its socket, and gone.
//!
//! It must do nothing to the world outside: it archives nothing, follows no primary, subscribes to nothing and cleans no
//! archive, whatever the cluster's configuration says. The surprising thing: the log has CREATE TABLESPACE with the place
//! as it was, and replaying that writes into the live cluster's files (manual, "Continuous Archiving", "Caveats"); so a
//! tablespace that the base backup does not know forbids a copy on the same host.

use std::path::{Path, PathBuf};

use crate::host::failpoint::{FailPoint, pass};
use crate::host::{Throwaway, durable};
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::ops::recover::directory::{TablespaceMap, require_room};
use crate::ops::recover::start::{Started, Starter, start};
use crate::ops::recover::trial::try_fetch;
use crate::ops::recover::{Action, Doors, Options, Plan, Restored, release, restore_leasing};
use crate::postgres::{Connection, base_backup};
use crate::steps::scratch::server_user;

/// How its directory is called, with something random after it.
const KIND: &str = "dbagent-past-";
/// The data directory in it.
const DATA: &str = "data";
/// Nothing of it is kept, and it must neither act on anything outside nor take the live server's memory.
const SETTINGS: [(&str, &str); 18] = [
    ("archive_mode", "off"),
    ("archive_command", ""),
    ("archive_cleanup_command", ""),
    ("recovery_end_command", ""),
    ("primary_conninfo", ""),
    ("primary_slot_name", ""),
    ("synchronous_standby_names", ""),
    ("max_logical_replication_workers", "0"),
    ("autovacuum", "off"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("shared_buffers", "128MB"),
    ("huge_pages", "off"),
    ("ssl", "off"),
    ("jit", "off"),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
];

/// A copy that has come to its target. Dropping it stops its server and removes everything.
#[derive(Debug)]
pub struct Aside {
    place: Throwaway,
    /// What was restored.
    pub restored: Restored,
    /// Where its server is, and how far it came.
    pub started: Started,
}

impl Aside {
    /// A directory that goes with it.
    pub fn directory(&self) -> &Path {
        self.place.path()
    }

    /// Stops its server and removes everything.
    pub async fn clear(self) -> Result<(), Failure> {
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
            Failure::new(FailureKind::Failed, "remove the copy of the cluster")
                .because(error)
                .hint("It holds decrypted data: remove it by hand, or run the command again, which does.")
        };
        let clearing = tokio::task::spawn_blocking(move || self.place.clear());
        clearing.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
    }
}

/// Errors where a copy below `directory` cannot be made, before anything is written: no room, or it would write outside.
pub async fn require_aside(plan: &Plan, directory: &Path, live: &Connection) -> Result<(), Failure> {
    require_room(directory, std::iter::empty(), plan)?;
    let session = live.connect().await?;
    let tablespaces = base_backup::tablespaces(&session).await?;
    let is_known = |oid: u32| plan.base.tablespaces.iter().any(|known| known.oid == oid);
    let stray = tablespaces.iter().find(|each| !is_known(each.oid) && Path::new(&each.path).exists());
    let Some(stray) = stray else { return Ok(()) };
    let message = format!(
        "recover a copy on this host: the tablespace at {} was made after the base backup, and replaying that would write \
         into its files",
        stray.path
    );
    Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
        "Do it on another host; and make a base backup after every change of tablespaces: `dbagent job run base`.",
    ))
}

/// Makes the copy below `directory` and brings it to the target of `options`, whose `to` and tablespaces are chosen here.
pub async fn aside(
    plan: &Plan,
    options: &Options,
    directory: &Path,
    doors: &Doors,
    starter: &Starter,
    setting: &Setting,
) -> Result<Aside, Failure> {
    let place = make(directory.to_owned()).await?;
    let options = Options {
        to: place.path().join(DATA),
        tablespaces: tablespaces(plan, place.path()),
        action: Action::Pause,
        if_empty: false,
        delta: false,
        takeover: false,
        ..options.clone()
    };
    try_fetch(plan, &place, doors, setting).await?;
    let settings = SETTINGS.map(|(name, value)| (name, value.to_owned())).to_vec();
    let starter = Starter { settings, is_thrown_away: true, ..starter.clone() };
    let mut leases = Vec::new();
    let made = async {
        let restored = restore_leasing(plan, &options, doors, &mut leases, setting).await?;
        let started = start(plan, &options, &restored, &starter, setting).await?;
        pass(FailPoint::RecoverAside)?;
        Ok::<_, Failure>((restored, started))
    };
    match made.await {
        Ok((restored, started)) => Ok(Aside { place, restored, started }),
        Err(failure) => {
            // Nobody goes on with a copy that is removed.
            release(plan, &leases, setting).await;
            let hint = "The copy is removed with its log, and the live database was not touched. \
                `dbagent restore --to DIRECTORY --start` makes one that stays, to look into.";
            Err(failure.hint(hint))
        }
    }
}

/// The directory; those that were left by others are removed first.
async fn make(directory: PathBuf) -> Result<Throwaway, Failure> {
    let failed = |error: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Failed, "make a place for a copy of the cluster")
            .because(error)
            .hint("Set [restore] scratch_directory to a directory that this user and PostgreSQL's can reach.")
    };
    let owner = server_user().map_err(|error| failed(error.into()))?;
    let making = tokio::task::spawn_blocking(move || Throwaway::make(KIND, &directory, owner));
    let place = making.await.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))?;
    if !durable::fits_a_socket(&place.path().join(DATA), ".s.PGSQL.5432") {
        let message =
            format!("use {} for a copy of the cluster: the path is too long for a socket", place.path().display());
        return Err(
            Failure::new(FailureKind::Usage, message).hint("Set [restore] scratch_directory to a shorter path.")
        );
    }
    Ok(place)
}

/// Each tablespace into the directory, never to where the live one is.
fn tablespaces(plan: &Plan, directory: &Path) -> Vec<TablespaceMap> {
    let map = |oid: u32| TablespaceMap { old: oid.to_string(), new: directory.join(format!("tablespace-{oid}")) };
    plan.base.tablespaces.iter().map(|tablespace| map(tablespace.oid)).collect()
}
