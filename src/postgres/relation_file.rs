//! Names of relation files: which relation, which fork, which segment of it (PostgreSQL, `common/relpath.c`).

use crate::model::blocks::RelationKey;

/// Oids of the two tablespaces that every cluster has (`catalog/pg_tablespace.dat`).
const DEFAULT_TABLESPACE: u32 = 1663;
const SHARED_TABLESPACE: u32 = 1664;

/// A fork of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fork {
    /// Its rows or index entries.
    Main,
    /// The free space map.
    FreeSpace,
    /// The visibility map.
    Visibility,
    /// What an unlogged relation is after a crash.
    Init,
}

/// What the name of a relation's file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile {
    /// Number of its storage (`relfilenode`).
    pub number: u32,
    /// The fork.
    pub fork: Fork,
    /// Which segment of the fork, from 0.
    pub segment: u32,
    /// Whether it is of a session's temporary relation.
    pub is_temporary: bool,
}

impl RelationFile {
    /// Reads a file name: `16384`, `16384_fsm.1`, `t3_16385`.
    pub fn of_name(name: &str) -> Option<Self> {
        let (stem, segment) = match name.split_once('.') {
            Some((stem, segment)) => (stem, digits(segment).filter(|segment| *segment > 0)?),
            None => (name, 0),
        };
        let (stem, is_temporary) = match stem.strip_prefix('t') {
            Some(rest) => {
                let (session, rest) = rest.split_once('_')?;
                digits(session)?;
                (rest, true)
            }
            None => (stem, false),
        };
        let (number, fork) = match stem.split_once('_') {
            None => (stem, Fork::Main),
            Some((number, "fsm")) => (number, Fork::FreeSpace),
            Some((number, "vm")) => (number, Fork::Visibility),
            Some((number, "init")) => (number, Fork::Init),
            Some(_) => return None,
        };
        Some(Self { number: digits(number)?, fork, segment, is_temporary })
    }
}

impl RelationFile {
    /// The relation that the file belongs to, which lies at `path` below the data directory; nothing where relations
    /// do not lie.
    pub fn key(&self, path: &str) -> Option<RelationKey> {
        let mut parts = path.split('/');
        let (tablespace, database) = match (parts.next()?, parts.next()?, parts.next(), parts.next(), parts.next()) {
            ("global", _, None, ..) => (SHARED_TABLESPACE, 0),
            ("base", database, Some(_), None, _) => (DEFAULT_TABLESPACE, digits(database)?),
            ("pg_tblspc", tablespace, Some(_), Some(database), Some(_)) => (digits(tablespace)?, digits(database)?),
            _ => return None,
        };
        let is_deeper = parts.next().is_some();
        (!is_deeper).then_some(RelationKey { tablespace, database, number: self.number })
    }
}

fn digits(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_say_tablespace_and_database() {
        let key = |path: &str| {
            let key = RelationFile::of_name(path.rsplit('/').next().unwrap()).unwrap().key(path)?;
            Some((key.tablespace, key.database, key.number))
        };
        assert_eq!(key("base/5/16384.1"), Some((1663, 5, 16384)));
        assert_eq!(key("global/1262"), Some((1664, 0, 1262)));
        assert_eq!(key("pg_tblspc/16500/PG_15_202209061/5/16384"), Some((16500, 5, 16384)));
        for other in
            ["base/5/x/16384", "16384", "base/16384", "pg_tblspc/1/2/16384", "pg_tblspc/1/2/3/4/16384", "pg_xact/5/1"]
        {
            assert_eq!(key(other), None, "{other}");
        }
    }

    #[test]
    fn names_say_relation_fork_and_segment() {
        let read = |name: &str| {
            RelationFile::of_name(name).map(|file| (file.number, file.fork, file.segment, file.is_temporary))
        };
        assert_eq!(read("16384"), Some((16384, Fork::Main, 0, false)));
        assert_eq!(read("16384.12"), Some((16384, Fork::Main, 12, false)));
        assert_eq!(read("16384_fsm.1"), Some((16384, Fork::FreeSpace, 1, false)));
        assert_eq!(read("16384_init"), Some((16384, Fork::Init, 0, false)));
        assert_eq!(read("t3_16385"), Some((16385, Fork::Main, 0, true)));
        assert_eq!(read("t3_16385_vm.2"), Some((16385, Fork::Visibility, 2, true)));
        for other in ["PG_VERSION", "pg_filenode.map", "16384.0", "16384_x", "t_1", "-1", "16384.", "99999999999", ""] {
            assert_eq!(read(other), None, "{other:?}");
        }
    }
}
