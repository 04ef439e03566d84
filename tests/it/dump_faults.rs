//! What a dump does when things go wrong: killed anywhere, pg_dump dead, a repository down, a full disk, a wrong key.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;

use crate::stage::site::Site;
use dbagent::host::{Clock as _, SystemClock};
use dbagent::model::failure::FailureKind;
use dbagent::model::outcome::Verdict;
use dbagent::ops::{dump, restore};
use dbagent::pipeline::openpgp::{DecryptionKeys, Profile, Recipients, generate_encryption_pair};
use dbagent::postgres::ConnectionRequest;
use dbagent::storage::{DirectoryStorage, Fault, Faulty, MemoryStorage, Operation};

#[cfg(feature = "failpoints")]
#[test]
fn f01_killed_at_every_point_of_a_dump_nothing_half_made_is_ever_listed() {
    use crate::cli::Desk;
    use dbagent::host::FailPoint;

    let desk = Desk::new();
    let log = desk.site.root().join("fired");
    let (mut fired, mut listed) = (0, 0);
    let points = FailPoint::ALL.iter().filter(|point| {
        let name = point.name();
        name.starts_with("dump.") || (name.starts_with("catalog.") && name != "catalog.recorded")
    });
    for point in points {
        for nth in 1..=2 {
            let before = desk.json(0, &["backup", "list", "--quiet"])["backups"].as_array().unwrap().len();
            let killed = desk
                .command(&["job", "run", "full"])
                .env("DBAGENT_FAILPOINT", format!("{}=kill:{nth}", point.name()))
                .env("DBAGENT_FAILPOINT_LOG", &log)
                .output()
                .unwrap();
            let after = list_tolerating_findings(&desk);
            if killed.status.success() {
                assert!(nth > 1, "{} was never reached", point.name());
                continue;
            }
            let talk = String::from_utf8_lossy(&killed.stderr).into_owned();
            assert_eq!(killed.status.signal(), Some(9), "{} at arrival {nth}: {talk}", point.name());
            fired += 1;
            let grown = after - before;
            let committed = point.name() == "catalog.manifest_put";
            assert_eq!(grown, usize::from(committed), "{} at arrival {nth}", point.name());
            listed += grown;
            clear_leftovers(&desk);
        }
    }
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), fired, "each kill is on record");
    assert!(fired >= 16, "only {fired} kills");
    assert_eq!(listed, 1);
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    assert!(verified["verified"].as_array().unwrap().iter().all(|copy| copy["good"] == true));
    desk.json(0, &["restore", "--database", "shop", "--to-database", "after_the_kills"]);
}

#[cfg(feature = "failpoints")]
fn list_tolerating_findings(desk: &crate::cli::Desk) -> usize {
    let output = desk.command(&["backup", "list", "--json", "--quiet"]).output().unwrap();
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    value["backups"].as_array().unwrap().len()
}

/// What a dead run left is cleared away once its lease and the grace time are over; here they are over at once.
#[cfg(feature = "failpoints")]
fn clear_leftovers(desk: &crate::cli::Desk) {
    crate::base_expiry::end_leases(desk);
    let mut command = desk.command(&["expire", "--yes", "--json"]);
    let output = command.env("DBAGENT_AGENT__EXPIRE_GRACE", "0 seconds").output().unwrap();
    assert!(output.status.code() == Some(0) || output.status.code() == Some(3), "{output:?}");
    let local = desk.site.root().join("local/full");
    let stray = std::fs::read_dir(local).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let stray: Vec<_> = stray.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(stray.is_empty(), "{stray:?}");
}

/// A directory of client programs in which pg_dump is `script` and the others are the real ones.
pub fn tools_with(site: &Site, script: &str) -> std::path::PathBuf {
    let directory = site.directory("bin");
    let real = site.tools().pg_dump.path.parent().unwrap().to_owned();
    for name in ["pg_dumpall", "pg_restore"] {
        std::os::unix::fs::symlink(real.join(name), directory.join(name)).unwrap();
    }
    let path = directory.join("pg_dump");
    std::fs::write(&path, script.replace("REAL", &real.join("pg_dump").display().to_string())).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    directory
}

