//! Months of the audit log that are sealed and dropped: the chain goes on without them, what is gone can be proven, and what
//! goes without a signed seal is an alarm, whatever the database says.

use std::path::PathBuf;

use serde_json::Value;

use crate::audit_stage::insert;
use crate::cli::Desk;

const PLAN: &str = "description = 'the log'\n[job.partitions]\nverb = 'partition'\n[job.checkpoint]\nverb = 'audit-checkpoint'\n\
    [job.log]\nverb = 'dump'\nschedule = '0 4 * * 0'\ntables = ['audit_logs']\n\
    [partition.audit_logs]\nkey = 'recorded_at'\nretention = '2 months'\nseal = true\n";

/// Chained rows of `back` months before this one, 40 in each, as years of the trigger's work would have left them: around
/// midnight of each first, a row of the old month comes after the first of the new one.
fn months(back: u32) -> String {
    format!(
        "SET timezone = 'UTC'; ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain;
         DO $$
         DECLARE
             head audit.chain_head;
             entry audit_logs;
             month timestamp;
             n int := 0;
         BEGIN
             SELECT * INTO head FROM audit.chain_head;
             FOR back IN REVERSE {back}..1 LOOP
                 month := date_trunc('month', timezone('UTC', now())) - make_interval(months => back);
                 EXECUTE format('CREATE TABLE IF NOT EXISTS public.audit_logs_%s PARTITION OF public.audit_logs FOR VALUES FROM (%L) TO (%L)',
                     to_char(month, 'YYYY_MM'), month, month + interval '1 month');
                 FOR k IN 1..40 LOOP
                     n := n + 1;
                     entry := NULL;
                     entry.id := md5('row ' || n)::uuid;
                     entry.action := 'invoice.view';
                     entry.resource := E'tab\\t, newline\\n, back\\\\slash, ' || chr(252);
                     entry.details := jsonb_build_object('n', n, 'amount', n * 1.10);
                     entry.success := n % 5 > 0;
                     -- The second row of a month is the last of the month before.
                     entry.recorded_at := CASE WHEN k = 2 AND back < {back} THEN month - interval '1 second'
                                               ELSE month + k * interval '1 hour' END;
                     entry.previous_hash := head.hash;
                     entry.hash := audit.row_hash(entry.id, entry.user_id, entry.session_id, entry.action, entry.resource,
                         entry.resource_id, entry.details, entry.ip_address, entry.user_agent, entry.success, entry.error_code,
                         entry.error_message, entry.recorded_at, entry.previous_hash);
                     head.seq := head.seq + 1;
                     head.hash := entry.hash;
                     INSERT INTO audit_logs SELECT entry.*;
                     INSERT INTO audit.chain_seq VALUES (head.seq, entry.id, entry.recorded_at, entry.hash);
                 END LOOP;
             END LOOP;
             UPDATE audit.chain_head SET seq = head.seq, hash = head.hash;
         END $$;
         ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain;"
    )
}

/// A desk whose log has rows of `back` months and the present one; two months are kept.
fn desk(back: u32) -> Desk {
    let desk = Desk::new();
    std::fs::write(desk.site.root().join("plan.toml"), PLAN).unwrap();
    desk.configure("[postgres.roles]\npartition = 'dbagent_part'\naudit-verify = 'dbagent_verify'\naudit-checkpoint = 'dbagent_verify'\n");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let session = desk.site.connection().connect().await.unwrap();
        dbagent::steps::bc003::install(session.client()).await.unwrap();
        dbagent::steps::bc003::install_roles(session.client()).await.unwrap();
    });
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&months(back));
    desk.site.ask(&insert(10));
    desk.json(0, &["init", "--install-sql", "--yes"]);
    desk
}

fn files(desk: &Desk, ending: &str) -> Vec<PathBuf> {
    let folder = desk.site.root().join("local/seals/audit_logs");
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    found.retain(|path| path.to_string_lossy().ends_with(ending));
    found.sort();
    found
}

/// Name of the month so many months ago.
fn month(desk: &Desk, back: u32) -> String {
    desk.site.ask(&format!(
        "SELECT to_char(timezone('UTC', now()) - interval '{back} months', '\"audit_logs_\"YYYY\"_\"MM')"
    ))
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
    desk.json(0, &["audit", "seal", &last, "--yes"]);
    assert_eq!(files(&desk, ".json").len(), 1, "sealed once");
    assert_eq!(desk.json(15, &["audit", "seal", &present, "--yes"])["error"]["code"], 15);
    desk.json(10, &["audit", "seal", "audit_logs_1999_01", "--yes"]);
    desk.json(0, &["audit", "seal", "--plan"]);
    desk.json(0, &["audit", "verify"]);
    // What is sealed and there must stay what was sealed: also for who rewrites the whole chain.
    desk.site.ask(
        "SET session_replication_role = replica; UPDATE audit_logs SET user_agent = 'x';
         DO $$ DECLARE p record; before text; BEGIN
         FOR p IN SELECT * FROM audit.chain_seq ORDER BY seq LOOP
             UPDATE audit_logs SET previous_hash = before, hash = audit.row_hash(id, user_id, session_id, action, resource, resource_id,
                 details, ip_address, user_agent, success, error_code, error_message, recorded_at, before)
             WHERE id = p.id AND recorded_at = p.recorded_at RETURNING hash INTO before;
             UPDATE audit.chain_seq SET hash = before WHERE seq = p.seq;
         END LOOP; ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close;
         UPDATE audit.chain_head SET hash = before; ALTER TABLE audit.chain_head ENABLE ALWAYS TRIGGER chain_head_close; END $$",
    );
    for checkpoint in std::fs::read_dir(desk.site.root().join("local/checkpoints/audit_logs")).unwrap() {
        std::fs::remove_dir_all(checkpoint.unwrap().path()).unwrap();
    }
    let told = desk.json(13, &["audit", "verify"]);
    assert!(codes(&told).contains(&"HISTORY_REWRITTEN"), "by the seal alone: {told}");
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
    desk.json(0, &["restore", "--database", "shop", "--replace", "--yes"]);
    assert_eq!(desk.site.ask(hashes), stored, "loaded as they were, increments too");
    let rebuilt = desk.json(0, &["audit", "rebuild", "--yes"]);
    assert_eq!(rebuilt["rows"].to_string(), desk.site.ask("SELECT count(*) FROM audit_logs"));
    assert_eq!(desk.site.ask("SELECT seq FROM audit.chain_head"), head, "places go on after the sealed ones");
    let told = desk.json(13, &["audit", "verify"]);
    assert_eq!(codes(&told), ["ROLLBACK"], "{told}");
    desk.json(0, &["audit", "checkpoint", "--restored", "drill", "--yes"]);
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
