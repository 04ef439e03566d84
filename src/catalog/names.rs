//! Every name in a repository, made and parsed in one place.
//!
//! `repository.json` at the root, artifacts as `<folder>/<stem>…` with their manifest beside them, the catalog's log
//! under `catalog/`, leases of running restores and backups under `leases/`, round trips of `check` under `probe/`, WAL under
//! `wal/` (see [`wal`]), signed checkpoints of the audit chain under `checkpoints/`, its seals under `seals/`, alerts under
//! `alerts/`, decrypt drills under `drills/`. A key that does not parse is somebody else's: it is reported and never deleted.

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
const FILES: &str = ".files";
/// The folder of all base backups, the name of each in its own folder, and what the names of its parts begin with.
const BASE_FOLDER: &str = "base";
const BASE: &str = "backup";
const PART: &str = "part-";
const IDENTITY: &str = "repository.json";
const LOG_FOLDER: &str = OWN_FOLDERS[0];
const LEASE_FOLDER: &str = OWN_FOLDERS[1];
const CHECKPOINT_FOLDER: &str = OWN_FOLDERS[4];
const ALERT_FOLDER: &str = OWN_FOLDERS[5];
const SEAL_FOLDER: &str = OWN_FOLDERS[6];
const DRILL_FOLDER: &str = OWN_FOLDERS[7];

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

/// What a lease is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Leased {
    /// An artifact that is being read.
    Artifact(ArtifactId),
    /// The name of one that is being made.
    Name(ArtifactName),
}

impl Leased {
    /// What the lease `key` is on.
    pub fn of(key: &ObjectKey) -> Option<Self> {
        let (on, holder) = key.as_str().strip_prefix(LEASE_FOLDER)?.strip_prefix('/')?.rsplit_once('/')?;
        if !holder.ends_with(".json") {
            return None;
        }
        match on.parse() {
            Ok(artifact) => Some(Self::Artifact(artifact)),
            Err(_) => on.parse().ok().map(|name| Self::Name(ArtifactName(name))),
        }
    }

    /// The key under which `holder` says, for as long as it runs, that it needs this.
    pub fn lease(&self, holder: &str) -> Result<ObjectKey, InvalidKey> {
        format!("{}{holder}.json", self.leases()).parse()
    }

    /// What every lease on this begins with.
    pub fn leases(&self) -> String {
        format!("{LEASE_FOLDER}/{self}/")
    }
}

