//! What `status` says of the recovery window: to which moments, on which timeline, and where a gap shortens it.

use std::time::{Duration, Instant};

use crate::base_backup::backup;
use crate::recover::{Copy, commit, ledger, walk};
use crate::stage::agent::signal;
use crate::stage::archive::{self, switch};
use crate::stage::standby::Standby;

#[test]
fn status_leads_with_the_window_and_its_ends_can_be_restored() {
    let desk = archive::desk();
    ledger(&desk);
    let told = desk.json(3, &["status"]);
    assert!(told["headline"].as_str().unwrap().contains("base has no verified backup in local"), "{told}");
    backup(&desk);
    commit(&desk, 1);
    switch(&desk);
    let told = desk.json(3, &["status"]);
    let window = &told["recovery"]["windows"][0];
    assert_eq!((&window["timeline"], &window["current"]), (&1.into(), &true.into()), "{told}");
    assert!(window["rpo_seconds"].as_i64().unwrap() < 60, "{told}");
    let span = &window["spans"][0];
    let (from, until) = (span["from"].as_str().unwrap(), span["until"].as_str().unwrap());
    let headline = told["headline"].as_str().unwrap();
    assert!(headline.starts_with(&format!("You can restore to any moment from {from} to {until}.")), "{headline}");
    let text = String::from_utf8(desk.run(&["status"]).stdout).unwrap();
    assert!(text.lines().nth(2).is_some_and(|line| line.starts_with("RPO now: ")), "{text}");
    assert!(!text.contains("local-durable"), "{text}");
    let copy = Copy::restore(&desk, "c", &["--target-time", until]);
    assert_eq!(copy.rows(), [1]);
    drop(copy);
    desk.configure("[wal]\nack = 'local'\n");
    let text = String::from_utf8(desk.run(&["status"]).stdout).unwrap();
    assert!(text.contains("local-durable"), "{text}");
}

#[test]
fn a_second_base_backup_leaves_the_window_whole() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    let row = commit(&desk, 1);
    switch(&desk);
    let window = || {
        let told = desk.json(3, &["status"]);
        let spans = told["recovery"]["windows"][0]["spans"].as_array().unwrap().clone();
        assert_eq!(spans.len(), 1, "{told}");
        let of = |name: &str| spans[0][name].as_str().unwrap().to_owned();
        let (from, until) = (of("from"), of("until"));
        let headline = told["headline"].as_str().unwrap();
        assert!(headline.starts_with(&format!("You can restore to any moment from {from} to {until}.")), "{headline}");
        (from, until, spans[0]["backups"].as_u64().unwrap())
    };
    let (first, before, _) = window();
    // Nothing is written after it: its own log is the newest that is stored.
    backup(&desk);
    let (from, until, backups) = window();
    assert_eq!((&from, backups), (&first, 2));
    assert!(until > before && row.at < until, "{before} {until}");
    let to = crate::recover::place(&desk, "c").display().to_string();
    for moment in [&from, &row.at, &until] {
        desk.json(0, &["restore", "--to", &to, "--target-time", moment, "--plan"]);
    }
    let beyond = until.parse::<chrono::DateTime<chrono::Utc>>().unwrap() + chrono::TimeDelta::days(365);
    let refused = desk.json(14, &["restore", "--to", &to, "--target-time", &beyond.to_rfc3339(), "--plan"]);
    let said = refused["error"]["message"].as_str().unwrap();
    assert!(said.ends_with(&format!("any moment from {from} to {until}")), "{said}");
}