async fn dump_with(site: &Site, script: &str) -> dbagent::model::failure::Failure {
    let mut doors = site.dump_doors();
    doors.tools = dbagent::postgres::ClientTools::find(Some(&tools_with(site, script)), 14).unwrap();
    dump::run(&site.dump_options(), &doors, &site.setting()).await.unwrap_err()
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_pg_dump_that_dies_after_any_output_is_never_an_artifact() {
    for bytes in [0, 1, 4096, 200_000] {
        let site = Site::new();
        let script = format!(
            "#!/bin/bash\ncase \"$*\" in *--version*|*--schema-only*) exec REAL \"$@\";; esac\n\
             REAL \"$@\" | head -c {bytes}; echo 'pg_dump: error: the disk is on fire' >&2; exit 1\n"
        );
        let failure = dump_with(&site, &script).await;
        assert!(failure.full_message().contains("on fire"), "{}", failure.full_message());
        assert!(site.artifacts("local").await.is_empty());
        let left = std::fs::read_dir(site.root().join("local/full"));
        assert_eq!(left.into_iter().flatten().count(), 0, "nothing is left behind");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_pg_dump_that_ends_early_and_says_all_is_well_is_never_an_artifact() {
    let site = Site::new();
    let script = "#!/bin/bash\ncase \"$*\" in *--version*|*--schema-only*) exec REAL \"$@\";; esac\n\
                  REAL \"$@\" | head -c 150000; exit 0\n";
    dump_with(&site, script).await;
    assert!(site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_pg_dump_that_falls_silent_is_ended() {
    let site = Site::new();
    let script = "#!/bin/bash\ncase \"$*\" in *--version*|*--schema-only*) exec REAL \"$@\";; esac\n\
                  REAL \"$@\" | head -c 100000; sleep 600\n";
    let mut doors = site.dump_doors();
    doors.tools = dbagent::postgres::ClientTools::find(Some(&tools_with(&site, script)), 14).unwrap();
    let options = dump::Options { no_progress_timeout: std::time::Duration::from_secs(1), ..site.dump_options() };
    let failure = dump::run(&options, &doors, &site.setting()).await.unwrap_err();
    assert!(failure.full_message().contains("no progress"), "{}", failure.full_message());
    assert!(site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_repository_down_does_not_lose_the_other_and_is_not_green() {
    let mut site = Site::new();
    let broken = Arc::new(Faulty::new(Arc::new(MemoryStorage::new())));
    broken.fault(Operation::Upload, Fault::Fails(dbagent::storage::StorageErrorKind::Transient));
    site.add_repository("broken", broken.clone());
    let outcome = site.dump().await.unwrap();
    assert_eq!(outcome.verdict, Verdict::Incomplete);
    assert!(broken.fired() > 0, "the fault never fired");
    let errors: Vec<bool> = outcome.repositories.iter().map(|repository| repository.error.is_some()).collect();
    assert_eq!(errors, [false, true]);
    assert!(!outcome.is_green());
    site.restore_database("copy").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn two_repositories_hold_the_same_artifact_each_with_its_own_place() {
    let mut site = Site::new();
    let second = site.directory("second");
    site.add_repository("second", Arc::new(DirectoryStorage::open(&second).unwrap()));
    assert_eq!(site.dump().await.unwrap().verdict, Verdict::Ok);
    let (one, other) = (site.artifacts("local").await.remove(0), site.artifacts("second").await.remove(0));
    assert_eq!(one.manifest.id, other.manifest.id);
    let digests = |artifact: &dbagent::catalog::Artifact| -> Vec<_> {
        artifact.manifest.objects.iter().map(|object| object.stored_digest).collect()
    };
    assert_eq!(digests(&one), digests(&other));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_copy_is_passed_over_for_a_whole_one() {
    let mut site = Site::new();
    let second = site.directory("second");
    site.add_repository("second", Arc::new(DirectoryStorage::open(&second).unwrap()));
    site.dump().await.unwrap();
    let object = site.artifacts("local").await.remove(0).manifest.objects.remove(0);
    let path = site.root().join("local").join(object.key.as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[10] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let restored = site.restore_database("copy").await.unwrap();
    assert!(restored.proofs.iter().all(|proof| proof.holds()));
}

#[tokio::test(flavor = "multi_thread")]
async fn f48_a_key_that_does_not_fit_touches_nothing_and_names_the_one_needed() {
    let site = Site::new();
    site.dump().await.unwrap();
    let stranger = generate_encryption_pair("stranger", Profile::Gnupg, SystemClock::new().now()).unwrap();
    let mut doors = site.restore_doors();
    doors.keys = Some(DecryptionKeys::read(&stranger.secret, None).unwrap());
    let setting = site.setting();
    let choice = restore::choose(&site.wanted(None), &doors, &setting).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some("copy".into()), replace: false, no_owner: false };
    let failure = restore::restore_database(&options, &choice, &doors, &setting).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Authentication, "{}", failure.full_message());
    assert_eq!(site.server.sql("SELECT count(*) FROM pg_database").unwrap().trim(), "4", "no database is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_recipients_each_restore_alone() {
    let site = Site::new();
    let now = SystemClock::new().now();
    let other = generate_encryption_pair("break glass", Profile::Gnupg, now).unwrap();
    let mut doors = site.dump_doors();
    let files = [&site.pair.public, &other.public];
    let pins = [&site.pair.fingerprint, &other.fingerprint];
    doors.recipients = Some(Recipients::new(&files, &pins, Profile::default(), now).unwrap());
    dump::run(&site.dump_options(), &doors, &site.setting()).await.unwrap();
    for (name, secret) in [("first", &site.pair.secret), ("second", &other.secret)] {
        let mut doors = site.restore_doors();
        doors.keys = Some(DecryptionKeys::read(secret, None).unwrap());
        let setting = site.setting();
        let choice = restore::choose(&site.wanted(None), &doors, &setting).await.unwrap();
        let options = restore::DatabaseOptions { to_database: Some(name.into()), replace: false, no_owner: false };
        restore::restore_database(&options, &choice, &doors, &setting).await.unwrap();
    }
}

/// Every large object with its owner, privileges, comment and content.
const LARGE_OBJECTS: &str = "SELECT string_agg(concat_ws(' ', oid, pg_get_userbyid(lomowner), lomacl, \
    obj_description(oid, 'pg_largeobject'), md5(lo_get(oid))), E'\\n' ORDER BY oid) FROM pg_largeobject_metadata";

#[tokio::test(flavor = "multi_thread")]
async fn f87_large_objects_come_back_with_owner_and_grants_or_their_absence_is_a_finding() {
    let site = Site::new();
    site.ask(
        "CREATE ROLE app; CREATE ROLE \"the reader\"; \
         SELECT lo_from_bytea(424242, sha512('x') || repeat('large', 300000)::bytea), lo_from_bytea(424243, ''), \
                lo_from_bytea(4000000000, 'an oid beyond 2^31'), lo_from_bytea(424244, 'nobody may write'); \
         ALTER LARGE OBJECT 424242 OWNER TO app; ALTER LARGE OBJECT 424244 OWNER TO app; \
         REVOKE ALL ON LARGE OBJECT 424244 FROM app; \
         GRANT SELECT ON LARGE OBJECT 424242 TO \"the reader\" WITH GRANT OPTION; \
         COMMENT ON LARGE OBJECT 424243 IS E'two;\\nlines'",
    );
    let outcome = site.dump().await.unwrap();
    assert!(outcome.findings.iter().any(|finding| finding.code == "large-objects-excluded"));
    let options = dump::Options { large_objects: true, name_prefix: "with".into(), ..site.dump_options() };
    dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    let before = site.ask(LARGE_OBJECTS);
    assert!(before.contains("app=rw/app") && before.contains("424244 app {}") && before.contains("reader"), "{before}");
    site.restore_database("copy").await.unwrap();
    assert_eq!(site.server.sql_in("copy", LARGE_OBJECTS).unwrap().trim(), before);
    assert_eq!(std::fs::read_dir(site.root()).unwrap().count(), 1, "the table of contents is gone again");

    // One table of that dump brings no large object along.
    site.ask("SELECT lo_unlink(424243)");
    let (doors, setting) = (site.restore_doors(), site.setting());
    let choice = restore::choose(&site.wanted(Some("orders")), &doors, &setting).await.unwrap();
    let options = restore::TableOptions {
        table: "orders".parse().unwrap(),
        mode: restore::TableMode::Beside(None),
        plan_only: false,
        lock_timeout: std::time::Duration::from_secs(2),
        reindex: false,
    };
    restore::restore_table(&options, &choice, &doors, &setting).await.unwrap();
    assert_eq!(site.ask("SELECT count(*) FROM pg_largeobject_metadata"), "3");

    // Owners that are gone are a failure with a way out, and without owners everything else comes.
    site.ask("SELECT lo_unlink(424242), lo_unlink(424244)");
    for database in ["shop", "copy"] {
        site.server.sql_in(database, "DROP OWNED BY app, \"the reader\"").unwrap();
    }
    site.ask("DROP ROLE app, \"the reader\"");
    let failure = site.restore_database("another").await.unwrap_err();
    assert!(failure.hint.as_deref().is_some_and(|hint| hint.contains("--no-owner")), "{}", failure.full_message());
    let choice = restore::choose(&site.wanted(None), &doors, &setting).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some("owned".into()), replace: false, no_owner: true };
    restore::restore_database(&options, &choice, &doors, &setting).await.unwrap();
    let all = site.server.sql_in("owned", LARGE_OBJECTS).unwrap();
    assert!(all.lines().count() == 5 && all.contains("two;") && !all.contains("app"), "{all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_inherits_nothing_dumps_as_its_role_client_tools_included() {
    let site = Site::new();
    site.ask(
        "CREATE ROLE reader BYPASSRLS; GRANT pg_read_all_data TO reader; CREATE ROLE agent LOGIN NOINHERIT IN ROLE reader; \
         REVOKE CONNECT ON DATABASE shop FROM public; GRANT CONNECT ON DATABASE shop TO agent; \
         CREATE SCHEMA hidden; CREATE TABLE hidden.thing (id int PRIMARY KEY); INSERT INTO hidden.thing VALUES (1)",
    );
    let place = site.connection();
    let request = ConnectionRequest {
        host: Some(place.host().to_string()),
        port: Some(place.port()),
        user: Some("agent".to_owned()),
        database: Some("shop".to_owned()),
        role: Some("reader".to_owned()),
        ..ConnectionRequest::default()
    };
    let mut doors = site.dump_doors();
    doors.connection = request.resolve().unwrap();
    let options = dump::Options { tables: Vec::new(), ..site.dump_options() };
    dump::run(&options, &doors, &site.setting()).await.unwrap();
    site.restore_database("copy").await.unwrap();
    assert_eq!(site.server.sql_in("copy", "SELECT id FROM hidden.thing").unwrap().trim(), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_named_table_that_pg_dump_leaves_out_fails_the_dump() {
    let site = Site::new();
    site.ask("ALTER EXTENSION plpgsql ADD TABLE left_out");
    let mut options = site.dump_options();
    options.tables.push("left_out".parse().unwrap());
    let failure = dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap_err();
    assert!(failure.message.contains("public.left_out: pg_dump left the table out"), "{}", failure.full_message());
    assert!(site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f86_row_level_security_is_found_before_the_dump_with_its_cure() {
    let site = Site::new();
    site.ask(
        "CREATE ROLE plain LOGIN; GRANT pg_read_all_data TO plain; \
         ALTER TABLE orders ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON orders USING (false)",
    );
    let mut doors = site.dump_doors();
    doors.connection = site.connection().with_role(Some("plain"));
    let failure = dump::run(&site.dump_options(), &doors, &site.setting()).await.unwrap_err();
    assert!(failure.full_message().contains("row-level security"), "{}", failure.full_message());
    assert!(failure.hint.unwrap().contains("ALTER ROLE \"plain\" BYPASSRLS"));
    assert!(site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f54_no_plaintext_reaches_the_disk() {
    let site = Site::new();
    let canary = "CANARY-7d1f5e0b";
    site.ask(&format!("UPDATE orders SET note = '{canary}' WHERE id % 3 = 0"));
    site.dump().await.unwrap();
    let found = std::process::Command::new("grep").args(["-rlaF", canary]).arg(site.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "", "plaintext below the repository or the state");
}

#[tokio::test(flavor = "multi_thread")]
async fn f07_a_restore_told_to_stop_leaves_no_database_behind() {
    use dbagent::model::event::{Event, Events};
    let site = Site::new();
    site.dump().await.unwrap();
    let doors = site.restore_doors();
    let mut setting = site.setting();
    let stop = setting.stop.clone();
    setting.events = Events::to(move |event| {
        if matches!(&event, Event::Step { text } if text.starts_with("loading rows")) {
            stop.cancel();
        }
    });
    let choice = restore::choose(&site.wanted(None), &doors, &setting).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some("copy".into()), replace: false, no_owner: false };
    let failure = restore::restore_database(&options, &choice, &doors, &setting).await.unwrap_err();
    assert!(failure.message.contains("told to stop"), "{}", failure.full_message());
    assert_eq!(site.server.sql("SELECT count(*) FROM pg_database").unwrap().trim(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn f10_a_dump_whose_snapshot_session_was_cut_commits_nothing() {
    use dbagent::model::event::{Event, Events};
    let site = Arc::new(Site::new());
    let mut setting = site.setting();
    let server = site.clone();
    setting.events = Events::to(move |event| {
        if matches!(&event, Event::Step { text } if text.starts_with("committing")) {
            let cut = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
                       WHERE datname = 'shop' AND pid <> pg_backend_pid()";
            assert_eq!(server.server.sql_in("postgres", cut).unwrap().trim(), "1", "nothing was cut");
        }
    });
    let failure = dump::run(&site.dump_options(), &site.dump_doors(), &setting).await.unwrap_err();
    assert!(failure.full_message().contains("snapshot"), "{}", failure.full_message());
    assert!(site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f79_a_table_locked_by_others_is_waited_for_and_then_given_up_without_blocking_them() {
    let site = Site::new();
    let holder = site.connection().connect().await.unwrap();
    holder.batch("BEGIN; LOCK TABLE public.orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let options = dump::Options { lock_timeout: std::time::Duration::from_millis(50), ..site.dump_options() };
    let failure = dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap_err();
    assert!(failure.full_message().contains("lock timeout"), "{}", failure.full_message());
    holder.batch("COMMIT").await.unwrap();
    dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f78_rows_of_a_truncate_that_waited_for_the_dump_are_in_it() {
    use dbagent::model::event::{Event, Events};
    let site = Arc::new(Site::new());
    let mut setting = site.setting();
    let (waiting, told) = std::sync::mpsc::channel();
    let other = site.clone();
    setting.events = Events::to(move |event| {
        if matches!(&event, Event::Step { text } if text.starts_with("committing")) {
            let (other, waiting) = (other.clone(), waiting.clone());
            std::thread::spawn(move || waiting.send(other.server.sql_in("shop", "TRUNCATE orders").is_ok()));
        }
    });
    dump::run(&site.dump_options(), &site.dump_doors(), &setting).await.unwrap();
    drop(setting);
    assert!(told.recv_timeout(std::time::Duration::from_secs(20)).unwrap(), "TRUNCATE never came through");
    assert_eq!(site.ask("SELECT count(*) FROM orders"), "0");
    let restored = site.restore_database("copy").await.unwrap();
    assert_eq!(restored.rows(), 7550, "the dump has the rows of its snapshot");
}

#[tokio::test(flavor = "multi_thread")]
async fn f79_a_lock_asked_for_between_ours_and_pg_dumps_holds_nobody_up_for_long() {
    use dbagent::model::event::{Event, Events};
    let site = Arc::new(Site::new());
    let mut setting = site.setting();
    let (waiting, told) = std::sync::mpsc::channel();
    let other = site.clone();
    setting.events = Events::to(move |event| {
        if matches!(&event, Event::Step { text } if text.starts_with("dumping the roles")) {
            let (truncating, waiting) = (other.clone(), waiting.clone());
            std::thread::spawn(move || waiting.send(truncating.server.sql_in("shop", "TRUNCATE orders").is_ok()));
            let queued = "SELECT count(*) FROM pg_locks WHERE NOT granted";
            while other.server.sql_in("postgres", queued).unwrap().trim() == "0" {}
        }
    });
    let began = std::time::Instant::now();
    let dumped = dump::run(&site.dump_options(), &site.dump_doors(), &setting).await;
    assert!(told.recv_timeout(std::time::Duration::from_secs(20)).unwrap(), "TRUNCATE never came through");
    assert!(began.elapsed() < std::time::Duration::from_secs(20));
    let failure = dumped.unwrap_err();
    assert!(failure.full_message().contains("LOCK TABLE"), "{}", failure.full_message());
    assert!(site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f01_what_a_dead_run_of_the_same_second_left_is_passed_over() {
    let site = Site::new();
    let now = SystemClock::new().now();
    let folder = site.directory("local/full");
    let left = folder.join(format!("shop_full_{}.roles.sql.gz.gpg", now.format("%Y%m%d_%H%M%S")));
    std::fs::write(&left, "of a run that died before its manifest").unwrap();
    let clock = Arc::new(dbagent::host::clock::ManualClock::at(now));
    let setting = dbagent::ops::Setting { clock, ..site.setting() };
    dump::run(&site.dump_options(), &site.dump_doors(), &setting).await.unwrap();
    assert_eq!(std::fs::read(&left).unwrap(), b"of a run that died before its manifest");
    assert_eq!(site.artifacts("local").await.len(), 1);
}
