//! When an increment may build upon a parent, and when a new full dump is needed instead.
//!
//! The parent's snapshot is the only watermark: rows whose xmin is at or after that snapshot's xmin may be unknown to the
//! parent, all others it has seen. That holds only in one unbroken history of one database: after a point-in-time
//! recovery system identifier and names are the same and transaction ids run backwards, so timeline and WAL position
//! have to prove it. What cannot be proven needs a full.

use std::fmt;
use std::str::FromStr;

use crate::model::digest::Digest;
use crate::model::lsn::{Lsn, Timeline};
use crate::model::manifest::{LogMark, Manifest, SourceRecord};
use crate::model::table::QualifiedTable;

/// More transactions than this since the parent, and ages of transaction ids say nothing any more.
const MOST_TRANSACTIONS: u64 = 1 << 31;

/// The ends of a snapshot as `pg_current_snapshot()` prints it, with epochs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// The oldest transaction that was still running.
    pub xmin: u64,
    /// The first that had not begun.
    pub xmax: u64,
}

/// A text that is no snapshot.
#[derive(Debug, thiserror::Error)]
#[error("read {0:?} as a snapshot: expected xmin:xmax:…")]
pub struct NotASnapshot(String);

impl FromStr for Horizon {
    type Err = NotASnapshot;

    fn from_str(text: &str) -> Result<Self, NotASnapshot> {
        let mut parts = text.split(':').map(str::parse::<u64>);
        match (parts.next(), parts.next()) {
            (Some(Ok(xmin)), Some(Ok(xmax))) if xmin <= xmax => Ok(Self { xmin, xmax }),
            _ => Err(NotASnapshot(text.to_owned())),
        }
    }
}

impl Horizon {
    /// The transaction id of [`Horizon::xmin`] without its epoch, as `xid` has it.
    pub fn xid(&self) -> u32 {
        u32::try_from(self.xmin & u64::from(u32::MAX)).unwrap_or_default()
    }
}

/// A table that is no partition, as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Root {
    /// Schema and name.
    pub table: QualifiedTable,
    /// Digest over its columns, types and keys.
    pub fingerprint: Digest,
}

/// What an increment would be made of.
#[derive(Clone, Debug)]
pub struct Present<'a> {
    /// The database now.
    pub source: &'a SourceRecord,
    /// The covered tables that are no partitions.
    pub roots: &'a [Root],
    /// Whether they are all tables of the database.
    pub all_tables: bool,
    /// Where each timeline before the present one was left, where that can be read.
    pub history: Option<&'a [(Timeline, Lsn)]>,
}

/// Why a full dump is needed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FullNeeded {
    /// Nothing to build upon.
    NoParent,
    /// A dump of a version that kept no sums of keys.
    NoSums,
    /// Another cluster.
    OtherSystem,
    /// Another database, or one that was dropped and made again.
    OtherDatabase,
    /// The present timeline left the parent's before the parent was made, or it cannot be told.
    OtherTimeline(Option<Timeline>, Option<Timeline>),
    /// The WAL position is before the parent's.
    EarlierPosition(Lsn, Lsn),
    /// Transaction ids are before the parent's.
    EarlierTransactions(u64, u64),
    /// Too many transactions since.
    TooManyTransactions(u64),
    /// Tables were added, dropped or altered.
    OtherSchema(Vec<QualifiedTable>),
    /// The parent does not say what it saw.
    NoSnapshot,
}

impl fmt::Display for FullNeeded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let timeline = |timeline: &Option<Timeline>| timeline.map_or("unknown".to_owned(), |it| it.0.to_string());
        match self {
            Self::NoParent => f.write_str("no whole, verified dump of these tables is in every repository"),
            Self::NoSums => f.write_str("the newest dump holds no sums of keys"),
            Self::OtherSystem => f.write_str("the cluster is another one (its system identifier changed)"),
            Self::OtherDatabase => f.write_str("the database was made anew"),
            Self::OtherTimeline(then, now) => {
                write!(
                    f,
                    "the server was recovered or failed over: timeline {} then, {} now",
                    timeline(then),
                    timeline(now)
                )
            }
            Self::EarlierPosition(then, now) => write!(f, "the WAL ran backwards: {then} then, {now} now"),
            Self::EarlierTransactions(then, now) => {
                write!(f, "transaction ids ran backwards: {then} then, {now} now")
            }
            Self::TooManyTransactions(count) => write!(f, "{count} transactions have begun since"),
            Self::OtherSchema(tables) => {
                let names: Vec<String> = tables.iter().map(ToString::to_string).collect();
                write!(f, "tables came, went or were altered: {}", names.join(", "))
            }
            Self::NoSnapshot => f.write_str("the newest dump does not say what it saw"),
        }
    }
}

