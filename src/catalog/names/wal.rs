//! Names of archived WAL: `wal/<timeline>/<first 16 digits>/<segment>.zst.gpg` with `<segment>.json` beside it, and
//! `wal/<timeline>.history.gpg`.
//!
//! The record (`….json`) is what makes a file stored. An object whose plain name was taken by a push that died has eight
//! digits of its own in its name; the record says which object counts.

use crate::model::key::{InvalidKey, OWN_FOLDERS, ObjectKey};
use crate::model::lsn::Timeline;
use crate::model::wal::{SegmentName, WalFile};

const FOLDER: &str = OWN_FOLDERS[3];
const RECORD: &str = ".json";
const COMPRESSED: &str = ".zst";
const ENCRYPTED: &str = ".gpg";

/// The folder of all WAL.
pub fn folder() -> String {
    format!("{FOLDER}/")
}

/// What every key of `timeline`'s segments begins with.
pub fn timeline(timeline: Timeline) -> String {
    format!("{FOLDER}/{:08X}/", timeline.0)
}

/// What every key begins with of `segment`, of those after it in the same folder, and of what belongs to them.
pub fn segment_folder(segment: SegmentName) -> String {
    format!("{}{}/", timeline(segment.timeline()), segment.folder())
}

/// The timeline whose segments lie in the folder `name` right below `wal/`.
pub fn timeline_of_folder(name: &str) -> Option<Timeline> {
    format!("{name}.history").parse::<WalFile>().ok().map(WalFile::timeline)
}

/// The key of the record of `file`.
pub fn record(file: WalFile) -> Result<ObjectKey, InvalidKey> {
    stem(file).parse::<ObjectKey>()?.with_suffix(RECORD)
}

/// The key of the bytes of `file`; with `spare` one that no other push has.
pub fn object(file: WalFile, encrypted: bool, spare: Option<u32>) -> Result<ObjectKey, InvalidKey> {
    let spare = spare.map(|spare| format!("-{spare:08x}")).unwrap_or_default();
    let compressed = if file.is_segment_sized() { COMPRESSED } else { "" };
    let encrypted = if encrypted { ENCRYPTED } else { "" };
    format!("{}{spare}{compressed}{encrypted}", stem(file)).parse()
}

fn stem(file: WalFile) -> String {
    match file.segment() {
        Some(segment) => format!("{}{file}", segment_folder(segment)),
        None => format!("{FOLDER}/{file}"),
    }
}

/// What a key below `wal/` is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalKey {
    /// The record of a file.
    Record(WalFile),
    /// The bytes of a file, maybe superseded.
    Object(WalFile),
}

impl WalKey {
    /// What `key` is; nothing when it is none of ours.
    pub fn of(key: &ObjectKey) -> Option<Self> {
        let name = key.name();
        let found = match name.strip_suffix(RECORD) {
            Some(file) => Self::Record(file.parse().ok()?),
            None => Self::Object(object_name(name)?),
        };
        let (Self::Record(file) | Self::Object(file)) = found;
        (format!("{}{name}", folder_of(file)) == key.as_str()).then_some(found)
    }

    /// The file that it is of.
    pub fn file(self) -> WalFile {
        let (Self::Record(file) | Self::Object(file)) = self;
        file
    }
}

fn folder_of(file: WalFile) -> String {
    file.segment().map_or_else(folder, segment_folder)
}

/// The file whose bytes are called `name`.
fn object_name(name: &str) -> Option<WalFile> {
    let stem = name.strip_suffix(ENCRYPTED).unwrap_or(name);
    let (stem, compressed) = stem.strip_suffix(COMPRESSED).map_or((stem, false), |stem| (stem, true));
    let spare = |digits: &str| digits.len() == 8 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let stem = stem.rsplit_once('-').filter(|(_, digits)| spare(digits)).map_or(stem, |(stem, _)| stem);
    stem.parse().ok().filter(|file: &WalFile| file.is_segment_sized() == compressed)
}

/// Whether the bytes under `key` are compressed.
pub fn is_compressed(key: &ObjectKey) -> bool {
    key.name().strip_suffix(ENCRYPTED).unwrap_or(key.name()).ends_with(COMPRESSED)
}

/// Whether the bytes under `key` are encrypted.
pub fn is_encrypted(key: &ObjectKey) -> bool {
    key.name().ends_with(ENCRYPTED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_specification() {
        let key = |file: &str| object(file.parse().unwrap(), true, None).unwrap().to_string();
        let segment = "00000002000000A3000000FE";
        assert_eq!(key(segment), "wal/00000002/00000002000000A3/00000002000000A3000000FE.zst.gpg");
        assert_eq!(key("00000002.history"), "wal/00000002.history.gpg");
        let record = record(segment.parse().unwrap()).unwrap();
        assert_eq!(record.as_str(), "wal/00000002/00000002000000A3/00000002000000A3000000FE.json");
        assert_eq!(timeline(Timeline(0x1F)), "wal/0000001F/");
    }

    #[test]
    fn every_key_leads_back_to_its_file() {
        for name in [
            "00000002000000A3000000FE",
            "00000002000000A3000000FE.partial",
            "00000002000000A3000000FE.00000028.backup",
            "00000002.history",
        ] {
            let file: WalFile = name.parse().unwrap();
            assert_eq!(WalKey::of(&record(file).unwrap()), Some(WalKey::Record(file)));
            for encrypted in [true, false] {
                for spare in [None, Some(0xdead_beef)] {
                    let key = object(file, encrypted, spare).unwrap();
                    assert_eq!(WalKey::of(&key), Some(WalKey::Object(file)), "{key}");
                    assert_eq!(is_encrypted(&key), encrypted);
                    assert_eq!(is_compressed(&key), file.is_segment_sized());
                }
            }
        }
    }

    #[test]
    fn f40_keys_that_we_do_not_write_are_not_ours() {
        for text in [
            "wal/00000002/00000002000000A3/readme.txt",
            "wal/00000002/00000002000000A4/00000002000000A3000000FE.json",
            "wal/00000001/00000002000000A3/00000002000000A3000000FE.zst.gpg",
            "wal/00000002/00000002000000A3/00000002000000A3000000FE.gpg",
            "wal/00000002/00000002000000A3/00000002000000A3000000FE-DEADBEEF.zst.gpg",
            "wal/00000002/00000002.history.gpg",
            "00000002000000A3000000FE.json",
        ] {
            assert_eq!(WalKey::of(&text.parse().unwrap()), None, "{text}");
        }
        assert_eq!(timeline_of_folder("0000001F"), Some(Timeline(0x1F)));
        assert_eq!(timeline_of_folder("1F"), None);
    }
}
