//! Fetching the parts and unpacking them, several at once.
//!
//! What comes out of a part is unproven until its very end; the directory is marked for as long.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::PathBuf;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::host::failpoint::{FailPoint, pass};
use crate::host::{NewFile, Source, files, reach};
use crate::model::base::{CONTROL_FILE, TABLESPACE_MAP};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{ObjectRecord, ObjectRole};
use crate::ops::Setting;
use crate::ops::recover::directory::{CONTROL_RESTORING, Place};
use crate::ops::recover::files::Kept;
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
    thaw::thaw(&plan.repository, &plan.artifact, setting.clock.as_ref(), &setting.events, &setting.stop).await?;
    let kept = match options.delta && place.has_files {
        true => Kept::find(plan, place, doors, setting).await?,
        false => Kept::default(),
    };
    let work = Work { plan, place, doors, kept: std::sync::Arc::new(kept) };
    let mut waiting = work.parts().into_iter();
    let (mut flowing, mut total) =
        (FuturesUnordered::new(), Unpacked { kept: work.kept.count(), ..Unpacked::default() });
    loop {
        while flowing.len() < doors.jobs.max(1) {
            let Some((number, object)) = waiting.next() else { break };
            flowing.push(work.part(number, object));
        }
        let Some(done) = setting.unless_stopped("go on with the restore", async { Ok(flowing.next().await) }).await?
        else {
            return Ok(total);
        };
        let (number, part) = done?;
        place
            .note_part(number)
            .map_err(|error| Failure::new(FailureKind::Failed, "remember how far the restore is").because(error))?;
        pass(FailPoint::RecoverPartDone)?;
        total.files += part.files;
        total.bytes += part.bytes;
    }
}

struct Work<'a> {
    plan: &'a Plan,
    place: &'a Place,
    doors: &'a Doors,
    kept: std::sync::Arc<Kept>,
}

impl<'a> Work<'a> {
    /// The parts that are to be fetched, by number; the last, which has the control file, comes last.
    fn parts(&self) -> BTreeMap<u32, &'a ObjectRecord> {
        let parts = self.plan.artifact.manifest.objects.iter().filter(|object| object.role == ObjectRole::Part);
        let numbered = parts.filter_map(|object| Some((part_number(object)?, object)));
        numbered.filter(|(number, _)| !self.place.done.contains(number) && !self.kept.has_whole_part(*number)).collect()
    }

    fn part(&'a self, number: u32, object: &'a ObjectRecord) -> BoxFuture<'a, Result<(u32, Unpacked), Failure>> {
        self.unpack_part(number, object).boxed()
    }

    async fn unpack_part(&self, number: u32, object: &ObjectRecord) -> Result<(u32, Unpacked), Failure> {
        let storage = &self.plan.repository.storage;
        let download = storage.get(&object.key, object.version.as_deref(), None).await?;
        let source = fetch::open(download, object, self.doors.keys.as_ref()).await?;
        let (root, owner, kept) = (self.place.root.clone(), self.place.owner(), self.kept.clone());
        let key = object.key.clone();
        let unpacking = tokio::task::spawn_blocking(move || {
            let doing = format!("unpack {key}");
            Unpacking { root, owner, kept }.run(source, &doing)
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
    kept: std::sync::Arc<Kept>,
}

impl Unpacking {
    fn run(&self, source: Box<dyn Source>, doing: &str) -> Result<Unpacked, Failure> {
        let mut unpacked = Unpacked::default();
        let mut reader = Reader::new(source);
        let mut window = vec![0; WINDOW_BYTES];
        loop {
            let member = reader.next_member().map_err(|error| fetch::failure(error, doing))?;
            let Some(member) = member else { break };
            if self.kept.has(&member.path) {
                continue;
            }
            unpacked.files += 1;
            unpacked.bytes += member.size.unwrap_or_default();
            let written = match member.size {
                None => self.folder(&member),
                Some(_) => self.file(&member, &mut reader, &mut window),
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
