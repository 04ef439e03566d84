//! Each repository: does it open, can it be written and read and does it refuse overwriting, what can it do, has it
//! room, is its catalog whole.
//!
//! The round trip leaves nothing behind; where objects are locked or kept in versions, what it deleted goes with the
//! bucket's own rules.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::catalog::Repository;
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::model::outcome::{Finding, Severity};
use crate::model::status::{RepositoryStatus, StatusModel};
use crate::ops::Setting;
use crate::ops::check::{CheckLine, Door, Doors, server, setup};
use crate::storage::{Features, Posture, Probe, PutOptions, Storage, StorageError};

/// Longest one repository may take for each of its checks.
const ANSWER_TIME: Duration = Duration::from_secs(120);

const OPENS: &str = "repository-opens";
const FEATURES: &str = "repository-features";
const CLOCK: &str = "repository-clock";
const ROUND_TRIP: &str = "repository-round-trip";
const POSTURE: &str = "repository-posture";
const ROOM: &str = "repository-room";
const CATALOG: &str = "repository-catalog";
const FINDINGS: &str = "repository-findings";

pub(super) async fn check(doors: &Doors, setting: &Setting) -> Vec<CheckLine> {
    if doors.repositories.is_empty() {
        let remedy = "add [repository.local] with url = \"file:///…\" to dbagent.toml";
        return vec![CheckLine::fail(OPENS, "no repository is configured", remedy)];
    }
    let mut lines = Vec::new();
    for door in &doors.repositories {
        lines.extend(check_one(door, doors.disk_percent, setting).await);
        lines.extend(posture(door, doors.buckets).await);
        lines.extend(catalog(&door.name, &doors.status));
    }
    lines
}

async fn check_one(door: &Door, disk_percent: Option<u8>, setting: &Setting) -> Vec<CheckLine> {
    let name = &door.name;
    let mut lines = match &door.opened {
        Err(failure) => closed(name, failure),
        Ok(repository) => {
            let probe = in_time(repository, "ask", repository.storage.probe()).await;
            let mut lines = probed(door, &probe);
            let locked = matches!(&probe, Ok(probe) if probe.features.object_lock);
            let trip = round_trip(repository.storage.as_ref(), setting, locked);
            lines.push(match in_time(repository, "write to and read from", trip).await {
                Ok(()) => CheckLine::ok(ROUND_TRIP, format!("{name}: written, not overwritten, read, deleted")),
                Err(failure) => CheckLine::failed(ROUND_TRIP, name, &failure),
            });
            lines
        }
    };
    if let Some(directory) = &door.directory {
        lines.push(setup::room(ROOM, name, directory, disk_percent));
    }
    lines
}

/// What the bucket's owner has set. What is not told is a warning only where the plan asks for it: who only writes has no
/// right to ask.
async fn posture(door: &Door, asked: bool) -> Vec<CheckLine> {
    let (name, Ok(repository)) = (&door.name, &door.opened) else { return Vec::new() };
    match in_time(repository, "ask for the settings of", repository.storage.posture()).await {
        Ok(None) => Vec::new(),
        Ok(Some(posture)) => judge_posture(name, &posture, asked),
        Err(failure) if asked => vec![CheckLine::failed(POSTURE, name, &failure)],
        Err(failure) => {
            tracing::debug!(repository = name, error = failure.full_message(), "the bucket's settings are not known");
            Vec::new()
        }
    }
}

fn judge_posture(name: &str, posture: &Posture, asked: bool) -> Vec<CheckLine> {
    let judged = [
        ("its lifecycle", lifecycle(name, posture)),
        ("who may read it", access(name, posture)),
        ("its encryption", encryption(name, posture, asked)),
        ("whether it asks for TLS", tls(name, posture)),
    ];
    let unknown: Vec<&str> = judged.iter().filter(|(_, line)| line.is_none()).map(|(what, _)| *what).collect();
    let untold = (asked && !unknown.is_empty()).then(|| {
        let message = format!("{name}: the store does not tell this login: {}", unknown.join(", "));
        CheckLine::warn(POSTURE, message, "look at the bucket with its owner's login")
    });
    judged.into_iter().filter_map(|(_, line)| line).chain(untold).collect()
}