/// Whether `parent` covers every table of `present`, by name.
pub fn covers(parent: &Manifest, present: &Present<'_>) -> bool {
    present.roots.iter().all(|root| parent.tables.iter().any(|record| record.table == root.table))
}

/// What the parent had seen, or why nothing can build upon it.
pub fn horizon(parent: &Manifest, present: &Present<'_>) -> Result<Horizon, FullNeeded> {
    let (then, now) = (&parent.source, present.source);
    if then.system_identifier != now.system_identifier {
        return Err(FullNeeded::OtherSystem);
    }
    if (&then.database, then.database_oid) != (&now.database, now.database_oid) {
        return Err(FullNeeded::OtherDatabase);
    }
    if then.timeline != now.timeline && !left_after(then, present.history) {
        return Err(FullNeeded::OtherTimeline(then.timeline, now.timeline));
    }
    match (then.lsn, now.lsn) {
        (Some(then), Some(now)) if then > now => return Err(FullNeeded::EarlierPosition(then, now)),
        (Some(_), None) => return Err(FullNeeded::NoSnapshot),
        _ => {}
    }
    let read = |source: &SourceRecord| source.snapshot.as_deref().and_then(|text| text.parse::<Horizon>().ok());
    let (Some(before), Some(after)) = (read(then), read(now)) else { return Err(FullNeeded::NoSnapshot) };
    if before.xmax > after.xmax {
        return Err(FullNeeded::EarlierTransactions(before.xmax, after.xmax));
    }
    if after.xmax - before.xmin >= MOST_TRANSACTIONS {
        return Err(FullNeeded::TooManyTransactions(after.xmax - before.xmin));
    }
    let altered = altered(parent, present);
    if !altered.is_empty() {
        return Err(FullNeeded::OtherSchema(altered));
    }
    Ok(before)
}

/// Where the log begins to tell what the end of `line` (a chain, the full dump first) may not have seen; nothing where no
/// link says so.
///
/// A transaction that the end had not seen may have begun, and written, long before. It had not begun when a link was
/// made that came before every transaction then running.
pub fn log_from<'a>(line: impl DoubleEndedIterator<Item = &'a SourceRecord>) -> Option<LogMark> {
    let mut line = line.rev().peekable();
    let oldest = line.peek()?.snapshot.as_deref()?.parse::<Horizon>().ok()?.xmin;
    line.filter_map(|source| source.log).find(|mark| mark.next_xid <= oldest)
}

/// Whether the present history left the parent's timeline only after the parent was made.
fn left_after(then: &SourceRecord, history: Option<&[(Timeline, Lsn)]>) -> bool {
    let (Some(timeline), Some(lsn), Some(history)) = (then.timeline, then.lsn, history) else { return false };
    history.iter().any(|(left, at)| *left == timeline && lsn <= *at)
}

