//! The parts on their way: a walk of the data directory feeds them, several flow at once, the list of files follows.

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use tokio::sync::mpsc;

use crate::host::failpoint::{FailPoint, pass};
use crate::host::{AssembledSource, BytesSource, Source, SourceFeeder, feed};
use crate::model::base::{BACKUP_LABEL, CONTROL_FILE, DamagedPage, DamagedPages, FileLine, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::lsn::Lsn;
use crate::model::manifest::{Encoding, ObjectRecord, ObjectRole};
use crate::ops::base_backup::basis::{Basis, Selector};
use crate::ops::base_backup::journal::Note;
use crate::ops::base_backup::plan::{Item, PartPlan, Survey};
use crate::ops::base_backup::reading::{PageCheck, PartReading, PartReport};
use crate::ops::base_backup::resume::{self, Adopted};
use crate::ops::base_backup::{Taken, Work};
use crate::pipeline::store::{Flowed, PartRecipe, Progress, store_part};
use crate::pipeline::ustar;
use crate::postgres::Stopped;
use crate::postgres::file_tree::{Entry, FileTree};
use crate::steps::artifact::telling;

/// Chunks of the list of files between those who find them and the object.
const LINES_WAITING: usize = 4;

/// The parts of one backup.
pub(super) struct Parts<'a> {
    pub(super) work: &'a Work<'a>,
    pub(super) progress: Arc<Progress>,
    totals: Mutex<Totals>,
}

/// What the parts came to.
#[derive(Default)]
struct Totals {
    files: u64,
    bytes: u64,
    damaged: DamagedPages,
    unsettled: Vec<(DamagedPage, Lsn)>,
}

/// What goes into the last part, and what there is to say of the others.
pub(super) struct Ending {
    /// The last part's number.
    pub(super) number: u32,
    /// The control file.
    pub(super) control: Vec<u8>,
    /// What was skipped.
    pub(super) skipped: Vec<String>,
}

/// A part that lies in the repositories without its name yet.
struct FlowedPart {
    number: u32,
    flowed: Flowed,
    record: ObjectRecord,
    report: PartReport,
}

/// What a walk tells besides the parts.
struct Walked {
    next_number: u32,
    skipped: Vec<String>,
}

impl<'a> Parts<'a> {
    pub(super) fn new(work: &'a Work<'a>) -> Self {
        Self { work, progress: Arc::default(), totals: Mutex::default() }
    }

    /// Begins the backup on the server, sends every part and the list of files, and ends it.
    pub(super) async fn make(&self) -> Result<Taken, Failure> {
        let work = self.work;
        work.setting.events.step("waiting for a checkpoint");
        let label = format!("dbagent {}", work.name);
        let starting = async { Ok(work.session.start(&label, work.options.fast_checkpoint).await?) };
        let start = work.setting.unless_stopped("begin the base backup", starting).await?;
        pass(FailPoint::BaseStarted)?;
        let basis = work.basis(start).await?;
        let check = work.cluster.page_check(start).filter(|_| work.options.verify_pages);
        let adopted = work.adopt(check, &basis.selector(&work.cluster)).await?;
        work.setting.events.step(basis.step());
        self.with_list(|feeder| self.send_all(check, basis, adopted, feeder)).await
    }

    /// Does what `send` does, and sends the list of files that it feeds beside it.
    pub(super) async fn with_list<F>(&self, send: impl FnOnce(SourceFeeder) -> F) -> Result<Taken, Failure>
    where
        F: Future<Output = Result<Taken, Failure>>,
    {
        let (feeder, list) = feed(LINES_WAITING);
        let both = futures_util::future::join(send(feeder), self.send_list(Box::new(list)));
        // A list whose feeder went away fails as well: the parts' failure is the one that tells.
        let (sent, listed) = telling(&self.work.setting.events, &self.progress, None, both).await;
        let taken = sent?;
        listed?;
        Ok(taken)
    }

