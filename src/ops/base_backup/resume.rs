//! Going on with a base backup that was interrupted: which of its stored parts are used again.
//!
//! The interrupted run's own beginning on the server is gone, and a copy begins to replay the log at ours. So a part is
//! used again on one condition: the same files, read now, within this backup, give the very same bytes. Then it is what
//! this run would have stored, and no clock and no log has to be believed. What is spared is to compress, encrypt and
//! send; reading is not, neither the files nor what is stored of them. Everything else that the earlier runs left in the
//! backup's folder goes before anything is added.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::{self, Read as _};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio_util::sync::CancellationToken;
use xxhash_rust::xxh3::xxh3_128;

use crate::catalog::ArtifactName;
use crate::catalog::names::Leased;
use crate::model::base::FileLine;
use crate::model::digest::Hasher;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::manifest::{ObjectRecord, ObjectRole, VerificationLevel};
use crate::model::outcome::{Finding, Severity};
use crate::ops::base_backup::Work;
use crate::ops::base_backup::basis::Selector;
use crate::ops::base_backup::journal::{Head, Journal, Note, Terms};
use crate::ops::base_backup::places::{Place, Places};
use crate::ops::base_backup::plan::Item;
use crate::ops::base_backup::reading::{PageCheck, PartReading, PartReport};
use crate::postgres::FileTree;
use crate::postgres::file_tree::Entry;
use crate::steps::read_back::read_back;
use crate::storage::StorageError;

/// Paths that are remembered, about: an entry takes some 32 bytes. The parts of one large file each come first, so that what
/// is left out beyond it is little in bytes.
const MOST_PATHS: usize = 1_000_000;

/// Bytes read in one go.
const WINDOW_BYTES: usize = 256 << 10;

/// What is left of a dead run's lease, at least, for the next run to take its own.
const TO_LEASE: TimeDelta = TimeDelta::minutes(10);

/// What is used again.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    /// The numbers of the parts.
    pub(super) parts: BTreeSet<u32>,
    /// Digests of the paths in them: they are in no other part.
    pub(super) paths: Arc<HashSet<u128>>,
    /// What reading them showed; without the lines, which the notes have.
    pub(super) reports: Vec<PartReport>,
    /// The largest number that a part of an earlier run may have had.
    pub(super) last_number: u32,
    /// How many parts there were.
    pub(super) found: usize,
}

/// How far the stored bytes of a part were read back, by repository.
type Levels = BTreeMap<String, VerificationLevel>;

/// How a path is remembered.
pub(super) fn name(path: &str) -> u128 {
    xxh3_128(path.as_bytes())
}

/// The backup that `journal` has notes of, where it may be gone on with: on the same terms, begun less than `within` ago or
/// still leased by the run that died, and not on its way to being committed.
pub(super) async fn find(
    journal: &Journal,
    places: &Places,
    terms: &Terms,
    within: Duration,
    now: DateTime<Utc>,
) -> Option<(ArtifactName, Head)> {
    let head = journal.head()?;
    let within = TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX);
    if head.terms != *terms || head.began > now || journal.numbers().is_empty() {
        return None;
    }
    let name = ArtifactName::of_manifest(&head.manifest)?;
    let is_young = now - head.began < within;
    if !is_young && !is_leased(&name, places, now + TO_LEASE).await {
        return None;
    }
    let closing = [name.manifest().ok()?, name.signature().ok()?, name.object(ObjectRole::Checksums, &[]).ok()?];
    for place in places.going() {
        let there = place.folder(&name).await.ok()?;
        if closing.iter().any(|key| there.contains_key(key)) {
            return None;
        }
    }
    Some((name, head))
}

/// Whether no expiry takes anything of `name` before `until`, anywhere.
async fn is_leased(name: &ArtifactName, places: &Places, until: DateTime<Utc>) -> bool {
    let on = Leased::Name(name.clone());
    for place in places.going() {
        if !place.repository.leased_until(&on).await.is_ok_and(|end| end.is_some_and(|end| end > until)) {
            return false;
        }
    }
    true
}

