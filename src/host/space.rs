//! How much room a file system has.
//!
//! What an ordinary user may still write counts, not what is reserved for root.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;

/// The room of one file system, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// All of it.
    pub total: u64,
    /// What an ordinary user may still write.
    pub free: u64,
}

impl Space {
    /// The room of the file system that holds `path`.
    pub fn at(path: &Path) -> io::Result<Self> {
        let facts = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(facts.f_frsize);
        Ok(Self { total: bytes(facts.f_blocks), free: bytes(facts.f_bavail) })
    }

    /// The room of all file systems that `paths` are on, each counted once; of a path that is not there, where it would be.
    pub fn over<'p>(paths: impl IntoIterator<Item = &'p Path>) -> io::Result<Self> {
        let (mut sum, mut counted) = (Self { total: 0, free: 0 }, BTreeSet::new());
        for path in paths {
            let there = path.ancestors().find(|above| above.exists()).unwrap_or(path);
            if counted.insert(rustix::fs::stat(there)?.st_dev) {
                let space = Self::at(there)?;
                sum.total = sum.total.saturating_add(space.total);
                sum.free = sum.free.saturating_add(space.free);
            }
        }
        Ok(sum)
    }

    /// The free share in percent, rounded down; 0 of a file system without a size.
    pub fn free_percent(&self) -> u64 {
        let percent = u128::from(self.free) * 100 / u128::from(self.total.max(1));
        u64::try_from(percent).unwrap_or(100).min(100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_share_is_rounded_down_and_survives_odd_sizes() {
        let percent = |free, total| Space { total, free }.free_percent();
        assert_eq!([percent(149, 1000), percent(0, 0), percent(u64::MAX, u64::MAX)], [14, 0, 100]);
    }

    #[test]
    fn a_file_system_counts_once_however_many_paths_are_on_it() {
        let over = |paths: &[&str]| Space::over(paths.iter().map(Path::new)).unwrap().total;
        let device = |path: &str| rustix::fs::stat(path).unwrap().st_dev;
        let (root, devices) = (over(&["/"]), over(&["/dev"]));
        let both = if device("/") == device("/dev") { root } else { root + devices };
        assert_eq!([over(&["/", "/nowhere/at/all", "/nowhere"]), over(&["/", "/dev"])], [root, both]);
        assert!(root > 0);
    }

    #[test]
    fn a_place_that_is_not_there_has_no_room() {
        assert!(Space::at(Path::new("/")).unwrap().total > 0);
        assert!(Space::at(Path::new("/nowhere/at/all")).is_err());
    }
}
