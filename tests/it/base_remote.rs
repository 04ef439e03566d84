//! Base backups through pg_basebackup, by an agent that cannot see the data directory.

use std::cell::Cell;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;

use dbagent::model::base::BaseKind;
use dbagent::postgres::page::PAGE_BYTES;

use crate::base_backup::{backup, file_list, manifest};
use crate::base_failover::{Held, catch_up};
use crate::base_incremental::{self, incremental};
use crate::cli::Desk;
use crate::expire_wal::bases_in;
use crate::recover::{Copy, commit, ledger};
use crate::stage::archive::{self, rewrite_plan, switch};
use crate::stage::standby::Standby;

const SUMS: &str = "SELECT (SELECT count(*) || ' ' || md5(string_agg(m::text, ',' ORDER BY n)) FROM much m) || ' ' \
                    || (SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o)";

/// A desk whose login is not told where the data directory is, as that of an agent elsewhere.
fn desk() -> Desk {
    let mut desk = base_incremental::desk_with(&[("full_page_writes", "on")]);
    ledger(&desk);
    desk.site.ask("CREATE TABLE much AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 30000) n");
    desk.site.ask("CREATE UNLOGGED TABLE scratchpad AS SELECT n FROM generate_series(1, 1000) n");
    desk.site.ask("CREATE ROLE far LOGIN REPLICATION");
    desk.site.ask("GRANT CONNECT ON DATABASE shop TO far");
    desk.environment = vec![("DBAGENT_POSTGRES__USER", "far".to_owned())];
    desk
}

/// Takes a base backup and does `work` for as long as it runs; gives what it said.
fn backup_under_load(desk: &Desk, work: &dyn Fn()) -> String {
    let mut command = desk.command(&["job", "run", "base", "--json"]);
    let mut running = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    while running.try_wait().unwrap().is_none() {
        work();
    }
    let output = running.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

#[test]
fn a_base_backup_through_pg_basebackup_is_one_like_any_other() {
    let desk = desk();
    commit(&desk, 1);
    let outcome = backup_under_load(&desk, &|| drop(desk.site.ask("UPDATE much SET t = t || '.' WHERE n % 97 = 3")));
    assert!(outcome.contains("through-pg-basebackup"), "{outcome}");
    let made = manifest(&desk);
    let base = made.base.clone().unwrap();
    assert!(base.pages_verified && base.damaged.is_none() && !base.from_standby, "{base:?}");
    let lines = file_list(&desk, &made);
    assert_eq!(lines.len() as u64, base.files);
    assert_eq!(lines.iter().filter_map(|line| line.size).sum::<u64>(), base.bytes);
    let last = lines.iter().map(|line| line.part).max().unwrap();
    let part = |path: &str| lines.iter().find(|line| line.path == path).unwrap_or_else(|| panic!("{path}")).part;
    assert!(last > 3 && part("backup_label") == last && part("global/pg_control") == last, "{last} parts");
    assert!(!lines.iter().any(|line| line.path == "backup_manifest"));
    assert_eq!(desk.json(0, &["backup", "verify", "--deep"])["verified"][0]["good"], true);

    let moment = commit(&desk, 2).at;
    let sums = desk.site.ask(SUMS);
    commit(&desk, 3);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--target-time", &moment]);
    assert_eq!((copy.rows(), copy.ask(SUMS)), (vec![1, 2], sums));
    drop(copy);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!((copy.rows(), copy.ask("SELECT count(*) FROM scratchpad")), (vec![1, 2, 3], "0".to_owned()));
    crate::base_workload::amcheck(&copy, 0);
}

#[test]
fn an_incremental_one_is_asked_for_in_vain_and_a_local_increment_builds_upon_it() {
    let mut desk = desk();
    let outcome = incremental(&desk);
    assert!(outcome["findings"].to_string().contains("pg_basebackup copies everything"), "{outcome}");
    assert_eq!(manifest(&desk).base.unwrap().kind, BaseKind::Full);
    desk.environment.clear();
    desk.site.ask("UPDATE much SET t = 'changed' WHERE n % 100 = 7");
    incremental(&desk);
    assert_eq!(manifest(&desk).base.unwrap().kind, BaseKind::Incremental);
    let sums = desk.site.ask(SUMS);
    switch(&desk);
    assert_eq!(Copy::restore(&desk, "c", &["--latest", "--action", "promote"]).ask(SUMS), sums);
}

#[test]
fn a_standby_elsewhere_is_backed_up_through_pg_basebackup_too() {
    let mut desk = desk();
    rewrite_plan(&desk, |plan| {
        plan.replacen("verb = 'base-backup'\n", "verb = 'base-backup'\nsource = 'standby'\n", 1)
    });
    let standby = Standby::of(&desk.site.server, &[]);
    commit(&desk, 1);
    catch_up(&desk, &standby);
    let state = desk.site.directory("standby-state");
    archive::give(&desk);
    desk.environment.push(("DBAGENT_POSTGRES__HOST", standby.directory().display().to_string()));
    desk.environment.push(("DBAGENT_STATE_DIR", state.display().to_string()));
    let last = Cell::new(1);
    backup_under_load(&desk, &|| {
        last.set(last.get() + 1);
        commit(&desk, last.get());
        switch(&desk);
    });
    assert!(manifest(&desk).base.unwrap().from_standby);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!((copy.rows(), copy.ask(SUMS)), ((1..=last.get()).collect(), desk.site.ask(SUMS)));
}

#[test]
fn f15_a_pg_basebackup_that_loses_its_server_half_way_makes_nothing() {
    let desk = desk();
    let held = Held::begin(&desk);
    let ended = desk.site.server.sql("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication").unwrap();
    assert_eq!(ended.trim(), "1", "it was streaming");
    let (code, said) = held.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.to_string().contains("pg_basebackup"), "{said}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
    backup(&desk);
    assert_eq!(bases_in(&desk, "local").len(), 1);
}

/// The server's programs, with a pg_basebackup that passes on what the real one gives but for a byte of the control file:
/// a server of ours looks at its checksum itself, others do not.
fn with_a_pg_basebackup_that_tears(desk: &Desk) -> PathBuf {
    let directory = desk.site.directory("bin");
    let real = desk.site.tools().pg_dump.path.parent().unwrap().to_owned();
    for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
        std::os::unix::fs::symlink(real.join(name), directory.join(name)).unwrap();
    }
    let script = format!(
        "#!/bin/bash\n{}/pg_basebackup \"$@\" > $0.tar || exit 1\n\
         at=$(grep -abo 'global/pg_control' $0.tar | head -1 | cut -d: -f1)\n\
         printf '\\xff' | dd of=$0.tar bs=1 seek=$((at + 612)) conv=notrunc status=none && cat $0.tar\n",
        real.display()
    );
    let path = directory.join("pg_basebackup");
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    archive::give(desk);
    directory
}