impl Work<'_> {
    /// Finds out which parts of earlier runs are used again, and clears the others away.
    pub(super) async fn adopt(&self, check: Option<PageCheck>, selector: &Selector) -> Result<Adopted, Failure> {
        let mut adopted = Adopted::default();
        if !self.resumes {
            return Ok(adopted);
        }
        self.setting.events.step("reading again what an interrupted run has stored");
        let numbers = self.journal.numbers();
        (adopted.found, adopted.last_number) = (numbers.len(), numbers.last().copied().unwrap_or_default());
        let (mut waiting, mut reading) = (numbers.into_iter(), FuturesUnordered::new());
        let mut paths = HashSet::new();
        loop {
            while reading.len() < self.options.parallel.get() && paths.len() < MOST_PATHS {
                let Some(number) = waiting.next() else { break };
                reading.push(self.adopt_part(number, check, selector));
            }
            let next = async { Ok(reading.next().await) };
            let Some(part) = self.setting.unless_stopped("go on with the base backup", next).await? else { break };
            match part? {
                (note, Some((report, levels))) => {
                    paths.extend(note.lines.iter().map(|line| name(&line.path)));
                    adopted.parts.insert(note.number);
                    adopted.reports.push(PartReport { lines: Vec::new(), ..report });
                    self.hold(&note, &levels);
                }
                (note, None) => self.journal.forget(note.number),
            }
        }
        adopted.paths = Arc::new(paths);
        adopted.last_number = adopted.last_number.max(self.clear_folders().await?);
        Ok(adopted)
    }

    /// The note of a part, with what reading its files showed and how far its stored bytes were read back, where the files
    /// and all that is stored are as they were.
    async fn adopt_part(
        &self,
        number: u32,
        check: Option<PageCheck>,
        selector: &Selector,
    ) -> Result<(Note, Option<(PartReport, Levels)>), Failure> {
        let nothing = Note { number, lines: Vec::new(), held: Default::default() };
        let Some(note) = self.journal.part(number) else { return Ok((nothing, None)) };
        for place in self.places.going() {
            let is_there = match note.held.get(&place.repository.name) {
                Some(record) => place.has(record).await,
                None => false,
            };
            if !is_there {
                return Ok((note, None));
            }
        }
        let (tree, selector, stop) = (self.cluster.tree()?.clone(), selector.clone(), self.setting.stop.clone());
        let reading = tokio::task::spawn_blocking(move || (read_again(&tree, &note, &selector, check, &stop), note));
        let (read, note) = reading
            .await
            .map_err(|error| Failure::new(FailureKind::Failed, "read the files of a part again").because(error))?;
        // Told to stop while it read: the part may be as good as before, for the next run.
        self.setting.require_going_on("go on with the base backup")?;
        let report = read.unwrap_or_else(|error| {
            tracing::warn!(part = number, %error, "is sent anew");
            None
        });
        let Some(report) = report else { return Ok((note, None)) };
        Ok(match self.read_back(&note).await {
            Ok(levels) => (note, Some((report, levels))),
            Err(failure) => {
                tracing::warn!(part = number, error = failure.full_message(), "is sent anew");
                (note, None)
            }
        })
    }

    /// Reads what is stored of a part back, everywhere: the host may have lost its power since that was done, and a file
    /// may have its length and other bytes. Gives how far, by repository.
    async fn read_back(&self, note: &Note) -> Result<Levels, Failure> {
        let mut levels = Levels::new();
        for place in self.places.going() {
            if let Some(record) = note.held.get(&place.repository.name) {
                let records = std::slice::from_ref(record);
                let level = read_back(&place.repository, records, &self.setting.events).await?;
                levels.insert(place.repository.name.clone(), level);
            }
        }
        Ok(levels)
    }

    fn hold(&self, note: &Note, levels: &Levels) {
        for place in self.places.going() {
            let name = &place.repository.name;
            if let (Some(record), Some(level)) = (note.held.get(name), levels.get(name)) {
                place.adopt(record.clone(), *level);
            }
        }
    }

    /// Deletes everything from the backup's folders that is not used again; a repository where that fails is left behind,
    /// as old parts beside the new ones would mislead whoever unpacks all of them. Gives the largest number of a part there
    /// was.
    async fn clear_folders(&self) -> Result<u32, Failure> {
        let mut last = 0;
        for place in self.places.going() {
            match self.clear_folder(place).await {
                Ok(number) => last = last.max(number),
                Err(error) => {
                    let message = format!("clear what an interrupted base backup left in {}", place.repository.name);
                    place.give_up(Failure::new(FailureKind::Failed, message).because(error));
                }
            }
        }
        if self.places.going().is_empty() {
            self.journal.end()?;
        }
        self.places.require_one()?;
        Ok(last)
    }

    async fn clear_folder(&self, place: &Place) -> Result<u32, StorageError> {
        let there = place.folder(&self.name).await?;
        place.clear(&there).await?;
        let numbers = there.keys().filter_map(|key| key.name().strip_prefix("part-")?.split('.').next()?.parse().ok());
        Ok(numbers.fold(0, u32::max))
    }
}

