//! A whole dump job into a directory and S3 at once: what goes wrong on the way to S3 and back, by its numbers.
//!
//! Every restore here reads the S3 copy alone and ends in the proof by row sums.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::Utc;
use dbagent::host::clock::ManualClock;
use dbagent::model::event::{Event, Events};
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::manifest::VerificationLevel;
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::ops::{Setting, dump, expire, restore};
use dbagent::storage::{S3Settings, Storage as _};

use crate::cli::Desk;
use crate::stage::moto::Moto;
use crate::stage::objects::list;
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};
use crate::stage::s3_storage::{open, plain_client};
use crate::stage::site::Site;

/// Rows that do not compress: enough for two parts of the smallest size.
const LARGE_ROWS: &str = "CREATE TABLE large AS SELECT n AS id, \
    (SELECT string_agg(sha512((n::text || ' ' || m)::bytea), '') FROM generate_series(1, 1000) m) AS bytes \
    FROM generate_series(1, 90) n; ALTER TABLE large ADD PRIMARY KEY (id)";

/// Rows of the shop with the large table.
const ROWS: u64 = 7550 + 90;

/// A site that dumps into `local`, a directory, and `s3`.
struct Shop {
    site: Site,
    s3: S3Server,
}

impl Shop {
    async fn new() -> Self {
        let mut site = Site::new();
        site.ask(LARGE_ROWS);
        let s3 = S3Server::start();
        site.add_repository("s3", Arc::new(s3.storage("r").await));
        Self { site, s3 }
    }

    fn options(&self) -> dump::Options {
        let mut options = self.site.dump_options();
        options.tables.push("large".parse().unwrap());
        options
    }

    async fn dump(&self) -> Outcome {
        dump::run(&self.options(), &self.site.dump_doors(), &self.site.setting()).await.unwrap()
    }

    /// The error of the repository `name` in `outcome`.
    fn error_in<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a str> {
        outcome.repositories.iter().find(|each| each.repository == name).unwrap().error.as_deref()
    }

    /// Restores the latest dump of S3 alone into the database `name`; gives what was noted on the way.
    async fn restore_from_s3(&self, name: &str) -> (Result<restore::Restored, Failure>, Vec<String>) {
        let notes = Arc::new(Mutex::new(Vec::new()));
        let mut setting = self.site.setting();
        let noted = notes.clone();
        setting.events = Events::to(move |event| {
            if let Event::Note { text } = event {
                noted.lock().unwrap().push(text);
            }
        });
        let mut doors = self.site.restore_doors();
        doors.repositories.retain(|repository| repository.name == "s3");
        let restored = async {
            let choice = restore::choose(&self.site.wanted(None), &doors, &setting).await?;
            let options = restore::DatabaseOptions { to_database: Some(name.into()), replace: false, no_owner: false };
            restore::restore_database(&options, &choice, &doors, &setting).await
        };
        let restored = restored.await;
        let notes = notes.lock().unwrap().clone();
        (restored, notes)
    }

    async fn comes_back_from_s3(&self, name: &str) {
        let restored = self.restore_from_s3(name).await.0.unwrap();
        assert!(restored.proofs.iter().all(|proof| proof.holds()));
        assert_eq!(restored.rows(), ROWS);
    }

    /// Every stored object belongs to an artifact, to the catalog, or says whose repository it is.
    async fn holds_nothing_else_than(&self, artifacts: usize) {
        let storage = self.s3.storage("r").await;
        let listed = self.site.artifacts("s3").await;
        assert_eq!(listed.len(), artifacts);
        let mut expected = vec!["repository.json".to_owned()];
        for artifact in &listed {
            expected.extend(artifact.manifest.objects.iter().map(|object| object.key.to_string()));
            let manifest = artifact.name.manifest().unwrap().to_string();
            expected.extend([format!("{manifest}.sig"), manifest]);
        }
        expected.sort();
        let (keys, foreign) = list(&storage, "").await;
        let keys: Vec<_> = keys.into_iter().filter(|key| !key.starts_with("catalog/")).collect();
        assert_eq!((keys, foreign), (expected, vec![]));
        assert!(storage.unfinished().await.unwrap().is_empty());
    }

    fn databases(&self) -> String {
        self.site.server.sql("SELECT string_agg(datname, ' ' ORDER BY 1) FROM pg_database").unwrap()
    }
}

