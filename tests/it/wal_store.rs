//! Archived WAL: stored once, never overwritten, checked before and after, and "not there" only when proven.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dbagent::catalog::Repository;
use dbagent::catalog::names::wal as names;
use dbagent::catalog::wal::Stored;
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::lsn::{Lsn, Timeline};
use dbagent::model::wal::{SegmentName, WalFile};
use dbagent::steps::wal::{Fetched, Standing, WalInput, store};
use dbagent::storage::{Fault, Faulty, MemoryStorage, Operation, PutOptions, StorageErrorKind};

use crate::stage::objects;
use crate::stage::wal::{WalSite, fetched, file, now};

async fn push(site: &WalSite, repository: &Repository, input: &WalInput) -> Result<Standing, Failure> {
    let mut verdicts = store(input, std::slice::from_ref(repository), &site.options(), now()).await;
    assert_eq!(verdicts.len(), 1);
    verdicts.remove(0).1
}

async fn fetch(site: &WalSite, repository: &Repository, segment: SegmentName) -> Result<Fetched<Vec<u8>>, Failure> {
    let doors = site.doors(std::slice::from_ref(repository));
    fetched(file(segment), Some(site.directory().system_identifier), &doors).await
}

async fn keys(repository: &Repository) -> Vec<String> {
    objects::list(repository.storage.as_ref(), "wal/").await.0
}

fn memory() -> Arc<MemoryStorage> {
    Arc::new(MemoryStorage::new())
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_a_segment_is_stored_once_and_comes_back_as_it_was() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segment = site.segments(1)[0];
    let input = site.input(segment);
    assert_eq!(push(&site, &repository, &input).await.unwrap(), Standing::Stored);
    let stored = keys(&repository).await;
    assert_eq!(stored.len(), 2, "{stored:?}");
    assert!(stored[0].ends_with(&format!("/{segment}.json")) && stored[1].ends_with(&format!("/{segment}.zst.gpg")));
    assert_eq!(push(&site, &repository, &input).await.unwrap(), Standing::AlreadyThere);
    assert_eq!(keys(&repository).await, stored);
    let bytes = std::fs::read(site.path(segment)).unwrap();
    assert_eq!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(bytes.clone()));
    assert_eq!(fetched(file(segment), None, &site.doors(&[repository])).await.unwrap(), Fetched::There(bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_another_file_of_the_same_name_is_refused_and_nothing_is_overwritten() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segment = site.segments(1)[0];
    push(&site, &repository, &site.input(segment)).await.unwrap();
    let stored = keys(&repository).await;
    let other = site.check(&site.copy(segment, segment, |bytes| bytes[5000] ^= 1)).unwrap();
    for _ in 0..2 {
        let failure = push(&site, &repository, &other).await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::RefusedForSafety, "{failure}");
        let record = repository.wal_record(file(segment), now()).await.unwrap().unwrap();
        let told = [record.content_digest.to_string(), site.directory().system_identifier.to_string()];
        assert!(told.iter().all(|each| failure.message.contains(each)), "{failure}");
    }
    assert_eq!(keys(&repository).await, stored);
    let bytes = std::fs::read(site.path(segment)).unwrap();
    assert_eq!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(bytes));
}

