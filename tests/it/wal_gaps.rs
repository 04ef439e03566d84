//! Gaps in the log: what leads over one, and who is asked for it, once.

use serde_json::Value;

use crate::base_backup::backup;
use crate::cli::Desk;
use crate::expire_wal::{bases_in, desk as expiring, generations};
use crate::recover::{commit, ledger, walk};
use crate::stage::agent::RunningAgent;
use crate::stage::archive::{self, switch};
use crate::upgrade::upgrade;

/// Archives three segments, and loses the second one in `repositories` and in pg_wal.
fn lose_one(desk: &Desk, repositories: &[&str]) {
    commit(desk, 101);
    switch(desk);
    let lost = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)");
    for id in [102, 103] {
        commit(desk, id);
        switch(desk);
    }
    let stored = repositories.iter().map(|name| desk.site.root().join(name).join("wal"));
    for folder in stored.chain([desk.site.server.data_directory().join("pg_wal")]) {
        let files: Vec<_> = walk(&folder).into_iter().filter(|path| path.to_string_lossy().contains(&lost)).collect();
        assert!(!files.is_empty(), "{lost} in {}", folder.display());
        files.into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}

/// How much the gap in `repository` matters, of these findings.
fn gap<'a>(findings: &'a Value, repository: &str) -> &'a str {
    let is_gap = |each: &&Value| {
        each["code"] == "wal-gap" && each["message"].as_str().unwrap().contains(&format!("repository {repository}"))
    };
    let found = findings.as_array().unwrap().iter().find(is_gap);
    found.unwrap_or_else(|| panic!("{findings}"))["severity"].as_str().unwrap()
}

fn listed(desk: &Desk) -> Value {
    desk.json(3, &["wal", "list"])["findings"].clone()
}

#[test]
fn a_gap_that_no_base_backup_can_lead_over_is_told_and_none_is_made_for_it_again_and_again() {
    let desk = archive::desk();
    let far = desk.site.directory("far");
    desk.configure(&format!("[repository.far]\nurl = 'file://{}'\n", far.display()));
    archive::give(&desk);
    let sync = "[job.wal-sync]\nverb = 'wal-sync'\nschedule = '0 0 29 2 *'\n";
    archive::rewrite_plan(&desk, |plan| format!("{plan}repositories = ['local']\n{sync}"));
    ledger(&desk);
    backup(&desk);
    lose_one(&desk, &["local", "far"]);
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    let synced = || {
        let run = desk.json(3, &["job", "run", "wal-sync"]);
        run["run"]["end"]["result"]["done"]["findings"].clone()
    };
    let first = synced();
    assert_eq!((gap(&first, "local"), gap(&first, "far")), ("critical", "critical"), "{first}");
    let stays = first.as_array().unwrap().iter().find(|each| each["code"] == "wal-gap-stays");
    assert!(stays.is_some_and(|each| each["message"].as_str().unwrap().contains("repository far")), "{first}");
    agent.says("making one now");
    agent.hears("that the base backup is there", |line| line.contains("done") && line.contains("base"));
    for _ in 0..2 {
        let again = synced();
        assert_eq!((gap(&again, "local"), gap(&again, "far")), ("warning", "critical"), "{again}");
    }
    let said = agent.said();
    assert_eq!(said.matches("making one now").count(), 1, "{said}");
    assert_eq!((bases_in(&desk, "local").len(), bases_in(&desk, "far").len()), (2, 0));
}

#[test]
fn a_damaged_base_backup_leads_over_no_gap() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    lose_one(&desk, &["local"]);
    assert_eq!(gap(&listed(&desk), "local"), "critical");
    backup(&desk);
    assert_eq!(gap(&listed(&desk), "local"), "warning");
    let folders = std::fs::read_dir(desk.site.root().join("local/base")).unwrap().map(|entry| entry.unwrap().path());
    let newest = folders.max().unwrap();
    let part = walk(&newest).into_iter().find(|path| path.file_name().unwrap().to_string_lossy().starts_with("part-"));
    let part = part.unwrap();
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    desk.json(13, &["backup", "verify"]);
    assert_eq!(gap(&listed(&desk), "local"), "critical", "no recovery chooses it by itself");
}

#[test]
fn the_base_backup_of_an_upgraded_cluster_leads_over_a_gap_in_the_old_one_s_log() {
    let mut desk = expiring("{ count = 1 }");
    generations(&desk, 1);
    lose_one(&desk, &["local"]);
    assert_eq!(gap(&listed(&desk), "local"), "critical");
    upgrade(&mut desk, 1);
    ledger(&desk);
    generations(&desk, 1);
    assert_eq!(gap(&listed(&desk), "local"), "warning", "nothing can be done about it any more");
}
