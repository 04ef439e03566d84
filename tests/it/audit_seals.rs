//! Months of the audit log that are sealed and dropped: the chain goes on without them, what is gone can be proven, and what
//! goes without a signed seal is an alarm, whatever the database says.

use std::path::PathBuf;

use serde_json::Value;

use crate::audit_stage::{self, insert, month, rewrite};
use crate::cli::Desk;

const PLAN: &str = "description = 'the log'\n[job.partitions]\nverb = 'partition'\n[job.checkpoint]\nverb = 'audit-checkpoint'\n\
    [job.log]\nverb = 'dump'\nschedule = '0 4 * * 0'\ntables = ['audit_logs']\n\
    [partition.audit_logs]\nkey = 'recorded_at'\nretention = '2 months'\nseal = true\n";

/// Two months are kept.
fn desk(back: u32) -> Desk {
    audit_stage::desk(back, PLAN)
}

fn files(desk: &Desk, ending: &str) -> Vec<PathBuf> {
    let folder = desk.site.root().join("local/seals/audit_logs");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    found
}

fn codes(outcome: &Value) -> Vec<&str> {
    let findings = outcome["outcome"]["findings"].as_array().unwrap();
    let codes = findings.iter().map(|finding| finding["code"].as_str().unwrap());
    codes.filter(|code| *code != "retention-overdue").collect()
}

#[test]
fn g12_months_past_retention_are_sealed_and_dropped_and_the_chain_goes_on() {
    let desk = desk(5);
    let oldest = month(&desk, 5);
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["audit", "checkpoint"]);
    let planned = desk.run(&["partition", "plan"]);
    assert!(String::from_utf8_lossy(&planned.stdout).contains("archive, seal, drop"), "{planned:?}");
    let done = desk.json(0, &["partition", "maintain", "--yes"]);
    let summary = done["outcome"]["summary"].as_str().unwrap();
    assert!(summary.contains("3 archived, 3 dropped, 121 places of sealed rows pruned"), "{summary}");
    assert_eq!(desk.site.ask(&format!("SELECT to_regclass('{oldest}') IS NULL")), "t");
    let sealed = "SELECT string_agg(rows || ' ' || jsonb_array_length(stretches) || ' ' || (pruned_at IS NOT NULL), ', ' ORDER BY number) FROM audit.seals";
    assert_eq!(desk.site.ask(sealed), "41 2 true, 40 3 true, 40 3 true");
    let seals = files(&desk, ".json");
    assert_eq!((seals.len(), files(&desk, ".sig").len()), (3, 3));
    let first: Value = serde_json::from_slice(&std::fs::read(&seals[0]).unwrap()).unwrap();
    assert_eq!((&first["number"], &first["rows"], &first["previous"]), (&1.into(), &41.into(), &Value::Null));
    assert_eq!(first["archive"]["copies"][0]["repository"], "local");

    // The rest is whole, by every kind of verification, and goes on.
    let verified = desk.json(0, &["audit", "verify"]);
    assert!(verified["outcome"]["summary"].as_str().unwrap().contains("is whole: 89 rows"), "{verified}");
    desk.json(0, &["audit", "verify", "--incremental"]);
    desk.json(0, &["audit", "verify", "--partition", &month(&desk, 2)]);
    desk.json(0, &["audit", "checkpoint"]);
    desk.site.ask(&insert(3));
    desk.json(0, &["audit", "checkpoint"]);
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["alert", "list", "--all"]);
    let again = desk.json(0, &["partition", "maintain", "--yes"]);
    assert!(again["outcome"]["summary"].as_str().unwrap().contains("0 made, 0 dropped"), "{again}");
    assert_eq!(files(&desk, ".json").len(), 3);
    // Who keeps the log for longer from now on has the months of before made again, empty.
    desk.site.ask(&format!("CREATE TABLE {0} PARTITION OF audit_logs FOR VALUES FROM (date_trunc('month', timezone('UTC', now())) - interval '5 months') TO (date_trunc('month', timezone('UTC', now())) - interval '4 months')", oldest));
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["audit", "checkpoint"]);

    // A row of the rest is still found.
    desk.site.ask("SET session_replication_role = replica; UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq ORDER BY seq LIMIT 1)");
    let broken = desk.json(13, &["audit", "verify"]);
    assert_eq!(codes(&broken), ["ROW_ALTERED"], "{broken}");
}

