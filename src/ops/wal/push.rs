//! One file handed over by `archive_command`: done only when it is durable in every repository it was to go to.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use crate::catalog::Repository;
use crate::host::failpoint::pass;
use crate::host::{Clock, FailPoint};
use crate::model::failure::{Failure, FailureKind};
use crate::model::lsn::Lsn;
use crate::model::wal::{SegmentName, WalFile};
use crate::steps::blocks::{BlockStore, Read};
use crate::steps::wal::{Standing, StoreOptions, Verdicts, WalInput, store};

/// What a push works with. Good for many.
#[derive(Debug)]
pub struct Doors {
    /// Where the file must be before PostgreSQL is told that it is archived.
    pub repositories: Vec<Repository>,
    /// Repositories of which the same holds, and which could not be opened.
    pub unopened: Vec<(String, Failure)>,
    /// How it is stored.
    pub options: StoreOptions,
    /// The data directory, for files that do not lie in its pg_wal.
    pub data_directory: Option<PathBuf>,
    /// Where it is kept which blocks a segment touches.
    pub blocks: Option<BlockStore>,
}

/// A file that is archived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The file.
    pub file: WalFile,
    /// Repositories that it was stored in now.
    pub stored: Vec<String>,
    /// Repositories that had it already, with the same content.
    pub already: Vec<String>,
}

/// Archives the file `path`. Errors unless it is durable everywhere; it may then be durable in some.
pub async fn push(path: &Path, doors: &Doors, clock: &dyn Clock) -> Result<Pushed, Failure> {
    let (at, directory) = (path.to_owned(), doors.data_directory.clone());
    let checked = tokio::task::spawn_blocking(move || WalInput::check(&at, directory.as_deref())).await;
    let input = checked.map_err(|error| Failure::new(FailureKind::Failed, "check the file").because(error))??;
    pass(FailPoint::WalChecked)?;
    let summing = begin_summary(&input, doors.blocks.as_ref());
    let verdicts = store(&input, &doors.repositories, &doors.options, clock.now()).await;
    let pushed = judge(input.file, verdicts, &doors.unopened)?;
    // Only of what is archived: another server's segment of the same name was refused before.
    if let (Some((segment, summing)), Some(blocks)) = (summing, doors.blocks.clone()) {
        let keeping = tokio::task::spawn_blocking(move || summing.join_and_keep(segment, &blocks));
        if let Err(error) = keeping.await {
            tracing::warn!(%segment, %error, "which blocks a segment touches is not kept");
        }
    }
    Ok(pushed)
}

/// Begins to read which blocks a segment touches, while it is stored. A segment that is archived must not wait for
/// that, nor fail with it: without it the next base backup is a full one.
fn begin_summary(input: &WalInput, blocks: Option<&BlockStore>) -> Option<(SegmentName, Summing)> {
    let WalFile::Segment(segment) = input.file else { return None };
    let directory = input.directory.clone();
    let (blocks, path) = (blocks?.clone(), input.path.clone());
    let known = blocks.has(directory.system_identifier, segment);
    let read = move || blocks.summarize(segment, &path, &directory, Lsn(u64::MAX));
    (!known).then(|| (segment, Summing(std::thread::spawn(read))))
}

/// A segment being read.
struct Summing(JoinHandle<Result<Read, Failure>>);

impl Summing {
    fn join_and_keep(self, segment: SegmentName, blocks: &BlockStore) {
        let read = self.0.join().unwrap_or_else(|_| Err(Failure::new(FailureKind::Failed, "sum up the segment")));
        if let Err(failure) = read.and_then(|read| blocks.put(segment, &read.summary)) {
            let error = failure.full_message();
            tracing::warn!(%segment, error, "which blocks a segment touches is not kept; the next base backup is a full one");
        }
    }
}

fn judge(file: WalFile, verdicts: Verdicts, unopened: &[(String, Failure)]) -> Result<Pushed, Failure> {
    let mut pushed = Pushed { file, stored: Vec::new(), already: Vec::new() };
    let mut failed: Vec<(String, Failure)> = Vec::new();
    for (repository, verdict) in verdicts {
        match verdict {
            Ok(Standing::Stored) => pushed.stored.push(repository),
            Ok(Standing::AlreadyThere) => pushed.already.push(repository),
            Err(failure) => failed.push((repository, failure)),
        }
    }
    let closed =
        unopened.iter().map(|(name, failure)| (name.clone(), Failure::new(failure.kind, failure.full_message())));
    failed.extend(closed);
    let held = pushed.stored.len() + pushed.already.len();
    match failed.is_empty() {
        true if held > 0 => Ok(pushed),
        true => Err(Failure::new(FailureKind::Usage, format!("archive {file}: no repository takes WAL"))
            .hint("Set wal = true in the section of a repository in dbagent.toml.")),
        false => Err(joined(file, failed, held)),
    }
}

/// All failures in one; a refusal for safety, which no new try will mend, gives it its kind and its hint.
fn joined(file: WalFile, failed: Vec<(String, Failure)>, held: usize) -> Failure {
    let texts: Vec<_> = failed.iter().map(|(name, failure)| format!("{name}: {}", failure.full_message())).collect();
    let others = if held > 0 { format!(" ({held} other repositories have it)") } else { String::new() };
    let message = format!("archive {file} in {}{others}", texts.join("; "));
    let grave = failed.iter().position(|(_, failure)| failure.kind == FailureKind::RefusedForSafety).unwrap_or(0);
    let Some((_, worst)) = failed.into_iter().nth(grave) else { return Failure::new(FailureKind::Failed, message) };
    let retried = "PostgreSQL keeps the file and tries again.".to_owned();
    Failure::new(worst.kind, message).hint(worst.hint.unwrap_or(retried))
}
