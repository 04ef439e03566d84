//! The verb `wal-sync`: what one repository has and another lacks is carried there, what pg_wal still has is pushed again,
//! and what is left is told: gaps, and archiving that has stopped.

use std::path::PathBuf;

use crate::catalog::Repository;
use crate::host::Space;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::model::wal::{SegmentName, WalFile};
use crate::ops::Setting;
use crate::postgres::Connection;
use crate::postgres::archiver::ArchiverFacts;
use crate::postgres::control::DataDirectory;
use crate::steps::blocks::BlockStore;
use crate::steps::wal::{
    GapState, Local, StoreOptions, Survey, Thresholds, WalInput, archiving_findings, copy, store, survey,
    survey_findings,
};

/// What the verb works with.
#[derive(Debug)]
pub struct Doors {
    /// Every repository that takes WAL, the directories first.
    pub repositories: Vec<Repository>,
    /// Those that could not be opened.
    pub unopened: Vec<(String, Failure)>,
    /// How a file is stored that is pushed again.
    pub options: StoreOptions,
    /// The server, asked how archiving is doing.
    pub server: Result<Connection, Failure>,
    /// The data directory, where this machine has it.
    pub data_directory: Option<PathBuf>,
    /// When a backlog or a filling disk is told.
    pub thresholds: Thresholds,
    /// Where it is kept which blocks the log touches.
    pub blocks: Option<BlockStore>,
}

/// What was carried where.
#[derive(Debug, Default)]
struct Carried {
    files: u64,
    failures: Vec<(String, Failure)>,
}

/// Carries, checks, tells.
pub async fn run(doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    setting.events.step("looking at the archived WAL");
    // Before the repositories: what the archiver says is archived must then be found in them.
    let archiver = doors.archiver().await;
    let local = doors.local();
    let mut found = survey(&doors.repositories, local.as_ref(), setting.clock.now()).await;
    let silent = archiver.as_ref().ok().and_then(|facts| unstored(&found, facts));
    let mut carried = Carried::default();
    if found.timelines.iter().any(|timeline| timeline.missing.iter().any(|missing| missing.state != GapState::Lost)) {
        setting.events.step("carrying WAL to the repositories that lack it");
        doors.mend(&found, local.as_ref(), &mut carried, setting).await?;
    }
    doors.carry_notes(&found, &mut carried, setting).await?;
    if carried.files > 0 {
        found = survey(&doors.repositories, local.as_ref(), setting.clock.now()).await;
    }
    doors.sum_up(local.as_ref(), setting).await?;
    let mut findings = doors.findings(&found, &carried);
    findings.extend(silent);
    findings.extend(doors.archiving(&archiver));
    Ok(outcome(doors, &found, &carried, findings))
}

impl Doors {
    /// Makes the block summaries that are missing of what pg_wal still has.
    async fn sum_up(&self, local: Option<&Local>, setting: &Setting) -> Result<(), Failure> {
        let (Some(blocks), Some(local), Some(path)) = (&self.blocks, local, &self.data_directory) else {
            return Ok(());
        };
        let Ok(directory) = DataDirectory::read(path) else { return Ok(()) };
        let system = directory.system_identifier;
        let lacking: Vec<_> = local.segments().filter(|segment| !blocks.has(system, *segment)).collect();
        let blocks = blocks.clone();
        let adding = tokio::task::spawn_blocking(move || {
            for segment in lacking {
                let path = directory.path.join("pg_wal").join(segment.to_string());
                if let Err(failure) = blocks.add(segment, &path, &directory) {
                    // PostgreSQL may have taken it away meanwhile.
                    tracing::debug!(%segment, error = failure.full_message(), "no block summary is made");
                }
            }
        });
        let added = async {
            adding.await.map_err(|error| Failure::new(FailureKind::Failed, "make block summaries").because(error))
        };
        setting.unless_stopped("make block summaries", added).await
    }

    /// What the repositories hold, and what is missing where. Changes nothing.
    pub async fn survey(&self, setting: &Setting) -> Survey {
        survey(&self.repositories, self.local().as_ref(), setting.clock.now()).await
    }

