//! The catalog on real storages: what is committed is listed, and nothing else is.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use dbagent::catalog::{
    CatalogErrorKind, Head, Identity, Inventory, Record, Repository, Signer, Unsigned, Verifier, names,
};
use dbagent::model::digest::Digest;
use dbagent::model::event::Events;
use dbagent::model::id::{ArtifactId, RunId};
use dbagent::model::lsn::SystemId;
use dbagent::model::manifest::{
    Encoding, FORMAT, LargeObjects, Manifest, ObjectRecord, ObjectRole, SourceRecord, Verification, VerificationLevel,
};
use dbagent::model::verb::Verb;
use dbagent::pipeline::openpgp::generate_signing_key;
use dbagent::steps::bury::bury;
use dbagent::steps::read_back::{read_back, store_vouches};
use dbagent::storage::{DirectoryStorage, MemoryStorage, PutOptions, Storage};

use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};

pub fn now() -> DateTime<Utc> {
    "2026-03-01T03:00:00Z".parse().unwrap()
}

pub fn signer() -> Signer {
    let key = generate_signing_key("test only", now()).unwrap();
    Signer::from_secret_key(&key.secret, None, now()).unwrap()
}

pub fn repository(storage: Arc<dyn Storage>, signer: &Signer) -> Repository {
    let mut verifier = Verifier::new();
    verifier.trust(signer.certificate());
    Repository {
        name: "test".to_owned(),
        storage,
        verifier: Arc::new(verifier),
        signer: Some(Arc::new(signer.clone())),
        memory: None,
        term: Arc::default(),
    }
}

pub fn empty_repository() -> Repository {
    repository(Arc::new(MemoryStorage::new()), &signer())
}

pub fn artifact_name(minute: i64) -> names::ArtifactName {
    names::ArtifactName::new("full", "test_full", now() + chrono::Duration::minutes(minute)).unwrap()
}

/// Stores one small object and commits an artifact that consists of it.
pub async fn commit(repository: &Repository, minute: i64) -> Manifest {
    let name = artifact_name(minute);
    let body = Bytes::from(format!("artifact {minute}"));
    let encoding = vec![Encoding::PgDumpCustom, Encoding::Gzip];
    let key = name.object(ObjectRole::Data, &encoding).unwrap();
    repository.storage.put(&key, body.clone(), &PutOptions::default()).await.unwrap();
    let at = now() + chrono::Duration::minutes(minute);
    let object = ObjectRecord {
        role: ObjectRole::Data,
        key,
        version: None,
        content_size: body.len() as u64,
        content_digest: Digest::of(&body),
        stored_size: body.len() as u64,
        stored_digest: Digest::of(&body),
        encoding,
        storage_class: None,
        sse: None,
    };
    let id = ArtifactId::new(at);
    let manifest = name.manifest().unwrap();
    let committed = repository.commit(&manifest, at, |place| Manifest {
        format: FORMAT,
        id,
        run: RunId::new(at),
        verb: Verb::Dump,
        job: "full".to_owned(),
        plan: "test".to_owned(),
        cluster: "test".to_owned(),
        agent_version: "0".to_owned(),
        started: at,
        finished: at,
        source: source(),
        objects: vec![object.clone()],
        recipients: Vec::new(),
        tables: Vec::new(),
        sequences: Vec::new(),
        schema_fingerprint: None,
        large_objects: LargeObjects::None,
        fencing_token: place.fencing_token,
        catalog: place.position,
        verification: Verification { level: VerificationLevel::ReadBack, at },
        parent: None,
        base: None,
    });
    committed.await.unwrap().manifest
}

fn source() -> SourceRecord {
    SourceRecord {
        system_identifier: Some(SystemId(7)),
        timeline: None,
        database: "test".to_owned(),
        database_oid: 5,
        server_version: "15.1".to_owned(),
        encoding: "UTF8".to_owned(),
        locale: None,
        tools: Vec::new(),
        snapshot: None,
        lsn: None,
        log: None,
        taken: None,
    }
}

pub async fn inventory(repository: &Repository) -> Inventory {
    Inventory::read(repository, Unsigned::Refuse, now()).await.unwrap()
}

/// Replaces an object's bytes behind the catalog's back, as an attacker with write rights would.
async fn overwrite(repository: &Repository, key: &str, change: impl Fn(&mut Vec<u8>)) {
    let key = key.parse().unwrap();
    let mut bytes = repository.read(&key).await.unwrap().to_vec();
    change(&mut bytes);
    repository.storage.delete(&key, None).await.unwrap();
    repository.storage.put(&key, bytes.into(), &PutOptions::default()).await.unwrap();
}

