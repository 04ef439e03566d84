//! Base backups taken from a standby's data directory: while its primary works, archives or not, and fails over.

use std::process::Stdio;
use std::time::{Duration, Instant};

use dbagent::host::durable::read_bounded;
use dbagent::model::base::BaseKind;
use dbagent::model::lsn::{Lsn, Timeline};
use dbagent::postgres::control::ControlFile;

use crate::base_backup::manifest;
use crate::base_failover::{Held, catch_up, promote};
use crate::base_incremental::incremental;
use crate::cli::Desk;
use crate::expire_wal::bases_in;
use crate::recover::{Copy, commit, ledger};
use crate::stage::agent::RunningAgent;
use crate::stage::archive::{self, rewrite_plan, switch};
use crate::stage::standby::Standby;

const INCREMENTAL: &str = "[job.base-incremental]\nverb = 'base-backup'\nkind = 'incremental'\nsource = 'standby'\n";
const SUMS: &str = "SELECT (SELECT count(*) || ' ' || md5(string_agg(m::text, ',' ORDER BY n)) FROM much m) || ' ' \
                    || (SELECT md5(string_agg(o::text, ',' ORDER BY id)) FROM orders o)";

/// A desk whose plan takes base backups from a standby, and whose primary logs whole pages.
fn desk() -> Desk {
    desk_with(&[("full_page_writes", "on")])
}

fn desk_with(settings: &[(&str, &str)]) -> Desk {
    let desk = archive::desk_with(settings);
    rewrite_plan(&desk, |plan| format!("{plan}source = 'standby'\n{INCREMENTAL}"));
    ledger(&desk);
    desk.site.ask("CREATE TABLE much AS SELECT n, repeat(md5(n::text), 20) AS t FROM generate_series(1, 40000) n");
    desk
}

/// From now on commands of `desk` are those of an agent on the standby's host.
fn sit_at(desk: &mut Desk, standby: &Standby) {
    let state = desk.site.directory("standby-state");
    archive::give(desk);
    desk.environment = vec![
        ("DBAGENT_POSTGRES__HOST", standby.directory().display().to_string()),
        ("DBAGENT_STATE_DIR", state.display().to_string()),
    ];
}

/// Takes the base backup `job` while the primary works and ends segments; gives the rows that it had at the end.
fn backup_under_load(desk: &Desk, job: &str, first: u32) -> u32 {
    let mut command = desk.command(&["job", "run", job, "--json"]);
    let mut backup = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut id = first;
    while backup.try_wait().unwrap().is_none() {
        commit(desk, id);
        desk.site.ask(&format!("UPDATE much SET t = t || 'x' WHERE n % 100 = {}", id % 100));
        switch(desk);
        id += 1;
    }
    let output = backup.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    id - 1
}

#[test]
fn base_backups_of_a_standby_restore_to_what_its_primary_had() {
    let mut desk = desk();
    let standby = Standby::of(&desk.site.server, &[]);
    commit(&desk, 1);
    catch_up(&desk, &standby);
    sit_at(&mut desk, &standby);
    let last = backup_under_load(&desk, "base", 2);
    let full = manifest(&desk).base.unwrap();
    assert_eq!((full.from_standby, full.kind, full.timeline), (true, BaseKind::Full, Timeline(1)));
    let copy = Copy::restore(&desk, "c", &["--immediate", "--action", "promote"]);
    let at_stop = copy.rows();
    assert!(at_stop.starts_with(&[1]) && at_stop.len() <= last as usize, "{at_stop:?}");
    drop(copy);

    catch_up(&desk, &standby);
    let last = backup_under_load(&desk, "base-incremental", last + 1);
    let made = manifest(&desk);
    let base = made.base.clone().unwrap();
    assert_eq!((base.from_standby, base.kind), (true, BaseKind::Incremental), "{base:?}");
    assert!(made.stored_size() * 2 < desk_full_size(&desk), "{} bytes", made.stored_size());
    let moment = commit(&desk, last + 1).at;
    let sums = desk.site.ask(SUMS);
    commit(&desk, last + 2);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--target-time", &moment]);
    assert_eq!(copy.rows(), (1..=last + 1).collect::<Vec<_>>());
    assert_eq!(copy.ask(SUMS), sums);
    drop(copy);
    assert_eq!(desk.json(0, &["backup", "verify", "--deep"])["verified"].as_array().unwrap().len(), 2);
}

fn desk_full_size(desk: &Desk) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let artifacts = runtime.block_on(desk.site.artifacts("local"));
    artifacts.iter().find(|each| each.manifest.parent.is_none()).unwrap().manifest.stored_size()
}

#[test]
fn an_increment_of_the_primarys_base_backup_may_be_taken_from_its_standby() {
    let mut desk = desk();
    rewrite_plan(&desk, |plan| plan.replacen("source = 'standby'\n", "", 1));
    let standby = Standby::of(&desk.site.server, &[]);
    desk.json(0, &["job", "run", "base"]);
    desk.site.ask("UPDATE much SET t = 'changed' WHERE n % 500 = 7; CREATE TABLE later AS SELECT 1 AS n");
    catch_up(&desk, &standby);
    switch(&desk);
    sit_at(&mut desk, &standby);
    incremental(&desk);
    let base = manifest(&desk).base.unwrap();
    assert_eq!((base.from_standby, base.kind), (true, BaseKind::Incremental));
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--latest", "--action", "promote"]);
    assert_eq!((copy.ask(SUMS), copy.ask("SELECT n FROM later")), (desk.site.ask(SUMS), "1".to_owned()));
}

