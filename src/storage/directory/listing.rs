//! Walking the tree in key order, a folder at a time.
//!
//! Key order is the order of S3: by bytes of the whole key, so a folder sorts as its name with a slash. Memory: the
//! names of the folders on the way down and one page. What is no key is reported as foreign and never entered.

use rustix::fs::{Dir, FileType};
use rustix::io::Errno;

use crate::model::key::ObjectKey;
use crate::storage::directory::beneath::Root;
use crate::storage::directory::{fault, meta_of, part_file};
use crate::storage::{PAGE_OBJECTS, Page, PageToken, StorageError};

/// What a walk meets, in key order.
pub(super) trait Visit {
    /// Whether keys that begin with `folder` (ends with a slash) are of interest.
    fn enters(&self, folder: &str) -> bool;

    /// A file or a foreign name. Answers whether to go on.
    fn meets(&mut self, root: &Root, name: Name) -> Result<bool, StorageError>;
}

/// A name below the root.
pub(super) enum Name {
    /// A regular file whose path is a key.
    Object(ObjectKey),
    /// A temporary file of ours: its path.
    Part(String),
    /// Anything else, as text.
    Foreign(String),
}

/// Walks `folder` (the empty text, or a path with a slash at its end). Answers whether to go on.
pub(super) fn walk(root: &Root, folder: &str, visit: &mut dyn Visit) -> Result<bool, StorageError> {
    let names = match names_in(root, folder) {
        // Removed since its parent was read: an empty folder, after a delete.
        Err(Errno::NOENT) if !folder.is_empty() => return Ok(true),
        names => names.map_err(|errno| fault::io("list", &root.path(folder), errno))?,
    };
    for (name, is_file) in names {
        let path = format!("{folder}{}", String::from_utf8_lossy(&name));
        let plain = std::str::from_utf8(&name).is_ok();
        let go_on = match path.strip_suffix('/') {
            Some(below) if plain && below.parse::<ObjectKey>().is_ok() => {
                !visit.enters(&path) || walk(root, &path, visit)?
            }
            // A mount point's own; not readable for an ordinary user.
            Some("lost+found") => true,
            _ => visit.meets(root, name_of(path, plain && is_file))?,
        };
        if !go_on {
            return Ok(false);
        }
    }
    Ok(true)
}

fn name_of(path: String, is_plain_file: bool) -> Name {
    match path.parse() {
        Ok(key) if is_plain_file => Name::Object(key),
        _ if is_plain_file && part_file::key_of_part(&path).is_some() => Name::Part(path),
        _ => Name::Foreign(path),
    }
}

/// The names in a folder in key order, folders with a slash at the end, and whether each is a regular file.
fn names_in(root: &Root, folder: &str) -> rustix::io::Result<Vec<(Vec<u8>, bool)>> {
    let mut names = Vec::new();
    for entry in Dir::new(root.folder(folder.trim_end_matches('/'))?)? {
        let entry = entry?;
        let mut name = entry.file_name().to_bytes().to_vec();
        if name == b"." || name == b".." {
            continue;
        }
        let kind = match (entry.file_type(), std::str::from_utf8(&name)) {
            (FileType::Unknown, Ok(text)) => {
                root.stat_of(&format!("{folder}{text}")).map(|stat| FileType::from_raw_mode(stat.st_mode))?
            }
            (kind, _) => kind,
        };
        if kind == FileType::Directory {
            name.push(b'/');
        }
        names.push((name, kind == FileType::RegularFile));
    }
    names.sort_unstable();
    Ok(names)
}

/// Collects one page of the objects below a prefix.
pub(super) struct Paging<'a> {
    prefix: &'a str,
    after: Option<&'a str>,
    pub(super) page: Page,
}

impl<'a> Paging<'a> {
    pub(super) fn new(prefix: &'a str, from: Option<&'a PageToken>) -> Self {
        Self { prefix, after: from.map(|token| token.0.as_str()), page: Page::default() }
    }

    fn wants(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && self.after.is_none_or(|after| name > after)
    }
}

impl Visit for Paging<'_> {
    fn enters(&self, folder: &str) -> bool {
        let may_match = folder.starts_with(self.prefix) || self.prefix.starts_with(folder);
        may_match && self.after.is_none_or(|after| folder > after || after.starts_with(folder))
    }

    fn meets(&mut self, root: &Root, name: Name) -> Result<bool, StorageError> {
        match name {
            Name::Object(key) if self.wants(key.as_str()) => {
                if self.page.objects.len() == PAGE_OBJECTS {
                    let last = self.page.objects.last().map(|last| last.key.as_str().to_owned());
                    self.page.next = last.map(PageToken);
                    return Ok(false);
                }
                match root.stat_of(key.as_str()) {
                    Ok(stat) => self.page.objects.push(meta_of(key, &stat)),
                    Err(Errno::NOENT) => {}
                    Err(errno) => return Err(fault::io("look at", &root.path(key.as_str()), errno)),
                }
            }
            Name::Foreign(name) if self.wants(&name) => self.page.foreign.push(name),
            _ => {}
        }
        Ok(true)
    }
}

/// Collects the temporary files of the whole tree.
#[derive(Default)]
pub(super) struct Parts(pub(super) Vec<String>);

impl Visit for Parts {
    fn enters(&self, _folder: &str) -> bool {
        true
    }

    fn meets(&mut self, _root: &Root, name: Name) -> Result<bool, StorageError> {
        if let Name::Part(path) = name {
            self.0.push(path);
        }
        Ok(true)
    }
}

/// Names of the folders right below `above` that may hold objects.
pub(super) fn folders(root: &Root, above: &str) -> Result<Vec<String>, StorageError> {
    let names = match names_in(root, above) {
        Err(Errno::NOENT) if !above.is_empty() => return Ok(Vec::new()),
        names => names.map_err(|errno| fault::io("list", &root.path(above), errno))?,
    };
    let folder = |(name, _): (Vec<u8>, bool)| {
        let name = String::from_utf8(name).ok()?;
        name.strip_suffix('/').filter(|name| name.parse::<ObjectKey>().is_ok()).map(str::to_owned)
    };
    Ok(names.into_iter().filter_map(folder).filter(|name| name != "lost+found").collect())
}
