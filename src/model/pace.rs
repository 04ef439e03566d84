//! How fast a restore was, to say how long the next one will take.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// What a restore was measured to take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pace {
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Stored bytes that were fetched and laid down.
    pub stored_bytes: u64,
    /// Seconds that took, until everything was durable.
    pub seconds: f64,
    /// Bytes of log that were replayed; nothing where the copy was not started.
    pub log_bytes: u64,
    /// Seconds that took.
    pub log_seconds: f64,
}

/// How long a restore will take, at a pace.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Seconds to lay the files down.
    pub seconds: f64,
    /// Seconds to replay all of the log; nothing where no replay was measured.
    pub log_seconds: Option<f64>,
    /// When the pace was measured.
    pub measured: DateTime<Utc>,
}

impl Pace {
    /// How long `stored_bytes` of files and `log_bytes` of log take at this pace; nothing where nothing was measured.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn estimate(&self, stored_bytes: u64, log_bytes: u64) -> Option<Estimate> {
        let at = |bytes: u64, measured: u64, seconds: f64| {
            (measured > 0 && seconds > 0.0).then(|| bytes as f64 * seconds / measured as f64)
        };
        let seconds = at(stored_bytes, self.stored_bytes, self.seconds)?;
        Some(Estimate { seconds, log_seconds: at(log_bytes, self.log_bytes, self.log_seconds), measured: self.at })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_bytes_take_twice_as_long_and_what_was_not_measured_is_not_guessed() {
        let mut pace =
            Pace { at: DateTime::UNIX_EPOCH, stored_bytes: 100, seconds: 5.0, log_bytes: 10, log_seconds: 2.0 };
        let estimate = pace.estimate(200, 15).unwrap();
        assert_eq!((estimate.seconds, estimate.log_seconds), (10.0, Some(3.0)));
        pace.log_bytes = 0;
        assert_eq!(pace.estimate(200, 15).unwrap().log_seconds, None);
        pace.stored_bytes = 0;
        assert_eq!(pace.estimate(200, 15), None);
    }
}