#[test]
fn f93_what_goes_without_a_signed_seal_is_an_alarm_whatever_the_database_says() {
    let desk = desk(4);
    desk.json(0, &["audit", "verify"]);
    let oldest = month(&desk, 4);
    // Somebody with every right takes a month away, with its places, and writes a seal of it into the database.
    desk.site.ask(&format!(
        "BEGIN; INSERT INTO audit.seals (partition, number, lower_bound, upper_bound, rows, stretches, root, artifact, digest)
             SELECT 'public.{oldest}', 1, min(recorded_at), max(recorded_at), 41, '[{{\"first\": 1, \"last\": 40}}]', repeat('a', 64), 'x', repeat('b', 64)
             FROM {oldest};
         DELETE FROM audit.chain_seq s USING {oldest} o WHERE s.id = o.id; DROP TABLE {oldest}; COMMIT"
    ));
    for command in [&["audit", "verify"][..], &["audit", "verify", "--incremental"], &["audit", "checkpoint"]] {
        let told = desk.json(13, command);
        assert!(codes(&told).contains(&"UNSEALED_REMOVAL"), "{command:?}: {told}");
    }
    let maintained = desk.json(3, &["partition", "maintain", "--yes"]);
    let told = codes(&maintained);
    assert!(told.contains(&"partition-seal-failed") && told.contains(&"seal-not-signed"), "{maintained}");
    assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM {}", month(&desk, 3))), "40", "nothing more goes");
}

#[test]
fn f93_a_forged_row_alone_is_noticed_before_it_can_be_used() {
    let desk = desk(3);
    desk.json(0, &["audit", "verify"]);
    let oldest = month(&desk, 3);
    desk.site.ask(&format!(
        "INSERT INTO audit.seals (partition, number, lower_bound, upper_bound, rows, stretches, root, artifact, digest)
         VALUES ('public.{oldest}', 1, '2000-01-01', '2000-02-01', 40, '[]', repeat('a', 64), 'x', repeat('b', 64))"
    ));
    let told = desk.json(13, &["audit", "verify"]);
    assert_eq!(codes(&told), ["UNSEALED_REMOVAL"], "{told}");
    assert!(told.to_string().contains("nobody has signed"), "{told}");
    let maintained = desk.json(3, &["partition", "maintain", "--yes"]);
    assert!(codes(&maintained).contains(&"partition-not-sealed"), "{maintained}");
    assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM {oldest}")), "41");
}

#[test]
fn seals_that_are_edited_or_removed_are_missed() {
    let desk = desk(4);
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["partition", "maintain", "--yes"]);
    desk.json(0, &["audit", "verify"]);
    let seals = files(&desk, ".json");
    assert_eq!(seals.len(), 2);
    let bytes = std::fs::read(&seals[1]).unwrap();
    std::fs::write(&seals[1], String::from_utf8(bytes.clone()).unwrap().replace("\"rows\":40", "\"rows\":41")).unwrap();
    let edited = desk.json(13, &["audit", "verify"]);
    assert!(codes(&edited).contains(&"CHECKPOINT_MISSING"), "{edited}");
    std::fs::remove_file(&seals[1]).unwrap();
    let removed = desk.json(13, &["audit", "verify"]);
    assert!(codes(&removed).contains(&"UNSEALED_REMOVAL"), "{removed}");
    std::fs::write(&seals[1], &bytes).unwrap();
    std::fs::remove_file(&seals[0]).unwrap();
    let first = desk.json(13, &["audit", "verify"]);
    assert!(codes(&first).contains(&"CHECKPOINT_MISSING") && codes(&first).contains(&"UNSEALED_REMOVAL"), "{first}");
}