#[tokio::test]
async fn committed_artifacts_are_listed_oldest_first_and_numbered_without_gaps() {
    let repository = empty_repository();
    let made = [commit(&repository, 0).await, commit(&repository, 1).await, commit(&repository, 2).await];
    let listed = inventory(&repository).await;
    assert!(listed.findings.is_empty(), "{:?}", listed.findings);
    let manifests: Vec<_> = listed.artifacts.iter().map(|artifact| artifact.manifest.clone()).collect();
    assert_eq!(manifests, made);
    let sequences: Vec<u64> = made.iter().map(|manifest| manifest.catalog.sequence).collect();
    assert_eq!(sequences, [2, 3, 4], "the first number is the term's");
}

#[tokio::test]
async fn a_directory_and_memory_list_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let repository = repository(Arc::new(DirectoryStorage::open(directory.path()).unwrap()), &signer());
    let made = commit(&repository, 0).await;
    assert_eq!(inventory(&repository).await.artifacts[0].manifest, made);
}

#[tokio::test]
async fn f45_every_flipped_byte_of_manifest_signature_and_log_is_found() {
    let repository = empty_repository();
    let id = commit(&repository, 0).await.id;
    let manifest = artifact_name(0).manifest().unwrap();
    let (mut flips, mut found) = (0, 0);
    for key in [manifest.as_str().to_owned(), format!("{manifest}.sig"), "catalog/0000000002.json".to_owned()] {
        let length = repository.read(&key.parse().unwrap()).await.unwrap().len();
        for at in 0..length {
            overwrite(&repository, &key, |bytes| bytes[at] ^= 1).await;
            flips += 1;
            let listed = inventory(&repository).await;
            let shown = listed.artifacts.iter().any(|artifact| artifact.manifest.id == id);
            found += usize::from(!shown && !listed.findings.is_empty());
            overwrite(&repository, &key, |bytes| bytes[at] ^= 1).await;
        }
    }
    assert_eq!(found, flips);
    assert!(flips > 1000, "only {flips} bytes were flipped");
    assert_eq!(inventory(&repository).await.artifacts.len(), 1, "mended, it is listed again");
}

#[tokio::test]
async fn f46_a_manifest_under_another_name_is_no_artifact() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    let (from, to) = (artifact_name(0).manifest().unwrap(), artifact_name(9).manifest().unwrap());
    for suffix in ["", ".sig"] {
        let bytes = repository.read(&format!("{from}{suffix}").parse().unwrap()).await.unwrap();
        let key = format!("{to}{suffix}").parse().unwrap();
        repository.storage.put(&key, bytes, &PutOptions::default()).await.unwrap();
    }
    let listed = inventory(&repository).await;
    assert_eq!(listed.artifacts.len(), 1);
    assert!(listed.findings.iter().any(|finding| finding.code == "manifest-refused"));
}

#[tokio::test]
async fn f47_a_repository_that_went_backwards_is_noticed_and_not_written_to() {
    let state = tempfile::tempdir().unwrap();
    let mut repository = empty_repository();
    repository.memory = Some(state.path().join("head.json"));
    commit(&repository, 0).await;
    commit(&repository, 1).await;
    assert!(inventory(&repository).await.broken_log.is_none());
    repository.storage.delete(&"catalog/0000000003.json".parse().unwrap(), None).await.unwrap();
    let listed = inventory(&repository).await;
    assert!(listed.broken_log.unwrap().contains("rolled back"));
    let error = repository.record(Record::Term, now()).await.unwrap_err();
    assert_eq!(error.kind, CatalogErrorKind::RolledBack);
}

#[tokio::test]
async fn f47_a_gap_in_the_log_is_found_without_any_memory() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    commit(&repository, 1).await;
    repository.storage.delete(&"catalog/0000000002.json".parse().unwrap(), None).await.unwrap();
    assert!(inventory(&repository).await.broken_log.is_some());
}

