//! Rebuilds the side tables of the audit chain from the log itself: after a restore that brought the log's rows and not the
//! side tables (a dump of named tables), the chain has no head and every insert is refused.
//!
//! Months that are sealed and gone are passed: what came before the rest is known from their signed seals.
//!
//! Hashes are taken as they are; nothing is hashed again. Rows come in the order of their time and wait until the row they
//! follow has come, so that memory grows with the disorder, not with the log. Whether the result is what was signed is for a
//! verification to say, and for whoever restored it to state: `dbagent audit checkpoint --restored`.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::catalog::{Reading, Repository};
use crate::model::audit::tally::Sealed;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::postgres::audit::{schema, snapshot};
use crate::postgres::{Connection, Session, changes, copy};
use crate::steps::signed::Signed;

/// Rows that may wait for the row they follow, some 250 bytes each. More is no disorder but a broken chain.
const MOST_WAITING: usize = 200_000;
/// Bytes sent at once.
const PIECE: usize = 1 << 18;

/// A row that waits: its place's columns, and its hash.
struct Waiting {
    place: String,
    hash: String,
}

/// Rebuilds `audit.chain_seq` and `audit.chain_head`, which must be empty, in one transaction that keeps writers out. Gives the
/// number of rows. `Integrity` when the rows are not one chain; then nothing is changed.
pub async fn run(connection: &Connection, repositories: &[Repository], setting: &Setting) -> Result<u64, Failure> {
    let session = copy::connect(connection, "UTF8").await?;
    if !schema::is_installed(&session).await? {
        return Err(Failure::new(
            FailureKind::NothingMatches,
            "rebuild the audit chain: schema audit is not installed",
        )
        .hint("`dbagent audit install` installs it."));
    }
    session
        .batch("BEGIN; SET LOCAL lock_timeout = '5s'; LOCK TABLE public.audit_logs IN SHARE ROW EXCLUSIVE MODE")
        .await?;
    match rebuild(&session, connection, repositories, setting).await {
        Ok(rows) => {
            session.batch("COMMIT").await?;
            Ok(rows)
        }
        Err(failure) => {
            session.batch("ROLLBACK").await?;
            Err(failure)
        }
    }
}

async fn rebuild(
    session: &Session,
    connection: &Connection,
    repositories: &[Repository],
    setting: &Setting,
) -> Result<u64, Failure> {
    if !schema::side_tables_are_empty(session).await? {
        let message = "rebuild the audit chain: its side tables have rows";
        return Err(Failure::new(FailureKind::RefusedForSafety, message)
            .hint("They are evidence: `dbagent audit verify` says what is wrong with them."));
    }
    setting.events.step("following the audit log from its first row to its last");
    let reader = copy::connect(connection, "UTF8").await?;
    let mut lines = changes::audit_links(&reader).await?;
    let signed = Signed::read(repositories, &[], Reading::Recent, setting.clock.now()).await;
    signed.troubles.iter().for_each(|trouble| setting.events.note(&trouble.message));
    let sealed = signed.sealed_beyond(&snapshot::partitions(session).await?);
    let mut chain = Chain { sealed: sealed.by_first(), ..Chain::default() };
    chain.pass_sealed();
    let statement = "COPY audit.chain_seq (seq, id, recorded_at, hash) FROM STDIN";
    let mut sink = copy::copy_in(session, statement).await?;
    while let Some(line) = lines.next().await? {
        chain.take(&line)?;
        if chain.text.len() >= PIECE {
            setting.require_going_on("go on rebuilding the audit chain")?;
            sink.write(Bytes::from(std::mem::take(&mut chain.text))).await?;
        }
    }
    sink.write(Bytes::from(std::mem::take(&mut chain.text))).await?;
    sink.finish().await?;
    if !chain.waiting.is_empty() {
        return Err(broken(&format!("{} rows follow no other row", chain.waiting.len())));
    }
    schema::set_head(session, chain.seq, chain.tail.as_deref()).await?;
    Ok(chain.rows)
}

