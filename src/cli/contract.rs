//! Who reads the exit code: people and scripts, PostgreSQL's archiver, or a recovery.
//!
//! The archiver counts 1 to 125 as a failure to be tried again, and dies of anything above. Recovery takes *any* code
//! from 1 to 125 for the end of WAL and stops only above. So a failed push is always 1, and a failed fetch always above
//! 125, bad arguments and panics included (PostgreSQL, `pgarch.c`, `xlogarchive.c`).

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::cli::Code;
use crate::model::failure::FailureKind;

/// A push that failed.
const NOT_ARCHIVED: Code = 1;
/// A fetch that cannot tell whether the file is there, or cannot give it.
const CANNOT_KNOW: Code = 126;
/// A panic, as Rust tells it.
const PANICKED: Code = 101;

/// Who reads the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contract {
    /// People and scripts.
    People,
    /// `archive_command`.
    Archiver,
    /// `restore_command`.
    Recovery,
}

impl Contract {
    /// By the words of the command line: they may be wrong, and the code must be right all the same.
    pub fn of(arguments: impl Iterator<Item = OsString>) -> Self {
        let words: Vec<_> = arguments.filter(|word| !word.to_string_lossy().starts_with('-')).collect();
        let follows = |verb: &str| words.windows(2).any(|pair| pair[0] == "wal" && pair[1] == verb);
        match (follows("push"), follows("fetch")) {
            (true, _) => Self::Archiver,
            (_, true) => Self::Recovery,
            _ => Self::People,
        }
    }

    /// The exit code of a failure.
    pub fn code(self, kind: FailureKind) -> Code {
        match self {
            Self::People => kind.exit_code(),
            Self::Archiver => NOT_ARCHIVED,
            Self::Recovery => CANNOT_KNOW,
        }
    }

    /// The code of `work`, or that of a panic in it, which the panic itself has already told.
    pub fn guard(self, work: impl FnOnce() -> Code) -> Code {
        catch_unwind(AssertUnwindSafe(work)).unwrap_or(match self {
            Self::People => PANICKED,
            Self::Archiver => NOT_ARCHIVED,
            Self::Recovery => CANNOT_KNOW,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Contract {
        Contract::of(line.split(' ').map(OsString::from))
    }

    #[test]
    fn f68_the_words_tell_who_reads_the_code() {
        assert_eq!(of("dbagent wal push pg_wal/000000010000000000000001"), Contract::Archiver);
        assert_eq!(of("dbagent --config x.toml wal --json push"), Contract::Archiver);
        assert_eq!(of("dbagent wal fetch --nonsense"), Contract::Recovery);
        assert_eq!(of("dbagent wal list"), Contract::People);
        assert_eq!(of("dbagent backup list"), Contract::People);
    }

    #[test]
    fn f68_no_failure_of_a_fetch_reads_as_the_end_of_wal_and_no_failed_push_kills_the_archiver() {
        for kind in FailureKind::ALL {
            assert_eq!(Contract::Archiver.code(kind), 1);
            assert_eq!(Contract::Recovery.code(kind), 126);
            assert_eq!(Contract::People.code(kind), kind.exit_code());
        }
        let codes = [Contract::Archiver, Contract::Recovery, Contract::People].map(|each| each.guard(|| panic!("now")));
        assert_eq!(codes, [1, 126, 101]);
        assert_eq!(Contract::Recovery.guard(|| 1), 1);
    }
}
