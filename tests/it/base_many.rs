//! A cluster of a hundred thousand relations: its base backups and the restore of their chain stay within 160 MiB.

use std::process::Stdio;
use std::time::{Duration, Instant};

use dbagent::model::base::BaseKind;
use dbagent::model::manifest::Manifest;

use crate::base_backup::manifest;
use crate::base_expiry::archive_by;
use crate::base_incremental;
use crate::cli::Desk;
use crate::recover::place;
use crate::stage::agent::peak_memory;
use crate::stage::archive::{give, switch};

const RELATIONS: u32 = 100_000;

/// Largest resident size of any run, in KiB.
const LIMIT: u64 = 160 << 10;

/// How often a run's peak is read: the kernel keeps it, so that only what comes in the last moment is missed.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A row in every tenth relation.
const MAKE: &str = "DO $$ BEGIN FOR i IN 1..RELATIONS LOOP \
     EXECUTE format('CREATE TABLE many.t%s AS SELECT %s AS n WHERE %s %% 10 = 0', i, i, i); \
     IF i % 500 = 0 THEN COMMIT; END IF; END LOOP; END $$";

const CHANGE: &str = "DO $$ BEGIN FOR i IN 1..RELATIONS BY 100 LOOP \
     EXECUTE format('UPDATE many.t%s SET n = -n', i + 9); END LOOP; END $$";

fn desk() -> Desk {
    let desk = base_incremental::desk_with(&[("autovacuum", "off"), ("max_locks_per_transaction", "1000")]);
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let text = text.replace("part_size = '4MB'\n", "").replace("'60 seconds'", "'10 minutes'");
    std::fs::write(&desk.config, text).unwrap();
    // What makes the relations lies before every base backup: nobody needs its log.
    let command = desk.site.ask("SHOW archive_command");
    archive_by(&desk, "true");
    desk.site.ask("CREATE SCHEMA many");
    desk.site.ask(&MAKE.replace("RELATIONS", &RELATIONS.to_string()));
    desk.site.ask("CREATE ROLE far LOGIN REPLICATION");
    desk.site.ask("GRANT CONNECT ON DATABASE shop TO far");
    desk.site.ask("CHECKPOINT");
    switch(&desk);
    archive_by(&desk, &command);
    desk
}

/// Runs the binary as `login`, to its good end. Tells its peak resident size in KiB, and how long it took.
#[expect(clippy::print_stdout, reason = "figures are what the long tier is run for")]
fn measured(desk: &Desk, what: &str, login: Option<&str>, arguments: &[&str]) -> u64 {
    let mut command = desk.command(arguments);
    command.envs(login.map(|login| ("DBAGENT_POSTGRES__USER", login)));
    let log = std::fs::File::create(desk.site.root().join("said")).unwrap();
    let began = Instant::now();
    let mut running = command.stdout(log.try_clone().unwrap()).stderr(log).stdin(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    while running.try_wait().unwrap().is_none() {
        peak = peak_memory(running.id()).unwrap_or_default().max(peak);
        std::thread::sleep(LOOK_EVERY);
    }
    let status = running.wait().unwrap();
    assert!(status.success(), "{what}: {}", std::fs::read_to_string(desk.site.root().join("said")).unwrap());
    println!("{what}: {} MiB at most, {:.1} s", peak >> 10, began.elapsed().as_secs_f64());
    assert!(peak > 0 && peak <= LIMIT, "{what}: {peak} KiB resident");
    peak
}

fn require(made: &Manifest, kind: BaseKind) {
    let base = made.base.as_ref().unwrap();
    assert!(base.kind == kind && base.files > u64::from(RELATIONS), "{:?} of {} files", base.kind, base.files);
}

#[test]
fn a_long_list_of_relations_long_tier_stays_within_its_memory() {
    let desk = desk();
    measured(&desk, "full", None, &["job", "run", "base"]);
    require(&manifest(&desk), BaseKind::Full);
    desk.site.ask(&CHANGE.replace("RELATIONS", &RELATIONS.to_string()));
    measured(&desk, "incremental", None, &["job", "run", "base-incremental"]);
    require(&manifest(&desk), BaseKind::Incremental);
    switch(&desk);
    let to = place(&desk, "c");
    give(&desk);
    measured(&desk, "restore of the chain", None, &["restore", "--to", &to.display().to_string(), "--latest"]);
    let changed = desk.site.ask("SELECT relfilenode FROM pg_class WHERE relname = 't10'");
    let database = desk.site.ask("SELECT oid FROM pg_database WHERE datname = 'shop'");
    let file = std::fs::metadata(to.join(format!("base/{database}/{changed}"))).unwrap();
    assert_eq!(file.len(), 8192);
    std::fs::remove_dir_all(&to).unwrap();
    measured(&desk, "through pg_basebackup", Some("far"), &["job", "run", "base"]);
    require(&manifest(&desk), BaseKind::Full);
}