/// The chain as far as it was followed.
#[derive(Default)]
struct Chain {
    /// Rows given a place.
    rows: u64,
    /// The last place.
    seq: i64,
    /// Stretches that are sealed and gone, by first place.
    sealed: BTreeMap<i64, Sealed>,
    tail: Option<String>,
    waiting: HashMap<Option<String>, Waiting>,
    text: String,
}

impl Chain {
    /// Takes a line of id, time, previous hash and hash.
    fn take(&mut self, line: &[u8]) -> Result<(), Failure> {
        let line = std::str::from_utf8(line).map_err(|_| broken("a row is not text"))?;
        let mut fields = line.trim_end_matches('\n').split('\t');
        let (Some(id), Some(at), Some(before), Some(hash)) =
            (fields.next(), fields.next(), fields.next(), fields.next())
        else {
            return Err(broken("a row has another form"));
        };
        let before = (before != "\\N").then(|| before.to_owned());
        let row = Waiting { place: format!("{id}\t{at}"), hash: hash.to_owned() };
        if self.waiting.insert(before, row).is_some() {
            return Err(broken(&format!("two rows follow the same row, {id} is one of them")));
        }
        while let Some(next) = self.waiting.remove(&self.tail) {
            self.rows += 1;
            self.seq += 1;
            self.text.push_str(&format!("{}\t{}\t{}\n", self.seq, next.place, next.hash));
            self.tail = Some(next.hash);
            self.pass_sealed();
        }
        if self.waiting.len() > MOST_WAITING {
            return Err(broken("too many rows follow a row that has not come"));
        }
        Ok(())
    }

    fn pass_sealed(&mut self) {
        while let Some(sealed) = self.sealed.get(&(self.seq + 1)) {
            self.seq = sealed.last_seq;
            self.tail = Some(sealed.tail.to_string());
        }
    }
}

fn broken(what: &str) -> Failure {
    Failure::new(FailureKind::Integrity, format!("rebuild the audit chain: the rows are not one chain: {what}")).hint(
        "Nothing was changed. The backup holds a chain that was broken before, or rows were added without the trigger.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    fn rebuilt(lines: &[&str]) -> Result<(u64, String, usize), String> {
        rebuilt_after(&[], lines)
    }

    fn rebuilt_after(sealed: &[(i64, Sealed)], lines: &[&str]) -> Result<(u64, String, usize), String> {
        let mut chain = Chain { sealed: sealed.iter().copied().collect(), ..Chain::default() };
        chain.pass_sealed();
        for line in lines {
            chain.take(line.as_bytes()).map_err(|failure| failure.message)?;
        }
        Ok((chain.rows, chain.text, chain.waiting.len()))
    }

    #[test]
    fn rows_take_their_places_in_the_order_of_links_not_of_time() {
        let (rows, text, waiting) = rebuilt(&["a\t1\t\\N\tha\n", "c\t2\thb\thc\n", "b\t3\tha\thb\n"]).unwrap();
        assert_eq!((rows, waiting), (3, 0));
        assert_eq!(text, "1\ta\t1\tha\n2\tb\t3\thb\n3\tc\t2\thc\n");
    }

    #[test]
    fn months_that_are_sealed_and_gone_are_passed() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let sealed = [(1, Sealed { last_seq: 40, tail: one }), (42, Sealed { last_seq: 42, tail: other })];
        let lines = [format!("b\t2\t{other}\thb\n"), format!("a\t1\t{one}\tha\n")];
        let (rows, text, waiting) = rebuilt_after(&sealed, &[&lines[0], &lines[1]]).unwrap();
        assert_eq!((rows, waiting), (2, 0));
        assert_eq!(text, "41\ta\t1\tha\n43\tb\t2\thb\n");
        assert_eq!(rebuilt(&[&lines[0]]).unwrap().2, 1, "without its seal nothing is known of what came before");
    }

    #[test]
    fn a_fork_and_a_gap_are_no_chain() {
        assert!(rebuilt(&["a\t1\thx\tha\n", "b\t2\thx\thb\n"]).unwrap_err().contains("two rows follow"));
        assert_eq!(rebuilt(&["a\t1\t\\N\tha\n", "b\t2\thx\thb\n"]).unwrap().2, 1);
    }
}
