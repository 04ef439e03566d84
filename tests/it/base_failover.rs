//! A failover in the middle of a base backup: what became of it is either complete on its own timeline or nothing at all.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use dbagent::model::failure::with_causes;
use dbagent::postgres::BackupSession;
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};
use serde_json::Value;

use crate::base_backup::manifest;
use crate::cli::Desk;
use crate::expire_wal::bases_in;
use crate::recover::{Copy, commit, ledger, walk};
use crate::stage::agent::signal;
use crate::stage::archive::{self, switch};
use crate::stage::standby::Standby;

/// A base backup that is held between its start and its stop.
pub struct Held {
    backup: Child,
}

impl Held {
    /// Begins one and holds it once it writes its first part: only then has the server surely begun its own.
    pub fn begin(desk: &Desk) -> Self {
        let parts = || {
            let folder = desk.site.root().join("local/base");
            if folder.exists() { walk(&folder).len() } else { 0 }
        };
        let before = parts();
        let mut command = desk.command(&["job", "run", "base", "--json"]);
        let backup = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while parts() == before {
            assert!(Instant::now() < deadline, "no base backup began");
            std::thread::sleep(Duration::from_millis(1));
        }
        signal(backup.id(), "STOP");
        Self { backup }
    }

    /// Lets it go on.
    pub fn go_on(self) -> Child {
        signal(self.backup.id(), "CONT");
        self.backup
    }

    /// Lets it go on to its end: its exit code and what it said.
    pub fn end(self) -> (Option<i32>, Value) {
        let output = self.go_on().wait_with_output().unwrap();
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        let said = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {talk}"));
        (output.status.code(), said)
    }
}

/// A desk with enough in it that a base backup takes its time.
fn desk() -> Desk {
    let desk = archive::desk();
    ledger(&desk);
    desk.site.ask("CREATE TABLE much AS SELECT n, repeat(md5(n::text), 20) FROM generate_series(1, 40000) n");
    desk
}

pub fn catch_up(desk: &Desk, standby: &Standby) {
    let at = desk.site.ask("SELECT pg_current_wal_insert_lsn()");
    let deadline = Instant::now() + Duration::from_secs(60);
    let query = format!("SELECT pg_last_wal_replay_lsn() >= '{at}'::pg_lsn");
    while standby.ask("shop", &query) != "t" {
        assert!(Instant::now() < deadline, "the standby does not catch up");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The standby takes over and archives its timeline.
pub fn promote(standby: &Standby) {
    assert_eq!(standby.ask("postgres", "SELECT pg_promote()"), "t");
    standby.ask("shop", "INSERT INTO ledger VALUES (100, 'of the new primary')");
    let first = standby.ask("shop", "SELECT pg_walfile_name(pg_current_wal_insert_lsn())");
    assert!(first.starts_with("00000002"), "{first}");
    standby.ask("shop", "SELECT pg_switch_wal()");
    let deadline = Instant::now() + Duration::from_secs(60);
    while standby.ask("shop", "SELECT coalesce(max(last_archived_wal), '') FROM pg_stat_archiver") != first {
        assert!(Instant::now() < deadline, "{first} is not archived by the new primary");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn f62_a_base_backup_of_a_primary_that_dies_in_a_failover_is_nothing() {
    let mut desk = desk();
    let standby = Standby::of(&desk.site.server, &[]);
    commit(&desk, 1);
    catch_up(&desk, &standby);
    let held = Held::begin(&desk);
    promote(&standby);
    desk.site.server.crash();
    let (code, said) = held.end();
    assert_eq!(code, Some(1), "{said}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
    // The new primary's own can be restored.
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let old = format!("host = '{}'", desk.site.server.directory().display());
    std::fs::write(&desk.config, text.replace(&old, &format!("host = '{}'", standby.directory().display()))).unwrap();
    desk.json(0, &["job", "run", "base"]);
    let copy = Copy::restore(&desk, "c", &["--immediate"]);
    assert_eq!(copy.rows(), [1, 100]);
}

#[test]
fn f62_a_base_backup_that_an_old_primary_ends_after_a_failover_never_leads_to_the_new_timeline() {
    let desk = desk();
    let standby = Standby::of(&desk.site.server, &[]);
    commit(&desk, 1);
    catch_up(&desk, &standby);
    let held = Held::begin(&desk);
    promote(&standby);
    // Nobody has told the old primary: it goes on, and archives its own timeline.
    commit(&desk, 2);
    let (code, said) = held.end();
    assert_eq!(code, Some(0), "{said}");
    switch(&desk);
    let base = manifest(&desk).base.unwrap();
    assert_eq!(base.timeline.0, 1);
    let to = desk.site.root().join("c").display().to_string();
    let refused = desk.json(14, &["restore", "--to", &to, "--plan", "--latest", "--timeline", "2"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("no base backup"), "{refused}");
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.rows(), [1, 2], "what the old primary had");
}

#[test]
fn a_base_backup_whose_session_is_lost_ends_before_its_next_part() {
    let desk = desk();
    let held = Held::begin(&desk);
    let lost = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE state = 'idle' \
                AND (query LIKE '%pg_backup_start%' OR query = 'SELECT 1')";
    assert_eq!(desk.site.server.sql(lost).unwrap().trim(), "1", "it was there");
    let (code, said) = held.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.to_string().contains("its session ended"), "{said}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
    desk.json(0, &["job", "run", "base"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f62_a_base_backup_of_a_standby_that_is_promoted_meanwhile_cannot_end() {
    let settings = vec![("full_page_writes".to_owned(), "on".to_owned())];
    let server = ScratchServer::start(ScratchOptions { settings, ..ScratchOptions::default() }).unwrap();
    let standby = Standby::of(&server, &[]);
    for is_promoted in [false, true] {
        let (session, facts) = BackupSession::connect(&standby.connection("postgres")).await.unwrap();
        assert!(facts.server.in_recovery);
        session.start("of a standby", true).await.unwrap();
        if is_promoted {
            assert_eq!(standby.ask("postgres", "SELECT pg_promote()"), "t");
            let error = session.stop().await.unwrap_err();
            assert!(with_causes(&error).contains("the standby was promoted during online backup"), "{error:?}");
        } else {
            assert!(session.stop().await.unwrap().label.contains("BACKUP FROM: standby"));
        }
    }
}
