//! When transactions ended, as the log's records of them say.
//!
//! `xl_xact_commit` and `xl_xact_abort` of `access/xact.h`, of prepared transactions too, begin with the time that the
//! backend took before it wrote the record (microseconds since 2000-01-01); alike from PostgreSQL 14 to 18.

use chrono::{DateTime, TimeDelta, Utc};

use crate::postgres::wal_blocks::contents;
use crate::postgres::wal_records::Record;

const MANAGER_TRANSACTION: u8 = 1;
const KIND: u8 = 0x70;
/// Commit, abort, commit of a prepared one, abort of a prepared one.
const ENDS: [u8; 4] = [0x00, 0x20, 0x30, 0x40];
/// Seconds from the Unix epoch to PostgreSQL's.
const EPOCH: i64 = 946_684_800;

/// When the transaction ended whose end `record` is; nothing of any other record.
pub fn ended_at(record: &Record<'_>) -> Option<DateTime<Utc>> {
    if record.manager != MANAGER_TRANSACTION || !ENDS.contains(&(record.info & KIND)) {
        return None;
    }
    let time = contents(record).ok()?.data.first_chunk().map(|bytes| i64::from_ne_bytes(*bytes))?;
    DateTime::from_timestamp(EPOCH, 0)?.checked_add_signed(TimeDelta::microseconds(time))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::lsn::Lsn;
    use crate::postgres::wal_records::FIXED_BYTES;

    #[test]
    fn the_ends_of_transactions_have_their_time_and_nothing_else_has() {
        let body = [&[255, 8][..], &86_400_000_001_i64.to_ne_bytes()].concat();
        let record = |manager, info, body| {
            let length = (FIXED_BYTES + 10) as u32;
            ended_at(&Record { start: Lsn(40), end: Lsn(80), major: 15, manager, info, length, body })
        };
        let day = "2000-01-02T00:00:00.000001Z".parse().ok();
        for info in [0x00, 0x80, 0x20, 0x30, 0xC0] {
            assert_eq!(record(1, info, &body), day, "{info:x}");
        }
        for (manager, info) in [(1, 0x10), (1, 0x50), (1, 0x60), (0, 0x00)] {
            assert_eq!(record(manager, info, &body), None, "{manager} {info:x}");
        }
        assert_eq!(record(1, 0x00, &body[..8]), None, "cut short");
    }
}
