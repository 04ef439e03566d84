//! Opening below a directory without ever leaving it: no symbolic link is followed, whoever planted it.
//!
//! `openat2` with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS (Linux 5.6) does it in one call. Where a kernel or a container
//! runtime refuses that call, the path is walked component by component with O_NOFOLLOW, which is as tight because an
//! object key has no `..`. The root itself may be a link: the operator named it.

use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, OwnedFd};
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, mkdirat, open, openat, openat2, statat};
use rustix::io::{Errno, Result};

use crate::host::durable::give_to_owner_of;

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory that everything else is opened below.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    folder: OwnedFd,
}

impl Root {
    pub(super) fn open(path: &Path) -> Result<Self> {
        Ok(Self { path: path.to_owned(), folder: open(path, FOLDER, Mode::empty())? })
    }

    /// The path of `relative`, for messages only.
    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    pub(super) fn stat(&self) -> Result<Stat> {
        rustix::fs::fstat(&self.folder)
    }

    /// The folder `relative`; the root for the empty text.
    pub(super) fn folder(&self, relative: &str) -> Result<OwnedFd> {
        self.open_below(if relative.is_empty() { "." } else { relative }, FOLDER)
    }

    /// The regular file `relative`, to be read. NONBLOCK keeps a planted FIFO from hanging us.
    pub(super) fn file(&self, relative: &str) -> Result<OwnedFd> {
        let file = self.open_below(relative, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
        match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            _ => Err(Errno::NOENT),
        }
    }

    /// The facts of `relative`, not following a link in its last component.
    pub(super) fn stat_of(&self, relative: &str) -> Result<Stat> {
        let (folder, name) = split(relative);
        statat(self.folder(folder)?, name, AtFlags::SYMLINK_NOFOLLOW)
    }

    /// The folder `relative`, made with mode 0700 where it is missing.
    pub(super) fn make_folder(&self, relative: &str) -> Result<OwnedFd> {
        match self.folder(relative) {
            Err(Errno::NOENT) => {}
            found => return found,
        }
        let (above, name) = split(relative);
        let above = self.make_folder(above)?;
        let made = match mkdirat(&above, name, Mode::RWXU) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(error) => return Err(error),
        };
        let folder = openat(&above, name, FOLDER | OFlags::NOFOLLOW, Mode::empty())?;
        if made {
            give_to_owner_of(&above, &folder)?;
        }
        Ok(folder)
    }

    fn open_below(&self, relative: &str, flags: OFlags) -> Result<OwnedFd> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        match openat2(&self.folder, relative, flags, Mode::empty(), resolve) {
            Err(Errno::NOSYS | Errno::PERM) => self.walk(relative, flags),
            opened => opened,
        }
    }

    fn walk(&self, relative: &str, flags: OFlags) -> Result<OwnedFd> {
        let (folders, name) = split(relative);
        let mut above = openat(&self.folder, ".", FOLDER, Mode::empty())?;
        for component in folders.split('/').filter(|component| !component.is_empty()) {
            above = step(above.as_fd(), component, FOLDER)?;
        }
        step(above.as_fd(), name, flags)
    }
}

fn step(above: impl AsFd, component: &str, flags: OFlags) -> Result<OwnedFd> {
    if component == ".." {
        return Err(Errno::XDEV);
    }
    openat(above, component, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// A relative path as its folder and its name.
pub(super) fn split(relative: &str) -> (&str, &str) {
    relative.rsplit_once('/').unwrap_or(("", relative))
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "what is tested is planted behind its back")]
mod tests {
    use super::*;

    fn planted() -> (tempfile::TempDir, Root) {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("root");
        std::fs::create_dir_all(root.join("a/b")).unwrap();
        std::fs::create_dir(place.path().join("outside")).unwrap();
        std::fs::write(place.path().join("outside/secret"), "secret").unwrap();
        std::fs::write(root.join("a/b/file"), "inside").unwrap();
        std::os::unix::fs::symlink(place.path().join("outside"), root.join("a/out")).unwrap();
        std::os::unix::fs::symlink("b", root.join("a/in")).unwrap();
        std::os::unix::fs::symlink("b/file", root.join("a/link")).unwrap();
        let root = Root::open(&root).unwrap();
        (place, root)
    }

    #[test]
    fn f22_neither_openat2_nor_the_walk_follows_a_link_or_climbs() {
        let (_place, root) = planted();
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        for path in ["a/out/secret", "a/in/file", "a/link", "../outside/secret", "a/../../outside/secret"] {
            assert!(root.open_below(path, flags).is_err(), "{path} was opened");
            assert!(root.walk(path, flags).is_err(), "{path} was opened by the walk");
        }
        assert!(root.open_below("a/b/file", flags).is_ok());
        assert!(root.walk("a/b/file", flags).is_ok());
    }

    #[test]
    fn new_folders_are_for_the_owner_only() {
        let (place, root) = planted();
        root.make_folder("x/y/z").unwrap();
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(place.path().join("root/x/y")).unwrap());
        assert_eq!(mode & 0o777, 0o700);
        assert!(root.make_folder("a/out/new").is_err());
    }
}