#[tokio::test]
async fn f09_ten_writers_at_once_take_ten_different_numbers() {
    let repository = empty_repository();
    repository.term(now()).await.unwrap();
    let writers = (0..10).map(|minute| {
        let repository = repository.clone();
        tokio::spawn(async move { commit(&repository, minute).await.catalog.sequence })
    });
    let mut numbers = Vec::new();
    for writer in writers.collect::<Vec<_>>() {
        numbers.push(writer.await.unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (2..12).collect::<Vec<u64>>());
    assert_eq!(inventory(&repository).await.artifacts.len(), 10);
}

#[tokio::test]
async fn f10_a_former_leader_cannot_commit_once_a_new_term_has_begun() {
    let former = empty_repository();
    commit(&former, 0).await;
    let mut next = former.clone();
    next.term = Arc::default();
    commit(&next, 1).await;
    let error = former.record(Record::Term, now()).await.unwrap_err();
    assert_eq!(error.kind, CatalogErrorKind::Fenced);
}

#[tokio::test]
async fn f09_another_clusters_repository_is_refused() {
    let repository = empty_repository();
    let identity = |cluster: &str, system| Identity::new(cluster, Some(SystemId(system)), now());
    repository.claim(&identity("a", 1), &[]).await.unwrap();
    repository.claim(&identity("a", 1), &[]).await.unwrap();
    for other in [identity("b", 1), identity("a", 2)] {
        let error = repository.claim(&other, &[]).await.unwrap_err();
        assert_eq!(error.kind, CatalogErrorKind::OtherCluster);
    }
    repository.claim(&identity("a", 2), &[SystemId(1)]).await.unwrap();
}

#[tokio::test]
async fn a_buried_artifact_is_gone_and_the_log_goes_on() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    commit(&repository, 1).await;
    let first = inventory(&repository).await.artifacts.remove(0);
    bury(&repository, &first, "test", now()).await.unwrap();
    let listed = inventory(&repository).await;
    assert_eq!(listed.artifacts.len(), 1);
    assert!(listed.findings.is_empty(), "{:?}", listed.findings);
    let rest = repository.storage.list("full/", None).await.unwrap().objects;
    assert!(rest.iter().all(|object| !object.key.as_str().contains("030000")), "{rest:?}");
}

#[tokio::test]
async fn f47_a_buried_artifact_that_comes_back_is_refused() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    let manifest = artifact_name(0).manifest().unwrap();
    let signature = manifest.with_suffix(".sig").unwrap();
    let kept = (repository.read(&manifest).await.unwrap(), repository.read(&signature).await.unwrap());
    let artifact = inventory(&repository).await.artifacts.remove(0);
    bury(&repository, &artifact, "test", now()).await.unwrap();
    repository.storage.put(&manifest, kept.0, &PutOptions::default()).await.unwrap();
    repository.storage.put(&signature, kept.1, &PutOptions::default()).await.unwrap();
    let listed = inventory(&repository).await;
    assert!(listed.artifacts.is_empty());
    assert!(listed.findings.iter().any(|finding| finding.message.contains("come back")));
}

#[tokio::test]
async fn pins_and_damage_are_remembered_by_the_repository_itself() {
    let repository = empty_repository();
    let artifact = commit(&repository, 0).await.id;
    repository.record(Record::Pin { artifact, reason: "audit".into() }, now()).await.unwrap();
    repository.record(Record::Damaged { artifact, reason: "bad byte".into() }, now()).await.unwrap();
    let listed = inventory(&repository).await.artifacts.remove(0);
    assert_eq!((listed.pinned.as_deref(), listed.damaged.as_deref()), (Some("audit"), Some("bad byte")));
    assert!(listed.verified.is_none(), "a damaged artifact is not verified");
    let verification = Verification { level: VerificationLevel::ReadBack, at: now() };
    repository.record(Record::Verified { artifact, verification }, now()).await.unwrap();
    repository.record(Record::Unpin { artifact }, now()).await.unwrap();
    let listed = inventory(&repository).await.artifacts.remove(0);
    assert!(listed.pinned.is_none() && listed.damaged.is_none() && listed.verified.is_some());
}

#[tokio::test]
async fn f52_an_unknown_signers_artifacts_are_listed_only_for_a_person_who_says_so() {
    let storage: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    commit(&repository(storage.clone(), &signer()), 0).await;
    let stranger = repository(storage, &signer());
    assert!(Inventory::read(&stranger, Unsigned::Refuse, now()).await.unwrap().artifacts.is_empty());
    let accepted = Inventory::read(&stranger, Unsigned::Accept, now()).await.unwrap();
    assert_eq!(accepted.artifacts.len(), 1);
    assert!(accepted.artifacts[0].signed_by.is_none());
}

