//! The checklist and the status of a whole site: green when all is well, and every broken thing turns its own line.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::TimeDelta;
use dbagent::app::App;
use dbagent::catalog::{Artifact, Inventory, Signer, Unsigned};
use dbagent::config::LoadRequest;
use dbagent::host::{Clock as _, ManualClock, SystemClock};
use dbagent::model::drill::{Drill, DrillState, FORMAT};
use dbagent::model::event::Events;
use dbagent::model::status::{Freshness, LastResult, StatusModel};
use dbagent::ops::backup::verify;
use dbagent::ops::check::{CheckLine, Status};
use dbagent::pipeline::openpgp::{DecryptionKeys, KeyPair, Profile, generate_encryption_pair, generate_signing_key};
use sequoia_openpgp::cert::prelude::CertBuilder;
use sequoia_openpgp::serialize::SerializeInto as _;
use sequoia_openpgp::types::KeyFlags;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::stage::site::{Site, TABLES};

/// What a checklist with one repository and one dump job always has a line for.
const EVERY_CHECK: [&str; 26] = [
    "client-tools",
    "configuration",
    "dump-freshness",
    "dump-large-objects",
    "dump-primary-keys",
    "dump-rights",
    "job-last-run",
    "key-age",
    "key-decryption",
    "key-drill",
    "key-expiry",
    "key-recipients",
    "key-signing",
    "plan-jobs",
    "repository-catalog",
    "recovery-settings",
    "repository-clock",
    "repository-features",
    "repository-findings",
    "repository-opens",
    "repository-room",
    "repository-round-trip",
    "server-clock",
    "server-login",
    "server-version",
    "state-directory",
];

/// Keys, a plan and a configuration in a directory, with the repository `local`.
struct Yard {
    files: TempDir,
}

