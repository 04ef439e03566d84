//! Fetching the parts and unpacking them, several at once; of a chain, one backup after the other.
//!
//! What comes out of a part is unproven until its very end; the directory is marked for as long. Pages of an incremental
//! backup go straight to their places in the files that the backups before it have left there: nothing is copied twice,
//! and doing it again does no harm.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::host::failpoint::{FailPoint, pass};
use crate::host::{NewFile, PatchedFile, Source, files, reach};
use crate::model::base::{CONTROL_FILE, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{ObjectRecord, ObjectRole};
use crate::model::pages::{self, PageHead};
use crate::ops::Setting;
use crate::ops::recover::directory::{CONTROL_RESTORING, Place};
use crate::ops::recover::files::Layout;
use crate::ops::recover::{Doors, Options, Plan};
use crate::pipeline::fetch;
use crate::pipeline::ustar::{Member, Reader};
use crate::steps::thaw;

/// Bytes written in one go.
const WINDOW_BYTES: usize = 256 << 10;

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unpacked {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) kept: u64,
}

/// Unpacks every part that is not whole yet.
pub(super) async fn unpack(
    plan: &Plan,
    place: &Place,
    options: &Options,
    doors: &Doors,
    setting: &Setting,
) -> Result<Unpacked, Failure> {
    for artifact in &plan.chain {
        thaw::thaw(&plan.repository, artifact, setting.clock.as_ref(), &setting.events, &setting.stop).await?;
    }
    let layout = Layout::read(plan, place, doors, setting, options.delta && place.has_files).await?;
    let work = Work { plan, place, doors, setting, layout: Arc::new(layout) };
    let mut total = Unpacked { kept: work.layout.kept(), ..Unpacked::default() };
    for at in 0..plan.chain.len() {
        if plan.chain.len() > 1 {
            setting.events.step(format!("restoring {} ({} of {})", plan.chain[at].name, at + 1, plan.chain.len()));
        }
        work.backup(at, &mut total).await?;
    }
    Ok(total)
}

struct Work<'a> {
    plan: &'a Plan,
    place: &'a Place,
    doors: &'a Doors,
    setting: &'a Setting,
    layout: Arc<Layout>,
}

impl<'a> Work<'a> {
    /// Unpacks what is needed of backup number `at`; those before it are done.
    async fn backup(&'a self, at: usize, total: &mut Unpacked) -> Result<(), Failure> {
        let mut waiting = self.parts(at).into_iter();
        let mut flowing = FuturesUnordered::new();
        loop {
            while flowing.len() < self.doors.jobs.max(1) {
                let Some((number, object)) = waiting.next() else { break };
                flowing.push(self.part(at, number, object));
            }
            let next = async { Ok(flowing.next().await) };
            let Some(done) = self.setting.unless_stopped("go on with the restore", next).await? else {
                return Ok(());
            };
            let (number, part) = done?;
            self.place
                .note_part(at, number)
                .map_err(|error| Failure::new(FailureKind::Failed, "remember how far the restore is").because(error))?;
            pass(FailPoint::RecoverPartDone)?;
            total.files += part.files;
            total.bytes += part.bytes;
        }
    }