#[tokio::test]
async fn a_lease_holds_until_it_ends() {
    let repository = empty_repository();
    let artifact = commit(&repository, 0).await.id;
    let lease = repository.lease(artifact, RunId::new(now()), now()).await.unwrap();
    assert!(repository.leased(now()).await.unwrap().contains(&artifact));
    assert!(repository.leased(now() + chrono::Duration::days(8)).await.unwrap().is_empty(), "it ends by itself");
    repository.end_lease(&lease).await.unwrap();
    assert!(repository.leased(now()).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_commit_without_manifest_is_a_finding_and_not_an_artifact() {
    let repository = empty_repository();
    commit(&repository, 0).await;
    repository.storage.delete(&artifact_name(0).manifest().unwrap(), None).await.unwrap();
    let listed = inventory(&repository).await;
    assert!(listed.artifacts.is_empty());
    assert_eq!(listed.unfinished.len(), 1);
    assert_eq!(listed.findings[0].code, "manifest-missing");
}

#[tokio::test]
async fn a_manifest_of_a_newer_format_is_refused_with_the_version_that_reads_it() {
    let error = dbagent::catalog::inventory::parse(br#"{"format": 2, "agent_version": "9.1.0"}"#).unwrap_err();
    assert_eq!(error.kind, CatalogErrorKind::NewerFormat);
    assert!(error.to_string().contains("9.1.0"), "{error}");
}

/// Does `meanwhile` while `reading` waits for an answer of `server` that `rule` delays.
async fn during<T: Send + 'static>(
    server: &S3Server,
    rule: Rule,
    reading: impl Future<Output = T> + Send + 'static,
    meanwhile: impl Future,
) -> T {
    server.fault(rule);
    let reading = tokio::spawn(reading);
    while server.fired() == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    meanwhile.await;
    reading.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_added_by_another_process_while_the_log_is_read_is_no_rollback() {
    let (server, state) = (S3Server::start(), tempfile::tempdir().unwrap());
    let mut ours = repository(Arc::new(server.storage("r").await), &signer());
    ours.memory = Some(state.path().join("head.json"));
    commit(&ours, 0).await;
    let theirs = ours.clone();
    let rule = Rule::once("GET", "catalog/0000000002.json", Action::Delay(std::time::Duration::from_secs(1)));
    let reading = async move { ours.head(now()).await };
    // Another process adds entry 3 once this one has listed; that shows in the memory they share.
    let head = during(&server, rule, reading, async {
        let known = Head { sequence: 3, digest: Some(Digest::of(b"entry 3")), fencing_token: 1 };
        std::fs::write(theirs.memory.as_ref().unwrap(), serde_json::to_vec(&known).unwrap()).unwrap();
    });
    assert_eq!(head.await.unwrap().sequence, 2);
    let remembered: Head = serde_json::from_slice(&std::fs::read(state.path().join("head.json")).unwrap()).unwrap();
    assert_eq!(remembered.sequence, 3, "the memory went backwards");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_artifact_committed_or_buried_while_the_inventory_is_read_is_no_finding() {
    let server = S3Server::start();
    let ours = repository(Arc::new(server.storage("r").await), &signer());
    commit(&ours, 0).await;
    commit(&ours, 1).await;
    let (theirs, reader) = (ours.clone(), ours.clone());
    let first = inventory(&ours).await.artifacts.remove(0);
    // Carried out after the wait: the log is read before, the manifests are listed after what happens meanwhile.
    let rule = Rule::once("GET", "prefix=r%2Ffull", Action::Delay(std::time::Duration::from_secs(1)));
    let listed = during(&server, rule, async move { inventory(&reader).await }, async {
        commit(&theirs, 2).await;
        bury(&theirs, &first, "test", now()).await.unwrap();
    });
    let listed = listed.await;
    assert!(listed.findings.is_empty(), "{:?}", listed.findings);
    assert_eq!(listed.artifacts.len(), 2);
}

#[tokio::test]
async fn damage_found_by_reading_is_not_forgotten_for_a_check_by_the_store() {
    let repository = empty_repository();
    let artifact = commit(&repository, 0).await.id;
    repository.record(Record::Damaged { artifact, reason: "bad byte".into() }, now()).await.unwrap();
    for (level, good) in [(VerificationLevel::StoreChecksum, false), (VerificationLevel::ReadBack, true)] {
        let verification = Verification { level, at: now() };
        repository.record(Record::Verified { artifact, verification }, now()).await.unwrap();
        let listed = inventory(&repository).await.artifacts.remove(0);
        assert_eq!((listed.verified.is_some(), listed.damaged.is_none()), (good, good), "{level:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_object_of_the_right_size_and_other_bytes_is_not_called_verified() {
    let server = S3Server::start();
    let repository = repository(Arc::new(server.storage("r").await), &signer());
    let object = commit(&repository, 0).await.objects.remove(0);
    repository.storage.delete(&object.key, None).await.unwrap();
    let archived = PutOptions { storage_class: Some("GLACIER".to_owned()), ..PutOptions::default() };
    let other = vec![b'x'; object.stored_size as usize];
    repository.storage.put(&object.key, other.into(), &archived).await.unwrap();
    assert!(!repository.storage.head(&object.key).await.unwrap().readable, "it is not archived");
    let result = read_back(&repository, std::slice::from_ref(&object), &Events::nowhere()).await;
    assert!(result.unwrap_err().full_message().contains("checksum"));
    assert!(!store_vouches(&repository, &[object]).await.unwrap());
}