#[test]
fn f63_a_base_backup_of_a_standby_is_nothing_while_the_primary_does_not_archive() {
    let mut desk = desk();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("'60 seconds'", "'2 seconds'")).unwrap();
    let standby = Standby::of(&desk.site.server, &[]);
    switch(&desk);
    desk.site.server.sql("ALTER SYSTEM SET archive_command = 'false'").unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut id = 0;
    while desk.site.ask("SELECT failed_count > 0 FROM pg_stat_archiver") != "t" {
        assert!(Instant::now() < deadline, "the archiver does not fail");
        id += 1;
        commit(&desk, id);
        desk.site.ask("SELECT pg_switch_wal()");
        std::thread::sleep(Duration::from_millis(200));
    }
    desk.site.ask("CHECKPOINT");
    catch_up(&desk, &standby);
    sit_at(&mut desk, &standby);
    let run = desk.json(1, &["job", "run", "base"]).to_string();
    assert!(run.contains("did not arrive within 2 s") && run.contains("pg_switch_wal"), "{run}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
}

#[test]
fn f62_a_standby_that_follows_a_failover_during_its_base_backup_makes_none() {
    let mut desk = desk();
    let next = Standby::of(&desk.site.server, &[]);
    let source = format!("primary_conninfo=host={} port=5432 user=postgres", next.directory().display());
    let standby = Standby::of(&desk.site.server, &[&source]);
    commit(&desk, 1);
    catch_up(&desk, &next);
    catch_up(&desk, &standby);
    sit_at(&mut desk, &standby);
    let held = Held::begin(&desk);
    promote(&next);
    next.ask("shop", "CHECKPOINT");
    let deadline = Instant::now() + Duration::from_secs(60);
    while standby.ask("shop", "SELECT count(*) FROM ledger WHERE id = 100") != "1" || recovery(&standby).1.0 != 2 {
        assert!(Instant::now() < deadline, "the standby does not follow: {:?}", recovery(&standby));
        standby.ask("shop", "CHECKPOINT");
        std::thread::sleep(Duration::from_millis(50));
    }
    let told = standby.ask("shop", "SELECT min_recovery_end_timeline FROM pg_control_recovery()");
    assert_eq!(told, "2", "what we read of the control file is what the server reads");
    // Nobody has told the old primary: it archives on, on the timeline that the backup began on.
    commit(&desk, 2);
    switch(&desk);
    let (code, said) = held.end();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.to_string().contains("the standby went from timeline 1 to 2 meanwhile"), "{said}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
}

/// The recovery point in the standby's control file.
fn recovery(standby: &Standby) -> (Lsn, Timeline) {
    let bytes = read_bounded(&standby.directory().join("data/global/pg_control"), 1 << 20).unwrap();
    let control = ControlFile::parse(&bytes).unwrap();
    (control.recovery_point, control.recovery_timeline)
}

#[test]
fn a_data_directory_that_another_server_of_the_cluster_writes_into_is_refused() {
    let mut desk = desk();
    let standby = Standby::of(&desk.site.server, &[]);
    catch_up(&desk, &standby);
    sit_at(&mut desk, &standby);
    let other = ("DBAGENT_POSTGRES__DATA_DIRECTORY", desk.site.server.data_directory().display().to_string());
    desk.environment.push(other);
    let refused = desk.json(15, &["job", "run", "base"]).to_string();
    assert!(refused.contains("does not write into it"), "{refused}");
    desk.environment =
        vec![("DBAGENT_POSTGRES__DATA_DIRECTORY", standby.directory().join("data").display().to_string())];
    rewrite_plan(&desk, |plan| plan.replace("source = 'standby'\n", ""));
    let refused = desk.json(15, &["job", "run", "base"]).to_string();
    assert!(refused.contains("does not write into it"), "{refused}");
    assert_eq!(bases_in(&desk, "local"), Vec::<String>::new());
    desk.environment.clear();
    desk.json(0, &["job", "run", "base"]);
}

#[test]
fn without_whole_pages_in_the_log_the_server_refuses_and_the_reason_is_told() {
    let mut desk = desk_with(&[]);
    assert_eq!(desk.site.ask("SHOW full_page_writes"), "off");
    let standby = Standby::of(&desk.site.server, &[]);
    sit_at(&mut desk, &standby);
    let run = desk.json(1, &["job", "run", "base"]).to_string();
    assert!(run.contains("full_page_writes=off"), "{run}");
}

#[test]
fn each_side_runs_its_own_jobs_and_a_promoted_standby_goes_on_as_the_primary() {
    let mut desk = desk();
    desk.environment = Vec::new();
    let refused = desk.json(11, &["job", "run", "base"])["error"]["message"].to_string();
    assert!(refused.contains("done on a standby") && refused.contains("this server is the primary"), "{refused}");
    let standby = Standby::of(&desk.site.server, &[]);
    desk.json(0, &["job", "run", "full"]);
    let before = desk_term(&desk);
    catch_up(&desk, &standby);
    switch(&desk);
    sit_at(&mut desk, &standby);
    let refused = desk.json(11, &["job", "run", "full"])["error"]["message"].to_string();
    assert!(refused.contains("done on the primary") && refused.contains("this server is a standby"), "{refused}");
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    backup_under_load(&desk, "base", 1);
    assert_eq!(manifest(&desk).fencing_token, before, "a standby's agent deposes nobody");
    desk.json(11, &["job", "run", "full"]);
    promote(&standby);
    agent.says("the standby was promoted");
    agent.leads();
    desk.json(0, &["job", "run", "full"]);
    desk.json(11, &["job", "run", "base"]);
}

fn desk_term(desk: &Desk) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(desk.site.artifacts("local")).last().unwrap().manifest.fencing_token
}