#[test]
fn a_month_that_was_altered_is_not_sealed_and_stays() {
    let desk = desk(3);
    let oldest = month(&desk, 3);
    desk.site.ask(&format!("SET session_replication_role = replica; UPDATE {oldest} SET action = 'x' WHERE id = (SELECT id FROM {oldest} LIMIT 1)"));
    let done = desk.json(3, &["partition", "maintain", "--yes"]);
    assert!(
        codes(&done).contains(&"partition-seal-failed") && codes(&done).contains(&"partition-not-sealed"),
        "{done}"
    );
    assert!(done.to_string().contains("not those of the chain"), "{done}");
    assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM {oldest}")), "41");
    assert!(files(&desk, ".json").is_empty());
}

#[test]
fn a_month_is_sealed_by_hand_before_its_time_and_only_once_it_is_over() {
    let desk = desk(2);
    let (last, present) = (month(&desk, 1), month(&desk, 0));
    let planned = desk.json(0, &["audit", "seal", &last, "--plan"]);
    assert_eq!((&planned["seal"][0]["past_retention"], files(&desk, ".json").len()), (&false.into(), 0), "{planned}");
    let sealed = desk.json(0, &["audit", "seal", &last, "--yes"]);
    assert!(sealed["outcome"]["summary"].as_str().unwrap().starts_with("1 partitions are sealed"), "{sealed}");
    assert_eq!(files(&desk, ".json").len(), 1);
    let checkpoints = || desk.json(0, &["audit", "verify"])["outcome"]["summary"].as_str().unwrap().to_owned();
    assert!(checkpoints().contains("against 1 checkpoints"));
    desk.json(0, &["audit", "seal", &last, "--yes"]);
    assert_eq!(files(&desk, ".json").len(), 1, "sealed once");
    assert!(checkpoints().contains("against 3 checkpoints"), "of both times, and of the verification between");
    assert_eq!(desk.json(15, &["audit", "seal", &present, "--yes"])["error"]["code"], 15);
    desk.json(10, &["audit", "seal", "audit_logs_1999_01", "--yes"]);
    desk.json(0, &["audit", "seal", "--plan"]);
    desk.json(0, &["audit", "verify"]);
    // What is sealed and there must stay what was sealed: also for who rewrites the whole chain.
    let hidden = format!("UPDATE audit_logs SET user_agent = 'x'; {}", rewrite(1));
    desk.site.ask(&format!("SET session_replication_role = replica; {hidden}"));
    for checkpoint in std::fs::read_dir(desk.site.root().join("local/checkpoints/audit_logs")).unwrap() {
        std::fs::remove_dir_all(checkpoint.unwrap().path()).unwrap();
    }
    for command in [&["audit", "verify"][..], &["audit", "verify", "--partition", &month(&desk, 2)]] {
        let told = desk.json(13, command);
        assert!(codes(&told).contains(&"HISTORY_REWRITTEN"), "by the seal alone: {told}");
    }
}

/// What the nightly job says, and the kinds that it has found.
fn sample(desk: &Desk) -> (String, Vec<String>) {
    let output = desk.command(&["job", "run", "sample", "--json"]).output().unwrap();
    let run: Value = serde_json::from_slice(&output.stdout).unwrap();
    let outcome = &run["run"]["end"]["result"]["done"];
    let findings = outcome["findings"].as_array().unwrap_or_else(|| panic!("{run}"));
    let kinds = findings.iter().map(|finding| finding["code"].as_str().unwrap().to_owned()).collect();
    (outcome["summary"].as_str().unwrap().to_owned(), kinds)
}