    async fn send_all(
        &self,
        check: Option<PageCheck>,
        basis: Basis,
        adopted: Adopted,
        feeder: SourceFeeder,
    ) -> Result<Taken, Failure> {
        self.take_adopted(&adopted, &feeder).await?;
        let (sender, plans) = mpsc::channel(1);
        let survey = Survey::new(self.work.options.part_bytes, self.work.options.parallel);
        let walk = Walk {
            tree: self.work.cluster.tree()?.clone(),
            known: adopted.paths.clone(),
            after: adopted.last_number,
            selector: basis.selector(&self.work.cluster),
            sender,
        };
        let root = walk.tree.root().display().to_string();
        let walking = tokio::task::spawn_blocking(move || walk.make(survey));
        let sent = self.send_parts(plans, check, &feeder).await;
        let walked = walking
            .await
            .map_err(|error| Failure::new(FailureKind::Failed, "walk the data directory").because(error))?;
        sent?;
        let walked = walked.map_err(|error| {
            Failure::new(FailureKind::Failed, format!("walk the data directory {root}")).because(error)
        })?;
        let mut taken = self.end(walked, basis, &feeder).await?;
        taken.told.extend(adopted.finding());
        feeder.end().await;
        Ok(taken)
    }

    /// Adds the parts that are used again to the whole.
    async fn take_adopted(&self, adopted: &Adopted, feeder: &SourceFeeder) -> Result<(), Failure> {
        for number in &adopted.parts {
            let note = self.work.journal.part(*number).ok_or_else(|| {
                Failure::new(FailureKind::Failed, format!("read the note of part {number} a second time"))
                    .hint("Look at the state directory, and run the job again.")
            })?;
            self.take(PartReport { lines: note.lines, ..PartReport::default() }, feeder).await?;
        }
        for report in &adopted.reports {
            self.take(report.clone(), feeder).await?;
        }
        Ok(())
    }

    /// Sends the parts as they are planned, several at once, and one that flows while another is committed. The first failure
    /// ends it, and the walk with it.
    async fn send_parts(
        &self,
        mut plans: mpsc::Receiver<PartPlan>,
        check: Option<PageCheck>,
        feeder: &SourceFeeder,
    ) -> Result<(), Failure> {
        let parallel = self.work.options.parallel.get();
        let (mut flowing, mut ending, mut all_planned) = (FuturesUnordered::new(), FuturesUnordered::new(), false);
        while !all_planned || !flowing.is_empty() || !ending.is_empty() {
            let room = flowing.len() < parallel && flowing.len() + ending.len() <= parallel;
            tokio::select! {
                plan = plans.recv(), if room && !all_planned => match plan {
                    Some(plan) => flowing.push(self.flowing(plan, check)),
                    None => all_planned = true,
                },
                Some(part) = flowing.next(), if !flowing.is_empty() => ending.push(self.ending(part?, feeder)),
                Some(ended) = ending.next(), if !ending.is_empty() => ended?,
            }
        }
        Ok(())
    }