#[test]
fn f57_a_gap_shortens_the_window_until_a_new_base_backup_leads_on() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    commit(&desk, 1);
    switch(&desk);
    let lost = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)");
    commit(&desk, 2);
    switch(&desk);
    commit(&desk, 3);
    switch(&desk);
    let mut removed = 0;
    for path in walk(&desk.site.root().join("local/wal")) {
        if path.file_name().unwrap().to_string_lossy().starts_with(&lost) {
            std::fs::remove_file(path).unwrap();
            removed += 1;
        }
    }
    assert_eq!(removed, 2, "{lost} was stored and is gone");
    let finding = |told: &serde_json::Value| {
        let findings = told["recovery"]["findings"].as_array().unwrap().clone();
        let found = findings.into_iter().find(|each| each["code"] == "window-shortened");
        found.unwrap_or_else(|| panic!("{told}"))
    };
    let told = desk.json(3, &["status"]);
    let open = finding(&told);
    assert_eq!(open["severity"], "critical", "{open}");
    assert!(open["message"].as_str().unwrap().contains(&lost), "{open}");
    backup(&desk);
    commit(&desk, 4);
    switch(&desk);
    let told = desk.json(3, &["status"]);
    assert_eq!(finding(&told)["severity"], "warning", "{told}");
    let spans = told["recovery"]["windows"][0]["spans"].as_array().unwrap();
    assert_eq!(spans.len(), 2, "{told}");
    let from = spans[1]["from"].as_str().unwrap();
    assert!(told["headline"].as_str().unwrap().contains(&format!("any moment from {from}")), "{told}");
    let until = spans[0]["until"].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    let between = (until + chrono::TimeDelta::milliseconds(12)).to_rfc3339();
    let to = crate::recover::place(&desk, "c").display().to_string();
    let refused = desk.json(14, &["restore", "--to", &to, "--target-time", &between, "--plan"]);
    let said = refused["error"]["message"].as_str().unwrap();
    let before =
        format!("to {} (then the segment {lost} is missing) and from {from} to ", spans[0]["until"].as_str().unwrap());
    assert!(said.contains(&before), "{said}");
}

#[test]
fn f44_a_segment_that_was_stored_late_does_not_promise_what_was_committed_meanwhile() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    switch(&desk);
    let command = desk.site.server.sql("SHOW archive_command").unwrap();
    let archive_with = |command: &str| {
        desk.site.server.sql(&format!("ALTER SYSTEM SET archive_command = $cmd${command}$cmd$")).unwrap();
        desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    };
    archive_with("false");
    let end_segment = || desk.site.ask("SELECT pg_walfile_name(pg_switch_wal())");
    let early = commit(&desk, 1);
    // Longer than a file's time may be behind.
    let wait = || desk.site.ask("SELECT pg_sleep(0.05)");
    wait();
    let first = end_segment();
    wait();
    let late = commit(&desk, 2);
    end_segment();
    // The first segment comes long after the second commit, the second one does not come at all.
    let path = desk.site.server.data_directory().join("pg_wal").join(&first);
    desk.json(0, &["wal", "push", &path.display().to_string()]);
    let told = desk.json(3, &["status"]);
    let until = told["recovery"]["windows"][0]["spans"][0]["until"].as_str().unwrap();
    assert!(until < late.at.as_str() && until >= early.at.as_str(), "{} {until} {}", early.at, late.at);
    let to = crate::recover::place(&desk, "c").display().to_string();
    desk.json(14, &["restore", "--to", &to, "--target-time", &late.at, "--plan"]);
    let end: chrono::DateTime<chrono::Utc> = until.parse().unwrap();
    for (beyond, code) in [(9, 0), (12, 14)] {
        let moment = (end + chrono::TimeDelta::milliseconds(beyond)).to_rfc3339();
        desk.json(code, &["restore", "--to", &to, "--target-time", &moment, "--plan"]);
    }
    let copy = Copy::restore(&desk, "c", &["--target-time", &early.at]);
    assert_eq!(copy.rows(), [1]);
    drop(copy);
    archive_with(&command);
    switch(&desk);
    let copy = Copy::restore(&desk, "c", &["--target-time", &late.at]);
    assert_eq!(copy.rows(), [1, 2], "once it is stored it is promised, and true");
}