fn lifecycle(name: &str, posture: &Posture) -> Option<CheckLine> {
    let rules = posture.deleting.as_ref()?;
    if rules.is_empty() {
        return Some(CheckLine::ok(POSTURE, format!("{name}: no lifecycle rule deletes what is kept here")));
    }
    Some(CheckLine::fail(
        POSTURE,
        format!("{name}: the bucket's lifecycle deletes what is kept here, by the rules {}", rules.join(", ")),
        "take our prefix out of those rules: only `dbagent expire` knows what is needed still",
    ))
}

fn access(name: &str, posture: &Posture) -> Option<CheckLine> {
    Some(match posture.public? {
        true => CheckLine::fail(
            POSTURE,
            format!("{name}: strangers may be let into the bucket: not all public access is blocked"),
            "turn on all four settings of the bucket's \"Block public access\"",
        ),
        false => CheckLine::ok(POSTURE, format!("{name}: the bucket blocks public access")),
    })
}

/// A key of one's own is asked for only where the plan asks for the bucket's settings.
fn encryption(name: &str, posture: &Posture, asked: bool) -> Option<CheckLine> {
    Some(match (posture.encrypted?, posture.kms) {
        (_, Some(true)) => CheckLine::ok(POSTURE, format!("{name}: what is stored is encrypted by a key of KMS")),
        (true, _) if !asked => CheckLine::ok(POSTURE, format!("{name}: the bucket encrypts by itself")),
        (true, _) => CheckLine::warn(
            POSTURE,
            format!("{name}: the bucket encrypts by the store's own key, not by one of KMS"),
            "set the bucket's default encryption to aws:kms, or sse = \"aws:kms\" of the repository",
        ),
        (false, _) => CheckLine::warn(
            POSTURE,
            format!("{name}: the bucket does not encrypt by itself"),
            "set its default encryption, best with a KMS key of yours",
        ),
    })
}

fn tls(name: &str, posture: &Posture) -> Option<CheckLine> {
    Some(match posture.tls_only? {
        true => CheckLine::ok(POSTURE, format!("{name}: the bucket's policy refuses what comes without TLS")),
        false => CheckLine::warn(
            POSTURE,
            format!("{name}: the bucket's policy lets in what comes without TLS"),
            "add a statement to its policy that denies everybody everything where aws:SecureTransport is false",
        ),
    })
}

fn closed(name: &str, failure: &Failure) -> Vec<CheckLine> {
    let rest = [FEATURES, CLOCK, ROUND_TRIP].map(|check| {
        let message = format!("{name}: not carried out, because it does not open");
        CheckLine::fail(check, message, format!("see the line {OPENS} of {name}"))
    });
    std::iter::once(CheckLine::failed(OPENS, name, failure)).chain(rest).collect()
}

async fn in_time<T, E: Into<Failure>>(
    repository: &Repository,
    what: &str,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_TIME, work).await {
        Ok(done) => done.map_err(Into::into),
        Err(_) => {
            let place = repository.storage.place();
            let message = format!("{what} {place}: no answer within {} seconds", ANSWER_TIME.as_secs());
            Err(Failure::new(FailureKind::Failed, message).hint("Check the network and the store itself."))
        }
    }
}

fn probed(door: &Door, probe: &Result<Probe, Failure>) -> Vec<CheckLine> {
    let name = &door.name;
    let probe = match probe {
        Ok(probe) => probe,
        Err(failure) => return closed(name, failure).into_iter().filter(|line| line.check != ROUND_TRIP).collect(),
    };
    let clock = match probe.clock_offset {
        Some(offset) => server::judge_clock(CLOCK, name, offset),
        None if door.directory.is_some() => CheckLine::ok(CLOCK, format!("{name}: a directory goes by our own clock")),
        None => CheckLine::warn(CLOCK, format!("{name}: it does not tell the time"), "compare its clock with ours"),
    };
    vec![CheckLine::ok(OPENS, format!("{name}: it is there and ours to use")), features(door, probe.features), clock]
}

