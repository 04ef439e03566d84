//! The record that makes a tablespace, and what its replay would do to the directory that it names.
//!
//! The record (`xl_tblspc_create_rec` of `commands/tablespace.h`) has the place as it was on the server that wrote it, and
//! replaying it (`create_tablespace_directories` of `commands/tablespace.c`) uses that very place, whatever is in it: on
//! the server's own host, the live files (manual, "Continuous Archiving", "Caveats").

use std::path::{Path, PathBuf};

use crate::host::durable::names_in;
use crate::postgres::wal_blocks::{Unclear, contents};
use crate::postgres::wal_records::Record;

const MANAGER_TABLESPACE: u8 = 5;
const KIND: u8 = 0xF0;
const CREATE: u8 = 0x00;
const OID_BYTES: usize = 4;

/// A tablespace that a record makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TablespaceMade {
    /// Its oid.
    pub oid: u32,
    /// Its place.
    pub path: PathBuf,
}

/// The tablespace that `record` makes; nothing where it makes none, or one within the data directory.
pub fn tablespace_made(record: &Record<'_>) -> Result<Option<TablespaceMade>, Unclear> {
    if (record.manager, record.info & KIND) != (MANAGER_TABLESPACE, CREATE) {
        return Ok(None);
    }
    let data = contents(record)?.data;
    let (oid, path) = data.split_first_chunk::<OID_BYTES>().ok_or(Unclear::Malformed)?;
    let end = path.iter().position(|byte| *byte == 0).ok_or(Unclear::Malformed)?;
    let path = std::str::from_utf8(&path[..end]).map_err(|_| Unclear::Malformed)?;
    let made = TablespaceMade { oid: u32::from_ne_bytes(*oid), path: PathBuf::from(path) };
    Ok(Some(made).filter(|made| made.path.is_absolute()))
}

impl TablespaceMade {
    /// Whether a server of `major` has files at its place, and it is not the copy in `data_directory` itself that made them:
    /// that one has a link there.
    pub fn is_in_use(&self, major: u32, data_directory: &Path) -> bool {
        let link = data_directory.join("pg_tblspc").join(self.oid.to_string());
        if std::fs::read_link(link).is_ok_and(|leads_to| leads_to == self.path) {
            return false;
        }
        let versions = format!("PG_{major}_");
        match names_in(&self.path) {
            Ok(names) => names.iter().any(|name| name.starts_with(&versions)),
            // What cannot be looked into may hold anything; what is not there holds nothing.
            Err(_) => self.path.exists(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::files;
    use crate::model::lsn::Lsn;
    use crate::postgres::wal_records::FIXED_BYTES;

    fn record(info: u8, body: &[u8]) -> Record<'_> {
        let length = (FIXED_BYTES + body.len()) as u32;
        Record { start: Lsn(40), end: Lsn(80), major: 15, manager: MANAGER_TABLESPACE, info, length, body }
    }

    fn body(path: &[u8]) -> Vec<u8> {
        [&[255, (OID_BYTES + path.len()) as u8], &16400_u32.to_ne_bytes()[..], path].concat()
    }

    #[test]
    fn the_place_is_read_and_what_is_within_the_data_directory_is_nobody_else_s() {
        let made = tablespace_made(&record(CREATE, &body(b"/srv/fast\0"))).unwrap();
        assert_eq!(made, Some(TablespaceMade { oid: 16400, path: "/srv/fast".into() }));
        assert_eq!(tablespace_made(&record(0x10, &body(b"/srv/fast\0"))), Ok(None), "a drop");
        assert_eq!(tablespace_made(&record(CREATE, &body(b"pg_tblspc/16400\0"))), Ok(None));
        assert_eq!(tablespace_made(&record(CREATE, &body(b"/srv/fast"))), Err(Unclear::Malformed), "no end");
        let whole = body(b"/srv/fast\0");
        let cut = Record { body: &whole[..9], ..record(CREATE, &whole) };
        assert!(tablespace_made(&cut).is_err());
    }

    #[test]
    fn a_place_is_in_use_by_what_is_there_and_not_by_the_copy_itself() {
        let root = tempfile::tempdir().unwrap();
        let (place, copy) = (root.path().join("place"), root.path().join("copy"));
        let made = TablespaceMade { oid: 16400, path: place.clone() };
        assert!(!made.is_in_use(15, &copy), "nothing is there");
        files::make_directories(&place.join("PG_14_202107181"), None).unwrap();
        assert!(!made.is_in_use(15, &copy) && made.is_in_use(14, &copy), "another version's");
        files::make_directories(&place.join("PG_15_202209061"), None).unwrap();
        assert!(made.is_in_use(15, &copy));
        files::make_directories(&copy.join("pg_tblspc"), None).unwrap();
        std::os::unix::fs::symlink(root.path(), copy.join("pg_tblspc/16400")).unwrap();
        assert!(made.is_in_use(15, &copy), "the copy's own is elsewhere");
        files::remove_if_there(&copy.join("pg_tblspc/16400")).unwrap();
        std::os::unix::fs::symlink(&place, copy.join("pg_tblspc/16400")).unwrap();
        assert!(!made.is_in_use(15, &copy));
    }
}
