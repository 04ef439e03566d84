//! Every name in a repository, made and parsed in one place.
//!
//! `repository.json` at the root, artifacts as `<folder>/<stem>…` with their manifest beside them, the catalog's log
//! under `catalog/`, leases of running restores under `leases/`, round trips of `check` under `probe/`, WAL under `wal/`
//! (see [`wal`]), signed checkpoints of the audit chain under `checkpoints/`, alerts under `alerts/`. A key that does not
//! parse is somebody else's: it is reported and never deleted.

pub mod wal;

use std::fmt;

use chrono::{DateTime, Utc};

use crate::model::id::{AlertId, ArtifactId};
use crate::model::key::{InvalidKey, OWN_FOLDERS, ObjectKey};
use crate::model::manifest::{Encoding, ObjectRole};

const MANIFEST: &str = ".manifest.json";
const SIGNATURE: &str = ".manifest.json.sig";
const CHECKSUMS: &str = ".sha256";
const BUCKETS: &str = ".buckets";
const IDENTITY: &str = "repository.json";
const LOG_FOLDER: &str = OWN_FOLDERS[0];
const LEASE_FOLDER: &str = OWN_FOLDERS[1];
const CHECKPOINT_FOLDER: &str = OWN_FOLDERS[4];
const ALERT_FOLDER: &str = OWN_FOLDERS[5];

/// The key of the object that says whose repository it is.
pub fn identity() -> Result<ObjectKey, InvalidKey> {
    IDENTITY.parse()
}

/// The key of entry number `sequence` of the log.
pub fn entry(sequence: u64) -> Result<ObjectKey, InvalidKey> {
    format!("{LOG_FOLDER}/{sequence:010}.json").parse()
}

/// What every key of the log begins with.
pub fn entries() -> String {
    format!("{LOG_FOLDER}/")
}

/// The number of the entry that `key` holds.
pub fn entry_number(key: &ObjectKey) -> Option<u64> {
    let digits = key.as_str().strip_prefix(LOG_FOLDER)?.strip_prefix('/')?.strip_suffix(".json")?;
    let plain = digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_digit());
    if plain { digits.parse().ok() } else { None }
}

/// The key under which a restore says, for as long as it runs, that it reads `artifact`.
pub fn lease(artifact: ArtifactId, holder: &str) -> Result<ObjectKey, InvalidKey> {
    format!("{LEASE_FOLDER}/{artifact}/{holder}.json").parse()
}

/// What every lease begins with.
pub fn leases() -> String {
    format!("{LEASE_FOLDER}/")
}

/// The artifact that the lease `key` is on.
pub fn leased_artifact(key: &ObjectKey) -> Option<ArtifactId> {
    let mut components = key.components();
    (components.next() == Some(LEASE_FOLDER)).then(|| components.next()?.parse().ok())?
}

/// The key of the checkpoint of `chain` taken at `taken`; its signature's has `.sig` appended.
pub fn checkpoint(chain: &str, taken: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    format!("{}{}.json", checkpoints(chain, Some(taken)), taken.format("%H%M%S%3f")).parse()
}

/// What every checkpoint of `chain` begins with; those of one day where a day is given.
pub fn checkpoints(chain: &str, day: Option<DateTime<Utc>>) -> String {
    match day {
        Some(day) => format!("{CHECKPOINT_FOLDER}/{chain}/{}/", day.format("%Y-%m-%d")),
        None => format!("{CHECKPOINT_FOLDER}/{chain}/"),
    }
}

/// The key of the alert `id` raised at `now`.
pub fn alert(id: AlertId, now: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    format!("{ALERT_FOLDER}/{}/{id}.json", now.format("%Y-%m-%d")).parse()
}

/// Whether the top-level folder `name` may hold artifacts.
pub fn may_hold_artifacts(name: &str) -> bool {
    !OWN_FOLDERS.contains(&name)
}

/// Whether `key` is one that only we make: in a folder of our own, or of an artifact whose name tells when it was begun.
/// Other programs write dumps too, and share buckets with us.
pub fn is_ours(key: &ObjectKey) -> bool {
    let own_folder = key.components().next().is_some_and(|first| OWN_FOLDERS.contains(&first));
    own_folder || ArtifactName::of_object(key).is_some_and(|name| name.tells_an_instant())
}

/// Whether `key` is a manifest.
pub fn is_manifest(key: &ObjectKey) -> bool {
    ArtifactName::of_manifest(key).is_some()
}

/// The name of an artifact: `full/bc003_full_20251103_030000`. Its objects add their suffixes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ArtifactName(ObjectKey);

impl ArtifactName {
    /// The artifact begun at `started` by a job that stores under `folder` with `prefix`.
    pub fn new(folder: &str, prefix: &str, started: DateTime<Utc>) -> Result<Self, InvalidKey> {
        format!("{folder}/{prefix}_{}", started.format("%Y%m%d_%H%M%S")).parse().map(Self)
    }

    /// The artifact begun at `started` by a job that gives each run a folder of its own under `folder`.
    pub fn in_own_folder(folder: &str, prefix: &str, started: DateTime<Utc>) -> Result<Self, InvalidKey> {
        format!("{folder}/{}/{prefix}", started.format("%Y%m%d_%H%M%S")).parse().map(Self)
    }

    /// The artifact whose manifest is `key`.
    pub fn of_manifest(key: &ObjectKey) -> Option<Self> {
        key.as_str().strip_suffix(MANIFEST)?.parse().ok().map(Self)
    }