fn features(door: &Door, features: Features) -> CheckLine {
    let say = |has: bool, yes: &'static str, no: &'static str| if has { yes } else { no };
    let message = format!(
        "{}: {}, {}, {}",
        door.name,
        say(features.conditional_put, "it refuses overwriting by itself", "it does not refuse overwriting by itself"),
        say(features.versions, "it keeps old versions", "it keeps no old versions"),
        say(features.object_lock, "it can lock objects", "it cannot lock objects"),
    );
    if door.wants_lock && !features.object_lock {
        let remedy = "make a bucket with object lock, or take object_lock out of the repository's settings";
        return CheckLine::fail(FEATURES, message, remedy);
    }
    if !features.conditional_put {
        return CheckLine::warn(FEATURES, message, "let one agent alone write here, or use a store with If-None-Match");
    }
    if door.directory.is_none() && !features.versions {
        return CheckLine::warn(
            FEATURES,
            message,
            "turn the bucket's versioning on: it undoes what a stolen login deletes",
        );
    }
    CheckLine::ok(FEATURES, message)
}

async fn round_trip(storage: &dyn Storage, setting: &Setting, locked: bool) -> Result<(), Failure> {
    let key: ObjectKey = format!("probe/{}", setting.run).parse()?;
    let body = Bytes::from(format!("dbagent check {}\n", setting.run));
    let stored = storage.put(&key, body.clone(), &PutOptions::default()).await?;
    let checked = compare(storage, &key, &body).await;
    // A locked version stays until its lock ends; a marker over it is all that can be had.
    let version = stored.version.as_deref().filter(|_| !locked);
    let deleted = storage.delete(&key, version).await;
    checked?;
    deleted?;
    match storage.head(&key).await {
        Err(error) if error.is_missing() => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(broken(storage, "delete from", "what was deleted is still there")),
    }
}

async fn compare(storage: &dyn Storage, key: &ObjectKey, body: &Bytes) -> Result<(), Failure> {
    match storage.put(key, Bytes::from_static(b"another\n"), &PutOptions::default()).await {
        Err(error) if error.is_exists() => {}
        Err(error) => return Err(error.into()),
        Ok(_) => return Err(broken(storage, "keep what was written to", "it was overwritten")),
    }
    if read(storage, key).await? == *body {
        return Ok(());
    }
    Err(broken(storage, "read from", "other bytes came back than were written"))
}