    /// The parts that are to be fetched, by number; the last, which has the control file, comes last.
    fn parts(&self, at: usize) -> BTreeMap<u32, &'a ObjectRecord> {
        let parts = self.plan.chain[at].manifest.objects.iter().filter(|object| object.role == ObjectRole::Part);
        let numbered = parts.filter_map(|object| Some((part_number(object)?, object)));
        let wanted = |number: u32| !self.place.done.contains(&(at, number)) && self.layout.wants_part(at, number);
        numbered.filter(|(number, _)| wanted(*number)).collect()
    }

    fn part(
        &'a self,
        at: usize,
        number: u32,
        object: &'a ObjectRecord,
    ) -> BoxFuture<'a, Result<(u32, Unpacked), Failure>> {
        self.unpack_part(at, number, object).boxed()
    }

    async fn unpack_part(&self, at: usize, number: u32, object: &ObjectRecord) -> Result<(u32, Unpacked), Failure> {
        let storage = &self.plan.repository.storage;
        let download = storage.get(&object.key, object.version.as_deref(), None).await?;
        let source = fetch::open(download, object, self.doors.keys.as_ref()).await?;
        let (root, owner, layout) = (self.place.root.clone(), self.place.owner(), self.layout.clone());
        let key = object.key.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let doing = format!("unpack {key}");
            Unpacking { root, owner, at, layout }.run(source, &doing)
        });
        let unpacked =
            unpacking.await.map_err(|error| Failure::new(FailureKind::Failed, "unpack a part").because(error))??;
        Ok((number, unpacked))
    }
}

/// The number in `part-00012.tar.zst.gpg`.
pub(super) fn part_number(object: &ObjectRecord) -> Option<u32> {
    object.key.name().strip_prefix("part-")?.split('.').next()?.parse().ok()
}

struct Unpacking {
    root: PathBuf,
    owner: Option<(u32, u32)>,
    at: usize,
    layout: Arc<Layout>,
}

impl Unpacking {
    fn run(&self, source: Box<dyn Source>, doing: &str) -> Result<Unpacked, Failure> {
        let mut unpacked = Unpacked::default();
        let mut reader = Reader::new(source);
        let mut window = vec![0; WINDOW_BYTES];
        loop {
            let member = reader.next_member().map_err(|error| fetch::failure(error, doing))?;
            let Some(member) = member else { break };
            let paged = member.path.strip_prefix(pages::FOLDER).and_then(|path| path.strip_prefix('/'));
            if !self.layout.wants(self.at, paged.unwrap_or(&member.path)) {
                continue;
            }
            unpacked.files += 1;
            unpacked.bytes += member.size.unwrap_or_default();
            let written = match (member.size, paged) {
                (None, _) => self.folder(&member),
                (Some(_), None) => self.file(&member, &mut reader, &mut window),
                (Some(size), Some(path)) => self.pages(path, size, &member, &mut reader, &mut window),
            };
            written.map_err(|error| match error {
                Trouble::Reading(error) => fetch::failure(error, doing),
                Trouble::Writing(error) => {
                    Failure::new(FailureKind::Failed, format!("write {}", self.root.join(&member.path).display()))
                        .because(error)
                        .hint("Look at the room that is left; run the restore again, and it goes on.")
                }
            })?;
        }
        let source = reader.into_source().map_err(|error| fetch::failure(error, doing))?;
        source.finish().map_err(|error| Failure::new(FailureKind::Integrity, doing).because(error))?;
        Ok(unpacked)
    }

    fn folder(&self, member: &Member) -> Result<(), Trouble> {
        let path = self.root.join(&member.path);
        files::make_directories(&path, self.owner).map_err(Trouble::Writing)?;
        files::set_mode(&path, member.mode).map_err(Trouble::Writing)
    }

    fn file(&self, member: &Member, reader: &mut Reader<Box<dyn Source>>, window: &mut [u8]) -> Result<(), Trouble> {
        let name = match member.path.as_str() {
            CONTROL_FILE => CONTROL_RESTORING,
            // It is written anew, for where the tablespaces are now.
            TABLESPACE_MAP => return Ok(()),
            path => path,
        };
        let path = self.root.join(name);
        if let Some(above) = path.parent() {
            files::make_directories(above, self.owner).map_err(Trouble::Writing)?;
        }
        let mut file = NewFile::create(&path).map_err(Trouble::Writing)?;
        loop {
            let count = reader.read_content(window).map_err(Trouble::Reading)?;
            if count == 0 {
                break;
            }
            file.write(&window[..count]).map_err(Trouble::Writing)?;
            reach(FailPoint::RecoverMidFile).map_err(Trouble::Writing)?;
        }
        file.finish(member.mode, member.modified, self.owner).map_err(Trouble::Writing)
    }
}

