//! The bounds of a partition, read from what `pg_get_expr(relpartbound, oid)` prints in a session whose zone is UTC and
//! whose dates are ISO.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

use crate::model::partition::month::midnight;

/// Which rows a partition takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bound {
    /// Those that no other takes.
    Default,
    /// Those whose key lies in `from <= key < to`; absent means without end.
    Range {
        /// The first instant.
        from: Option<DateTime<Utc>>,
        /// The first instant after.
        to: Option<DateTime<Utc>>,
    },
    /// Something that is no range of time.
    Other(String),
}

impl Bound {
    /// Reads `FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00')`, with MINVALUE, MAXVALUE and the
    /// infinities (PostgreSQL, src/backend/utils/adt/ruleutils.c, get_rule_expr: PartitionBoundSpec).
    pub fn read(text: &str) -> Self {
        match text {
            "DEFAULT" => Self::Default,
            _ => read_range(text).unwrap_or_else(|| Self::Other(text.to_owned())),
        }
    }

    /// The interval, without end where there is none; nothing for what is no range.
    pub fn interval(&self) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        match self {
            Self::Range { from, to } => {
                Some((from.unwrap_or(DateTime::<Utc>::MIN_UTC), to.unwrap_or(DateTime::<Utc>::MAX_UTC)))
            }
            _ => None,
        }
    }
}

fn read_range(text: &str) -> Option<Bound> {
    let (from, to) = text.strip_prefix("FOR VALUES FROM (")?.strip_suffix(')')?.split_once(") TO (")?;
    let (from, to) = (read_edge(from)?, read_edge(to)?);
    Some(Bound::Range { from, to })
}

fn read_edge(text: &str) -> Option<Option<DateTime<Utc>>> {
    let quoted = match text {
        "MINVALUE" | "MAXVALUE" | "'-infinity'" | "'infinity'" => return Some(None),
        text => text.strip_prefix('\'')?.strip_suffix('\'')?,
    };
    // Everything but the offset +00 is refused: the session's zone is not UTC then, and nothing can be said.
    let instant = quoted.strip_suffix("+00").unwrap_or(quoted);
    let parsed = NaiveDateTime::parse_from_str(instant, "%Y-%m-%d %H:%M:%S%.f");
    let day = || NaiveDate::parse_from_str(instant, "%Y-%m-%d").map(midnight);
    parsed.map(|parsed| parsed.and_utc()).or_else(|_| day()).ok().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(from: &str, to: &str) -> Bound {
        let read = |text: &str| (!text.is_empty()).then(|| text.parse().unwrap());
        Bound::Range { from: read(from), to: read(to) }
    }

    #[test]
    fn what_postgresql_prints_is_read() {
        let march = range("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z");
        for text in [
            "FOR VALUES FROM ('2026-03-01 00:00:00') TO ('2026-04-01 00:00:00')",
            "FOR VALUES FROM ('2026-03-01 00:00:00+00') TO ('2026-04-01 00:00:00+00')",
            "FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        ] {
            assert_eq!(Bound::read(text), march, "{text}");
        }
        assert_eq!(
            Bound::read("FOR VALUES FROM (MINVALUE) TO ('2026-03-01 15:00:00.5+00')"),
            range("", "2026-03-01T15:00:00.5Z")
        );
        assert_eq!(
            Bound::read("FOR VALUES FROM ('2026-03-01 00:00:00') TO ('infinity')"),
            range("2026-03-01T00:00:00Z", "")
        );
        assert_eq!(Bound::read("DEFAULT"), Bound::Default);
    }

    #[test]
    fn what_is_no_range_of_one_time_in_utc_is_something_else() {
        for text in [
            "FOR VALUES IN ('a')",
            "FOR VALUES FROM ('2026-03-01 00:00:00+09') TO ('2026-04-01 00:00:00+09')",
            "FOR VALUES FROM ('2026-03-01', 1) TO ('2026-04-01', 1)",
            "FOR VALUES FROM ('0044-03-15 00:00:00 BC') TO ('2026-04-01 00:00:00')",
            "FOR VALUES WITH (modulus 4, remainder 0)",
            "",
        ] {
            assert_eq!(Bound::read(text), Bound::Other(text.to_owned()));
        }
    }
}
