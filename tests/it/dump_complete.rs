//! A dump that only some repositories have got: its retry copies it to the others, whatever goes wrong on the way.

use std::time::Duration;

use dbagent::model::id::ArtifactId;
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::ops::complete::{self, Completion, Doors, Options};
use dbagent::ops::{dump, expire};
use dbagent::storage::Storage as _;

use crate::cli::Desk;
use crate::stage::agent::{MovableClock, RunningAgent, until_next_hour};
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};
use crate::stage::site::Site;

/// A site whose last backup is in its directory and not in S3, which was down.
struct HalfDone {
    site: Site,
    s3: S3Server,
    artifact: ArtifactId,
}

impl HalfDone {
    async fn new() -> Self {
        Self::after(&[], down).await
    }

    /// S3 fails as `fail` says after it has taken `before` whole dumps.
    async fn after(before: &[()], fail: impl Fn(&S3Server)) -> Self {
        let mut site = Site::new();
        let s3 = S3Server::start();
        site.add_repository("s3", std::sync::Arc::new(s3.storage("r").await));
        for () in before {
            assert_eq!(site.dump().await.unwrap().verdict, Verdict::Ok);
        }
        fail(&s3);
        let outcome = if before.is_empty() { site.dump().await } else { site.increment().await }.unwrap();
        assert_eq!(outcome.verdict, Verdict::Incomplete, "{outcome:?}");
        assert!(s3.fired() > 0);
        s3.heal();
        Self { site, s3, artifact: outcome.artifact.unwrap() }
    }

    async fn complete(&self) -> Completion {
        let options =
            Options { artifact: self.artifact, storage_class: Default::default(), former_systems: Vec::new() };
        let destinations = self.site.repositories.iter().filter(|each| each.name == "s3").cloned().collect();
        let doors = Doors { sources: self.site.repositories.clone(), destinations, unopened: Vec::new() };
        complete::run(&options, &doors, &self.site.setting()).await.unwrap()
    }

    async fn completes(&self) -> Outcome {
        match self.complete().await {
            Completion::Told(outcome) => outcome,
            Completion::Impossible(reason) => panic!("{reason}"),
        }
    }

    /// S3 has the very artifact, byte for byte, and gives it back when the directory is gone.
    async fn is_whole(&self) {
        let of = async |repository: &str| {
            let artifacts = self.site.artifacts(repository).await;
            artifacts.into_iter().find(|artifact| artifact.manifest.id == self.artifact).unwrap()
        };
        let (here, there) = (of("local").await, of("s3").await);
        let digests = |artifact: &dbagent::catalog::Artifact| -> Vec<_> {
            artifact.manifest.objects.iter().map(|object| (object.key.clone(), object.stored_digest)).collect()
        };
        assert_eq!(digests(&here), digests(&there));
        assert_eq!((here.manifest.finished, here.manifest.run), (there.manifest.finished, there.manifest.run));
        assert!(there.verified.is_some());
        assert!(self.s3.storage("r").await.unfinished().await.unwrap().is_empty());
        std::fs::rename(self.site.root().join("local"), self.site.root().join("lost")).unwrap();
        let restored = self.site.restore_database("from_s3").await.unwrap();
        assert!(restored.proofs.iter().all(|proof| proof.holds()) && restored.rows() == 7550);
    }
}