impl fmt::Display for Leased {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Artifact(artifact) => artifact.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What every lease begins with.
pub fn leases() -> String {
    format!("{LEASE_FOLDER}/")
}

/// The key of the checkpoint of `chain` taken at `taken`; its signature's has `.sig` appended.
pub fn checkpoint(chain: &str, taken: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    format!("{}{}.json", checkpoints(chain, Some(taken)), taken.format("%H%M%S%3f")).parse()
}

/// When the checkpoint `key` of `chain` was taken; nothing for a key of something else.
pub fn checkpoint_instant(chain: &str, key: &ObjectKey) -> Option<DateTime<Utc>> {
    let rest = key.as_str().strip_prefix(&checkpoints(chain, None))?.strip_suffix(".json")?;
    let (day, time) = rest.split_once('/')?;
    // Milliseconds without a point before them are not read by chrono.
    let (seconds, millis) = time.split_at_checked(6).filter(|(_, millis)| millis.len() == 3)?;
    let instant = chrono::NaiveDateTime::parse_from_str(&format!("{day} {seconds}.{millis}"), "%Y-%m-%d %H%M%S%.3f");
    instant.ok().map(|instant| instant.and_utc())
}

/// The same of the checkpoint itself or of any signature beside it.
pub fn checkpoint_or_signature_instant(chain: &str, key: &ObjectKey) -> Option<DateTime<Utc>> {
    let (checkpoint, signature) = key.as_str().split_at(key.as_str().find(".json")? + ".json".len());
    let is_signature = signature.starts_with('.') && signature.ends_with(".sig");
    (signature.is_empty() || is_signature).then(|| checkpoint_instant(chain, &checkpoint.parse().ok()?))?
}

/// The key of the statement, made at `stated`, that old checkpoints of `chain` were deleted.
pub fn expired_checkpoint(chain: &str, stated: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    format!("{}{}.json", expired_checkpoints(chain), stated.format("%Y%m%dT%H%M%S%3f")).parse()
}

/// What every such statement begins with.
pub fn expired_checkpoints(chain: &str) -> String {
    format!("{CHECKPOINT_FOLDER}/{chain}/expired/")
}

/// What every checkpoint of `chain` begins with; those of one day where a day is given.
pub fn checkpoints(chain: &str, day: Option<DateTime<Utc>>) -> String {
    match day {
        Some(day) => format!("{CHECKPOINT_FOLDER}/{chain}/{}/", day.format("%Y-%m-%d")),
        None => format!("{CHECKPOINT_FOLDER}/{chain}/"),
    }
}

/// The key of seal number `number` of `chain`, of the partition called `partition`, signed at `sealed`; its signature's has
/// `.sig` appended. The instant keeps what a dead run has left apart from what the next one writes.
pub fn seal(chain: &str, number: u32, partition: &str, sealed: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    let partition: String = partition.chars().map(plain).take(100).collect();
    format!("{}{number:05}_{partition}_{}.json", seals(chain), sealed.format("%Y%m%dT%H%M%S%3f")).parse()
}

/// What every seal of `chain` begins with.
pub fn seals(chain: &str) -> String {
    format!("{SEAL_FOLDER}/{chain}/")
}

/// The key of the alert `id` raised at `now`.
pub fn alert(id: AlertId, now: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    format!("{ALERT_FOLDER}/{}/{id}.json", now.format("%Y-%m-%d")).parse()
}

/// The key of the drill of `recipient` done at `drilled`: one for each day.
pub fn drill(recipient: &str, drilled: DateTime<Utc>) -> Result<ObjectKey, InvalidKey> {
    format!("{DRILL_FOLDER}/{recipient}/{}.json", drilled.format("%Y-%m-%d")).parse()
}

/// What every drill begins with.
pub fn drills() -> String {
    format!("{DRILL_FOLDER}/")
}

/// The recipient whose drill `key` holds.
pub fn drilled_recipient(key: &ObjectKey) -> Option<&str> {
    let mut components = key.components();
    (components.next() == Some(DRILL_FOLDER)).then(|| components.next())?
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

/// Whether `key` is of a base backup.
pub fn is_of_base(key: &ObjectKey) -> bool {
    key.components().next() == Some(BASE_FOLDER)
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
        if let Some(name) = Self::of_part(key) {
            return Some(name);
        }
        let suffixes = [".dump", ".schema.dump", ".roles.sql", ".tar", FILES, BUCKETS, CHECKSUMS, MANIFEST, SIGNATURE];
        let packed = ["", ".gz", ".zst", ".lz4"].into_iter().flat_map(|end| [end.to_owned(), format!("{end}.gpg")]);
        let packed: Vec<String> = packed.collect();
        let ends = suffixes.iter().flat_map(|suffix| packed.iter().map(move |end| format!("{suffix}{end}")));
        let stems = ends.filter_map(|end| key.as_str().strip_suffix(end.as_str()));
        stems.min_by_key(|stem| stem.len()).and_then(|stem| stem.parse().ok()).map(Self)
    }

    /// The base backup that the part `key` belongs to.
    fn of_part(key: &ObjectKey) -> Option<Self> {
        let (folder, name) = key.as_str().rsplit_once('/')?;
        let (number, ends) = name.strip_prefix(PART)?.split_once(".tar")?;
        let is_number = number.len() >= 5 && number.bytes().all(|byte| byte.is_ascii_digit());
        let is_end = ends.split('.').skip(1).all(|end| matches!(end, "gz" | "zst" | "lz4" | "gpg"));
        let in_base = key.components().next() == Some(BASE_FOLDER) && (ends.is_empty() || ends.starts_with('.'));
        (is_number && is_end && in_base).then(|| format!("{folder}/{BASE}").parse().ok().map(Self))?
    }

    /// The base backup begun at `started`: a folder of its own, its parts beside its manifest.
    pub fn of_base(started: DateTime<Utc>) -> Result<Self, InvalidKey> {
        Self::in_own_folder(BASE_FOLDER, BASE, started)
    }

    /// The key of part number `number` of a base backup, encoded as `encoding` says.
    pub fn part(&self, number: u32, encoding: &[Encoding]) -> Result<ObjectKey, InvalidKey> {
        let folder = self.0.as_str().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/{PART}{number:05}.tar{}", ends(encoding)).parse()
    }

    /// Whether `YYYYMMDD_HHMMSS` stands in it, as in every name that we make.
    fn tells_an_instant(&self) -> bool {
        let form = |at: usize, byte: u8| if at == 8 { byte == b'_' } else { byte.is_ascii_digit() };
        self.0.as_str().as_bytes().windows(15).any(|text| text.iter().enumerate().all(|(at, byte)| form(at, *byte)))
    }

    /// What every key of the artifact begins with, and no key of another.
    pub fn begins(&self) -> String {
        let key = self.0.as_str();
        match key.strip_suffix(&format!("/{BASE}")).filter(|folder| folder.starts_with(BASE_FOLDER)) {
            Some(folder) => format!("{folder}/"),
            None => format!("{key}."),
        }
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
            ObjectRole::Part => ".tar",
            ObjectRole::Files => FILES,
            ObjectRole::Checksums => CHECKSUMS,
        };
        self.0.with_suffix(&format!("{content}{}", ends(encoding)))
    }
}

