//! A desk whose server archives its log through our own binary, as an operator sets it up.

use std::os::unix::fs::lchown;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cli::Desk;
use crate::stage::site::{Site, TABLES};

/// Longest wait for the archiver.
const PATIENCE: Duration = Duration::from_secs(60);

/// A desk with segments of 1 MiB, archiving.
pub fn desk() -> Desk {
    desk_with(&[])
}

/// The same with further settings.
pub fn desk_with(settings: &[(&str, &str)]) -> Desk {
    let own = [("archive_mode", "on"), ("wal_keep_size", "64MB")];
    let settings: Vec<_> = own.into_iter().chain(settings.iter().copied()).collect();
    let site = Site::made_with(&settings, &["--wal-segsize=1"]);
    let mut desk = Desk::at(site, &TABLES);
    desk.run_as = desk.site.server.run_as();
    desk.configure("[base_backup]\npart_size = '4MB'\nwal_timeout = '60 seconds'\n");
    rewrite_plan(&desk, |plan| plan.replace("enabled = false\n", ""));
    give(&desk);
    let command = format!("{} --config {} wal push \"%p\"", env!("CARGO_BIN_EXE_dbagent"), desk.config.display());
    desk.site.server.sql(&format!("ALTER SYSTEM SET archive_command = $cmd${command}$cmd$")).unwrap();
    // In the cluster's own configuration too, so that a copy has it.
    desk.site.server.sql("ALTER SYSTEM SET archive_mode = 'on'").unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    desk
}

/// Changes the desk's plan; what is added at its end is said of the job `base`.
pub fn rewrite_plan(desk: &Desk, change: impl FnOnce(String) -> String) {
    let path = desk.site.root().join("plan.toml");
    let plan = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, change(plan)).unwrap();
}

/// Gives everything below the desk's root to whom the server runs as: the archiver must read and write there.
pub fn give(desk: &Desk) {
    if let Some(owner) = desk.site.server.run_as() {
        give_below(desk.site.root(), owner);
    }
}

pub fn give_below(path: &Path, owner: (u32, u32)) {
    lchown(path, Some(owner.0), Some(owner.1)).unwrap();
    let is_folder = std::fs::symlink_metadata(path).unwrap().is_dir();
    if is_folder {
        std::fs::read_dir(path).unwrap().for_each(|entry| give_below(&entry.unwrap().path(), owner));
    }
}

/// Ends the segment being written and waits until it is archived.
pub fn switch(desk: &Desk) {
    switch_through(&|query| desk.site.ask(query), &|| desk.site.server.log().join("\n"));
}

/// The same of the server that `ask` asks and whose log `log` gives.
pub fn switch_through(ask: &dyn Fn(&str) -> String, log: &dyn Fn() -> String) {
    // The segment's last write is then surely later than whatever moment was noted before, by the time of its file too.
    ask("SELECT pg_logical_emit_message(false, 'test', 'something to archive')::text FROM pg_sleep(0.02)");
    let ended = ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn() - 1)");
    ask("SELECT pg_switch_wal()::text");
    let deadline = Instant::now() + PATIENCE;
    let archived = "SELECT coalesce(last_archived_wal, '') FROM pg_stat_archiver";
    loop {
        let last = ask(archived);
        let is_segment = last.len() == 24;
        if is_segment && last[8..] >= ended[8..] {
            return;
        }
        let failed = ask("SELECT coalesce(last_failed_wal, '') || ' ' || failed_count FROM pg_stat_archiver");
        assert!(Instant::now() < deadline, "{ended} was not archived: last {last}, failed {failed}\n{}", log());
        std::thread::sleep(Duration::from_millis(20));
    }
}