    fn flowing(&self, plan: PartPlan, check: Option<PageCheck>) -> BoxFuture<'_, Result<FlowedPart, Failure>> {
        self.flow_part(plan, check).boxed()
    }

    fn ending<'s>(&'s self, part: FlowedPart, feeder: &'s SourceFeeder) -> BoxFuture<'s, Result<(), Failure>> {
        self.end_part(part, feeder).boxed()
    }

    async fn flow_part(&self, plan: PartPlan, check: Option<PageCheck>) -> Result<FlowedPart, Failure> {
        let work = self.work;
        let asking = async { Ok(work.session.require_alive().await?) };
        work.setting.unless_stopped("go on with the base backup", asking).await?;
        let root = work.cluster.tree()?.root().to_owned();
        let reading = PartReading::new(root, plan.number, plan.items, check);
        let report = reading.report();
        let source = Box::new(AssembledSource::new(reading));
        let key = self.part_key(plan.number)?;
        let (flowed, record) = self.flow(ObjectRole::Part, key, Encoding::Tar, source, Some(plan.bytes)).await?;
        let report = std::mem::take(&mut *report.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(FlowedPart { number: plan.number, flowed, record, report })
    }

    /// Commits a part, reads it back and notes it.
    async fn end_part(&self, part: FlowedPart, feeder: &SourceFeeder) -> Result<(), Failure> {
        let work = self.work;
        let FlowedPart { number, flowed, record, report } = part;
        work.places.commit(flowed, &record, work.setting).await?;
        let going = work.places.going();
        let held =
            going.into_iter().filter_map(|place| Some((place.repository.name.clone(), place.held(&record.key)?)));
        work.journal.note(&Note { number, lines: report.lines.clone(), held: held.collect() });
        pass(FailPoint::BasePartCommitted)?;
        self.take(report, feeder).await
    }

    /// Adds a part's report to the whole and its lines to the list of files.
    pub(super) async fn take(&self, report: PartReport, feeder: &SourceFeeder) -> Result<(), Failure> {
        let lines = lines(&report.lines)?;
        {
            let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
            totals.files += report.lines.len() as u64;
            totals.bytes += report.lines.iter().filter_map(|line| line.size).sum::<u64>();
            totals.damaged.merge(report.damaged);
            totals.unsettled.extend(report.unsettled);
        }
        // A list that nobody takes any more has failed, and tells why.
        feeder.give(lines).await;
        Ok(())
    }

    /// The control file, then the end on the server, then the last part with both and the label.
    async fn end(&self, walked: Walked, basis: Basis, feeder: &SourceFeeder) -> Result<Taken, Failure> {
        let work = self.work;
        let control = work.cluster.control()?;
        work.setting.events.step("ending the backup on the server");
        let stopping = async { Ok(work.session.stop().await?) };
        let stopped = work.setting.unless_stopped("end the base backup", stopping).await?;
        work.cluster.require_timeline(&stopped)?;
        pass(FailPoint::BaseStopped)?;
        let ending = Ending { number: walked.next_number, control, skipped: walked.skipped };
        self.close(ending, stopped, basis, feeder).await
    }

    /// The last part: the control file and the label.
    pub(super) async fn close(
        &self,
        ending: Ending,
        stopped: Stopped,
        basis: Basis,
        feeder: &SourceFeeder,
    ) -> Result<Taken, Failure> {
        let Ending { number, control, skipped } = ending;
        let files = [
            (CONTROL_FILE, control),
            (TABLESPACE_MAP, stopped.map.clone().into_bytes()),
            (BACKUP_LABEL, stopped.label.clone().into_bytes()),
        ];
        let present = files.into_iter().filter(|(path, bytes)| *path != TABLESPACE_MAP || !bytes.is_empty());
        let modified = stopped.at.timestamp();
        let (archive, report) = last_part(number, present, modified);
        let key = self.part_key(number)?;
        let size = archive.len() as u64;
        self.send(ObjectRole::Part, key, Encoding::Tar, Box::new(BytesSource::new(archive)), Some(size)).await?;
        self.take(report, feeder).await?;
        let mut totals = std::mem::take(&mut *self.totals.lock().unwrap_or_else(PoisonError::into_inner));
        let beyond = totals.unsettled.into_iter().filter(|(_, changed)| *changed > stopped.lsn);
        beyond.for_each(|(page, _)| totals.damaged.add(page));
        let Totals { files, bytes, damaged, .. } = Totals { unsettled: Vec::new(), ..totals };
        Ok(Taken { stopped, files, bytes, damaged, skipped, basis, told: Vec::new() })
    }

    async fn send_list(&self, source: Box<dyn Source>) -> Result<(), Failure> {
        let encoding = self.encoding(Encoding::Files);
        let key = self.work.name.object(ObjectRole::Files, &encoding)?;
        self.send(ObjectRole::Files, key, Encoding::Files, source, None).await
    }

    pub(super) fn part_key(&self, number: u32) -> Result<ObjectKey, Failure> {
        Ok(self.work.name.part(number, &self.encoding(Encoding::Tar))?)
    }

    fn encoding(&self, form: Encoding) -> Vec<Encoding> {
        self.work.options.encoding(self.work.doors.recipients.as_ref(), form)
    }

    /// Sends one object everywhere, commits it and reads it back.
    pub(super) async fn send(
        &self,
        role: ObjectRole,
        key: ObjectKey,
        form: Encoding,
        source: Box<dyn Source>,
        expected: Option<u64>,
    ) -> Result<(), Failure> {
        let (flowed, record) = self.flow(role, key, form, source, expected).await?;
        self.work.places.commit(flowed, &record, self.work.setting).await
    }

    /// Sends one object everywhere; nothing of it is committed.
    async fn flow(
        &self,
        role: ObjectRole,
        key: ObjectKey,
        form: Encoding,
        source: Box<dyn Source>,
        expected: Option<u64>,
    ) -> Result<(Flowed, ObjectRecord), Failure> {
        let Work { options, doors, setting, places, .. } = self.work;
        let destinations = places.begin(&key, expected, options.stall_timeout).await?;
        let recipe = PartRecipe { codec: options.codec, recipients: doors.recipients.clone() };
        let flowed = store_part(source, recipe, destinations, &self.progress, setting.stop.clone()).await?;
        let record = ObjectRecord {
            role,
            key,
            version: None,
            content_size: flowed.content.0,
            content_digest: flowed.content.1,
            stored_size: flowed.stored.0,
            stored_digest: flowed.stored.1,
            encoding: self.encoding(form),
            storage_class: None,
            sse: None,
        };
        Ok((flowed, record))
    }
}