#[test]
fn the_nightly_sample_finds_what_was_altered_in_the_month_it_reads_and_claims_nothing_of_others() {
    let job = "[job.sample]\nverb = 'audit-verify'\nmode = 'sample'\nschedule = '50 3 * * *'\n";
    let desk = audit_stage::desk(2, &format!("{PLAN}{job}"));
    let closed = [month(&desk, 2), month(&desk, 1)];
    desk.json(0, &["audit", "verify"]);
    let signed = || {
        let days = std::fs::read_dir(desk.site.root().join("local/checkpoints/audit_logs")).unwrap();
        days.map(|day| std::fs::read_dir(day.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    let before = signed();
    let alter = |whose: &str| {
        desk.site.ask(&format!(
            "SET session_replication_role = replica; UPDATE {whose} SET action = 'x' WHERE id = (SELECT id FROM {whose} ORDER BY id LIMIT 1)"
        ));
    };
    // The present month is never chosen.
    alter(&month(&desk, 0));
    let (said, kinds) = sample(&desk);
    assert!(closed.iter().any(|month| said.starts_with(month)) && said.contains("not looked at"), "{said}");
    assert!(kinds.is_empty() && !said.contains("chain is whole"), "{said}: {kinds:?}");
    alter(&closed[0]);
    let (mut found, mut missed) = (0, 0);
    for _ in 0..64 {
        let (said, kinds) = sample(&desk);
        match kinds.as_slice() {
            [] => {
                assert!(said.starts_with(&closed[1]), "green of a month that was altered: {said}");
                missed += 1;
            }
            kinds => {
                assert!(kinds == ["ROW_ALTERED"] && said.contains("NOT whole"), "{said}: {kinds:?}");
                found += 1;
            }
        }
        if found > 0 && missed > 0 {
            break;
        }
    }
    assert!(found > 0 && missed > 0, "both months are drawn: {found}, {missed}");
    let alert = "SELECT payload -> 'first_bad' ->> 'partition' FROM audit.alert_outbox WHERE kind = 'ROW_ALTERED'";
    assert_eq!(desk.site.ask(alert), closed[0]);
    assert_eq!(signed(), before, "a month alone says nothing that could be signed of the chain");
}

#[test]
fn a_row_of_a_month_that_is_gone_is_proven_from_its_archive_and_a_proof_is_checked_without_keys() {
    let desk = desk(4);
    let rows = "SELECT string_agg(s.seq || ' ' || a.id || ' ' || a.hash, ',' ORDER BY s.seq) FROM audit_logs a JOIN audit.chain_seq s USING (id) WHERE s.seq IN (1, 42, 57)";
    let rows = desk.site.ask(rows);
    let stays = desk.site.ask("SELECT id FROM audit_logs ORDER BY recorded_at DESC LIMIT 1");
    desk.json(0, &["partition", "maintain", "--yes"]);
    desk.site.ask("DROP TABLE audit.chain_seq CASCADE");
    let file = desk.site.root().join("proof.json");
    let (path, oldest) = (file.to_str().unwrap(), month(&desk, 4));
    for row in rows.split(',') {
        let [seq, id, hash] = row.split(' ').collect::<Vec<_>>()[..] else { panic!("{row}") };
        let proven = desk.json(0, &["audit", "prove", id]);
        assert_eq!(
            (proven["proof"]["seq"].to_string().as_str(), &proven["proof"]["hash"]),
            (seq, &hash.into()),
            "{proven}"
        );
        std::fs::write(&file, proven.to_string()).unwrap();
        desk.json(0, &["audit", "prove", id, "--from", path]);
        desk.json(13, &["audit", "prove", &stays, "--from", path]);
    }
    let first = rows.split([' ', ',']).nth(1).unwrap();
    desk.json(0, &["audit", "prove", first, "--partition", &oldest]);
    desk.json(10, &["audit", "prove", first, "--partition", &month(&desk, 3)]);
    desk.json(10, &["audit", "prove", &stays]);

    // Without the key to decrypt it the archive says nothing, and a proof still does; of these bytes and no others.
    let proof = desk.json(0, &["audit", "prove", first]);
    std::fs::write(&file, proof.to_string()).unwrap();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, text.replace("decryption_key = 'restore-key.asc'\n", "")).unwrap();
    desk.json(12, &["audit", "prove", first]);
    let bytes = proof["proof"]["row"].as_str().unwrap();
    let given = desk.site.root().join("row.hex");
    std::fs::write(&given, format!("{bytes}\n")).unwrap();
    desk.json(0, &["audit", "prove", first, "--from", path, "--row", given.to_str().unwrap()]);
    std::fs::write(&given, bytes.replace("696e766f696365", "696e766f696366")).unwrap();
    desk.json(13, &["audit", "prove", first, "--from", path, "--row", given.to_str().unwrap()]);
    let mut forged = proof.clone();
    forged["proof"]["path"][0] = "a".repeat(64).into();
    std::fs::write(&file, forged.to_string()).unwrap();
    desk.json(13, &["audit", "prove", first, "--from", path]);
}

#[test]
fn f106b_full_and_increments_restored_go_on_as_the_same_chain_past_sealed_months() {
    let desk = desk(4);
    let plan = desk.site.root().join("plan.toml");
    let more = "[job.hourly]\nverb = 'increment'\nschedule = '0 * * * *'\ntables = ['audit_logs']\n";
    std::fs::write(&plan, format!("{PLAN}{more}")).unwrap();
    desk.json(0, &["partition", "maintain", "--yes"]);
    desk.json(0, &["job", "run", "hourly"]);
    for rows in [7, 0, 5] {
        if rows > 0 {
            desk.site.ask(&insert(rows));
        }
        desk.json(0, &["job", "run", "hourly"]);
    }
    let hashes = "SELECT md5(string_agg(hash || coalesce(previous_hash, ''), ',' ORDER BY recorded_at, id)) || count(*) FROM audit_logs";
    let (stored, head) = (desk.site.ask(hashes), desk.site.ask("SELECT seq FROM audit.chain_head"));
    // Signed, and not in any backup: what the restore loses.
    desk.site.ask(&insert(4));
    desk.json(0, &["audit", "checkpoint"]);
    let restored = desk.json(0, &["restore", "--database", "shop", "--replace", "--yes"]);
    assert_eq!(desk.site.ask(hashes), stored, "loaded as they were, increments too");
    let audit = &restored["audit"];
    assert_eq!(audit["rebuilt"].to_string(), desk.site.ask("SELECT count(*) FROM audit_logs"), "{audit}");
    assert_eq!((&audit["chain"], &audit["stated"]), (&"whole".into(), &"signed".into()), "{audit}");
    assert_eq!(desk.site.ask("SELECT seq FROM audit.chain_head"), head, "places go on after the sealed ones");
    for rows in [0, 9] {
        if rows > 0 {
            desk.site.ask(&insert(rows));
        }
        let verified = desk.json(0, &["audit", "verify"]);
        assert_eq!(codes(&verified), [] as [&str; 0], "{verified}");
        desk.json(0, &["audit", "checkpoint"]);
        desk.json(0, &["audit", "verify", "--incremental"]);
    }
}

#[test]
fn status_and_checklist_say_how_old_what_is_signed_is_and_how_many_months_are_ahead() {
    let desk = desk(3);
    let jobs = "[job.verify]\nverb = 'audit-verify'\nschedule = '20 * * * *'\n";
    let plan = PLAN.replace("verb = 'audit-checkpoint'\n", "verb = 'audit-checkpoint'\nschedule = '*/5 * * * *'\n");
    std::fs::write(desk.site.root().join("plan.toml"), format!("{plan}{jobs}")).unwrap();
    let line = |desk: &Desk| {
        let checked: Value =
            serde_json::from_slice(&desk.command(&["check", "--json"]).output().unwrap().stdout).unwrap();
        let lines = checked["checks"].as_array().unwrap().clone();
        lines.into_iter().find(|line| line["check"] == "audit-signed").unwrap()
    };
    let status = desk.json(3, &["status"]);
    assert_eq!((&status["chain"]["last_verified"], &status["chain"]["size"]), (&Value::Null, &130.into()), "{status}");
    assert!(status["headline"].as_str().unwrap().contains("Nothing can be restored"), "{status}");
    let calendar = &status["partitions"][0];
    assert_eq!((&calendar["ahead"], &calendar["overdue"]), (&3.into(), &1.into()), "{status}");
    let signed = line(&desk);
    assert_eq!(signed["status"], "fail");
    assert!(signed["message"].as_str().unwrap().contains("has no signed verification"), "{signed}");
    desk.json(0, &["audit", "verify"]);
    let status = desk.json(3, &["status"]);
    assert!(status["chain"]["last_verified"].is_string() && status["chain"]["open_alerts"] == 0, "{status}");
    let signed = line(&desk);
    assert_eq!(signed["status"], "ok", "{signed}");
    assert!(signed["message"].as_str().unwrap().contains("head at 130"), "{signed}");
    desk.site.ask("SET session_replication_role = replica; UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 9)");
    desk.json(13, &["audit", "verify"]);
    assert_eq!(desk.json(3, &["status"])["chain"]["open_alerts"], 1);
    let text = desk.run(&["status"]);
    assert!(String::from_utf8_lossy(&text.stdout).contains("open alerts 1"), "{text:?}");
}

#[test]
fn a_repository_that_is_added_later_is_given_the_seals_of_before() {
    let desk = desk(4);
    let plan = desk.site.root().join("plan.toml");
    std::fs::write(&plan, PLAN.replace("2 months", "3 months")).unwrap();
    desk.json(0, &["init", "--install-sql", "--yes"]);
    desk.json(0, &["partition", "maintain", "--yes"]);
    assert_eq!(files(&desk, ".json").len(), 1);
    let other = desk.site.directory("other");
    desk.configure(&format!("[repository.other]\nurl = 'file://{}'\n", other.display()));
    std::fs::write(&plan, PLAN).unwrap();
    desk.json(0, &["init", "--install-sql", "--yes"]);
    desk.json(0, &["partition", "maintain", "--yes"]);
    let names = |folder: std::path::PathBuf| {
        let mut names: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let held = names(desk.site.root().join("local/seals/audit_logs"));
    assert_eq!((held.len(), names(other.join("seals/audit_logs"))), (4, held));
    desk.json(0, &["audit", "verify"]);
}

#[cfg(feature = "failpoints")]
#[test]
fn f05_f93_killed_between_any_two_steps_nothing_is_lost_and_no_alarm_is_raised() {
    use std::os::unix::process::ExitStatusExt as _;

    let desk = desk(6);
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["audit", "checkpoint"]);
    let log = desk.site.root().join("fired");
    let points = [
        "partition.archived",
        "seal.signed",
        "seal.recorded",
        "partition.recorded",
        "partition.detached",
        "partition.dropped",
        "seal.signed=kill:2",
        "seal.pruned",
    ];
    for point in points {
        let _ = std::fs::remove_file(&log);
        let order = if point.contains('=') { point.to_owned() } else { format!("{point}=kill") };
        let mut command = desk.command(&["partition", "maintain", "--yes"]);
        let killed = command.env("DBAGENT_FAILPOINT", &order).env("DBAGENT_FAILPOINT_LOG", &log).output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        assert!(std::fs::read_to_string(&log).unwrap().contains("Kill"), "{point} did not fire");
        // Between detaching and pruning the rows are gone and their places are not.
        let amid = ["partition.detached", "partition.dropped"].contains(&point);
        for command in [["audit", "verify"], ["audit", "checkpoint"]].iter().take(1 + usize::from(amid)) {
            let told = desk.json(0, command);
            assert_eq!(codes(&told), [] as [&str; 0], "{point}: {command:?}");
        }
        let rows: u64 = desk.site.ask("SELECT count(*) FROM audit_logs").parse().unwrap();
        let gone: u64 = desk.site.ask("SELECT coalesce(sum(rows), 0) FROM audit.seals WHERE to_regclass(partition) IS NULL OR NOT (SELECT relispartition FROM pg_class WHERE oid = to_regclass(partition))").parse().unwrap();
        assert_eq!(rows + gone, 250, "{point}");
    }
    let done = desk.json(0, &["partition", "maintain", "--yes"]);
    assert_eq!(done["outcome"]["verdict"], "ok", "{done}");
    assert_eq!(
        desk.site.ask("SELECT count(*) FROM audit.seals WHERE pruned_at IS NULL OR to_regclass(partition) IS NOT NULL"),
        "0"
    );
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["alert", "list", "--all"]);
}
