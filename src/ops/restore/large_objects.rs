//! Large objects of a dump: made with their owners before their contents come, given privileges and comments after.
//!
//! Who owns them and who may read them stands in the archive's table of contents. That alone (it ends where the first row
//! begins) is kept on disk for pg_restore, which knows every form that pg_dump gives these entries.

use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};

use crate::host::{Child, Source};
use crate::model::failure::{Failure, FailureKind};
use crate::model::manifest::{LargeObjects as Dumped, ObjectRole};
use crate::ops::restore::Doors;
use crate::ops::restore::database::SchemaFile;
use crate::ops::restore::source::Choice;
use crate::pipeline::archive::ArchiveReader;
use crate::pipeline::fetch;
use crate::postgres::pg_restore::{self, LargeObjectEntry};
use crate::postgres::{ClientTools, Connection};

/// Bytes of the archive read at once.
const PIECE: usize = 1 << 16;

/// The archive's table of contents, and lists of those entries of it that are about large objects.
pub(super) struct LargeObjects {
    contents: SchemaFile,
    made: SchemaFile,
    given: SchemaFile,
}

impl LargeObjects {
    /// Reads of `choice` what it says about large objects; nothing where it has none.
    pub(super) async fn find(choice: &Choice, doors: &Doors) -> Result<Option<Self>, Failure> {
        let full = choice.full();
        if full.manifest.large_objects != Dumped::Included {
            return Ok(None);
        }
        let source = choice.open(full, ObjectRole::Data, doors).await?;
        let (directory, tools) = (doors.scratch_directory.clone(), doors.tools.clone());
        let found = tokio::task::spawn_blocking(move || {
            let contents = table_of_contents(source, SchemaFile::create(&directory)?)?;
            let lists = [SchemaFile::create(&directory)?, SchemaFile::create(&directory)?];
            let [made, given] = list(&tools, &contents, lists)?;
            Ok(Self { contents, made, given })
        });
        found.await.map_err(|error| failed("its thread ended badly").because(error))?.map(Some)
    }

    /// pg_restore that makes them, empty, for their owners.
    pub(super) fn making(&self, doors: &Doors, connection: &Connection, no_owner: bool) -> Result<Spec, Failure> {
        self.spec(&self.made, doors, connection, no_owner)
    }

    /// pg_restore that gives them their privileges, comments and labels.
    pub(super) fn giving(&self, doors: &Doors, connection: &Connection, no_owner: bool) -> Result<Spec, Failure> {
        self.spec(&self.given, doors, connection, no_owner)
    }

    fn spec(
        &self,
        chosen: &SchemaFile,
        doors: &Doors,
        connection: &Connection,
        no_owner: bool,
    ) -> Result<Spec, Failure> {
        let environment = connection.child_environment()?;
        let (database, file) = (connection.database(), self.contents.path());
        let spec = pg_restore::chosen_into(&doors.tools, &environment, database, (chosen.path(), file), no_owner);
        Ok(Spec { spec, _password: environment })
    }
}

/// A program to be run, and the password's file that it reads.
pub(super) struct Spec {
    pub(super) spec: crate::host::ChildSpec,
    _password: crate::postgres::ChildEnvironment,
}

fn failed(why: &str) -> Failure {
    Failure::new(FailureKind::Failed, format!("read what the dump says about large objects: {why}"))
}

/// Writes the beginning of the archive into `file`, up to the first table or large object, and nothing of that.
fn table_of_contents(mut source: Box<dyn Source>, mut file: SchemaFile) -> Result<SchemaFile, Failure> {
    let mut reader = ArchiveReader::default();
    let mut buffer = vec![0; PIECE];
    loop {
        let doing = "read the archive's table of contents";
        let taken = source.read(&mut buffer).map_err(|error| fetch::failure(error, doing))?;
        let mut left = &buffer[..taken];
        let begun = reader.next(&mut left)?.is_some();
        let used = taken - left.len();
        file.append(&buffer[..used])?;
        if begun || taken == 0 {
            return Ok(file);
        }
    }
}

/// Puts the entries that make large objects, and those that are about them, into one list each. There may be millions.
fn list(tools: &ClientTools, contents: &SchemaFile, lists: [SchemaFile; 2]) -> Result<[SchemaFile; 2], Failure> {
    let unread = |error: std::io::Error| failed("pg_restore does not list it").because(error);
    let child = Child::spawn(&pg_restore::list(tools, contents.path()))?;
    let mut lines = BufReader::new(child);
    let mut writers = lists.map(BufWriter::new);
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line).map_err(unread)? > 0 {
        let writer = match LargeObjectEntry::of(&String::from_utf8_lossy(&line)) {
            Some(LargeObjectEntry::Itself) => Some(0),
            Some(LargeObjectEntry::About) => Some(1),
            None => None,
        };
        if let Some(writer) = writer {
            writers[writer].write_all(&line).map_err(unread)?;
        }
        line.clear();
    }
    let [made, given] = writers.map(|writer| writer.into_inner().map_err(|error| unread(error.into_error())));
    Ok([made?, given?])
}
