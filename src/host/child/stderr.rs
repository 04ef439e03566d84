//! What a child says on stderr, read on a thread of its own so that it never waits for us.
//!
//! Bounded: the last lines, and the lines that look like warnings, each cut at a length.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Read};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

const KEPT_LINES: usize = 50;
const KEPT_WARNINGS: usize = 200;
const LONGEST_LINE: usize = 2000;

/// The messages of one child; clones see the same.
#[derive(Clone, Debug, Default)]
pub struct Messages(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    heard: Mutex<Heard>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Heard {
    last: VecDeque<String>,
    warnings: Vec<String>,
    warnings_dropped: usize,
    ended: bool,
}

impl Messages {
    /// Reads `stderr` to its end on a new thread.
    pub(super) fn read_from(stderr: impl Read + Send + 'static) -> io::Result<Self> {
        let messages = Self::default();
        let heard = messages.clone();
        thread::Builder::new().name("child-stderr".to_owned()).spawn(move || heard.listen(stderr))?;
        Ok(messages)
    }

    /// The last lines, at most 50.
    pub fn last(&self) -> Vec<String> {
        self.heard().last.iter().cloned().collect()
    }

    /// The lines that look like warnings, at most 200; a last line tells of more.
    pub fn warnings(&self) -> Vec<String> {
        let heard = self.heard();
        let mut warnings = heard.warnings.clone();
        if heard.warnings_dropped > 0 {
            warnings.push(format!("and {} more warnings", heard.warnings_dropped));
        }
        warnings
    }

    /// Waits until one of the last lines contains `text`. False when the child closed its stderr or `timeout` passed
    /// before.
    pub fn wait_for(&self, text: &str, timeout: Duration) -> bool {
        let found = |heard: &Heard| heard.last.iter().any(|line| line.contains(text));
        self.wait_while(timeout, |heard| !heard.ended && !found(heard));
        found(&self.heard())
    }

    /// Waits until stderr is closed, which a helper that outlived the child may delay.
    pub(super) fn wait_for_end(&self, timeout: Duration) {
        self.wait_while(timeout, |heard| !heard.ended);
    }

    fn wait_while(&self, timeout: Duration, condition: impl Fn(&Heard) -> bool) {
        // Whether it timed out is for the caller to see in what was heard.
        drop(self.0.changed.wait_timeout_while(self.heard(), timeout, |heard| condition(heard)));
    }

    fn listen(&self, stderr: impl Read) {
        let mut reader = BufReader::new(stderr);
        let mut line = Vec::new();
        loop {
            let (used, ended) = match reader.fill_buf() {
                Ok([]) => break,
                Ok(bytes) => take_line(bytes, &mut line),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => break,
            };
            reader.consume(used);
            if ended {
                self.keep(&line);
                line.clear();
            }
        }
        self.keep(&line);
        self.heard().ended = true;
        self.0.changed.notify_all();
    }

    fn keep(&self, line: &[u8]) {
        let line = String::from_utf8_lossy(line).trim_end().to_owned();
        if line.is_empty() {
            return;
        }
        let mut heard = self.heard();
        if line.to_ascii_lowercase().contains("warning") {
            if heard.warnings.len() < KEPT_WARNINGS {
                heard.warnings.push(line.clone());
            } else {
                heard.warnings_dropped += 1;
            }
        }
        if heard.last.len() == KEPT_LINES {
            heard.last.pop_front();
        }
        heard.last.push_back(line);
        drop(heard);
        self.0.changed.notify_all();
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Moves bytes up to a line end into `line`, which stops growing at its limit. Gives how many bytes were used and
/// whether the line ended.
fn take_line(bytes: &[u8], line: &mut Vec<u8>) -> (usize, bool) {
    let end = memchr::memchr(b'\n', bytes);
    let text = &bytes[..end.unwrap_or(bytes.len())];
    let room = LONGEST_LINE.saturating_sub(line.len()).min(text.len());
    line.extend_from_slice(&text[..room]);
    (text.len() + usize::from(end.is_some()), end.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(text: String) -> Messages {
        let messages = Messages::read_from(io::Cursor::new(text)).unwrap();
        messages.wait_for_end(Duration::from_secs(5));
        messages
    }

    #[test]
    fn the_last_lines_are_kept_and_long_ones_cut() {
        let messages = heard((0..200).map(|n| format!("line {n}\n")).collect::<String>() + &"x".repeat(9000));
        let last = messages.last();
        assert_eq!((last.len(), last[0].as_str()), (KEPT_LINES, "line 151"));
        assert_eq!(last[KEPT_LINES - 1].len(), LONGEST_LINE);
    }

    #[test]
    fn warnings_are_kept_apart_and_counted() {
        let messages = heard((0..300).map(|n| format!("pg_dump: warning: {n}\nplain\n")).collect());
        assert_eq!(messages.warnings().len(), KEPT_WARNINGS + 1);
        assert_eq!(messages.warnings()[KEPT_WARNINGS], "and 100 more warnings");
    }
}
