//! The two sides of a replication, and on which of them something is done.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A side of a replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The server that is written to.
    #[default]
    Primary,
    /// A server that replays the primary's log.
    Standby,
}

impl Side {
    /// That of a server that is, or is not, in recovery.
    pub fn of(in_recovery: bool) -> Self {
        if in_recovery { Self::Standby } else { Self::Primary }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "the primary",
            Self::Standby => "a standby",
        })
    }
}
