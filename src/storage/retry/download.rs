//! A download that goes on where it broke off, and does not wait for ever.
//!
//! Counts only the time spent waiting for the store: a slow consumer is no stall. Keys are written once, so what is
//! read after a break belongs to the same object; that all bytes are right is for the caller's digest to say.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::model::key::ObjectKey;
use crate::storage::retry::Retrying;
use crate::storage::{Download, StorageError, StorageErrorKind};

pub(super) struct Resuming {
    storage: Retrying,
    key: ObjectKey,
    version: Option<String>,
    /// Where the next byte is in the object, and where the last one ends.
    at: u64,
    end: u64,
    size: u64,
    current: Option<Box<dyn Download>>,
    broken: u32,
    rate: Rate,
}

impl Resuming {
    pub(super) fn new(
        storage: Retrying,
        key: &ObjectKey,
        version: Option<&str>,
        start: u64,
        download: Box<dyn Download>,
    ) -> Self {
        let size = download.size();
        Self {
            storage,
            key: key.clone(),
            version: version.map(str::to_owned),
            at: start,
            end: start + size,
            size,
            current: Some(download),
            broken: 0,
            rate: Rate::default(),
        }
    }

    async fn piece(&mut self) -> Result<Option<Bytes>, StorageError> {
        let mut current = match self.current.take() {
            Some(current) => current,
            // One try: the caller counts tries, of opening and of reading alike.
            None => self.storage.inner.get(&self.key, self.version.as_deref(), Some(self.at..self.end)).await?,
        };
        let policy = self.storage.retrier.policy();
        let begun = Instant::now();
        let piece = timeout(policy.idle, current.next()).await.unwrap_or_else(|_| Err(self.stalled("nothing")))?;
        let Some(piece) = piece else { return self.ended() };
        if !self.rate.is_enough(begun.elapsed(), piece.len() as u64, policy.idle, policy.least_rate) {
            return Err(self.stalled("next to nothing"));
        }
        self.at += piece.len() as u64;
        self.current = Some(current);
        Ok(Some(piece))
    }

    fn ended(&self) -> Result<Option<Bytes>, StorageError> {
        if self.at == self.end {
            return Ok(None);
        }
        let message = format!("read {}: it ended at byte {} of {}", self.key, self.at, self.end);
        Err(StorageError::new(StorageErrorKind::Transient, message))
    }

    fn stalled(&self, how_much: &str) -> StorageError {
        let seconds = self.storage.retrier.policy().idle.as_secs_f32();
        let message = format!("read {} at byte {}: {how_much} came for {seconds} s", self.key, self.at);
        StorageError::new(StorageErrorKind::Transient, message)
    }
}

#[async_trait]
impl Download for Resuming {
    fn size(&self) -> u64 {
        self.size
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let deadline = Instant::now() + self.storage.retrier.policy().deadline;
        loop {
            match self.piece().await {
                Err(error) if error.is_transient() => {
                    self.broken += 1;
                    self.rate = Rate::default();
                    self.storage.retrier.wait(self.broken, deadline, error).await?;
                }
                piece => {
                    self.broken = 0;
                    return piece;
                }
            }
        }
    }
}

/// Bytes got and time waited since the last judgement.
#[derive(Default)]
struct Rate {
    waited: Duration,
    bytes: u64,
}

impl Rate {
    /// Counts one piece; judges whenever `window` of waiting has come together.
    fn is_enough(&mut self, waited: Duration, bytes: u64, window: Duration, least: u64) -> bool {
        self.waited += waited;
        self.bytes += bytes;
        if self.waited < window {
            return true;
        }
        let enough = self.bytes as f64 >= self.waited.as_secs_f64() * least as f64;
        *self = Self::default();
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f29_a_trickle_is_a_stall_and_a_slow_line_is_not() {
        let window = Duration::from_secs(30);
        let judge = |bytes: u64| {
            let mut rate = Rate::default();
            (0..40).all(|_| rate.is_enough(Duration::from_secs(1), bytes, window, 1024))
        };
        assert!(!judge(1));
        assert!(!judge(1000));
        assert!(judge(1100));
    }
}