/// What a key ends with after the ending of its content.
fn ends(encoding: &[Encoding]) -> String {
    let end = |encoding: &Encoding| match encoding {
        Encoding::PgDumpCustom | Encoding::Sql | Encoding::Tar | Encoding::Buckets | Encoding::Files => "",
        Encoding::Gzip => ".gz",
        Encoding::Zstd => ".zst",
        Encoding::Lz4 => ".lz4",
        Encoding::OpenPgp => ".gpg",
    };
    encoding.iter().map(end).collect()
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
    fn the_parts_of_a_base_backup_lead_back_to_it() {
        let base = ArtifactName::of_base("2025-11-03T02:00:00Z".parse().unwrap()).unwrap();
        assert_eq!(base.manifest().unwrap().as_str(), "base/20251103_020000/backup.manifest.json");
        let encodings: [&[Encoding]; 4] = [
            &[Encoding::Tar, Encoding::Zstd, Encoding::OpenPgp],
            &[Encoding::Tar, Encoding::Gzip],
            &[Encoding::Tar, Encoding::Lz4, Encoding::OpenPgp],
            &[Encoding::Tar],
        ];
        assert_eq!(base.part(1, encodings[0]).unwrap().as_str(), "base/20251103_020000/part-00001.tar.zst.gpg");
        for encoding in encodings {
            let keys =
                [base.part(123_456, encoding), base.object(ObjectRole::Files, &[Encoding::Files, Encoding::Zstd])];
            for key in keys {
                let key = key.unwrap();
                assert_eq!(ArtifactName::of_object(&key).as_ref(), Some(&base), "{key}");
                assert!(is_ours(&key));
            }
        }
        for other in [
            "base/20251103_020000/part-1.tar",
            "base/20251103_020000/part-00001.tar.zst.gpg.exe",
            "x/part-00001.tarball",
        ] {
            assert_ne!(ArtifactName::of_object(&other.parse().unwrap()), Some(base.clone()), "{other}");
        }
    }

    #[test]
    fn a_checkpoint_is_known_by_its_instant_and_nothing_else_by_one() {
        let taken = "2026-03-01T02:03:04.005Z".parse().unwrap();
        let key = checkpoint("audit_logs", taken).unwrap();
        assert_eq!(checkpoint_instant("audit_logs", &key), Some(taken));
        assert_eq!(checkpoint_instant("other", &key), None);
        for suffix in [".sig", ".0123456789abcdef.sig"] {
            let signature = key.with_suffix(suffix).unwrap();
            assert_eq!(checkpoint_instant("audit_logs", &signature), None);
            assert_eq!(checkpoint_or_signature_instant("audit_logs", &signature), Some(taken));
        }
        let expired = expired_checkpoint("audit_logs", taken).unwrap();
        assert_eq!(checkpoint_or_signature_instant("audit_logs", &expired), None);
        assert_eq!(checkpoint_or_signature_instant("audit_logs", &key.with_suffix(".exe").unwrap()), None);
    }

    #[test]
    fn a_lease_tells_what_it_is_on() {
        let artifact = ArtifactId::new("2026-03-01T02:03:04Z".parse().unwrap());
        let base = ArtifactName::of_base("2025-11-03T02:00:00Z".parse().unwrap()).unwrap();
        for on in [Leased::Artifact(artifact), Leased::Name(base), Leased::Name(name())] {
            let key = on.lease("run-1").unwrap();
            assert!(key.as_str().starts_with(&on.leases()) && key.as_str().starts_with(&leases()), "{key}");
            assert_eq!(Leased::of(&key), Some(on));
        }
        for other in ["leases/x.json", "leases/base/x/backup/run", "base/x/backup/run.json"] {
            assert_eq!(Leased::of(&other.parse().unwrap()), None, "{other}");
        }
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