/// Ends what the interrupted run of the backup `name` was sending. Whether that, and deleting what turns out to be of no
/// use, can be done everywhere; where not, it is better begun anew.
pub(super) async fn can_clear(places: &Places, name: &ArtifactName) -> bool {
    for place in places.going() {
        if let Err(error) = place.end_uploads(name).await {
            let (repository, error) = (&place.repository.name, with_causes(&error));
            tracing::warn!(
                repository,
                error,
                "an interrupted base backup cannot be cleared away there: it is begun anew"
            );
            return false;
        }
    }
    true
}

impl Adopted {
    /// That something was used again.
    pub(super) fn finding(&self) -> Option<Finding> {
        let (used, found) = (self.parts.len(), self.found);
        (used > 0).then(|| {
            let message = format!("an interrupted run was gone on with: {used} of its {found} parts are used again");
            Finding::new(Severity::Info, "resumed", message)
        })
    }
}

/// What reading the files of `note` again shows, where they give the same bytes as then.
fn read_again(
    tree: &FileTree,
    note: &Note,
    selector: &Selector,
    check: Option<PageCheck>,
    stop: &CancellationToken,
) -> io::Result<Option<PartReport>> {
    let Some(record) = note.held.values().next() else { return Ok(None) };
    let mut items = Vec::with_capacity(note.lines.len());
    for line in &note.lines {
        let Some(entry) = tree.entry(&line.path)?.filter(|entry| is_as_before(entry, line)) else { return Ok(None) };
        items.push(Item { pages: selector.pages(&entry), entry });
    }
    let mut reading = PartReading::new(tree.root().to_owned(), note.number, items, check);
    let report = reading.report();
    match gives(&mut reading, record, stop)? {
        true => Ok(Some(std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner)))),
        false => Ok(None),
    }
}

/// Spares reading files that have surely changed; those that look unchanged prove it by their bytes.
fn is_as_before(entry: &Entry, line: &FileLine) -> bool {
    let same_kind = entry.size.is_some() == line.size.is_some();
    let same_size = line.pages.is_some() || entry.size == line.size;
    same_kind && same_size && entry.mode == line.mode && entry.modified == line.modified
}

fn gives(reading: &mut PartReading, record: &ObjectRecord, stop: &CancellationToken) -> io::Result<bool> {
    let (mut hasher, mut size, mut window) = (Hasher::default(), 0, vec![0; WINDOW_BYTES]);
    loop {
        if stop.is_cancelled() {
            return Err(io::Error::other("told to stop"));
        }
        match reading.read(&mut window)? {
            0 => return Ok((size, hasher.finish()) == (record.content_size, record.content_digest)),
            count => {
                hasher.update(&window[..count]);
                size += count as u64;
            }
        }
        if size > record.content_size {
            return Ok(false);
        }
    }
}
