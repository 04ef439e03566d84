//! How loaded this machine is, as Linux tells it: memory and processor time (proc(5), `/proc/meminfo` and `/proc/stat`);
//! and the end of a text file.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Longest line that the end of a file is read with, in bytes.
const LINE_BYTES: u64 = 4096;

/// The processors' time since the machine started, in ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorTime {
    busy: u64,
    all: u64,
}

impl ProcessorTime {
    /// Up to now.
    pub fn now() -> io::Result<Self> {
        let text = read(Path::new("/proc/stat"))?;
        Self::parse(&text).ok_or_else(|| io::Error::other("/proc/stat has no line on all processors"))
    }

    fn parse(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let ticks: Vec<u64> = line.split_whitespace().take(8).map_while(|word| word.parse().ok()).collect();
        let (idle, waiting) = (ticks.get(3)?, ticks.get(4)?);
        let all: u64 = ticks.iter().sum();
        Some(Self { busy: all - idle - waiting, all })
    }

    /// The busy share since `before`, in percent; 0 when no time has passed.
    pub fn percent_since(self, before: Self) -> u64 {
        let (busy, all) = (self.busy.saturating_sub(before.busy), self.all.saturating_sub(before.all));
        busy * 100 / all.max(1)
    }
}

/// The share of memory that programs cannot have any more, in percent.
pub fn memory_percent() -> io::Result<u64> {
    let text = read(Path::new("/proc/meminfo"))?;
    used_percent(&text).ok_or_else(|| io::Error::other("/proc/meminfo does not tell what is available"))
}

fn used_percent(text: &str) -> Option<u64> {
    let field = |name: &str| -> Option<u64> {
        text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok())
    };
    let (total, available) = (field("MemTotal:")?, field("MemAvailable:")?);
    Some(total.saturating_sub(available) * 100 / total.max(1))
}

#[expect(clippy::disallowed_methods, reason = "the kernel's own files are opened here")]
fn read(path: &Path) -> io::Result<String> {
    std::fs::read_to_string(path)
}

/// The last `lines` lines of the file at `path`, oldest first; bytes that are no text are replaced.
#[expect(clippy::disallowed_methods, reason = "files of other programs are looked at here")]
pub fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = File::open(path)?;
    let size = file.metadata()?.len();
    let span = size.min(LINE_BYTES.saturating_mul(lines as u64));
    file.seek(SeekFrom::Start(size - span))?;
    let mut bytes = Vec::new();
    file.take(span).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut last: Vec<String> = text.lines().rev().take(lines).map(str::to_owned).collect();
    last.reverse();
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_passed_and_of_what_there_is() {
        let at = |text| ProcessorTime::parse(text).unwrap();
        let (before, after) = (at("cpu  100 0 100 800 0 0 0 0 0 0\ncpu0 1"), at("cpu  130 0 110 850 10 0 0 0 99 99\n"));
        assert_eq!(after.percent_since(before), 40);
        assert_eq!(before.percent_since(before), 0);
        assert_eq!(ProcessorTime::parse("intr 5"), None);
        assert_eq!(used_percent("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n"), Some(75));
        assert_eq!(used_percent("MemTotal:  1000 kB\n"), None);
        assert!(memory_percent().unwrap() <= 100 && ProcessorTime::now().unwrap().all > 0);
    }

    #[test]
    fn the_end_of_a_file_is_its_last_lines_however_long_it_is() {
        use std::io::Write as _;
        let (mut file, mut odd) = (tempfile::NamedTempFile::new().unwrap(), tempfile::NamedTempFile::new().unwrap());
        let text: String = (1..=5000).map(|n| format!("line {n}\n")).collect();
        file.write_all(text.as_bytes()).unwrap();
        assert_eq!(last_lines(file.path(), 2).unwrap(), ["line 4999", "line 5000"]);
        odd.write_all(b"one\xff").unwrap();
        assert_eq!(last_lines(odd.path(), 50).unwrap(), ["one\u{fffd}"]);
        assert!(last_lines(Path::new("/nowhere/at/all"), 1).is_err());
    }
}
