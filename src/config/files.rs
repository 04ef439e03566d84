//! The door to the files of this room: the configuration, plans, and the `*_FILE` aliases of the official image.
//!
//! Reads at most 1 MiB of a regular file. Says when a file that holds a secret can be read by others.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::error::{ConfigError, Origin};

/// Most that a file of this room may hold, in bytes.
const LIMIT: u64 = 1 << 20;
const BYTE_ORDER_MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];

/// The text of `path`, and nothing when there is no such file.
pub(in crate::config) fn read(path: &Path) -> Result<Option<String>, ConfigError> {
    let refuse = |message: String| ConfigError::new(Origin::whole(path), "", message);
    let bytes = match bytes_of(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refuse(format!("cannot be read: {error}"))),
    };
    if bytes.len() as u64 > LIMIT {
        return Err(refuse("is larger than 1 MiB and no configuration".to_owned()));
    }
    if BYTE_ORDER_MARKS.iter().any(|mark| bytes.starts_with(mark)) {
        return Err(refuse("begins with a byte order mark; save it as UTF-8 without one".to_owned()));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..good].iter().filter(|byte| **byte == b'\n').count() + 1;
        let origin = Origin::File { file: path.into(), line, column: 1 };
        ConfigError::new(origin, "", "is not UTF-8 text")
    })
}

#[expect(clippy::disallowed_methods, reason = "the door to this room's own files")]
fn bytes_of(path: &Path) -> io::Result<Vec<u8>> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(LIMIT + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Refuses a file that holds the secret `key` when others can read it. A group may when root owns the file, as with
/// libpq's key files.
pub(in crate::config) fn check_private(path: &Path, origin: &Origin, key: &str) -> Result<(), ConfigError> {
    let refuse = |message: String| ConfigError::new(origin.clone(), key, message);
    let metadata = std::fs::metadata(path).map_err(|error| refuse(format!("cannot see who may read it: {error}")))?;
    if is_private(&metadata) {
        return Ok(());
    }
    let mode = metadata.mode() & 0o777;
    let remedy = "make the file readable by its owner alone (chmod 600), or use the key's _file form";
    Err(refuse(format!("a secret stands in a file of mode {mode:04o}: {remedy}")))
}

fn is_private(metadata: &Metadata) -> bool {
    let others = metadata.mode() & 0o077;
    others == 0 || (metadata.uid() == 0 && others & !0o040 == 0)
}