    /// The artifact that `key` belongs to, whatever kind of object it is.
    pub fn of_object(key: &ObjectKey) -> Option<Self> {
        let suffixes = [".dump", ".schema.dump", ".roles.sql", ".tar", BUCKETS, CHECKSUMS, MANIFEST, SIGNATURE];
        let ends =
            suffixes.iter().flat_map(|suffix| ["", ".gz", ".gpg", ".gz.gpg"].map(|end| format!("{suffix}{end}")));
        let stems = ends.filter_map(|end| key.as_str().strip_suffix(end.as_str()));
        stems.min_by_key(|stem| stem.len()).and_then(|stem| stem.parse().ok()).map(Self)
    }

    /// Whether `YYYYMMDD_HHMMSS` stands in it, as in every name that we make.
    fn tells_an_instant(&self) -> bool {
        let form = |at: usize, byte: u8| if at == 8 { byte == b'_' } else { byte.is_ascii_digit() };
        self.0.as_str().as_bytes().windows(15).any(|text| text.iter().enumerate().all(|(at, byte)| form(at, *byte)))
    }

    /// The key of the manifest: the commit point.
    pub fn manifest(&self) -> Result<ObjectKey, InvalidKey> {
        self.0.with_suffix(MANIFEST)
    }

    /// The key of the manifest's detached signature.
    pub fn signature(&self) -> Result<ObjectKey, InvalidKey> {
        self.0.with_suffix(SIGNATURE)
    }

    /// The key of the object with `role`, encoded as `encoding` says.
    pub fn object(&self, role: ObjectRole, encoding: &[Encoding]) -> Result<ObjectKey, InvalidKey> {
        let content = match role {
            ObjectRole::Data if encoding.contains(&Encoding::Tar) => ".tar",
            ObjectRole::Data => ".dump",
            ObjectRole::Schema => ".schema.dump",
            ObjectRole::Roles => ".roles.sql",
            ObjectRole::Buckets => BUCKETS,
            ObjectRole::Checksums => CHECKSUMS,
        };
        let ends = encoding.iter().map(|encoding| match encoding {
            Encoding::PgDumpCustom | Encoding::Sql | Encoding::Tar | Encoding::Buckets => "",
            Encoding::Gzip => ".gz",
            Encoding::OpenPgp => ".gpg",
        });
        self.0.with_suffix(&format!("{content}{}", ends.collect::<String>()))
    }
}

impl fmt::Display for ArtifactName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> ArtifactName {
        ArtifactName::new("full", "bc003_full", "2025-11-03T03:00:00Z".parse().unwrap()).unwrap()
    }

    #[test]
    fn names_are_those_of_the_plan() {
        let encrypted = [Encoding::PgDumpCustom, Encoding::Gzip, Encoding::OpenPgp];
        let object = |role| name().object(role, &encrypted).unwrap().to_string();
        assert_eq!(object(ObjectRole::Data), "full/bc003_full_20251103_030000.dump.gz.gpg");
        assert_eq!(object(ObjectRole::Schema), "full/bc003_full_20251103_030000.schema.dump.gz.gpg");
        assert_eq!(object(ObjectRole::Roles), "full/bc003_full_20251103_030000.roles.sql.gz.gpg");
        assert_eq!(
            name().object(ObjectRole::Checksums, &[]).unwrap().as_str(),
            "full/bc003_full_20251103_030000.sha256"
        );
        assert_eq!(name().manifest().unwrap().as_str(), "full/bc003_full_20251103_030000.manifest.json");
        let at = "2025-11-03T04:00:00Z".parse().unwrap();
        let increment = ArtifactName::in_own_folder("incremental", "rows", at).unwrap();
        let encoding = [Encoding::Tar, Encoding::Gzip, Encoding::OpenPgp];
        let data = increment.object(ObjectRole::Data, &encoding).unwrap();
        assert_eq!(data.as_str(), "incremental/20251103_040000/rows.tar.gz.gpg");
    }

    #[test]
    fn every_object_leads_back_to_its_artifact() {
        let tar = [Encoding::Tar, Encoding::Gzip, Encoding::OpenPgp];
        let encodings: [&[Encoding]; 4] = [&[], &[Encoding::Gzip], &[Encoding::Gzip, Encoding::OpenPgp], &tar];
        let roles =
            [ObjectRole::Data, ObjectRole::Schema, ObjectRole::Roles, ObjectRole::Buckets, ObjectRole::Checksums];
        for role in roles {
            for encoding in encodings {
                let key = name().object(role, encoding).unwrap();
                assert_eq!(ArtifactName::of_object(&key), Some(name()), "{key}");
            }
        }
        assert_eq!(ArtifactName::of_object(&name().signature().unwrap()), Some(name()));
        assert_eq!(ArtifactName::of_manifest(&name().manifest().unwrap()), Some(name()));
        assert_eq!(ArtifactName::of_object(&"full/readme.txt".parse().unwrap()), None);
    }

    #[test]
    fn entries_are_numbered_so_that_they_sort() {
        assert_eq!(entry(42).unwrap().as_str(), "catalog/0000000042.json");
        assert_eq!(entry_number(&entry(42).unwrap()), Some(42));
        for other in ["catalog/42.json", "catalog/+000000042.json", "other/0000000042.json", "catalog/0000000042.txt"] {
            assert_eq!(entry_number(&other.parse().unwrap()), None, "{other}");
        }
    }
}