async fn read(storage: &dyn Storage, key: &ObjectKey) -> Result<Bytes, StorageError> {
    let mut download = storage.get(key, None, None).await?;
    let mut bytes = BytesMut::new();
    while let Some(piece) = download.next().await? {
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

fn broken(storage: &dyn Storage, doing: &str, why: &str) -> Failure {
    Failure::new(FailureKind::Integrity, format!("{doing} {}: {why}", storage.place()))
        .hint("A store that does this cannot hold backups; set conditional_put = false if it is the overwriting.")
}

/// What the catalog says, as the status has read it.
fn catalog(name: &str, status: &Result<StatusModel, Failure>) -> Vec<CheckLine> {
    let status = match status {
        Ok(status) => status.repositories.iter().find(|repository| repository.name == name),
        Err(failure) => return [CATALOG, FINDINGS].map(|check| CheckLine::failed(check, name, failure)).into(),
    };
    let unread = |why: &str| {
        let line = |check| CheckLine::fail(check, format!("{name}: failed to {why}"), "see the other lines on it");
        vec![line(CATALOG), line(FINDINGS)]
    };
    match status {
        None => unread("find it in the status"),
        Some(RepositoryStatus { holds: Some(holds), broken_log, findings, .. }) => {
            let mut lines = vec![match broken_log {
                None => CheckLine::ok(CATALOG, format!("{name}: its log is whole, with {} artifacts", holds.artifacts)),
                Some(why) => {
                    let remedy = "find out who changed the repository before you trust it";
                    CheckLine::fail(CATALOG, format!("{name}: failed to {why}"), remedy)
                }
            }];
            lines.extend(found(name, findings));
            lines
        }
        Some(RepositoryStatus { unreadable, .. }) => unread(unreadable.as_deref().unwrap_or("read it")),
    }
}

fn found(name: &str, findings: &[Finding]) -> Vec<CheckLine> {
    if findings.is_empty() {
        return vec![CheckLine::ok(FINDINGS, format!("{name}: nothing was found wrong with what it holds"))];
    }
    let line = |finding: &Finding| {
        let remedy = finding.remedy.clone().unwrap_or_else(|| "look at it; `dbagent status` shows it too".to_owned());
        match finding.severity {
            Severity::Info => CheckLine::ok(FINDINGS, finding.message.clone()),
            Severity::Warning => CheckLine::warn(FINDINGS, finding.message.clone(), remedy),
            Severity::Critical => CheckLine::fail(FINDINGS, finding.message.clone(), remedy),
        }
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    fn door(directory: bool, wants_lock: bool) -> Door {
        let opened = Err(Failure::new(FailureKind::Failed, "open"));
        Door { name: "s3".into(), opened, directory: directory.then(|| "/".into()), wants_lock }
    }

    #[test]
    fn f38_what_a_bucket_lacks_is_said_and_a_lock_that_was_promised_must_be_there() {
        let all = Features { conditional_put: true, storage_classes: true, versions: true, object_lock: true };
        let status = |directory, lock, can: Features| features(&door(directory, lock), can).status;
        assert_eq!(status(false, true, all), Status::Ok);
        assert_eq!(status(false, true, Features { object_lock: false, ..all }), Status::Fail);
        assert_eq!(status(false, false, Features { object_lock: false, ..all }), Status::Ok);
        assert_eq!(status(false, false, Features { versions: false, ..all }), Status::Warn);
        assert_eq!(status(true, false, Features { versions: false, ..all }), Status::Ok);
        assert_eq!(status(true, false, Features { conditional_put: false, ..all }), Status::Warn);
    }

    #[test]
    fn a_repository_that_does_not_open_leaves_no_check_out() {
        let lines = closed("s3", &Failure::new(FailureKind::Failed, "open it"));
        assert_eq!(lines.iter().map(|line| line.check).collect::<Vec<_>>(), [OPENS, FEATURES, CLOCK, ROUND_TRIP]);
        assert!(lines.iter().all(|line| line.status == Status::Fail));
        assert!(catalog("s3", &Err(Failure::new(FailureKind::Failed, "open it"))).len() == 2);
    }

    #[test]
    fn a_buckets_settings_are_judged_and_what_is_not_told_is_said_where_it_is_asked_for() {
        let worst = |posture: &Posture, asked| judge_posture("s3", posture, asked).iter().map(|line| line.status).max();
        let good = Posture {
            encrypted: Some(true),
            kms: Some(true),
            tls_only: Some(true),
            public: Some(false),
            deleting: Some(Vec::new()),
        };
        assert_eq!(worst(&good, true), Some(Status::Ok));
        let store_key = Posture { kms: Some(false), ..good.clone() };
        assert_eq!([worst(&store_key, false), worst(&store_key, true)], [Some(Status::Ok), Some(Status::Warn)]);
        assert_eq!(worst(&Posture { tls_only: Some(false), ..good.clone() }, false), Some(Status::Warn));
        assert_eq!(worst(&Posture { public: Some(true), ..good.clone() }, false), Some(Status::Fail));
        let rules = Some(vec!["old".to_owned()]);
        assert_eq!(worst(&Posture { deleting: rules, ..good.clone() }, false), Some(Status::Fail));
        let untold = Posture { tls_only: None, ..good };
        assert_eq!([worst(&untold, false), worst(&untold, true)], [Some(Status::Ok), Some(Status::Warn)]);
    }
}