fn answer(status: u16, code: &'static str) -> Action {
    Action::Answer(status, code, vec![])
}

#[test]
fn the_binary_dumps_to_directory_and_s3_and_brings_all_back_when_the_directory_is_lost() {
    let s3 = S3Server::start();
    let desk = Desk::with_s3(&s3);
    let run = desk.json(0, &["job", "run", "full"]);
    let outcome = &run["run"]["end"]["result"]["done"];
    assert_eq!(outcome["verdict"], "ok", "{run}");
    assert_eq!(outcome["repositories"].as_array().unwrap().len(), 2);
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 2);
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    let verified = verified["verified"].as_array().unwrap();
    assert!(verified.len() == 2 && verified.iter().all(|copy| copy["good"] == true), "{verified:?}");
    std::fs::rename(desk.site.root().join("local"), desk.site.root().join("lost")).unwrap();
    let restored = desk.json(0, &["restore", "--database", "shop", "--to-database", "rescued"]);
    assert_eq!(restored["rows"], 7550);
}

#[test]
fn an_s3_that_refuses_makes_the_run_incomplete_with_an_exit_code_and_the_next_run_mends_it() {
    let s3 = S3Server::start();
    let desk = Desk::with_s3(&s3);
    for method in ["GET", "HEAD", "PUT", "POST"] {
        s3.fault(Rule::once(method, "", answer(403, "AccessDenied")).times(usize::MAX));
    }
    let run = desk.json(1, &["job", "run", "full"]);
    let outcome = &run["run"]["end"]["result"]["done"];
    assert_eq!(outcome["verdict"], "incomplete", "{run}");
    let errors: Vec<bool> =
        outcome["repositories"].as_array().unwrap().iter().map(|each| !each["error"].is_null()).collect();
    assert_eq!(errors, [false, true]);
    assert!(s3.fired() > 0);
    s3.heal();
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 1);
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
    let repositories: Vec<String> = desk.json(0, &["backup", "list"])["backups"]
        .as_array()
        .unwrap()
        .iter()
        .map(|backup| backup["repository"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(repositories.iter().filter(|name| *name == "s3").count(), 1, "{repositories:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f26_bursts_of_busy_answers_hold_up_neither_a_dump_nor_a_restore() {
    let shop = Shop::new().await;
    let requests = [
        ("GET", "repository.json"),
        ("PUT", "repository.json"),
        ("GET", "list-type=2"),
        ("PUT", "catalog/"),
        ("POST", "?uploads"),
        ("PUT", "partNumber=2"),
        ("POST", "uploadId="),
        ("PUT", ".roles.sql"),
        ("PUT", ".sha256"),
        ("HEAD", ".dump.gz"),
        ("GET", ".dump.gz"),
        ("PUT", ".manifest.json.sig"),
    ];
    for (method, target) in requests {
        shop.s3.fault(Rule::once(method, target, answer(503, "SlowDown")).times(3));
    }
    let outcome = shop.dump().await;
    assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
    assert_eq!(shop.s3.fired(), 3 * requests.len());
    shop.holds_nothing_else_than(1).await;
    for (method, target) in [("GET", ".dump.gz"), ("GET", "catalog/"), ("PUT", "leases/"), ("DELETE", "leases/")] {
        shop.s3.fault(Rule::once(method, target, answer(500, "InternalError")).times(3));
    }
    shop.comes_back_from_s3("copy").await;
    assert_eq!(shop.s3.fired(), 3 * requests.len() + 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn f27_a_completion_answered_200_with_an_error_makes_one_artifact_and_no_orphan() {
    let shop = Shop::new().await;
    let wrong = [Action::CarryOutAndAnswer(200, "InternalError"), answer(200, "InternalError")];
    for (n, action) in wrong.into_iter().enumerate() {
        shop.s3.fault(Rule::once("POST", "uploadId=", action));
        let outcome = shop.dump().await;
        assert_eq!((outcome.verdict, shop.s3.fired()), (Verdict::Ok, n + 1), "{outcome:?}");
        shop.holds_nothing_else_than(n + 1).await;
    }
    shop.comes_back_from_s3("copy").await;

    shop.s3.fault(Rule::once("POST", "uploadId=", answer(200, "InternalError")).times(usize::MAX));
    let outcome = shop.dump().await;
    assert_eq!(outcome.verdict, Verdict::Incomplete);
    assert!(Shop::error_in(&outcome, "s3").is_some_and(|error| error.contains("InternalError")), "{outcome:?}");
    assert!(Shop::error_in(&outcome, "local").is_none() && shop.s3.fired() > 2);
    assert_eq!(shop.site.artifacts("s3").await.len(), 2);
    assert!(shop.s3.storage("r").await.unfinished().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f28_lost_answers_all_through_a_dump_make_one_artifact_and_no_second() {
    let shop = Shop::new().await;
    let lost = [
        ("PUT", "repository.json"),
        ("PUT", "catalog/"),
        ("POST", "?uploads"),
        ("PUT", "partNumber=1"),
        ("POST", "uploadId="),
        ("PUT", ".roles.sql"),
        ("PUT", ".schema.dump"),
        ("PUT", ".sha256"),
        ("PUT", ".manifest.json.sig"),
    ];
    for (method, target) in lost {
        shop.s3.fault(Rule::once(method, target, Action::LoseAnswer));
    }
    // The signature's PUT is answered by the rule above and sent again; the third is the manifest's.
    shop.s3.fault(Rule::once("PUT", ".manifest.json", Action::LoseAnswer).after(1));
    let outcome = shop.dump().await;
    assert_eq!((outcome.verdict, shop.s3.fired()), (Verdict::Ok, lost.len() + 1), "{outcome:?}");
    let left = shop.s3.storage("r").await.unfinished().await.unwrap();
    assert_eq!(left.len(), 1, "the upload whose creation was answered to nobody: {left:?}");
    clear_at_once(&shop).await;
    shop.holds_nothing_else_than(1).await;
    shop.comes_back_from_s3("copy").await;
}

/// An expiry whose grace time is over at once.
async fn clear_at_once(shop: &Shop) {
    let options =
        expire::Options { policies: Default::default(), grace: Duration::ZERO, checkpoints: Default::default() };
    let repositories = shop.site.repositories.iter().filter(|each| each.name == "s3").cloned().collect();
    expire::run(&expire::Doors { repositories, unopened: Vec::new() }, &options, &shop.site.setting()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f30_a_restore_whose_downloads_are_cut_goes_on_where_they_were() {
    let shop = Shop::new().await;
    shop.dump().await;
    let before = shop.s3.requests().len();
    // The first download verifies, the second loads; each is cut more than once.
    let cuts = [100, 2_000_000, 3_242_880, 1, 2_400_000, 70_000];
    for at in cuts {
        shop.s3.fault(Rule::once("GET", ".dump.gz.gpg", Action::CutAt(at)).after(2));
    }
    shop.comes_back_from_s3("copy").await;
    assert_eq!(shop.s3.fired(), cuts.len());
    let resumed = shop.s3.requests().split_off(before).into_iter().filter_map(|request| {
        let range = request.headers.get("range")?.to_str().unwrap().to_owned();
        (request.method == "GET" && !range.starts_with("bytes=0-")).then_some(range)
    });
    assert!(resumed.count() >= 3, "nothing was resumed");
}

#[tokio::test(flavor = "multi_thread")]
async fn f31_wrong_bytes_served_once_are_read_again_and_never_reach_a_database() {
    let shop = Shop::new().await;
    shop.dump().await;
    shop.s3.fault(Rule::once("GET", ".schema.dump.gz.gpg", Action::FlipByte(1000)));
    let (restored, notes) = shop.restore_from_s3("copy").await;
    assert_eq!((restored.unwrap().rows(), shop.s3.fired()), (ROWS, 1));
    assert!(notes.iter().any(|note| note.contains("second time")), "{notes:?}");
    let before = shop.databases();
    // Good while they are verified, wrong when they are loaded.
    let data = shop.site.artifacts("s3").await.remove(0).manifest.objects;
    assert!(data.iter().any(|object| object.stored_size > 5_700_000));
    shop.s3.fault(Rule::once("GET", "shop_full", Action::FlipByte(5_700_000)).after(gets_before_loading(&shop).await));
    let failure = shop.restore_from_s3("wrong").await.0.unwrap_err();
    assert_eq!((failure.kind, shop.s3.fired()), (FailureKind::Integrity, 2), "{}", failure.full_message());
    assert_eq!(shop.databases(), before, "nothing of it is left");
}

/// How many objects of an artifact a restore reads before it reads the rows to load them.
async fn gets_before_loading(shop: &Shop) -> usize {
    let objects = shop.site.artifacts("s3").await.remove(0).manifest.objects.len();
    let manifest_and_signature = 2;
    let schema = 1;
    manifest_and_signature + objects + schema
}

#[tokio::test(flavor = "multi_thread")]
async fn an_s3_wholly_down_costs_only_its_own_copy_and_the_next_run_mends_it() {
    let shop = Shop::new().await;
    let down = || {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
            shop.s3.fault(Rule::once(method, "", Action::Close).times(usize::MAX));
        }
    };
    down();
    let outcome = shop.dump().await;
    assert_eq!(outcome.verdict, Verdict::Incomplete);
    assert!(!outcome.is_green() && shop.s3.fired() > 0);
    assert!(Shop::error_in(&outcome, "local").is_none() && Shop::error_in(&outcome, "s3").is_some(), "{outcome:?}");
    assert_eq!(shop.site.artifacts("local").await.len(), 1);

    shop.s3.heal();
    assert!(shop.site.artifacts("s3").await.is_empty());
    assert_eq!(shop.dump().await.verdict, Verdict::Ok);
    shop.comes_back_from_s3("copy").await;

    // It goes down in the middle of the rows, so that not even the abort gets through.
    let fired = shop.s3.fired();
    shop.s3.fault(Rule::once("PUT", "partNumber=2", Action::Close).times(usize::MAX));
    shop.s3.fault(Rule::once("DELETE", "uploadId=", Action::Close).times(usize::MAX));
    let outcome = shop.dump().await;
    assert!(outcome.verdict == Verdict::Incomplete && shop.s3.fired() > fired, "{outcome:?}");
    shop.s3.heal();
    assert_eq!((shop.site.artifacts("local").await.len(), shop.site.artifacts("s3").await.len()), (3, 1));
    assert_eq!(shop.s3.storage("r").await.unfinished().await.unwrap().len(), 1, "what could not be aborted");
    clear_at_once(&shop).await;
    shop.holds_nothing_else_than(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_an_archived_dump_is_listed_and_thawed_for_a_restore_all_objects_at_once() {
    let moto = Moto::start();
    let client = plain_client(&moto.endpoint());
    client.create_bucket().bucket("cold").send().await.unwrap();
    let mut site = Site::new();
    site.repositories.clear();
    site.add_repository("s3", Arc::new(open(moto_settings(&moto.endpoint())).await));
    let storage_class = [("s3".to_owned(), "GLACIER".to_owned())].into();
    let options = dump::Options { storage_class, ..site.dump_options() };
    let outcome = dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
    let manifest = site.artifacts("s3").await.remove(0).manifest;
    assert_eq!(manifest.verification.level, VerificationLevel::StoreChecksum, "nobody could read it back");
    let classes = manifest.objects.iter().filter(|object| object.storage_class.as_deref() == Some("GLACIER"));
    let archived: Vec<_> = classes.map(|object| format!("r/{}", object.key)).collect();
    assert_eq!(archived.len(), 3);

    // Told to stop while it waits, it says what goes on without it.
    let clock = ManualClock::at(Utc::now());
    let setting = Setting { clock: Arc::new(clock.clone()), ..site.setting() };
    let (doors, wanted) = (site.restore_doors(), site.wanted(None));
    let stopper = async {
        clock.slept_on_by(1).await;
        for key in &archived {
            let head = client.head_object().bucket("cold").key(key).send().await.unwrap();
            assert!(head.restore().is_some(), "{key} was not asked for while others thaw");
        }
        setting.stop.cancel();
    };
    let (stopped, ()) = tokio::join!(restore::choose(&wanted, &doors, &setting), stopper);
    let failure = stopped.unwrap_err();
    assert!(failure.message.contains("told to stop"), "{}", failure.full_message());
    assert!(failure.hint.unwrap().contains("goes on in the store"));
    // Run again later, it finds everything thawed.
    let restored = site.restore_database("copy").await.unwrap();
    assert!(restored.proofs.iter().all(|proof| proof.holds()) && restored.rows() == 7550);
}

fn moto_settings(endpoint: &str) -> S3Settings {
    S3Settings {
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint.into()),
        path_style: true,
        part_size: 5 << 20,
        ..S3Settings::new("cold", "r")
    }
}