impl Yard {
    fn new(postgres: &str) -> Self {
        let files = tempfile::tempdir().unwrap();
        std::fs::set_permissions(files.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let now = SystemClock::new().now();
        let pair = generate_encryption_pair("backup", Profile::Gnupg, now).unwrap();
        let signing = generate_signing_key("signing", now).unwrap();
        let yard = Self { files };
        yard.write("signing.asc", &signing.secret);
        yard.encrypt_to(&pair, postgres);
        let tables: Vec<String> = TABLES.iter().map(|table| format!("'{table}'")).collect();
        let plan = format!(
            "[job.full]\nverb = 'dump'\nschedule = '0 3 * * *'\ntables = [{}]\nkeep = '30 days'\n\
             [job.check]\nverb = 'check'\nschedule = '30 0 * * *'\n",
            tables.join(", ")
        );
        yard.write("plan.toml", plan.as_bytes());
        let local = yard.path("local");
        std::fs::create_dir(&local).unwrap();
        std::fs::set_permissions(&local, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        yard
    }

    fn of(site: &Site, more: &str) -> Self {
        let (directory, port, connection) = (site.server.directory(), site.server.port(), site.connection());
        Self::new(&format!(
            "[postgres]\nhost = '{}'\nport = {port}\nuser = '{}'\ndatabase = 'shop'\n{more}",
            directory.display(),
            connection.user()
        ))
    }

    fn encrypt_to(&self, pair: &KeyPair, postgres: &str) {
        self.write("backup.asc", &pair.public);
        let root = self.files.path().display();
        let configuration = format!(
            "cluster = 'shop'\nplan = 'plan.toml'\nstate_dir = '{root}/state'\n{postgres}\n\
             [repository.local]\nurl = 'file://{root}/local'\n\
             [encryption]\nrecipients = ['backup.asc']\nfingerprints = ['{}']\nsigning_key = 'signing.asc'\n",
            pair.fingerprint
        );
        self.write("dbagent.toml", configuration.as_bytes());
    }

    fn path(&self, name: &str) -> PathBuf {
        self.files.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
        std::fs::set_permissions(self.path(name), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }

    /// The exit code of the binary.
    fn code(&self, arguments: &[&str]) -> i32 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbagent"));
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.files.path());
        let output = command.arg("--config").arg(self.path("dbagent.toml")).args(arguments).output().unwrap();
        output.status.code().unwrap()
    }

    fn app(&self) -> App {
        let app = App::load(LoadRequest { path: Some(self.path("dbagent.toml")), ..LoadRequest::default() }).unwrap();
        app.prepare_state().unwrap();
        app
    }
}

async fn check(app: &App) -> Vec<CheckLine> {
    app.check(&app.setting(Events::nowhere(), CancellationToken::new())).await
}

async fn status(app: &App) -> StatusModel {
    app.status(&app.setting(Events::nowhere(), CancellationToken::new())).await.unwrap()
}

async fn run(app: &App, job: &str) {
    app.run_manually(job, Events::nowhere(), CancellationToken::new()).await.unwrap();
}

/// The worst line of `check`.
async fn line(app: &App, name: &str) -> CheckLine {
    let lines = check(app).await;
    let of_name = lines.iter().filter(|line| line.check == name);
    of_name.max_by_key(|line| line.status).unwrap().clone()
}

fn names(lines: &[CheckLine]) -> BTreeSet<&str> {
    lines.iter().map(|line| line.check).collect()
}

/// Every line that is not as it must be, the room of this machine's disks aside.
fn amiss(lines: &[CheckLine]) -> Vec<&CheckLine> {
    lines.iter().filter(|line| line.status != Status::Ok && !line.check.ends_with("-room")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_green_before_the_first_dump_and_everything_is_after_it() {
    let site = Site::new();
    let yard = Yard::of(&site, "");
    let app = yard.app();
    let before = check(&app).await;
    assert_eq!(amiss(&before).iter().map(|line| line.check).collect::<Vec<_>>(), ["dump-freshness"], "{before:#?}");
    let model = status(&app).await;
    assert!(!model.green);
    assert_eq!(model.headline, "Nothing can be restored: full has no verified backup in local.");

    run(&app, "full").await;
    let after = check(&app).await;
    assert_eq!(amiss(&after), Vec::<&CheckLine>::new());
    let mut expected = BTreeSet::from(EVERY_CHECK);
    expected.insert("state-room");
    assert_eq!(names(&after), expected);
    assert!(!yard.path("local/probe").exists(), "the round trip left something behind");
    let model = status(&app).await;
    assert!(model.green, "{model:#?}");
    assert!(model.headline.starts_with("You can restore shop as of 2"), "{}", model.headline);
    assert!(model.headline.ends_with("Z (4 tables, 1 copy, verified)."), "{}", model.headline);
    let full = model.jobs.iter().find(|job| job.name == "full").unwrap();
    assert_eq!(full.last.as_ref().map(|last| last.result), Some(LastResult::Ok));
    assert_eq!(serde_json::from_value::<StatusModel>(serde_json::to_value(&model).unwrap()).unwrap(), model);

    let mut later = app.clone();
    later.clock = Arc::new(ManualClock::at(app.clock.now() + TimeDelta::hours(49)));
    let model = status(&later).await;
    assert!(!model.green && model.headline.ends_with(" But full is overdue in local."), "{}", model.headline);
    assert_eq!(line(&later, "dump-freshness").await.status, Status::Fail);
    assert_eq!(line(&later, "server-clock").await.status, Status::Warn);
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_that_a_recovery_left_behind_are_told_with_what_takes_them_away() {
    let site = Site::with(&[("recovery_target_time", "2025-11-03 13:30:00+00")]);
    let yard = Yard::of(&site, "");
    let app = yard.app();
    let settings = async |statements: &str| {
        for statement in statements.split(';').map(str::trim).filter(|statement| !statement.is_empty()) {
            site.server.sql(statement).unwrap();
        }
        site.server.sql("SELECT pg_reload_conf()").unwrap();
        line(&app, "recovery-settings").await
    };
    let until = async |statements: &str, names: &str| {
        for _ in 0..100 {
            let line = settings(statements).await;
            if line.message.starts_with(names) {
                return line;
            }
        }
        panic!("never {names}: {:?}", line(&app, "recovery-settings").await);
    };
    let fetch =
        "ALTER SYSTEM SET restore_command = 'dbagent wal fetch --within --through=000000010000000000000003 %f %p'";
    let left = until(fetch, "recovery_target_time, restore_command still stand").await;
    assert_eq!(left.status, Status::Warn);
    let one = until(&left.remedy.unwrap(), "recovery_target_time still stand").await;
    assert_eq!(one.remedy.unwrap(), "ALTER SYSTEM RESET recovery_target_time; SELECT pg_reload_conf();");
    let none = until("ALTER SYSTEM SET recovery_target_time = ''", "no recovery has left").await;
    assert_eq!(none.status, Status::Ok, "the next start is without it");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_commands_and_the_job_say_the_same_by_their_exit_codes() {
    let site = Site::new();
    let yard = Yard::of(&site, "");
    let app = yard.app();
    assert_eq!([yard.code(&["check"]), yard.code(&["status"])], [3, 3]);
    assert_eq!(yard.code(&["check", "--nagios"]), 2);
    run(&app, "full").await;
    assert_eq!(yard.code(&["status"]), 0);
    let outcome = app.run_job("check", None, &app.setting(Events::nowhere(), CancellationToken::new())).await.unwrap();
    assert_eq!(outcome.is_green(), yard.code(&["check"]) == 0);
    assert!(outcome.findings.iter().all(|finding| finding.code.ends_with("-room")), "{outcome:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f86_f87_what_would_make_a_dump_less_than_whole_turns_its_line() {
    let site = Site::new();
    site.server.sql("CREATE ROLE reader NOLOGIN; GRANT pg_read_all_data TO reader").unwrap();
    let app = Yard::of(&site, "[postgres.roles]\ndump = 'reader'\n");
    let app = app.app();
    let sql = |text: &str| site.server.sql_in("shop", text).unwrap();
    let rights = async || line(&app, "dump-rights").await;

    assert_eq!(rights().await.status, Status::Ok);
    let keys = line(&app, "dump-primary-keys").await;
    assert!(keys.status == Status::Ok && keys.message.contains("public.events"), "{keys:?}");

    sql("ALTER TABLE customers ENABLE ROW LEVEL SECURITY");
    let hidden = rights().await;
    assert_eq!(hidden.status, Status::Fail);
    assert!(hidden.message.contains("row-level security hides rows of public.customers"), "{hidden:?}");
    assert!(hidden.remedy.unwrap().contains("BYPASSRLS"));
    sql("ALTER TABLE customers DISABLE ROW LEVEL SECURITY; REVOKE pg_read_all_data FROM reader");
    let refused = rights().await;
    assert!(refused.status == Status::Fail && refused.message.contains("no right to read"), "{refused:?}");
    sql("GRANT pg_read_all_data TO reader; SELECT lo_create(0)");
    assert_eq!(rights().await.status, Status::Ok);
    assert_eq!(line(&app, "dump-large-objects").await.status, Status::Warn);
    sql("ALTER TABLE orders RENAME TO gone");
    let missing = rights().await;
    assert!(missing.status == Status::Fail && missing.message.contains("there is no table orders"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_server_and_a_repository_every_check_is_still_there_and_none_that_needs_them_is_good() {
    let yard = Yard::new("[postgres]\nhost = '/nowhere/at/all'\nuser = 'u'\ndatabase = 'd'\n");
    std::fs::remove_dir(yard.path("local")).unwrap();
    let app = yard.app();
    let lines = check(&app).await;
    let mut expected = BTreeSet::from(EVERY_CHECK);
    expected.insert("state-room");
    assert_eq!(names(&lines), expected);
    let needs =
        |line: &&CheckLine| ["server-", "client-", "dump-", "repository-"].iter().any(|s| line.check.starts_with(s));
    for line in lines.iter().filter(needs) {
        assert_eq!(line.status, Status::Fail, "{line:?}");
    }
    let model = status(&app).await;
    assert!(!model.green);
    assert_eq!(model.headline, "It is not known whether anything can be restored: what local holds is not known.");
    assert_eq!(model.jobs[1].dump.as_ref().unwrap().copies[0].freshness, Freshness::Unknown);
}

/// A certificate that expired ten days ago.
fn expired() -> KeyPair {
    let flags = KeyFlags::empty().set_transport_encryption().set_storage_encryption();
    let day = Duration::from_secs(86400);
    let builder = CertBuilder::new().add_userid("old").add_subkey(flags, None, None);
    let builder = builder.set_creation_time(SystemTime::from(SystemClock::new().now()) - day * 20);
    let (certificate, _) = builder.set_validity_period(day * 10).generate().unwrap();
    let public = certificate.armored().to_vec().unwrap();
    KeyPair { fingerprint: certificate.fingerprint().to_hex(), public, secret: Vec::new() }
}

#[tokio::test(flavor = "multi_thread")]
async fn f49_an_expired_recipient_and_f23_a_readable_signing_key_turn_their_lines() {
    let nowhere = "[postgres]\nhost = '/nowhere/at/all'\nuser = 'u'\ndatabase = 'd'\n";
    let yard = Yard::new(nowhere);
    assert_eq!(line(&yard.app(), "key-recipients").await.status, Status::Ok);
    yard.encrypt_to(&expired(), nowhere);
    let refused = line(&yard.app(), "key-recipients").await;
    assert!(refused.status == Status::Fail && refused.message.contains("it expired on"), "{refused:?}");
    assert_eq!(line(&yard.app(), "key-signing").await.status, Status::Ok);
    std::fs::set_permissions(yard.path("signing.asc"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    assert_eq!(line(&yard.app(), "key-signing").await.status, Status::Fail);
}

/// Flips one bit in the middle of `path`.
fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(path).unwrap();
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_artifact_and_f25_a_log_that_went_backwards_are_never_green() {
    let site = Site::new();
    let yard = Yard::of(&site, "");
    let app = yard.app();
    run(&app, "full").await;
    assert!(status(&app).await.green);
    let repository = app.repositories(None).await.unwrap().remove(0);
    let setting = app.setting(Events::nowhere(), CancellationToken::new());
    let artifact =
        dbagent::ops::backup::holdings(std::slice::from_ref(&repository), &setting).await.artifacts.remove(0);
    flip(&yard.path("local").join(artifact.manifest.objects[0].key.as_str()));
    assert!(
        verify(&repository, &artifact, std::slice::from_ref(&artifact), None, &setting).await.result.is_err(),
        "the flipped bit was not found"
    );

    let model = status(&app).await;
    assert!(!model.green);
    assert_eq!(model.headline, "Nothing can be restored: full has no verified backup in local.");
    assert_eq!(line(&app, "dump-freshness").await.status, Status::Fail);
    assert!(line(&app, "repository-findings").await.message.contains("is damaged"));
    assert_eq!(line(&app, "repository-catalog").await.status, Status::Ok);

    let mut log: Vec<_> =
        std::fs::read_dir(yard.path("local/catalog")).unwrap().map(|each| each.unwrap().path()).collect();
    log.sort();
    std::fs::remove_file(log.last().unwrap()).unwrap();
    let broken = line(&app, "repository-catalog").await;
    assert!(broken.status == Status::Fail && broken.message.contains("rolled back"), "{broken:?}");
    let model = status(&app).await;
    assert!(!model.green, "the entry that told of the damage is gone, and it must not look whole again");
    assert_eq!(model.headline, "It is not known whether anything can be restored: what local holds is not known.");
}

/// The same application at a later time.
fn later(app: &App, days: i64) -> App {
    let mut later = app.clone();
    later.clock = Arc::new(ManualClock::at(app.clock.now() + TimeDelta::days(days)));
    later
}

#[tokio::test(flavor = "multi_thread")]
async fn f50_a_decrypt_drill_is_asked_for_every_month_and_only_the_private_key_can_do_it() {
    let site = Site::new();
    let yard = Yard::of(&site, "");
    let now = SystemClock::new().now();
    let operations = generate_encryption_pair("operations", Profile::Gnupg, now).unwrap();
    let break_glass = generate_encryption_pair("break glass", Profile::Gnupg, now).unwrap();
    yard.write("operations.asc", &operations.public);
    yard.write("break-glass.asc", &break_glass.public);
    yard.write("restore-key.asc", &operations.secret);
    let text = std::fs::read_to_string(yard.path("dbagent.toml")).unwrap();
    let (before, _) = text.split_once("recipients").unwrap();
    let text = format!(
        "{before}recipients = ['operations.asc', 'break-glass.asc']\nfingerprints = ['{}', '{}']\nsigning_key = 'signing.asc'\n",
        operations.fingerprint, break_glass.fingerprint
    );
    yard.write("dbagent.toml", text.as_bytes());
    let app = yard.app();
    run(&app, "full").await;
    let states = |status: &StatusModel| {
        let mut drills: Vec<_> =
            status.drills.iter().map(|drill| (drill.recipient == operations.fingerprint, drill.state)).collect();
        drills.sort_by_key(|(operations, _)| !operations);
        drills.into_iter().map(|(_, state)| state).collect::<Vec<_>>()
    };
    assert_eq!(states(&status(&app).await), [DrillState::Current; 2], "keys made today");
    assert_eq!(states(&status(&later(&app, 32)).await), [DrillState::Due; 2]);
    let overdue = later(&app, 70);
    let model = status(&overdue).await;
    assert_eq!(states(&model), [DrillState::Overdue; 2]);
    assert!(
        model.headline.contains(&format!("drill of {} is long overdue", break_glass.fingerprint)),
        "{}",
        model.headline
    );
    let told = line(&overdue, "key-drill").await;
    assert!(told.status == Status::Fail && told.message.contains("nobody has ever shown"), "{told:?}");
    assert!(told.remedy.unwrap().contains("dbagent backup verify latest --deep"));

    // Reading back proves nothing of a key, and another key opens nothing.
    assert_eq!(yard.code(&["backup", "verify", "latest"]), 0);
    let artifact = site_artifact(&app).await;
    let deep = |app: App, secret: Vec<u8>| {
        let artifact = artifact.clone();
        async move {
            let (repositories, _) = app.try_repositories(None).await.unwrap();
            let keys = DecryptionKeys::read(&secret, None).unwrap();
            let setting = app.setting(Events::nowhere(), CancellationToken::new());
            verify(&repositories[0], &artifact, std::slice::from_ref(&artifact), Some(&keys), &setting).await
        }
    };
    let stranger = generate_encryption_pair("stranger", Profile::Gnupg, now).unwrap();
    let refused = deep(overdue.clone(), stranger.secret).await;
    assert!(refused.result.is_err() && refused.drilled.is_empty(), "{refused:?}");
    assert_eq!(states(&status(&overdue).await), [DrillState::Overdue; 2]);

    let drilled = deep(overdue.clone(), operations.secret.clone()).await;
    assert!(drilled.unrecorded.is_none(), "{drilled:?}");
    assert_eq!(drilled.drilled, std::slice::from_ref(&operations.fingerprint));
    assert_eq!(states(&status(&overdue).await), [DrillState::Current, DrillState::Overdue], "of that key alone");
    assert_eq!(states(&status(&later(&app, 102)).await)[0], DrillState::Due, "for a month");
    let both = [operations.secret.clone(), break_glass.secret.clone()].concat();
    let drilled = deep(later(&app, 71), both).await;
    assert_eq!(drilled.drilled.len(), 2, "{drilled:?}");
    assert_eq!(states(&status(&later(&app, 72)).await), [DrillState::Current; 2]);

    // One that nobody trusted has signed is none; nor is one from the future.
    let path = yard.path(&format!("local/drills/{}", break_glass.fingerprint));
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 1);
    let other = generate_signing_key("other", now).unwrap();
    let (repositories, _) = app.try_repositories(None).await.unwrap();
    let mut forger = repositories[0].clone();
    forger.signer = Some(Arc::new(Signer::from_secret_key(&other.secret, None, now).unwrap()));
    let drill = |days| Drill {
        format: FORMAT,
        recipient: break_glass.fingerprint.clone(),
        artifact: artifact.manifest.id,
        drilled: now + TimeDelta::days(days),
    };
    forger.put_drill(&drill(100)).await.unwrap();
    repositories[0].put_drill(&drill(400)).await.unwrap();
    assert_eq!(std::fs::read_dir(&path).unwrap().count(), 3);
    assert_eq!(states(&status(&later(&app, 120)).await)[1], DrillState::Due);

    // A repository that cannot be read may hold a drill: that is not known.
    let text = std::fs::read_to_string(yard.path("dbagent.toml")).unwrap();
    let more = "[repository.gone]\nurl = 'file:///nonexistent/dbagent'\n[encryption]";
    yard.write("dbagent.toml", text.replace("[encryption]", more).as_bytes());
    assert_eq!(states(&status(&later(&yard.app(), 120)).await), [DrillState::Unknown; 2]);
}

/// The newest artifact, as the application sees it.
async fn site_artifact(app: &App) -> Artifact {
    let (repositories, _) = app.try_repositories(None).await.unwrap();
    let inventory = Inventory::read(&repositories[0], Unsigned::Refuse, app.clock.now()).await.unwrap();
    inventory.artifacts.last().unwrap().clone()
}
