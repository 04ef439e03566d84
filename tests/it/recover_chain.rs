//! What a restore to a moment says when the copy is up: the audit chain in it, the times against the goal, the next estimate.

use dbagent::steps::bc003;
use serde_json::Value;

use crate::audit_stage::insert;
use crate::base_backup::backup;
use crate::cli::Desk;
use crate::recover::{pg_ctl, place};
use crate::stage::archive::{self, switch};

fn moment(desk: &Desk) -> String {
    let moment =
        desk.site.ask("SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')");
    desk.site.ask("SELECT pg_logical_emit_message(true, 'test', 'after')");
    moment
}

fn restore(desk: &Desk, code: i32, at: &str) -> Value {
    restore_as(desk, code, at, &[])
}

fn restore_as(desk: &Desk, code: i32, at: &str, more: &[&str]) -> Value {
    let to = place(desk, "c");
    let text = to.display().to_string();
    let restored = desk.json(code, &[&["restore", "--to", &text, "--start", "--target-time", at], more].concat());
    pg_ctl(desk, &["stop", "-m", "immediate", "-s", "-D", &text]);
    std::fs::remove_dir_all(&to).unwrap();
    restored
}

#[tokio::test(flavor = "multi_thread")]
async fn the_copy_s_audit_chain_is_verified_against_what_was_signed_before_the_moment() {
    let desk = archive::desk();
    desk.configure("[goals]\nrto = '4 hours'\n");
    let session = desk.site.connection().connect().await.unwrap();
    bc003::install(session.client()).await.unwrap();
    bc003::install_roles(session.client()).await.unwrap();
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&insert(50));
    backup(&desk);
    desk.json(0, &["audit", "checkpoint"]);
    desk.site.ask(&insert(30));
    let whole = moment(&desk);
    desk.site.ask(&insert(20));
    desk.json(0, &["audit", "checkpoint"]);
    desk.site.ask(
        "SET session_replication_role = replica; UPDATE audit_logs SET success = NOT success WHERE resource_id = '7'",
    );
    let forged = moment(&desk);
    switch(&desk);

    let to = place(&desk, "c").display().to_string();
    let plan = |at: &str| desk.json(0, &["restore", "--to", &to, "--target-time", at, "--plan"])["plan"].clone();
    assert!(plan(&whole)["estimate"].is_null(), "nothing was measured yet");
    let restored = restore(&desk, 0, &whole);
    assert_eq!(restored["audit"]["chain"], "whole", "{restored}");
    assert_eq!((&restored["audit"]["rows"], &restored["audit"]["checkpoints"]), (&80.into(), &1.into()), "{restored}");
    let taken = &restored["restored"];
    assert!(taken["seconds"].as_f64().unwrap() > 0.0 && taken["rto_seconds"] == 14400.0, "{taken}");
    let phases: Vec<_> =
        taken["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["fetch", "settle", "recover"]);

    let estimate = plan(&forged)["estimate"].clone();
    let sum = taken["phases"][0]["seconds"].as_f64().unwrap() + taken["phases"][1]["seconds"].as_f64().unwrap();
    assert!((estimate["seconds"].as_f64().unwrap() - sum).abs() < 0.01, "the same backup at the same pace: {estimate}");
    assert!(estimate["log_seconds"].as_f64().unwrap() > 0.0 && estimate["measured"].is_string(), "{estimate}");

    let broken = restore(&desk, 3, &forged);
    assert_eq!(broken["audit"]["chain"], "broken", "{broken}");
    assert!(broken["audit"]["findings"][0].is_string(), "{broken}");

    // One that takes the primary's place is stated in the signed record at once, if it is whole.
    assert_eq!(restored["audit"]["stated"], "not_needed", "a look at the past changes nothing");
    let broken = restore_as(&desk, 3, &forged, &["--takeover"]);
    assert_eq!(broken["audit"]["stated"], "missing", "{broken}");
    let waits = restore_as(&desk, 3, &whole, &["--takeover"]);
    assert_eq!((&waits["audit"]["chain"], &waits["audit"]["stated"]), (&"whole".into(), &"missing".into()));
    assert!(waits["audit"]["why"].as_str().unwrap().contains("not promoted yet"), "it may be thrown away: {waits}");
    let down = restore_as(&desk, 3, &whole, &["--takeover", "--action", "shutdown"]);
    assert_eq!((&down["audit"]["chain"], &down["audit"]["stated"]), (&"unknown".into(), &"missing".into()), "{down}");
    let taken_over = restore_as(&desk, 0, &whole, &["--takeover", "--action", "promote"]);
    assert_eq!((&taken_over["audit"]["chain"], &taken_over["audit"]["stated"]), (&"whole".into(), &"signed".into()));
}

/// A desk with a chain of 50 rows that was signed in its repositories `local` and `far`, and a base backup.
async fn chained() -> Desk {
    let desk = archive::desk();
    let far = desk.site.directory("far");
    desk.configure(&format!("[repository.far]\nurl = 'file://{}'\nwal = false\n", far.display()));
    archive::give(&desk);
    let session = desk.site.connection().connect().await.unwrap();
    bc003::install(session.client()).await.unwrap();
    bc003::install_roles(session.client()).await.unwrap();
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&insert(50));
    desk.json(0, &["audit", "checkpoint"]);
    backup(&desk);
    desk
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_in_which_no_commit_was_replayed_is_held_against_what_was_signed_before_its_backup() {
    let desk = chained().await;
    desk.site.ask(&insert(20));
    desk.json(0, &["audit", "checkpoint"]);
    switch(&desk);
    let to = place(&desk, "c").display().to_string();
    let restored = desk.json(0, &["restore", "--to", &to, "--start", "--immediate"]);
    pg_ctl(&desk, &["stop", "-m", "immediate", "-s", "-D", &to]);
    assert!(restored["started"]["last_commit"].is_null(), "nothing was committed while it was made: {restored}");
    assert_eq!(restored["audit"]["chain"], "whole", "{restored}");
    let audit = &restored["audit"];
    assert_eq!((&audit["rows"], &audit["checkpoints"]), (&50.into(), &2.into()), "one in each repository: {restored}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_that_cannot_be_compared_with_all_that_was_signed_is_not_called_whole() {
    let desk = chained().await;
    let at = moment(&desk);
    switch(&desk);
    let signed = desk.site.root().join("far/checkpoints");
    std::fs::rename(&signed, desk.site.root().join("far-checkpoints")).unwrap();
    std::fs::write(&signed, "no folder").unwrap();
    for more in [&[][..], &["--takeover", "--action", "promote"]] {
        let restored = restore_as(&desk, 3, &at, more);
        assert_eq!(restored["audit"]["chain"], "unknown", "{restored}");
        assert!(restored["audit"]["reason"].as_str().unwrap().contains("far were not compared"), "{restored}");
        let stated = if more.is_empty() { "not_needed" } else { "missing" };
        assert_eq!(restored["audit"]["stated"], stated, "{restored}");
    }
}

#[test]
fn a_cluster_without_a_chain_has_none_verified() {
    let desk = archive::desk();
    backup(&desk);
    desk.site.ask("SELECT pg_logical_emit_message(true, 'test', 'before')");
    let at = moment(&desk);
    switch(&desk);
    assert_eq!(restore(&desk, 0, &at)["audit"]["chain"], "not_installed");
}
