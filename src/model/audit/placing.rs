//! Gives rows of a log that has no side table their places again, by what each says of the row before it.
//!
//! Hashes are taken as they are. Rows come in the order of their time and wait until the row they follow has come, so that
//! memory grows with the disorder, not with the log. Stretches that are sealed and gone are passed.

use std::collections::{BTreeMap, HashMap};

use crate::model::audit::tally::Sealed;

/// Rows that may wait for the row they follow, some 250 bytes each. More is no disorder but a broken chain.
const MOST_WAITING: usize = 200_000;

/// The rows are not one chain, and how that shows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotOneChain(pub String);

/// A row that waits: id and time as COPY text, and its hash.
struct Waiting {
    key: String,
    hash: String,
}

/// The chain as far as it was followed.
#[derive(Default)]
pub struct Placing {
    /// Rows given a place.
    pub rows: u64,
    /// The last place.
    pub seq: i64,
    /// The hash there.
    pub tail: Option<String>,
    /// Stretches that are sealed and gone, by first place.
    sealed: BTreeMap<i64, Sealed>,
    /// `previous_hash` of the first row, where that is not NULL.
    genesis: Option<String>,
    waiting: HashMap<Option<String>, Waiting>,
    text: String,
}

impl Placing {
    /// Begins with the first row of all, or after what is `sealed` at the beginning.
    pub fn new(sealed: BTreeMap<i64, Sealed>, genesis: Option<String>) -> Self {
        let mut this = Self { sealed, genesis, ..Self::default() };
        this.pass_sealed();
        this
    }

    /// Takes the row with this key (id and time as COPY text, a tab between), what it names as the row `before`, and its hash.
    pub fn take(&mut self, key: String, before: Option<String>, hash: String) -> Result<(), NotOneChain> {
        let before = before.filter(|before| Some(before) != self.genesis.as_ref());
        if let Some(other) = self.waiting.insert(before, Waiting { key, hash }) {
            let id = other.key.split('\t').next().unwrap_or_default();
            return Err(NotOneChain(format!("two rows follow the same row, {id} is one of them")));
        }
        while let Some(next) = self.waiting.remove(&self.tail) {
            self.rows += 1;
            self.seq += 1;
            self.text.push_str(&format!("{}\t{}\t{}\n", self.seq, next.key, next.hash));
            self.tail = Some(next.hash);
            self.pass_sealed();
        }
        match self.waiting.len() > MOST_WAITING {
            true => Err(NotOneChain("too many rows follow a row that has not come".to_owned())),
            false => Ok(()),
        }
    }

    /// Bytes of lines that wait to be taken out.
    pub fn pending(&self) -> usize {
        self.text.len()
    }

    /// Lines of COPY text so far: seq, id, time, hash.
    pub fn lines(&mut self) -> String {
        std::mem::take(&mut self.text)
    }

    /// Errors when rows are left that follow none.
    pub fn finish(&self) -> Result<(), NotOneChain> {
        match self.waiting.values().next() {
            None => Ok(()),
            Some(one) => {
                let (count, id) = (self.waiting.len(), one.key.split('\t').next().unwrap_or_default());
                let what = "rows follow a row that is not there, or that another follows too";
                Err(NotOneChain(format!("{count} {what}; {id} is one of them")))
            }
        }
    }

    fn pass_sealed(&mut self) {
        while let Some(sealed) = self.sealed.get(&(self.seq + 1)) {
            self.seq = sealed.last_seq;
            self.tail = Some(sealed.tail.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::digest::Digest;

    /// Rows of key, hash before and hash.
    fn placed(mut placing: Placing, rows: &[(&str, Option<&str>, &str)]) -> Result<(u64, String), String> {
        for (key, before, hash) in rows {
            let taken = placing.take((*key).to_owned(), before.map(str::to_owned), (*hash).to_owned());
            taken.map_err(|error| error.to_string())?;
        }
        placing.finish().map_err(|error| error.to_string())?;
        Ok((placing.rows, placing.lines()))
    }

    #[test]
    fn rows_take_their_places_in_the_order_of_links_not_of_time() {
        let rows = [("a\t1", None, "ha"), ("c\t2", Some("hb"), "hc"), ("b\t3", Some("ha"), "hb")];
        let placed = placed(Placing::default(), &rows).unwrap();
        assert_eq!(placed, (3, "1\ta\t1\tha\n2\tb\t3\thb\n3\tc\t2\thc\n".to_owned()));
    }

    #[test]
    fn months_that_are_sealed_and_gone_are_passed() {
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let sealed =
            BTreeMap::from([(1, Sealed { last_seq: 40, tail: one }), (42, Sealed { last_seq: 42, tail: other })]);
        let (one, other) = (one.to_string(), other.to_string());
        let rows = [("b\t2", Some(other.as_str()), "hb"), ("a\t1", Some(one.as_str()), other.as_str())];
        let (rows_placed, text) = placed(Placing::new(sealed, None), &rows).unwrap();
        assert_eq!((rows_placed, text), (2, format!("41\ta\t1\t{other}\n43\tb\t2\thb\n")));
        assert!(
            placed(Placing::default(), &rows[..1]).is_err(),
            "without its seal nothing is known of what came before"
        );
    }

    #[test]
    fn a_chain_may_begin_after_a_hash_of_nothing() {
        let rows = [("a\t1", Some("00"), "ha"), ("b\t2", Some("ha"), "hb")];
        assert_eq!(placed(Placing::new(BTreeMap::new(), Some("00".into())), &rows).unwrap().0, 2);
        assert!(placed(Placing::default(), &rows).unwrap_err().contains("2 rows follow a row that is not there"));
    }

    #[test]
    fn a_fork_and_a_gap_are_no_chain() {
        let late = [("a\t1", None, "ha"), ("b\t2", Some("ha"), "hb"), ("c\t3", Some("ha"), "hc")];
        assert!(placed(Placing::default(), &late).unwrap_err().contains("another follows too; c is one"));
        let fork = [("a\t1", Some("hx"), "ha"), ("b\t2", Some("hx"), "hb")];
        assert!(placed(Placing::default(), &fork).unwrap_err().contains("two rows follow the same row, a is one"));
        let gap = [("a\t1", None, "ha"), ("b\t2", Some("hx"), "hb")];
        assert!(placed(Placing::default(), &gap).unwrap_err().contains("another follows too; b is one"));
    }
}