fn down(s3: &S3Server) {
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
        s3.fault(Rule::once(method, "", Action::Close).times(usize::MAX));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_that_was_down_receives_the_very_dump_that_the_directory_has() {
    let half = HalfDone::new().await;
    let outcome = half.completes().await;
    assert_eq!((outcome.verdict, outcome.artifact), (Verdict::Ok, Some(half.artifact)), "{outcome:?}");
    assert!(outcome.repositories.len() == 1 && outcome.repositories[0].stored_bytes > 0);
    // Asked for again, it finds everything there.
    let sent = half.s3.requests().iter().filter(|request| request.method == "PUT").count();
    assert_eq!(half.completes().await.verdict, Verdict::Ok);
    assert_eq!(half.s3.requests().iter().filter(|request| request.method == "PUT").count(), sent);
    half.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_increment_is_copied_onto_the_parent_that_is_there_or_not_at_all() {
    let half = HalfDone::after(&[()], down).await;
    assert_eq!(half.completes().await.verdict, Verdict::Ok);
    let copy = half.site.artifacts("s3").await.pop().unwrap();
    let parent = half.site.artifacts("s3").await.remove(0);
    assert_eq!(copy.manifest.parent.unwrap().manifest_digest, parent.manifest_digest);
    half.is_whole().await;

    let half = HalfDone::after(&[()], down).await;
    let s3 = &half.site.repositories[1];
    let parent = half.site.artifacts("s3").await.remove(0);
    dbagent::ops::backup::delete(s3, &parent, &half.site.setting()).await.unwrap();
    let Completion::Impossible(reason) = half.complete().await else { panic!("copied without its parent") };
    assert!(reason.contains("builds upon"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_f27_f28_busy_false_and_lost_answers_do_not_hold_up_a_copy_or_double_it() {
    let half = HalfDone::new().await;
    let before = half.s3.fired();
    let busy = || Action::Answer(503, "SlowDown", vec![]);
    for (method, target) in [("PUT", "catalog/"), ("PUT", ".roles.sql"), ("HEAD", ".dump.gz"), ("GET", ".dump.gz")] {
        half.s3.fault(Rule::once(method, target, busy()).times(2));
    }
    half.s3.fault(Rule::once("PUT", ".schema.dump", Action::CarryOutAndAnswer(500, "InternalError")));
    for target in [".sha256", ".buckets", ".manifest.json.sig"] {
        half.s3.fault(Rule::once("PUT", target, Action::LoseAnswer));
    }
    half.s3.fault(Rule::once("PUT", ".manifest.json", Action::LoseAnswer).after(1));
    let outcome = half.completes().await;
    assert_eq!((outcome.verdict, half.s3.fired() - before), (Verdict::Ok, 13), "{outcome:?}");
    half.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f29_f36_a_copy_that_cannot_be_sent_is_incomplete_again_and_leaves_nothing() {
    let half = HalfDone::new().await;
    let refusals =
        [Action::Answer(403, "AccessDenied", vec![]), Action::Answer(400, "ExpiredToken", vec![]), Action::Close];
    for action in refusals {
        let before = half.s3.fired();
        half.s3.fault(Rule::once("PUT", ".dump.gz", action).times(usize::MAX));
        let outcome = half.completes().await;
        assert!(outcome.verdict == Verdict::Incomplete && half.s3.fired() > before, "{outcome:?}");
        assert_eq!(outcome.artifact, Some(half.artifact), "the next try would make another one");
        half.s3.heal();
        assert!(half.site.artifacts("s3").await.is_empty());
    }
    assert_eq!(half.completes().await.verdict, Verdict::Ok);
    half.is_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_a_copy_goes_on_where_the_dump_itself_broke_off() {
    // All objects and the number in the log are there; not so much as the signature is.
    let half = HalfDone::after(&[], |s3| {
        s3.fault(Rule::once("PUT", ".manifest.json.sig", Action::Close).times(usize::MAX));
    });
    let half = half.await;
    let before = half.s3.requests().len();
    assert_eq!(half.completes().await.verdict, Verdict::Ok);
    let read_back = half.s3.requests().split_off(before);
    assert!(read_back.iter().any(|request| request.method == "GET" && request.target.contains(".dump.gz")));
    half.is_whole().await;

    // With the signature there, the name is used up.
    let half = HalfDone::after(&[], |s3| {
        s3.fault(Rule::once("PUT", ".manifest.json", Action::Close).times(usize::MAX).after(1));
    });
    let half = half.await;
    let Completion::Impossible(reason) = half.complete().await else { panic!("two manifests of one name") };
    assert!(reason.contains(".manifest.json.sig is there"), "{reason}");
    assert_eq!(half.site.dump().await.unwrap().verdict, Verdict::Ok);
}

#[tokio::test(flavor = "multi_thread")]
async fn f35_other_bytes_under_its_name_are_neither_taken_nor_touched() {
    let half = HalfDone::new().await;
    let object = half.site.artifacts("local").await.remove(0).manifest.objects.remove(0);
    let storage = half.s3.storage("r").await;
    crate::stage::objects::put(&storage, object.key.as_str(), b"somebody else's").await.unwrap();
    let Completion::Impossible(reason) = half.complete().await else { panic!("taken for the dump's") };
    assert!(reason.contains(object.key.as_str()), "{reason}");
    assert_eq!(crate::stage::objects::read(&storage, object.key.as_str(), None).await.unwrap(), b"somebody else's");
    assert!(half.site.artifacts("s3").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f30_f31_cut_and_wrong_bytes_on_the_way_out_of_s3_never_become_a_copy() {
    let mut site = Site::new();
    let s3 = S3Server::start();
    site.repositories.clear();
    site.add_repository("s3", std::sync::Arc::new(s3.storage("r").await));
    let artifact = site.dump().await.unwrap().artifact.unwrap();
    let directory = site.directory("late");
    site.add_repository("late", std::sync::Arc::new(dbagent::storage::DirectoryStorage::open(&directory).unwrap()));
    let copy = async || {
        let (sources, destinations) = (site.repositories[..1].to_vec(), site.repositories[1..].to_vec());
        let options = Options { artifact, storage_class: Default::default(), former_systems: Vec::new() };
        let doors = Doors { sources, destinations, unopened: Vec::new() };
        complete::run(&options, &doors, &site.setting()).await.unwrap()
    };
    s3.fault(Rule::once("GET", ".dump.gz.gpg", Action::FlipByte(1000)));
    let Completion::Impossible(reason) = copy().await else { panic!("wrong bytes were copied") };
    assert!(s3.fired() == 1 && reason.contains(".dump.gz.gpg"), "{reason}");
    assert!(site.artifacts("late").await.is_empty());
    // Bytes served wrong once are right the next time; cut downloads are resumed.
    for at in [1, 100, 1_500] {
        s3.fault(Rule::once("GET", ".dump.gz.gpg", Action::CutAt(at)));
    }
    assert!(matches!(copy().await, Completion::Told(outcome) if outcome.verdict == Verdict::Ok));
    assert_eq!((s3.fired(), site.artifacts("late").await.len()), (4, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_nowhere_whole_any_more_is_not_copied() {
    let half = HalfDone::new().await;
    let object = half.site.artifacts("local").await.remove(0).manifest.objects.remove(0);
    let path = half.site.root().join("local").join(object.key.as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(half.complete().await, Completion::Impossible(_)));
    assert!(half.site.artifacts("s3").await.is_empty());
    assert!(half.s3.storage("r").await.unfinished().await.unwrap().is_empty());
    let options =
        expire::Options { policies: Default::default(), grace: Duration::ZERO, checkpoints: Default::default() };
    let doors = expire::Doors { repositories: half.site.repositories.clone(), unopened: Vec::new() };
    expire::run(&doors, &options, &half.site.setting()).await.unwrap();
    assert_eq!(
        dump::run(&half.site.dump_options(), &half.site.dump_doors(), &half.site.setting()).await.unwrap().verdict,
        Verdict::Ok
    );
}

#[cfg(feature = "failpoints")]
#[test]
fn f01_an_agent_killed_while_it_copies_what_s3_missed_copies_it_when_it_is_back() {
    let s3 = S3Server::start();
    let desk = Desk::with_s3(&s3);
    let path = desk.site.root().join("plan.toml");
    let plan = std::fs::read_to_string(&path).unwrap();
    let often = "schedule = '0 * * * *'\nretry = { attempts = 9, backoff = '3 seconds' }";
    let (alone, _) = plan.split_once("[job.incremental]").unwrap();
    std::fs::write(&path, alone.replace("schedule = '0 3 * * *'", often)).unwrap();
    let clock = MovableClock::new(desk.site.root());
    clock.set(until_next_hour(chrono::Utc::now(), 3));
    let agent = |fault: Option<&str>| {
        let mut command = desk.command(&["run"]);
        clock.show(&mut command);
        if let Some(fault) = fault {
            let log = desk.site.root().join("fired");
            command.env("DBAGENT_FAILPOINT", fault).env("DBAGENT_FAILPOINT_LOG", log);
        }
        RunningAgent::start_leading(command)
    };
    // Refused, it is given up at once; unreachable, after many tries.
    for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
        s3.fault(Rule::once(method, "", Action::Answer(403, "AccessDenied", vec![])).times(usize::MAX));
    }
    // Four objects of the dump are committed in the directory, the fifth arrival is the copy's first.
    let mut first = agent(Some("dump.object_committed=kill:5"));
    first.says("verdict=Incomplete");
    s3.heal();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&first.wait()), Some(9), "{}", first.said());
    assert_eq!(std::fs::read_to_string(desk.site.root().join("fired")).unwrap().lines().count(), 1);
    let mut second = agent(None);
    second.says("copied to s3");
    let listed = desk.json(0, &["backup", "list"]);
    let ids: Vec<_> = listed["backups"].as_array().unwrap().iter().map(|backup| backup["id"].clone()).collect();
    assert!(ids.len() == 2 && ids[0] == ids[1], "{listed}");
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    assert!(verified["verified"].as_array().unwrap().iter().all(|copy| copy["good"] == true));
}