#[test]
fn a_control_file_that_is_torn_or_another_clusters_makes_no_base_backup() {
    let desk = desk();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let tools = with_a_pg_basebackup_that_tears(&desk);
    let torn = text.replace("[postgres]\n", &format!("[postgres]\nbin_directory = '{}'\n", tools.display()));
    std::fs::write(&desk.config, torn).unwrap();
    let said = desk.json(1, &["job", "run", "base"]).to_string();
    assert!(said.contains("no whole control file"), "{said}");
    std::fs::write(&desk.config, text).unwrap();

    let another = || {
        let held = Held::begin(&desk);
        let path = desk.site.server.data_directory().join("global/pg_control");
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[0] ^= 1;
        let sum = crc32c::crc32c(&bytes[..288]);
        bytes[288..292].copy_from_slice(&sum.to_ne_bytes());
        std::fs::write(&path, bytes).unwrap();
        held.go_on()
    };
    // The server itself goes by what it has in memory, and writes that at its next checkpoint.
    let (code, said) = backup_with(&desk, another, || drop(desk.site.server.sql("CHECKPOINT").unwrap()));
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("led to two clusters"), "{said}");

    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
    desk.site.server.sql("CHECKPOINT").unwrap();
    backup(&desk);
}

#[test]
fn a_session_that_must_sit_idle_for_long_is_there_at_the_end() {
    let desk = desk();
    // Longer than the agent's other session rests, that of its lock.
    desk.site.ask("ALTER ROLE far SET idle_session_timeout = '10s'");
    let idle = "SELECT coalesce(bool_and(now() - state_change > '11 seconds')::text, 'gone') FROM pg_stat_activity \
                WHERE usename = 'far' AND query LIKE '%pg_tablespace_location%'";
    let rest = || {
        while desk.site.ask(idle) == "false" {
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(desk.site.ask(idle), "true", "it was idle for longer than the role may be");
    };
    let (code, said) = backup_with(&desk, || begin(&desk), rest);
    assert_eq!(code, Some(0), "{said}");
}

/// Sets the server's `archive_command`; gives the one before.
fn archive_by(desk: &Desk, command: &str) -> String {
    let before = desk.site.ask("SHOW archive_command");
    desk.site.server.sql(&format!("ALTER SYSTEM SET archive_command = $cmd${command}$cmd$")).unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    before
}

/// Waits until everything of a base backup is sent and the server, which cannot archive, does not end it.
fn await_all_but_the_end(desk: &Desk, running: &mut Child) {
    while desk.site.ask("SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase LIKE 'waiting for wal%'") != "1" {
        assert!(running.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Takes a base backup; all but its end is sent when `meanwhile` is done.
fn backup_with(desk: &Desk, begin: impl FnOnce() -> Child, meanwhile: impl FnOnce()) -> (Option<i32>, String) {
    let archive = archive_by(desk, "false");
    let mut running = begin();
    await_all_but_the_end(desk, &mut running);
    meanwhile();
    archive_by(desk, &archive);
    let output = running.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
}

fn begin(desk: &Desk) -> Child {
    let mut command = desk.command(&["job", "run", "base", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[test]
fn f63_a_server_that_does_not_archive_is_waited_for_as_long_as_the_log_may_take() {
    let desk = desk();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("'60 seconds'", "'2 seconds'")).unwrap();
    archive_by(&desk, "false");
    let said = desk.json(1, &["job", "run", "base"]).to_string();
    assert!(said.contains("did not archive its log, from the segment 0000000100000000000000"), "{said}");
    assert!(said.contains("within 2 s") && said.contains("pg_stat_archiver"), "{said}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
}

#[test]
fn what_the_server_leaves_out_of_the_stream_is_told() {
    let desk = desk();
    let linked = desk.site.server.data_directory().join("linked.conf");
    std::os::unix::fs::symlink(desk.site.root().join("elsewhere.conf"), &linked).unwrap();
    let findings = backup(&desk)["findings"].to_string();
    assert!(findings.contains("pg-basebackup-warned") && findings.contains("linked.conf"), "{findings}");
    std::fs::remove_file(&linked).unwrap();
    let findings = backup(&desk)["findings"].to_string();
    assert!(!findings.contains("pg-basebackup-warned"), "{findings}");
}

#[test]
fn only_a_backup_that_needs_the_replication_login_asks_for_it() {
    let mut desk = desk();
    desk.configure("[postgres.replication]\nuser = 'far'\npassword_command = ['false']\n");
    let run = desk.json(12, &["job", "run", "base"]).to_string();
    assert!(run.contains("read the replication password"), "{run}");
    desk.environment.clear();
    backup(&desk);
}

#[test]
fn what_one_stream_cannot_hold_and_who_may_not_stream_is_refused_in_words() {
    let desk = desk();
    desk.site.ask("ALTER ROLE far NOREPLICATION");
    let run = desk.json(1, &["job", "run", "base"]).to_string();
    assert!(run.contains("needs REPLICATION") && run.contains("postgres.data_directory"), "{run}");
    desk.site.ask("ALTER ROLE far REPLICATION");
    let place = desk.site.directory("tablespace");
    archive::give(&desk);
    desk.site.server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display())).unwrap();
    let run = desk.json(15, &["job", "run", "base"]).to_string();
    assert!(run.contains("the cluster has tablespaces"), "{run}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
}

/// Damages a page of `orders` on the disk; gives its file.
fn damage_on_disk(desk: &mut Desk) -> String {
    let path = desk.site.ask("SELECT pg_relation_filepath('orders')");
    desk.site.server.stop();
    let file = desk.site.server.data_directory().join(&path);
    let mut bytes = std::fs::read(&file).unwrap();
    bytes[2 * PAGE_BYTES + 4000] ^= 0x40;
    std::fs::write(&file, bytes).unwrap();
    desk.site.server.resume().unwrap();
    path
}

fn let_read_files(desk: &Desk) {
    desk.site.ask("GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO far");
}

const NOT_READ_AGAIN: &str = "pages-not-read-again";
const RIGHT_TO_READ: &str =
    "in the database shop: GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO \\\"far\\\"";

#[test]
fn a_damaged_page_in_the_stream_is_named_and_the_backup_does_not_count() {
    let mut desk = desk();
    let path = damage_on_disk(&mut desk);
    let named = |run: &str| run.contains("pages-damaged") && run.contains(&format!("{path} block 2"));
    let run = desk.json(3, &["job", "run", "base"]).to_string();
    assert!(named(&run) && run.contains(NOT_READ_AGAIN) && run.contains(RIGHT_TO_READ), "{run}");
    assert_eq!(desk.json(0, &["backup", "list"])["backups"][0]["verified"], false);
    // To read it again does not make it better.
    let_read_files(&desk);
    let run = desk.json(3, &["job", "run", "base"]).to_string();
    assert!(named(&run) && !run.contains(NOT_READ_AGAIN), "{run}");
    assert_eq!(desk.json(0, &["backup", "list"])["backups"][1]["verified"], false);
}

/// A pg_basebackup that gives a page of a file as it is when it is torn: its head from before the backup, its end not. It
/// stops in the middle of the stream until it is let go.
struct Tearing {
    program: PathBuf,
}

impl Tearing {
    fn put(desk: &Desk, path: &str, block: usize) -> Self {
        let directory = desk.site.directory("bin");
        let real = desk.site.tools().pg_dump.path.parent().unwrap().to_owned();
        for name in ["pg_dump", "pg_dumpall", "pg_restore"] {
            std::os::unix::fs::symlink(real.join(name), directory.join(name)).unwrap();
        }
        let page = 512 + block * PAGE_BYTES;
        let script = format!(
            "#!/bin/bash\nrm -f $0.free $0.torn\n\
             {real}/pg_basebackup \"$@\" | {{ head -c 1000000; : > $0.stopped; until [ -e $0.free ]; do sleep 0.05; done; cat; }} > $0.tar\n\
             [ ${{PIPESTATUS[0]}} = 0 ] || exit 1\n\
             at=$(LC_ALL=C grep -abPo '{path}\\x00' $0.tar | head -1 | cut -d: -f1)\n\
             printf '\\0\\0\\0\\0\\1\\0\\0\\0' | dd of=$0.tar bs=1 seek=$((at + {page})) conv=notrunc status=none && \
             : > $0.torn && cat $0.tar\n",
            real = real.display()
        );
        let program = directory.join("pg_basebackup");
        std::fs::write(&program, script).unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let text = std::fs::read_to_string(&desk.config).unwrap();
        let with = text.replace("[postgres]\n", &format!("[postgres]\nbin_directory = '{}'\n", directory.display()));
        std::fs::write(&desk.config, with).unwrap();
        archive::give(desk);
        Self { program }
    }

    /// From now on the real one runs.
    fn take_away(&self, desk: &Desk) {
        let text = std::fs::read_to_string(&desk.config).unwrap();
        let line = format!("bin_directory = '{}'\n", self.program.parent().unwrap().display());
        std::fs::write(&desk.config, text.replace(&line, "")).unwrap();
    }

    /// Takes a base backup and does `work` between its start and its end; gives how it ended and what it said.
    fn backup(&self, desk: &Desk, work: impl FnOnce()) -> (Option<i32>, String) {
        let _ = std::fs::remove_file(self.program.with_extension("stopped"));
        let mut running = begin(desk);
        while !self.program.with_extension("stopped").exists() {
            assert!(running.try_wait().unwrap().is_none(), "it ended");
            std::thread::sleep(Duration::from_millis(20));
        }
        work();
        std::fs::write(self.program.with_extension("free"), "").unwrap();
        let output = running.wait_with_output().unwrap();
        assert!(self.program.with_extension("torn").exists(), "nothing was torn");
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

#[test]
fn a_page_torn_in_the_stream_alone_is_harmless_where_the_login_may_read_it_again() {
    let desk = desk();
    let path = desk.site.ask("SELECT pg_relation_filepath('orders')");
    let tearing = Tearing::put(&desk, &path, 2);
    // Written within the backup, so that its log has the page whole.
    let change = || {
        let one = "(SELECT min(id) FROM orders WHERE (ctid::text::point)[0] = 2)";
        assert_eq!(desk.site.ask(&format!("DELETE FROM orders WHERE id = {one} RETURNING 'gone'")), "gone");
        desk.site.server.sql("CHECKPOINT").unwrap();
    };
    let named = |said: &str| said.contains("pages-damaged") && said.contains(&format!("{path} block 2"));

    let (code, said) = tearing.backup(&desk, change);
    assert!(code == Some(3) && named(&said), "{said}");
    assert!(said.contains(NOT_READ_AGAIN) && said.contains(RIGHT_TO_READ), "{said}");

    let_read_files(&desk);
    // It is whole on the disk, and the log has nothing of it: what is in the backup stays torn.
    let (code, said) = tearing.backup(&desk, || {});
    assert!(code == Some(3) && named(&said) && !said.contains(NOT_READ_AGAIN), "{said}");

    let (code, said) = tearing.backup(&desk, change);
    assert!(code == Some(0) && !said.contains("pages-damaged") && !said.contains(NOT_READ_AGAIN), "{said}");
    assert!(manifest(&desk).base.unwrap().damaged.is_none());
    assert_eq!(desk.json(0, &["backup", "list"])["backups"][2]["verified"], true);
    let sums = desk.site.ask(SUMS);
    switch(&desk);
    tearing.take_away(&desk);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!(copy.ask(SUMS), sums);
    crate::base_workload::amcheck(&copy, 0);
}