    /// What lies in pg_wal; nothing where the data directory is not at hand.
    pub fn local(&self) -> Option<Local> {
        let directory = DataDirectory::read(self.data_directory.as_deref()?).ok()?;
        Local::read(&directory.path.join("pg_wal"), directory.segment_size).ok()
    }

    async fn mend(
        &self,
        found: &Survey,
        local: Option<&Local>,
        carried: &mut Carried,
        setting: &Setting,
    ) -> Result<(), Failure> {
        let Some(size) = found.size else { return Ok(()) };
        for timeline in &found.timelines {
            for missing in timeline.missing.iter().filter(|missing| missing.state == GapState::Delayed) {
                for segment in missing.range.segments(size) {
                    // A repository that takes nothing is not asked again for each segment.
                    if carried.has_failed(&missing.repository) {
                        break;
                    }
                    setting.require_going_on("go on carrying WAL")?;
                    let held = timeline.held.iter().find(|(_, coverage)| coverage.holds(segment));
                    let from = held.and_then(|(name, _)| self.repository(name));
                    let here = local.is_some_and(|local| local.has(segment));
                    let done = self.bring(segment, &missing.repository, from, here, setting).await;
                    carried.note(&missing.repository, done);
                }
            }
        }
        Ok(())
    }

    /// Brings `segment` to the repository `name`, from another one, or from pg_wal.
    async fn bring(
        &self,
        segment: SegmentName,
        name: &str,
        from: Option<&Repository>,
        here: bool,
        setting: &Setting,
    ) -> Result<bool, Failure> {
        let Some(to) = self.repository(name) else { return Ok(false) };
        let now = setting.clock.now();
        if let Some(from) = from {
            return copy(WalFile::Segment(segment), from, to, now).await.map(|_| true);
        }
        let Some(directory) = self.data_directory.as_ref().filter(|_| here) else { return Ok(false) };
        let path = directory.join("pg_wal").join(segment.to_string());
        let input = WalInput::check(&path, Some(directory))?;
        let mut verdicts = store(&input, std::slice::from_ref(to), &self.options, now).await;
        verdicts.pop().map_or(Ok(false), |(_, verdict)| verdict.map(|_| true))
    }

    /// Histories, backup notes and partial segments go everywhere too.
    async fn carry_notes(&self, found: &Survey, carried: &mut Carried, setting: &Setting) -> Result<(), Failure> {
        let histories = found.tree.histories().map(|history| WalFile::History(history.timeline()));
        let others = found.timelines.iter().flat_map(|timeline| &timeline.held);
        let others = others.flat_map(|(_, coverage)| coverage.others.iter().copied());
        let mut files: Vec<WalFile> = histories.chain(others).collect();
        files.sort_unstable();
        files.dedup();
        for file in files {
            setting.require_going_on("go on carrying WAL")?;
            self.carry_note(file, carried, setting).await;
        }
        Ok(())
    }

    async fn carry_note(&self, file: WalFile, carried: &mut Carried, setting: &Setting) {
        let now = setting.clock.now();
        let (mut has, mut lacks) = (None, Vec::new());
        for repository in self.repositories.iter().filter(|repository| !carried.has_failed(&repository.name)) {
            match repository.wal_record(file, now).await {
                Ok(Some(_)) => has = has.or(Some(repository)),
                Ok(None) => lacks.push(repository),
                Err(error) => return carried.note(&repository.name, Err(error.into())),
            }
        }
        let Some(from) = has else { return };
        for to in lacks {
            carried.note(&to.name, copy(file, from, to, now).await.map(|_| true));
        }
    }

    fn repository(&self, name: &str) -> Option<&Repository> {
        self.repositories.iter().find(|repository| repository.name == name)
    }