#[tokio::test(flavor = "multi_thread")]
async fn f55_two_servers_race_and_one_wins() {
    let site = WalSite::new();
    let segment = site.segments(1)[0];
    let (ours, theirs) =
        (site.input(segment), site.check(&site.copy(segment, segment, |bytes| bytes[5000] ^= 1)).unwrap());
    for round in 0..20 {
        let repository = site.repository("local", memory()).await;
        let (first, second) = if round % 2 == 0 { (&ours, &theirs) } else { (&theirs, &ours) };
        let (a, b) = tokio::join!(push(&site, &repository, first), push(&site, &repository, second));
        let won = [&a, &b].iter().filter(|each| matches!(each, Ok(Standing::Stored))).count();
        assert_eq!(won, 1, "{a:?} {b:?}");
        let lost = a.as_ref().err().or(b.as_ref().err()).unwrap();
        assert_eq!(lost.kind, FailureKind::RefusedForSafety, "{lost}");
        let winner = if a.is_ok() { first } else { second };
        let bytes = std::fs::read(&winner.path).unwrap();
        assert_eq!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(bytes));
        assert_eq!(keys(&repository).await.len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f56_two_pushes_of_the_same_file_race_and_both_are_content() {
    let site = WalSite::new();
    let segment = site.segments(1)[0];
    let input = site.input(segment);
    for _ in 0..20 {
        let repository = site.repository("local", memory()).await;
        let (a, b) = tokio::join!(push(&site, &repository, &input), push(&site, &repository, &input));
        assert!(a.is_ok() && b.is_ok(), "{a:?} {b:?}");
        assert_eq!(keys(&repository).await.len(), 2, "{:?}", keys(&repository).await);
        assert!(matches!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_bytes_of_a_dead_push_are_never_taken_for_ours() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segment = site.segments(1)[0];
    let plain = names::object(file(segment), true, None).unwrap();
    let junk = Bytes::from_static(b"half of something");
    repository.storage.put(&plain, junk, &PutOptions::default()).await.unwrap();
    let coverage = repository.wal_coverage(Timeline(1), site.size()).await.unwrap();
    assert_eq!((coverage.standing(segment), coverage.ranges.len()), (Stored::Begun, 0));
    assert_eq!(push(&site, &repository, &site.input(segment)).await.unwrap(), Standing::Stored);
    let stored = keys(&repository).await;
    assert_eq!(stored.len(), 2, "what the dead push left is gone: {stored:?}");
    assert!(!stored.contains(&plain.to_string()));
    assert!(matches!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(_)));
    assert_eq!(push(&site, &repository, &site.input(segment)).await.unwrap(), Standing::AlreadyThere);
    let coverage = repository.wal_coverage(Timeline(1), site.size()).await.unwrap();
    assert_eq!(coverage.standing(segment), Stored::Whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn f28_a_record_whose_answer_was_lost_is_known_for_our_own() {
    let site = WalSite::new();
    let faulty = Arc::new(Faulty::new(memory()));
    let repository = site.repository("local", faulty.clone()).await;
    let segment = site.segments(1)[0];
    faulty.fault(Operation::Put, Fault::FindsItselfThere);
    assert_eq!(push(&site, &repository, &site.input(segment)).await.unwrap(), Standing::Stored);
    assert_eq!(faulty.fired(), 1);
    assert!(matches!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_any_write_that_fails_or_whose_answer_is_lost_leaves_a_push_that_can_be_repeated() {
    let site = WalSite::new();
    let segment = site.segments(1)[0];
    let transient = Fault::Fails(StorageErrorKind::Transient);
    for operation in [Operation::Upload, Operation::Write, Operation::Commit, Operation::Put, Operation::Get] {
        for fault in [transient, Fault::LosesAnswer] {
            let faulty = Arc::new(Faulty::new(memory()));
            let repository = site.repository("local", faulty.clone()).await;
            faulty.fault(operation, fault);
            push(&site, &repository, &site.input(segment)).await.unwrap_err();
            assert_eq!(faulty.fired(), 1, "{operation:?} {fault:?}");
            push(&site, &repository, &site.input(segment)).await.unwrap();
            assert_eq!(keys(&repository).await.len(), 2, "{operation:?} {fault:?}");
            assert!(matches!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(_)));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_repository_that_fails_does_not_hold_up_the_other() {
    let site = WalSite::new();
    let faulty = Arc::new(Faulty::new(memory()));
    let repositories = [site.repository("bad", faulty.clone()).await, site.repository("good", memory()).await];
    let segment = site.segments(1)[0];
    faulty.fault(Operation::Write, Fault::Fails(StorageErrorKind::Full));
    let verdicts = store(&site.input(segment), &repositories, &site.options(), now()).await;
    assert_eq!(faulty.fired(), 1);
    let by_name = |name: &str| verdicts.iter().find(|(each, _)| each == name).unwrap().1.is_ok();
    assert!(!by_name("bad") && by_name("good"));
    let again = store(&site.input(segment), &repositories, &site.options(), now()).await;
    assert!(again.iter().all(|(_, verdict)| verdict.is_ok()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_segment_whose_bytes_are_gone_is_stored_anew() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segment = site.segments(1)[0];
    push(&site, &repository, &site.input(segment)).await.unwrap();
    let record = repository.wal_record(file(segment), now()).await.unwrap().unwrap();
    repository.storage.delete(&record.object, None).await.unwrap();
    let coverage = repository.wal_coverage(Timeline(1), site.size()).await.unwrap();
    assert_eq!(coverage.without_bytes, [file(segment)]);
    assert!(fetch(&site, &repository, segment).await.is_err(), "a record without bytes is no proof");
    assert_eq!(push(&site, &repository, &site.input(segment)).await.unwrap(), Standing::Stored);
    assert!(matches!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(_)));
    assert_eq!(keys(&repository).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn f58_a_segment_under_another_name_or_of_another_cluster_is_refused() {
    let (site, other) = (WalSite::new(), WalSite::new());
    let segments = site.segments(2);
    site.check(&site.copy(segments[0], segments[0], |_| {})).unwrap();
    let wrong = [
        site.copy(segments[0], segments[1], |_| {}),
        site.copy(segments[0], segments[0], |bytes| bytes.truncate(1 << 19)),
        site.copy(segments[0], format!("{}.partial", segments[0]), |bytes| bytes[0] ^= 1),
        other.copy(other.segments(1)[0], segments[0], |_| {}),
    ];
    for path in &wrong {
        let failure = site.check(path).unwrap_err();
        assert_eq!(failure.kind, FailureKind::RefusedForSafety, "{}: {failure}", path.display());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f68_not_there_is_said_only_when_every_repository_has_proven_it() {
    let site = WalSite::new();
    let segment = site.segments(1)[0];
    let ours = site.repository("ours", memory()).await;
    assert_eq!(fetch(&site, &ours, segment).await.unwrap(), Fetched::NotThere);
    let empty = site.unclaimed("empty", memory());
    assert!(fetch(&site, &empty, segment).await.is_err(), "an empty mount point proves nothing");
    for kind in
        [StorageErrorKind::Transient, StorageErrorKind::Denied, StorageErrorKind::Expired, StorageErrorKind::Other]
    {
        let faulty = Arc::new(Faulty::new(memory()));
        let repository = site.repository("faulty", faulty.clone()).await;
        faulty.fault(Operation::Get, Fault::Fails(kind));
        assert!(fetch(&site, &repository, segment).await.is_err(), "{kind:?}");
        assert_eq!(faulty.fired(), 1);
    }
    let mut doors = site.doors(std::slice::from_ref(&ours));
    doors.unopened.push(("closed".into(), Failure::new(FailureKind::Failed, "open it")));
    assert!(fetched(file(segment), None, &doors).await.is_err());
    doors.repositories.clear();
    doors.unopened.clear();
    assert!(fetched(file(segment), None, &doors).await.is_err(), "nobody was asked");
    let mut doors = site.doors(&[ours]);
    doors.cluster = "another".into();
    assert!(fetched(file(segment), None, &doors).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn f45_a_changed_byte_of_bytes_or_record_is_found_and_the_other_copy_used() {
    let site = WalSite::new();
    let segment = site.segments(1)[0];
    let faulty = Arc::new(Faulty::new(memory()));
    let (first, second) = (site.repository("first", faulty.clone()).await, site.repository("second", memory()).await);
    push(&site, &first, &site.input(segment)).await.unwrap();
    let record = first.wal_record(file(segment), now()).await.unwrap().unwrap();
    let size = first.storage.head(&record.object).await.unwrap().size;
    let mut fired = 0;
    for at in (0..size).step_by(997) {
        faulty.fault(Operation::Get, Fault::Passes);
        faulty.fault(Operation::Get, Fault::FlipsByte(at));
        assert!(fetch(&site, &first, segment).await.is_err(), "byte {at} of the segment");
        fired += 1;
        assert_eq!(faulty.fired(), fired);
    }
    let recorded = first.storage.head(&names::record(file(segment)).unwrap()).await.unwrap().size;
    for at in (0..recorded).step_by(7) {
        faulty.fault(Operation::Get, Fault::FlipsByte(at));
        // White space between the fields means nothing; what was taken must then be what was stored.
        match fetch(&site, &first, segment).await {
            Ok(Fetched::There(bytes)) => assert_eq!(bytes, std::fs::read(site.path(segment)).unwrap()),
            Ok(Fetched::NotThere) => panic!("byte {at} of the record made it go away"),
            Err(_) => {}
        }
    }
    push(&site, &second, &site.input(segment)).await.unwrap();
    faulty.fault(Operation::Get, Fault::Passes);
    faulty.fault(Operation::Get, Fault::FlipsByte(size / 2));
    let both = site.doors(&[first, second]);
    assert!(matches!(fetched(file(segment), None, &both).await.unwrap(), Fetched::There(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn f57_each_missing_segment_is_a_gap() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segments = site.segments(5);
    for segment in &segments {
        push(&site, &repository, &site.input(*segment)).await.unwrap();
    }
    let coverage = || async { repository.wal_coverage(Timeline(1), site.size()).await.unwrap() };
    let whole = coverage().await;
    assert_eq!((whole.ranges.len(), whole.gaps().len(), whole.foreign.len()), (1, 0, 0));
    assert_eq!((whole.last(), whole.contiguous_from(segments[0])), (Some(segments[4]), Some(segments[4])));
    assert_eq!(repository.wal_segment_size(Timeline(1), now()).await.unwrap(), Some(site.size()));
    assert_eq!(repository.wal_timelines().await.unwrap(), [Timeline(1)]);
    for missing in &segments[1..4] {
        repository.remove_wal_record(file(*missing)).await.unwrap();
        let gaps = coverage().await.gaps();
        assert_eq!(gaps.iter().map(|gap| (gap.first, gap.last)).collect::<Vec<_>>(), [(*missing, *missing)]);
        assert!(!coverage().await.holds(*missing) && coverage().await.holds(segments[0]));
        push(&site, &repository, &site.input(*missing)).await.unwrap();
    }
    assert_eq!(coverage().await.ranges, whole.ranges);
}

#[tokio::test(flavor = "multi_thread")]
async fn f59_histories_partials_and_notes_have_their_own_keys() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segment = site.segments(1)[0];
    let history = site.files.path().join("00000002.history");
    std::fs::write(&history, "1\t0/3000148\tno recovery target specified\n").unwrap();
    push(&site, &repository, &site.check(&history).unwrap()).await.unwrap();
    let partial = site.copy(segment, format!("{segment}.partial"), |_| {});
    push(&site, &repository, &site.check(&partial).unwrap()).await.unwrap();
    let note = site.files.path().join(format!("{segment}.00000028.backup"));
    std::fs::write(&note, "START WAL LOCATION: 0/2000028 (file x)\n").unwrap();
    push(&site, &repository, &site.check(&note).unwrap()).await.unwrap();
    let stored = keys(&repository).await;
    assert_eq!(stored.len(), 6, "{stored:?}");
    assert!(stored.contains(&"wal/00000002.history.gpg".to_owned()));
    assert_eq!(fetch(&site, &repository, segment).await.unwrap(), Fetched::NotThere, "a partial is no segment");
    let tree = repository.wal_tree(now()).await.unwrap();
    assert_eq!(tree.children(Timeline(1)).collect::<Vec<_>>(), [(Timeline(2), Lsn(0x300_0148))]);
    let doors = site.doors(std::slice::from_ref(&repository));
    let read = fetched(WalFile::History(Timeline(2)), None, &doors).await.unwrap();
    assert_eq!(read, Fetched::There(std::fs::read(&history).unwrap()));
    std::fs::write(&history, "1\t0/3000149\tanother story\n").unwrap();
    let failure = push(&site, &repository, &site.check(&history).unwrap()).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::RefusedForSafety);
    std::fs::write(&history, "nonsense").unwrap();
    assert!(site.check(&history).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn f02_expiry_clears_what_dead_pushes_left_and_nothing_that_a_record_names() {
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segments = site.segments(2);
    let plain = names::object(file(segments[0]), true, None).unwrap();
    let junk = || Bytes::from_static(b"half of something");
    repository.storage.put(&plain, junk(), &PutOptions::default()).await.unwrap();
    let options =
        |grace| dbagent::ops::expire::Options { policies: Default::default(), grace, checkpoints: Default::default() };
    let setting = crate::wal_sync::setting();
    let expire = async |grace| {
        let doors = dbagent::ops::expire::Doors { repositories: vec![repository.clone()], unopened: Vec::new() };
        dbagent::ops::expire::run(&doors, &options(grace), &setting).await.unwrap();
        keys(&repository).await
    };
    assert_eq!(expire(Duration::from_secs(3600)).await, [plain.to_string()], "it may be on its way");
    assert_eq!(expire(Duration::ZERO).await, Vec::<String>::new());
    for segment in &segments {
        push(&site, &repository, &site.input(*segment)).await.unwrap();
    }
    let whole = keys(&repository).await;
    let aside = names::object(file(segments[1]), true, Some(0xdead_beef)).unwrap();
    repository.storage.put(&aside, junk(), &PutOptions::default()).await.unwrap();
    let foreign = "wal/00000001/readme.txt".parse().unwrap();
    repository.storage.put(&foreign, junk(), &PutOptions::default()).await.unwrap();
    let left = expire(Duration::ZERO).await;
    let ours: Vec<_> = left.iter().filter(|key| *key != foreign.as_str()).cloned().collect();
    assert_eq!((ours, left.len()), (whole.clone(), whole.len() + 1));
    let record = repository.wal_record(file(segments[0]), now()).await.unwrap().unwrap();
    repository
        .storage
        .put(&names::object(file(segments[0]), true, Some(1)).unwrap(), junk(), &PutOptions::default())
        .await
        .unwrap();
    repository.storage.delete(&record.object, None).await.unwrap();
    assert!(
        expire(Duration::ZERO).await.iter().any(|key| key.contains("-00000001")),
        "the only bytes of a recorded file stay"
    );
}

/// The same file again and again, and other files of its name: all of the first are fine, all of the second refused.
#[tokio::test(flavor = "multi_thread")]
async fn g3_conflicts_are_refused_and_repetitions_are_not_however_many() {
    let rounds = if cfg!(feature = "long") { 1000 } else { 40 };
    let site = WalSite::new();
    let repository = site.repository("local", memory()).await;
    let segment = site.segments(1)[0];
    let input = site.input(segment);
    push(&site, &repository, &input).await.unwrap();
    let stored = keys(&repository).await;
    let size = usize::try_from(site.size().bytes()).unwrap();
    for round in 0..rounds {
        let at = 8192 + round * 1021 % (size - 8192);
        let other = site.check(&site.copy(segment, segment, |bytes| bytes[at] ^= 0x40)).unwrap();
        let (refused, same) = tokio::join!(push(&site, &repository, &other), push(&site, &repository, &input));
        assert_eq!(refused.unwrap_err().kind, FailureKind::RefusedForSafety, "byte {at}");
        assert_eq!(same.unwrap(), Standing::AlreadyThere);
    }
    assert_eq!(keys(&repository).await, stored);
    let bytes = std::fs::read(site.path(segment)).unwrap();
    assert_eq!(fetch(&site, &repository, segment).await.unwrap(), Fetched::There(bytes));
}