/// Tables that are not as the parent recorded them.
fn altered(parent: &Manifest, present: &Present<'_>) -> Vec<QualifiedTable> {
    let recorded = || parent.tables.iter().filter(|record| record.fingerprint.is_some());
    let same = |root: &Root| {
        recorded().any(|record| record.table == root.table && record.fingerprint == Some(root.fingerprint))
    };
    let mut altered: Vec<_> = present.roots.iter().filter(|root| !same(root)).map(|root| root.table.clone()).collect();
    if present.all_tables {
        let gone = |table: &QualifiedTable| !present.roots.iter().any(|root| root.table == *table);
        altered.extend(recorded().map(|record| record.table.clone()).filter(gone));
    }
    altered
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/fixtures/manifests/increment-parent.json");

    fn parent() -> Manifest {
        serde_json::from_str(GOLDEN).unwrap()
    }

    fn roots(parent: &Manifest) -> Vec<Root> {
        let root = |record: &crate::model::manifest::TableRecord| {
            Some(Root { table: record.table.clone(), fingerprint: record.fingerprint? })
        };
        parent.tables.iter().filter_map(root).collect()
    }

    fn judged(change: impl FnOnce(&mut SourceRecord)) -> Result<Horizon, FullNeeded> {
        let parent = parent();
        let mut source = parent.source.clone();
        change(&mut source);
        let roots = roots(&parent);
        horizon(&parent, &Present { source: &source, roots: &roots, all_tables: true, history: None })
    }

    #[test]
    fn the_same_history_goes_on_from_the_parents_oldest_transaction() {
        let seen = judged(|source| source.snapshot = Some("9999:9999:".into())).unwrap();
        assert_eq!(seen, parent().source.snapshot.unwrap().parse().unwrap());
    }

    #[test]
    fn f89_another_history_needs_a_full() {
        use FullNeeded as Needed;
        type Change = fn(&mut SourceRecord);
        let cases: [(&str, Change); 8] = [
            ("system", |source| source.system_identifier = None),
            ("oid", |source| source.database_oid += 1),
            ("timeline", |source| source.timeline = Some(Timeline(7))),
            ("unknown timeline", |source| source.timeline = None),
            ("position", |source| source.lsn = "0/1".parse().ok()),
            ("no position", |source| source.lsn = None),
            ("xids", |source| source.snapshot = Some("3:3:".into())),
            ("wraparound", |source| source.snapshot = Some(format!("{0}:{0}:", 1_u64 << 40))),
        ];
        for (name, change) in cases {
            let needed = judged(change).unwrap_err();
            let fits = matches!(
                (name, &needed),
                ("system", Needed::OtherSystem)
                    | ("oid", Needed::OtherDatabase)
                    | ("timeline" | "unknown timeline", Needed::OtherTimeline(..))
                    | ("position", Needed::EarlierPosition(..))
                    | ("no position", Needed::NoSnapshot)
                    | ("xids", Needed::EarlierTransactions(..))
                    | ("wraparound", Needed::TooManyTransactions(_))
            );
            assert!(fits, "{name}: {needed:?}");
        }
    }

    #[test]
    fn the_log_is_read_from_before_every_transaction_that_the_parent_had_not_seen() {
        let link = |snapshot: &str, lsn: u64, next_xid: u64| SourceRecord {
            snapshot: Some(snapshot.to_owned()),
            log: Some(LogMark { lsn: Lsn(lsn), next_xid }),
            ..parent().source
        };
        let from = |line: &[SourceRecord]| log_from(line.iter()).map(|mark| mark.lsn.0);
        let (full, first) = (link("100:100:", 10, 100), link("120:120:", 20, 120));
        assert_eq!(from(&[full.clone(), first.clone()]), Some(20), "nothing ran");
        // 121 had begun; a snapshot lists nothing that began after the last that ended.
        let busy = link("120:120:", 20, 122);
        assert_eq!(from(&[full.clone(), busy.clone()]), Some(10));
        assert_eq!(from(std::slice::from_ref(&busy)), None);
        let prepared = link("99:130:99", 30, 131);
        assert_eq!(from(&[full.clone(), first.clone(), prepared]), None, "it may have written before the first link");
        let old = SourceRecord { log: None, ..link("125:125:", 0, 0) };
        assert_eq!(from(&[full, first, old]), Some(20), "a link of an older version says nothing");
        assert_eq!(from(&[]), None);
    }

    #[test]
    fn a_failover_after_the_parent_goes_on_and_a_recovery_to_before_it_does_not() {
        let parent = parent();
        let mut source = parent.source.clone();
        source.timeline = Some(Timeline(9));
        source.lsn = "FF/0".parse().ok();
        let roots = roots(&parent);
        let judge = |left: &str| {
            let history = [(parent.source.timeline.unwrap(), left.parse().unwrap())];
            horizon(&parent, &Present { source: &source, roots: &roots, all_tables: true, history: Some(&history) })
        };
        assert!(judge("FE/0").is_ok(), "it left the timeline after the parent");
        assert!(matches!(judge("0/10").unwrap_err(), FullNeeded::OtherTimeline(..)));
    }

    #[test]
    fn f78_a_table_altered_added_or_dropped_needs_a_full() {
        let parent = parent();
        let source = parent.source.clone();
        let judge = |roots: &[Root], all_tables| {
            horizon(&parent, &Present { source: &source, roots, all_tables, history: None })
        };
        let same = roots(&parent);
        assert!(judge(&same, true).is_ok());
        let mut altered = same.clone();
        altered[0].fingerprint = Digest::of(b"altered");
        assert!(matches!(judge(&altered, false), Err(FullNeeded::OtherSchema(tables)) if tables.len() == 1));
        assert!(matches!(judge(&same[1..], true), Err(FullNeeded::OtherSchema(_))), "dropped");
        assert!(judge(&same[1..], false).is_ok(), "no longer asked for");
    }
}