    fn findings(&self, found: &Survey, carried: &Carried) -> Vec<Finding> {
        let mut findings = survey_findings(found);
        for (repository, failure) in &carried.failures {
            let message = format!("WAL cannot be carried to repository {repository}: {}", failure.full_message());
            let finding = Finding::new(Severity::Critical, "wal-not-carried", message);
            findings.push(Finding { remedy: failure.hint.clone(), ..finding });
        }
        let closed = self.unopened.iter().map(|(name, failure)| (name.clone(), failure.full_message()));
        findings.extend(closed.map(|(name, why)| {
            let message = format!("repository {name} cannot be opened: {why}");
            Finding::new(Severity::Critical, "wal-repository", message)
        }));
        findings
    }

    async fn archiver(&self) -> Result<ArchiverFacts, Failure> {
        let connection = self.server.as_ref().map_err(Failure::again)?;
        let session = connection.connect().await?;
        Ok(ArchiverFacts::read(&session).await?)
    }

    /// How archiving is doing; that nobody knows is a finding too.
    fn archiving(&self, archiver: &Result<ArchiverFacts, Failure>) -> Vec<Finding> {
        let volume = self.data_directory.as_ref().and_then(|path| Space::at(&path.join("pg_wal")).ok());
        match archiver {
            Ok(facts) => archiving_findings(facts, volume, &self.thresholds),
            Err(failure) => {
                let message = format!("nobody knows whether WAL is archived: {}", failure.full_message());
                vec![Finding::new(Severity::Warning, "archiver-unknown", message)]
            }
        }
    }
}

/// The file that PostgreSQL archived last, where no repository has it: the command says that it archives, and does not.
fn unstored(found: &Survey, facts: &ArchiverFacts) -> Option<Finding> {
    let (file, _) = facts.archived.as_ref()?;
    let segment: SegmentName = file.parse().ok()?;
    let mut held = found.timelines.iter().flat_map(|timeline| &timeline.held);
    if !found.unread.is_empty() || held.any(|(_, coverage)| coverage.holds(segment)) {
        return None;
    }
    let message = format!("PostgreSQL counts {file} as archived, and no repository has it");
    let remedy = "look at archive_command: it must end with the exit code of `dbagent wal push`";
    Some(Finding::new(Severity::Critical, "archived-not-stored", message).remedy(remedy))
}

impl Carried {
    fn note(&mut self, repository: &str, done: Result<bool, Failure>) {
        match done {
            Ok(true) => self.files += 1,
            Ok(false) => {}
            Err(failure) => self.failures.push((repository.to_owned(), failure)),
        }
    }

    fn has_failed(&self, repository: &str) -> bool {
        self.failures.iter().any(|(other, _)| other == repository)
    }
}

fn outcome(doors: &Doors, found: &Survey, carried: &Carried, findings: Vec<Finding>) -> Outcome {
    let error = |name: &str| {
        let failed =
            carried.failures.iter().find(|(other, _)| other == name).map(|(_, failure)| failure.full_message());
        failed.or_else(|| found.unread.iter().find(|(other, _)| other == name).map(|(_, why)| why.clone()))
    };
    let opened = doors.repositories.iter().map(|repository| (repository.name.clone(), error(&repository.name)));
    let closed = doors.unopened.iter().map(|(name, failure)| (name.clone(), Some(failure.full_message())));
    let repositories: Vec<_> = opened
        .chain(closed)
        .map(|(repository, error)| RepositoryOutcome { repository, error, stored_bytes: 0 })
        .collect();
    let verdict = match (repositories.iter().any(|each| each.error.is_some()), findings.is_empty()) {
        (true, _) => Verdict::Incomplete,
        (false, false) => Verdict::Findings,
        (false, true) => Verdict::Ok,
    };
    let summary = format!("{} files carried; {}", carried.files, extent(found));
    Outcome { verdict, repositories, findings, ..Outcome::ok(summary) }
}

/// How far the archive reaches, in a few words.
fn extent(found: &Survey) -> String {
    let last = found
        .timelines
        .last()
        .and_then(|timeline| timeline.held.iter().filter_map(|(_, coverage)| coverage.last()).max());
    last.map_or("no WAL is stored yet".to_owned(), |last| format!("WAL is stored up to {last}"))
}
