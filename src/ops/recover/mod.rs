//! The verb `restore` from a base backup and the log: the whole cluster as it was at a moment, in a directory.
//!
//! Planned before anything is written; the directory is no data directory until everything in it is whole: PostgreSQL
//! refuses to start it, a file in it says why, and running the restore again goes on where it was.

mod aside;
mod choose;
mod configure;
mod directory;
mod files;
mod refusal;
mod start;
mod target;
mod trial;
mod unpack;

use std::path::PathBuf;

use crate::catalog::{Repository, Selector};
use crate::host::failpoint::{FailPoint, pass};
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::lsn::Timeline;
use crate::model::wal::Asked;
use crate::ops::Setting;
use crate::pipeline::openpgp::DecryptionKeys;
use crate::steps::unlock;

pub use crate::steps::wal::Reach;
pub use aside::{Aside, aside, require_aside};
pub use choose::{Plan, plan};
pub use directory::TablespaceMap;
pub use start::{Started, Starter, start};
pub use target::{Action, Target};
pub use trial::require_fetch;

use directory::Place;

/// What to restore, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// The data directory to make.
    pub to: PathBuf,
    /// Where recovery ends.
    pub target: Target,
    /// Whether what is exactly at the target is left out.
    pub exclusive: bool,
    /// The timeline to follow; the newest that serves the target when absent.
    pub timeline: Option<Timeline>,
    /// The base backup; chosen when absent.
    pub backup: Option<Selector>,
    /// What the server does at the target.
    pub action: Action,
    /// Do nothing where there is a whole data directory already.
    pub if_empty: bool,
    /// Keep the files that are right already.
    pub delta: bool,
    /// Where tablespaces go.
    pub tablespaces: Vec<TablespaceMap>,
    /// Whether the copy takes the primary's place, archive and all.
    pub takeover: bool,
    /// Take manifests that no trusted key signed; a person typed that.
    pub accept_unsigned: bool,
}

/// What a restore works with.
#[derive(Debug)]
pub struct Doors {
    /// Where to look, best first.
    pub repositories: Vec<Repository>,
    /// Repositories that could not be opened: what they hold is not known.
    pub unopened: Vec<(String, Failure)>,
    /// The repository that a person named: nothing else is to be read.
    pub only: Option<String>,
    /// What decrypts; absent where nothing is encrypted.
    pub keys: Option<DecryptionKeys>,
    /// The cluster's name.
    pub cluster: String,
    /// How PostgreSQL calls this program: with absolute paths, quoted for a shell.
    pub program: String,
    /// Parts that are fetched and unpacked at once.
    pub jobs: usize,
}

impl Doors {
    /// The command that gives PostgreSQL a file of the log that `plan` follows, with `%f` and `%p`.
    fn restore_command(&self, plan: &Plan) -> String {
        // Names of repositories are plain words.
        let asked = match &plan.asked {
            Asked::All => String::new(),
            Asked::Believing(name) => format!(" --believe={name}"),
            Asked::Only(name) => format!(" --repository={name}"),
        };
        format!("{} wal fetch --within --through={}{asked} \"%f\" \"%p\"", self.program, plan.reach.last)
    }
}

/// What was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// The data directory.
    pub directory: PathBuf,
    /// Files and directories written.
    pub files: u64,
    /// Bytes written.
    pub bytes: u64,
    /// Files that were right already.
    pub kept: u64,
    /// Whether all of it was fetched now, and nothing by a run before.
    pub whole: bool,
    /// User and group id that the directory belongs to, where that is not this process's own.
    pub owner: Option<(u32, u32)>,
    /// Seconds that each phase took, in order.
    pub phases: Vec<(&'static str, f64)>,
    /// What keeps its backups, and the log behind them, until it is recovered; they end by themselves where it never is.
    leases: Vec<ObjectKey>,
}

/// Whether there is nothing to do: a whole data directory is there, and that is enough for the caller.
pub fn is_there(options: &Options) -> bool {
    options.if_empty && Place::is_whole(&options.to)
}

/// Refuses what [`restore`] would refuse in the end, as far as that shows without writing anything: the directory, the room
/// for it, and whether the keys at hand open the backups.
pub async fn require_possible(plan: &Plan, options: &Options, doors: &Doors, setting: &Setting) -> Result<(), Failure> {
    Place::require_possible(plan, options)?;
    require_openable(plan, doors, setting).await
}

/// Errors unless the keys at hand open the backups of `plan`.
pub async fn require_openable(plan: &Plan, doors: &Doors, setting: &Setting) -> Result<(), Failure> {
    unlock::require_openable(&plan.repository, &plan.chain, doors.keys.as_ref(), &setting.events).await
}

/// Carries `plan` out. The server is not started. The backups stay leased: recovery reads the log behind them, and a restore
/// that did not end goes on with them.
pub async fn restore(plan: &Plan, options: &Options, doors: &Doors, setting: &Setting) -> Result<Restored, Failure> {
    restore_leasing(plan, options, doors, &mut Vec::new(), setting).await
}

/// The same; what was leased is in `leases` also when it fails.
async fn restore_leasing(
    plan: &Plan,
    options: &Options,
    doors: &Doors,
    leases: &mut Vec<ObjectKey>,
    setting: &Setting,
) -> Result<Restored, Failure> {
    unlock::require_keys(&plan.chain, doors.keys.as_ref())?;
    let clock = setting.clock.clone();
    let began = clock.monotonic();
    let place = Place::prepare(plan, options)?;
    pass(FailPoint::RecoverMarked)?;
    lease(plan, leases, setting).await;
    setting.events.step(format!("restoring {} into {}", plan.artifact.name, options.to.display()));
    let unpacked = unpack::unpack(plan, &place, options, doors, setting).await;
    let unpack::Unpacked { files, bytes, kept } = unpacked.map_err(|failure| match setting.stop.is_cancelled() && failure.kind == FailureKind::Failed {
        true => failure.hint(format!(
            "What is whole of it stays in {}, which PostgreSQL refuses to start: run the same command again, and it goes on.",
            options.to.display()
        )),
        false => failure,
    })?;
    let fetched = clock.monotonic();
    pass(FailPoint::RecoverBeforeSettings)?;
    place.require_label(plan)?;
    configure::write(plan, options, &place, doors)?;
    setting.events.step("making it durable");
    place.finish()?;
    let done = clock.monotonic();
    let phases = vec![("fetch", (fetched - began).as_secs_f64()), ("settle", (done - fetched).as_secs_f64())];
    let (directory, whole, owner) = (options.to.clone(), place.done.is_empty(), place.owner());
    let leases = leases.clone();
    Ok(Restored { directory, files, bytes, kept, whole, owner, phases, leases })
}

/// Ends the leases of a copy that needs its backups and their log no more.
async fn release(plan: &Plan, leases: &[ObjectKey], setting: &Setting) {
    for lease in leases {
        if let Err(error) = plan.repository.end_lease(lease).await {
            setting.events.note(format!("the lease {lease} stays until it ends by itself: {error}"));
        }
    }
}

/// A lease on each backup of the chain.
async fn lease(plan: &Plan, leases: &mut Vec<ObjectKey>, setting: &Setting) {
    for artifact in &plan.chain {
        match plan.repository.lease(artifact.manifest.id, setting.run, setting.clock.now()).await {
            Ok(lease) => leases.push(lease),
            Err(error) => {
                let message = format!("no lease on the backup, so that an expiry could delete it meanwhile: {error}");
                setting.events.note(message);
            }
        }
    }
}