/// The walks of the data directory that the parts come from.
struct Walk {
    tree: FileTree,
    /// What is in a part already.
    known: Arc<HashSet<u128>>,
    /// The largest number that a part has.
    after: u32,
    selector: Selector,
    sender: mpsc::Sender<PartPlan>,
}

impl Walk {
    /// Walks the tree twice: for the large files, each a part of its own, then for everything else, in bundles. What was
    /// large is remembered by name: a file that grows between the two must not fall through.
    fn make(&self, mut survey: Survey) -> io::Result<Walked> {
        self.tree.walk(&mut |entry: Entry| {
            if !self.known.contains(&resume::name(&entry.path)) {
                survey.see(self.item(entry));
            }
            Ok(())
        })?;
        let (files, mut planner) = survey.end(self.after);
        let mut large = HashSet::new();
        for entry in files {
            large.insert(resume::name(&entry.path));
            self.send(planner.alone(self.item(entry)))?;
        }
        let skipped = self.tree.walk(&mut |entry: Entry| {
            let name = resume::name(&entry.path);
            match large.contains(&name) || self.known.contains(&name) {
                true => Ok(()),
                false => planner.take(self.item(entry)).map_or(Ok(()), |plan| self.send(plan)),
            }
        })?;
        planner.rest().map_or(Ok(()), |plan| self.send(plan))?;
        Ok(Walked { next_number: planner.next_number(), skipped })
    }

    fn item(&self, entry: Entry) -> Item {
        Item { pages: self.selector.pages(&entry), entry }
    }

    fn send(&self, plan: PartPlan) -> io::Result<()> {
        let gone = |_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes the parts any more");
        self.sender.blocking_send(plan).map_err(gone)
    }
}

fn lines(lines: &[FileLine]) -> Result<Bytes, Failure> {
    let mut text = Vec::new();
    for line in lines {
        serde_json::to_writer(&mut text, line)
            .map_err(|error| Failure::new(FailureKind::Failed, "write the list of files").because(error))?;
        text.push(b'\n');
    }
    Ok(text.into())
}

/// An archive of files that are in memory.
fn last_part<'f>(number: u32, files: impl Iterator<Item = (&'f str, Vec<u8>)>, modified: i64) -> (Vec<u8>, PartReport) {
    let (mut archive, mut report) = (Vec::new(), PartReport::default());
    for (path, bytes) in files {
        let size = bytes.len() as u64;
        let member = ustar::Member { path: path.to_owned(), size: Some(size), mode: 0o600, modified };
        archive.extend(member.header());
        report.lines.push(FileLine {
            path: member.path,
            part: number,
            size: Some(size),
            digest: Some(format!("{:032x}", xxhash_rust::xxh3::xxh3_128(&bytes))),
            pages: None,
            modified,
            mode: member.mode,
        });
        archive.extend(bytes);
        archive.resize(archive.len() + ustar::padding(size), 0);
    }
    archive.extend(ustar::end());
    (archive, report)
}