#[test]
fn f57_a_running_agent_makes_a_base_backup_where_the_log_has_a_gap() {
    use crate::expire_wal::bases;
    use crate::stage::agent::RunningAgent;

    let desk = archive::desk();
    ledger(&desk);
    archive::rewrite_plan(&desk, |plan| format!("{plan}[job.wal-sync]\nverb = 'wal-sync'\nschedule = '0 0 29 2 *'\n"));
    backup(&desk);
    commit(&desk, 1);
    switch(&desk);
    let lost = desk.site.ask("SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)");
    commit(&desk, 2);
    switch(&desk);
    commit(&desk, 3);
    switch(&desk);
    for folder in [desk.site.root().join("local/wal"), desk.site.server.data_directory().join("pg_wal")] {
        let files: Vec<_> = walk(&folder).into_iter().filter(|path| path.to_string_lossy().contains(&lost)).collect();
        assert!(!files.is_empty(), "{lost} in {}", folder.display());
        files.into_iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    let synced = desk.json(3, &["job", "run", "wal-sync"]);
    assert!(synced.to_string().contains("no recovery gets past them"), "{synced}");
    agent.says("making one now");
    agent.hears("that the base backup is there", |line| line.contains("done") && line.contains("base"));
    assert_eq!(bases(&desk).len(), 2);
    let again = desk.json(3, &["job", "run", "wal-sync"]);
    let findings = again["run"]["end"]["result"]["done"]["findings"].as_array().unwrap();
    let gap = findings.iter().find(|each| each["code"] == "wal-gap").unwrap();
    assert_eq!(gap["severity"], "warning", "{again}");
    let after = commit(&desk, 4);
    commit(&desk, 5);
    switch(&desk);
    assert_eq!(bases(&desk).len(), 2, "it is made once");
    let copy = Copy::restore(&desk, "c", &["--target-time", &after.at]);
    assert_eq!(copy.rows(), [1, 2, 3, 4]);
}

#[test]
fn a_segment_that_a_standby_received_late_does_not_promise_what_was_committed_meanwhile() {
    let desk = archive::desk();
    ledger(&desk);
    backup(&desk);
    switch(&desk);
    let standby = Standby::of(&desk.site.server, &["archive_mode=off"]);
    desk.site.server.sql("ALTER SYSTEM SET archive_command = 'false'").unwrap();
    desk.site.server.sql("SELECT pg_reload_conf()").unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let await_answer = |query: &str, is_it: &dyn Fn(&str) -> bool| loop {
        let answer = standby.ask("postgres", query);
        if is_it(&answer) {
            return answer;
        }
        assert!(Instant::now() < deadline, "{query} gives {answer:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    let receiver = await_answer("SELECT max(pid) FROM pg_stat_wal_receiver", &|answer| !answer.is_empty());
    signal(receiver.parse().unwrap(), "STOP");
    let end_segment = || {
        desk.site.ask("SELECT pg_sleep(0.05)");
        desk.site.ask("SELECT pg_walfile_name(pg_switch_wal())")
    };
    commit(&desk, 1);
    let first = end_segment();
    let late = commit(&desk, 2);
    end_segment();
    signal(receiver.parse().unwrap(), "CONT");
    let received = format!("SELECT pg_last_wal_receive_lsn() >= '{}'", late.position);
    await_answer(&received, &|answer| answer == "t");
    let path = standby.directory().join("data/pg_wal").join(&first);
    desk.json(0, &["wal", "push", &path.display().to_string()]);
    let told = desk.json(3, &["status"]);
    let until = told["recovery"]["windows"][0]["spans"][0]["until"].as_str().unwrap();
    assert!(until < late.at.as_str(), "the second row is in no stored segment: {until} {}", late.at);
    let to = crate::recover::place(&desk, "c").display().to_string();
    desk.json(14, &["restore", "--to", &to, "--target-time", &late.at, "--plan"]);
    let copy = Copy::restore(&desk, "c", &["--target-time", until]);
    assert_eq!(copy.rows(), [1], "its newest commit is covered");
}
