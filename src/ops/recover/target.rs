//! Where recovery is to end, and how PostgreSQL is told (manual, "Recovery Target").

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};

use crate::model::lsn::Lsn;

/// Where recovery ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// With everything committed up to this instant.
    Time(DateTime<Utc>),
    /// At this position of the log.
    Position(Lsn),
    /// With this transaction.
    Transaction(u32),
    /// At the restore point of this name.
    Name(String),
    /// As soon as the copy is consistent.
    Immediate,
    /// With everything that is archived.
    Latest,
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Waits, readable, for a person to say what next.
    Pause,
    /// Becomes a primary on a timeline of its own.
    Promote,
    /// Shuts down.
    Shutdown,
}

impl Action {
    /// PostgreSQL's word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Promote => "promote",
            Self::Shutdown => "shutdown",
        }
    }
}

impl Target {
    /// The setting that says it.
    pub(super) fn setting(&self) -> Option<(&'static str, String)> {
        Some(match self {
            Self::Time(instant) => ("recovery_target_time", in_postgresql(*instant)),
            Self::Position(lsn) => ("recovery_target_lsn", lsn.to_string()),
            Self::Transaction(id) => ("recovery_target_xid", id.to_string()),
            Self::Name(name) => ("recovery_target_name", name.clone()),
            Self::Immediate => ("recovery_target", "immediate".to_owned()),
            Self::Latest => return None,
        })
    }
}

/// An instant as PostgreSQL reads it whatever its own zone is.
fn in_postgresql(instant: DateTime<Utc>) -> String {
    instant.format("%Y-%m-%d %H:%M:%S%.6f+00").to_string()
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(instant) => f.write_str(&instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Self::Position(lsn) => write!(f, "position {lsn}"),
            Self::Transaction(id) => write!(f, "transaction {id}"),
            Self::Name(name) => write!(f, "the restore point {name}"),
            Self::Immediate => f.write_str("the first consistent state"),
            Self::Latest => f.write_str("the end of the archived log"),
        }
    }
}
