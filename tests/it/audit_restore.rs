//! Rows of the audit log brought back in place: the chain comes with them, or they do not come.

use crate::audit_stage::{INTEGRITY, insert};
use crate::bc003_server;
use crate::cli::Desk;

const PLAN: &str = "description = 'the log'\n[job.log]\nverb = 'dump'\nschedule = '0 4 * * 0'\ntables = ['audit_logs']\n\
    [job.checkpoint]\nverb = 'audit-checkpoint'\n";

/// Twenty rows, signed and in a backup.
fn desk() -> Desk {
    let desk = bc003_server::desk(Some(PLAN));
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&insert(20));
    desk.json(0, &["audit", "checkpoint"]);
    desk.json(0, &["job", "run", "log"]);
    desk
}

fn past_the_trigger(desk: &Desk, statement: &str) {
    desk.site.ask(&format!("SET session_replication_role = replica; {statement}"));
}

#[test]
fn f106b_rows_that_were_taken_away_or_altered_come_back_with_their_places() {
    let desk = desk();
    let row = |seq: u32| format!("id = (SELECT id FROM audit.chain_seq WHERE seq = {seq})");
    past_the_trigger(&desk, &format!("DELETE FROM audit_logs WHERE {}", row(7)));
    past_the_trigger(&desk, &format!("UPDATE audit_logs SET action = 'x' WHERE {}", row(12)));
    desk.site.ask(&insert(3));
    let merged = desk.json(0, &["restore", "--table", "audit_logs", "--mode", "merge"]);
    assert_eq!((&merged["audit"]["chain"], &merged["audit"]["rows"]), (&"whole".into(), &23.into()), "{merged}");
    assert_eq!(merged["audit"]["stated"], "not_needed", "everything that was signed holds");
    desk.json(0, &["audit", "verify"]);
    desk.site.ask(&insert(1));
    assert_eq!(desk.site.ask(&format!("SELECT ({INTEGRITY})")), "whole");
    let told = String::from_utf8(desk.run(&["restore", "--table", "audit_logs", "--mode", "merge"]).stdout).unwrap();
    assert!(told.contains("its audit chain is whole: 24 rows"), "{told}");
    // Beside, there is no chain to be spoken of.
    assert!(desk.json(0, &["restore", "--table", "audit_logs"])["audit"].is_null());
}

#[test]
fn f106b_a_log_made_what_it_was_is_a_shorter_chain_and_says_so_in_the_signed_record() {
    let desk = desk();
    desk.site.ask(&insert(6));
    desk.json(0, &["audit", "checkpoint"]);
    let replaced = desk.json(0, &["restore", "--table", "audit_logs", "--mode", "replace", "--yes"]);
    assert_eq!((&replaced["audit"]["chain"], &replaced["audit"]["rows"]), (&"whole".into(), &20.into()), "{replaced}");
    assert_eq!(replaced["audit"]["stated"], "signed", "{replaced}");
    assert_eq!(desk.site.ask("SELECT seq FROM audit.chain_head"), "20");
    let verified = desk.json(0, &["audit", "verify"]);
    assert_eq!(verified["outcome"]["findings"].as_array().unwrap().len(), 0, "{verified}");
    desk.site.ask(&insert(9));
    desk.json(0, &["audit", "checkpoint"]);
    desk.json(0, &["audit", "verify"]);
    assert_eq!(desk.site.ask(&format!("SELECT ({INTEGRITY})")), "whole");
    // The agent's own word for it lies with the checkpoints, for ever.
    let folder = desk.site.root().join("local/checkpoints");
    let mut said = std::process::Command::new("grep");
    said.args(["-rhc", "dbagent restore of public.audit_logs from the backup"]).arg(folder);
    let said = String::from_utf8(said.output().unwrap().stdout).unwrap();
    assert_eq!(said.lines().filter(|count| *count == "1").count(), 1, "{said}");
}

#[test]
fn a_database_put_back_from_before_its_chain_was_made_is_not_settled_where_one_was_signed() {
    let desk = bc003_server::desk(Some(&format!("{PLAN}[job.whole]\nverb = 'dump'\nschedule = '0 5 * * 0'\n")));
    desk.json(0, &["job", "run", "whole"]);
    let database = desk.site.connection().database().to_owned();
    let replace = ["restore", "--database", &database, "--replace", "--yes"];
    let before = desk.json(0, &replace);
    assert_eq!(
        (&before["audit"]["chain"], &before["audit"]["stated"]),
        (&"not_installed".into(), &"not_needed".into())
    );
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&insert(20));
    desk.json(0, &["audit", "checkpoint"]);
    let restored = desk.json(3, &replace);
    assert_eq!(restored["audit"]["stated"], "missing", "{restored}");
    assert!(restored["audit"]["why"].as_str().unwrap().contains("one was signed"), "{restored}");
}

#[test]
fn f106b_rows_of_another_chain_are_not_mixed_with_this_one() {
    let desk = desk();
    desk.site.ask(
        "ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain;
         INSERT INTO audit_logs (id, hash, recorded_at) VALUES (gen_random_uuid(), repeat('a', 64), timezone('UTC', now()));
         ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain",
    );
    past_the_trigger(&desk, "DELETE FROM audit_logs WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 7)");
    let refused = desk.json(13, &["restore", "--table", "audit_logs", "--mode", "merge"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("1 rows of the log have no place"), "{refused}");
    assert_eq!(desk.site.ask("SELECT count(*) FROM audit_logs"), "20", "nothing was changed");
    // Made what it was, the stranger goes.
    let replaced = desk.json(0, &["restore", "--table", "audit_logs", "--mode", "replace", "--yes"]);
    assert_eq!((&replaced["audit"]["chain"], &replaced["audit"]["rows"]), (&"whole".into(), &20.into()), "{replaced}");
    desk.json(0, &["audit", "verify"]);
}
