//! A throw-away directory in which programs run: gone with all of them when the work ends, however it ends.
//!
//! Dropping it ends every process that works in it and removes it. A guard, a process of its own that waits for us to
//! vanish, does the same after `kill -9`; what outlives both (the machine went down) the next [`Throwaway::make`] removes.
//! The surprising thing: processes are found by their working directory, never by a number that a file remembers, which
//! may be somebody else's by now.

use std::fs::{Metadata, canonicalize, read_dir, read_link, symlink_metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::child::{ChildInput, ChildSpec};
use super::durable::{self, FileError};
use super::lock::FileLock;

/// The lock that its maker holds while it lives.
const LOCK: &str = "lock";
/// Attempts at making one: a sweep of somebody else's may take a fresh one for one that was left.
const ATTEMPTS: u32 = 5;
/// How long processes may take to end at each signal.
const GRACE: Duration = Duration::from_secs(5);
/// Removing it is tried again while processes that are just ending still write.
const REMOVALS: u32 = 20;

/// Waits for the end of its input, which is our end; then ends whoever works in the directory and removes it.
const GUARD: &str = r#"exec 2>/dev/null; trap '' HUP INT TERM; cat >/dev/null
for turn in 1 2 3 4 5 6 7 8 9 10 11 12; do
  signal=QUIT; [ "$turn" -gt 4 ] && signal=KILL
  for link in /proc/[0-9]*/cwd; do
    case "$(readlink "$link")" in "$1"|"$1"/*) process=${link#/proc/}; kill -s "$signal" "${process%/cwd}";; esac
  done
  rm -rf -- "$1" && exit 0
  sleep 1
done"#;

/// A directory, its lock and its guard.
#[derive(Debug)]
pub struct Throwaway {
    path: PathBuf,
    owner: Option<(u32, u32)>,
    guard: Option<ChildInput>,
    // Last: who holds it is alive, and nobody sweeps.
    _lock: FileLock,
}

impl Throwaway {
    /// A new directory below `parent` that only its owner can enter, given to `owner` (user and group id) where that is not
    /// this process's own; `prefix` names its kind. Those of the kind that were left behind are removed first. Blocks.
    pub fn make(prefix: &str, parent: &Path, owner: Option<(u32, u32)>) -> Result<Self, FileError> {
        let parent = canonicalize(parent).map_err(|error| FileError::io("use the directory", parent, error))?;
        sweep(prefix, &parent, owner)?;
        for _ in 1..ATTEMPTS {
            if let Some(made) = Self::attempt(prefix, &parent, owner)? {
                return Ok(made);
            }
        }
        Err(FileError::io("make a directory in", &parent, io::Error::other("others remove it as soon as it is there")))
    }

    fn attempt(prefix: &str, parent: &Path, owner: Option<(u32, u32)>) -> Result<Option<Self>, FileError> {
        let directory = durable::temporary_directory(prefix, parent, owner)?;
        let lock = directory.path().join(LOCK);
        let Ok(held) = FileLock::take(&lock, "a copy of the cluster for one piece of work") else { return Ok(None) };
        if !lock.exists() {
            return Ok(None);
        }
        let path = directory.keep();
        let mut made = Self { path, owner, guard: None, _lock: held };
        let words = ["-c".to_owned(), GUARD.to_owned(), "dbagent-guard".to_owned(), made.path.display().to_string()];
        let spec = ChildSpec { directory: Some("/".into()), ..ChildSpec::new("/bin/sh", words) };
        let guard =
            ChildInput::spawn(&spec).map_err(|error| FileError::io("guard", &made.path, io::Error::other(error)));
        made.guard = Some(guard?);
        Ok(Some(made))
    }

    /// Where it is, without symbolic links.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whom it belongs to, where that is not this process's own user.
    pub fn owner(&self) -> Option<(u32, u32)> {
        self.owner
    }

    /// Ends whoever works in it and removes it; nothing of this process may be writing there any more. Blocks.
    pub fn clear(mut self) -> Result<(), FileError> {
        clear(&self.path)?;
        // What it was to guard is gone.
        drop(self.guard.take());
        Ok(())
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let Some(guard) = self.guard.take() else { return };
        // A thread of ours may still be writing, and makes anew what is removed: the guard stays until we have ended.
        std::mem::forget(guard);
        if let Err(error) = clear(&self.path) {
            tracing::warn!(error = %error, "what could not be removed is tried again when this process has ended");
        }
    }
}

/// Removes every directory of the kind `prefix` below `parent` whose maker is gone.
fn sweep(prefix: &str, parent: &Path, owner: Option<(u32, u32)>) -> Result<(), FileError> {
    for name in durable::names_in(parent)?.iter().filter(|name| name.starts_with(prefix)) {
        let path = parent.join(name);
        if !symlink_metadata(&path).is_ok_and(|facts| is_ours(&facts, owner)) {
            continue;
        }
        if let Ok(_alone) = FileLock::take(&path.join(LOCK), "removing what was left behind") {
            clear(&path)?;
        }
    }
    Ok(())
}

/// Anybody can make a directory of that name in a place that all may write to.
fn is_ours(facts: &Metadata, owner: Option<(u32, u32)>) -> bool {
    let own = rustix::process::geteuid().as_raw();
    let users = [Some(own), owner.map(|(user, _)| user)];
    facts.is_dir() && facts.mode() & 0o077 == 0 && users.contains(&Some(facts.uid()))
}

fn clear(path: &Path) -> Result<(), FileError> {
    let failed = |error: io::Error| FileError::io("remove", path, error);
    let mut attempts = 0;
    loop {
        for signal in [Signal::QUIT, Signal::KILL] {
            end_all(&inhabitants(path).map_err(failed)?, signal);
        }
        #[expect(clippy::disallowed_methods, reason = "the directory is this module's own")]
        let removed = std::fs::remove_dir_all(path);
        attempts += 1;
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if attempts == REMOVALS => return Err(failed(error)),
            Err(_) => {}
            Ok(()) => return Ok(()),
        }
    }
}

/// Every process whose working directory is `path` or below it.
fn inhabitants(path: &Path) -> io::Result<Vec<OwnedFd>> {
    let mut found = Vec::new();
    for entry in read_dir("/proc")? {
        let entry = entry?;
        let number = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        // One that is gone by now, or another user's, does not work in here.
        let is_inside = || read_link(entry.path().join("cwd")).is_ok_and(|at| at.starts_with(path));
        let Some(number) = number.filter(|_| is_inside()) else { continue };
        let Ok(process) = pidfd_open(number, PidfdFlags::empty()) else { continue };
        // Asked again: before it was held, the number may have become another process's.
        if is_inside() {
            found.push(process);
        }
    }
    Ok(found)
}

/// Signals them all and waits until they have ended, for [`GRACE`] at most each.
fn end_all(processes: &[OwnedFd], signal: Signal) {
    for process in processes {
        // One that has ended needs no signal; whoever works on is found again.
        let _ = pidfd_send_signal(process, signal);
    }
    let patience = Timespec::try_from(GRACE).ok();
    for process in processes {
        let _ = poll(&mut [PollFd::new(process, PollFlags::IN)], patience.as_ref());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::{Child, ChildSpec};

    const KIND: &str = "dbagent-throwaway-";

    fn sleeper(directory: &Path) -> Child {
        let spec = ChildSpec { directory: Some(directory.to_owned()), ..ChildSpec::new("/bin/sleep", ["600"]) };
        Child::spawn(&spec).unwrap()
    }

    #[test]
    fn dropping_it_ends_who_works_in_it_and_removes_it() {
        let parent = tempfile::tempdir().unwrap();
        let made = Throwaway::make(KIND, parent.path(), None).unwrap();
        let below = made.path().join("data");
        durable::private_directory(&below).unwrap();
        let _one = sleeper(&below);
        let path = made.path().to_owned();
        while inhabitants(&path).unwrap().is_empty() {}
        drop(made);
        assert!(!path.exists());
        assert!(inhabitants(&path).unwrap().is_empty(), "a process was left");
    }

    #[test]
    fn one_that_was_left_is_removed_by_the_next_and_one_in_use_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let in_use = Throwaway::make(KIND, parent.path(), None).unwrap();
        let left = durable::temporary_directory(KIND, parent.path(), None).unwrap().keep();
        let open = durable::temporary_directory(KIND, parent.path(), None).unwrap().keep();
        super::super::files::set_mode(&open, 0o755).unwrap();
        let next = Throwaway::make(KIND, parent.path(), None).unwrap();
        assert!(in_use.path().exists() && !left.exists(), "{left:?}");
        assert!(open.exists(), "one that others can enter was never ours");
        next.clear().unwrap();
    }
}