impl Unpacking {
    /// Puts pages into their places in a file; the file then has the size that goes with them.
    fn pages(
        &self,
        path: &str,
        bytes: u64,
        member: &Member,
        reader: &mut Reader<Box<dyn Source>>,
        window: &mut [u8],
    ) -> Result<(), Trouble> {
        let mut fixed = [0; pages::FIXED_BYTES];
        read_whole(reader, &mut fixed)?;
        let head = PageHead::parse(&fixed)
            .filter(|head| PageHead::member_bytes(head.page_bytes, head.count as usize) == bytes);
        let head = head.ok_or_else(|| broken(path, "its head is damaged"))?;
        let mut numbers = vec![0; head.count as usize * 4];
        read_whole(reader, &mut numbers)?;
        let numbers = head.pages(&numbers).ok_or_else(|| broken(path, "the numbers of its pages are damaged"))?;
        let file = self.to_patch(&self.root.join(path), path)?;
        let page_bytes = head.page_bytes as usize;
        let mut rest = numbers.as_slice();
        while let Some(first) = rest.first() {
            let follows = |(at, page): (u32, &u32)| first.checked_add(at) == Some(*page);
            let most = window.len() / page_bytes;
            let count = (0..).zip(rest).take(most).take_while(|pair| follows(*pair)).count();
            let run = &mut window[..count * page_bytes];
            read_whole(reader, run)?;
            file.write_at(run, u64::from(*first) * u64::from(head.page_bytes)).map_err(Trouble::Writing)?;
            reach(FailPoint::RecoverMidFile).map_err(Trouble::Writing)?;
            rest = &rest[count..];
        }
        file.finish(head.size, member.mode, member.modified, self.owner).map_err(Trouble::Writing)
    }

    /// The file that the backups before this one have left; a new one where it begins here.
    fn to_patch(&self, whole: &Path, path: &str) -> Result<PatchedFile, Trouble> {
        if self.layout.begins(self.at, path) {
            files::remove_if_there(whole).map_err(Trouble::Writing)?;
            if let Some(above) = whole.parent() {
                files::make_directories(above, self.owner).map_err(Trouble::Writing)?;
            }
        } else if !whole.is_file() {
            return Err(broken(path, "the backups before this one have left nothing of it"));
        }
        PatchedFile::open(whole).map_err(Trouble::Writing)
    }
}

fn broken(path: &str, what: &str) -> Trouble {
    Trouble::Reading(io::Error::other(format!("{path}: {what}")))
}

fn read_whole(reader: &mut Reader<Box<dyn Source>>, mut buffer: &mut [u8]) -> Result<(), Trouble> {
    while !buffer.is_empty() {
        match reader.read_content(buffer).map_err(Trouble::Reading)? {
            0 => return Err(Trouble::Reading(io::ErrorKind::UnexpectedEof.into())),
            count => buffer = &mut buffer[count..],
        }
    }
    Ok(())
}

enum Trouble {
    Reading(io::Error),
    Writing(io::Error),
}

/// Reads a whole source as lines of text.
pub(super) fn read_lines(
    mut source: Box<dyn Source>,
    mut line: impl FnMut(&str) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let doing = "read the list of files";
    let (mut rest, mut window) = (Vec::new(), vec![0; WINDOW_BYTES]);
    loop {
        let count = source.read(&mut window).map_err(|error| fetch::failure(error, doing))?;
        if count == 0 {
            break;
        }
        rest.extend_from_slice(&window[..count]);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for text in rest[..whole].split(|byte| *byte == b'\n').filter(|text| !text.is_empty()) {
            line(&String::from_utf8_lossy(text))?;
        }
        rest.drain(..whole);
    }
    source.finish().map_err(|error| Failure::new(FailureKind::Integrity, doing).because(error))?;
    Ok(())
}
