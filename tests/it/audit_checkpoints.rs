//! Checkpoints: signed, linked, written also when nothing changed; and what no query inside the database can see, found by
//! them.

use dbagent::catalog::Reading;
use dbagent::model::audit::finding::FindingKind;
use dbagent::model::outcome::Verdict;
use dbagent::ops::audit_verify::{self, Scope, Signed};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::audit_attacks::{Arena, ROWS};
use crate::audit_stage::{Chained, Watched, history, insert, options, rewrite, setting};

fn files(watched: &Watched, ending: &str) -> Vec<std::path::PathBuf> {
    let days = std::fs::read_dir(watched.files.path().join("repository/checkpoints/audit_logs")).unwrap();
    let mut found: Vec<_> = days
        .flat_map(|day| std::fs::read_dir(day.unwrap().path()).unwrap())
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.to_string_lossy().ends_with(ending))
        .collect();
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_follow_one_another_and_say_what_the_chain_was() {
    let watched = Watched::new(Chained::new().await);
    for rows in [0, 3, 0, 5] {
        if rows > 0 {
            watched.chained.add(rows).await;
        }
        let outcome = watched.checkpoint(None).await.unwrap();
        assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
    }
    let read =
        watched.repository.checkpoint_history("audit_logs", Reading::Thorough, chrono::Utc::now()).await.unwrap();
    assert_eq!(read.faults, [] as [String; 0]);
    let sizes: Vec<i64> = read.marks.iter().map(|mark| mark.size).collect();
    assert_eq!(sizes, [0, 3, 3, 8]);
    let last = &read.newest.as_ref().unwrap().checkpoint;
    let hash = watched.chained.text("SELECT hash FROM audit.chain_head").await;
    assert_eq!(last.hash.unwrap().to_string(), hash);
    assert_eq!(last.partitions.values().sum::<u64>(), 8);
    assert!(last.origin.lsn.is_some() && last.origin.system_identifier.is_some() && last.origin.timeline.is_some());
    assert_eq!(last.previous, Some(read.marks[2].digest));
    assert_eq!(watched.findings().await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_was_touched_removed_or_renamed_is_noticed() {
    let watched = Watched::new(Chained::new().await);
    for _ in 0..4 {
        watched.chained.add(2).await;
        watched.checkpoint(None).await.unwrap();
    }
    let all = files(&watched, ".json");
    assert_eq!((all.len(), files(&watched, ".sig").len()), (4, 4));
    let missing = async |what: &str| {
        let findings = watched.findings().await;
        assert_eq!(findings.len(), 1, "{what}: {findings:?}");
        assert_eq!(findings[0].kind, FindingKind::CheckpointMissing, "{what}");
    };
    let bytes = std::fs::read(&all[1]).unwrap();
    std::fs::write(&all[1], String::from_utf8(bytes.clone()).unwrap().replace("\"size\":4", "\"size\":2")).unwrap();
    missing("edited").await;
    std::fs::remove_file(&all[1]).unwrap();
    missing("removed").await;
    let signature = |path: &std::path::Path| path.with_extension("json.sig");
    std::fs::write(&all[1], std::fs::read(&all[0]).unwrap()).unwrap();
    std::fs::write(signature(&all[1]), std::fs::read(signature(&all[0])).unwrap()).unwrap();
    missing("another one under its name").await;
}

fn cut(at: u32) -> String {
    format!(
        "ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close;
         DELETE FROM audit_logs WHERE id IN (SELECT id FROM audit.chain_seq WHERE seq >= {at});
         DELETE FROM audit.chain_seq WHERE seq >= {at};
         UPDATE audit.chain_head SET (seq, hash) = (SELECT seq, hash FROM audit.chain_seq ORDER BY seq DESC LIMIT 1);
         ALTER TABLE audit.chain_head ENABLE ALWAYS TRIGGER chain_head_close"
    )
}

async fn invisible(seed: u64, rounds: u32) {
    let arena = Arena::new().await;
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..rounds {
        let at = random.random_range(3..ROWS - 3);
        let edit =
            format!("UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = {at})");
        let attacks = [
            ("tail cut with its side tables", cut(at), FindingKind::TailCut, i64::from(at)),
            (
                "edited and everything after hashed again",
                format!("{edit}; {}", rewrite(at)),
                FindingKind::HistoryRewritten,
                1,
            ),
            (
                "all of it rewritten",
                format!("UPDATE audit_logs SET user_agent = 'x'; {}", rewrite(1)),
                FindingKind::HistoryRewritten,
                1,
            ),
        ];
        for (name, sql, kind, seq) in attacks {
            let watched = Watched::new(arena.chained.clone());
            watched.checkpoint(None).await.unwrap();
            arena.attack("consulting_tool", &sql);
            let (options, nothing) = (options(Scope::Full), Signed::default());
            let inside =
                audit_verify::verify(&options, &arena.chained.connection(), &nothing, &setting()).await.unwrap();
            assert_eq!(inside.findings, [], "{name}: it can be seen from inside");
            let findings = watched.findings().await;
            let told: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.first_bad.seq)).collect();
            assert_eq!(told, [(kind, Some(seq))], "{name} at {at}");
            let refused = watched.checkpoint(None).await.unwrap();
            assert!(refused.findings.iter().any(|finding| finding.code == kind.name()), "{name}: {refused:?}");
            assert_eq!(watched.signed().await.count(), 1, "{name}: an agent signed what it had reason not to believe");
            arena.put_back();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f102_what_the_database_cannot_see_is_found_by_checkpoints() {
    invisible(3, 2).await;
}

#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn f102_long_what_the_database_cannot_see_is_found_by_checkpoints() {
    invisible(4, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrite_is_bounded_by_the_checkpoints_around_it() {
    let watched = Watched::new(Chained::new().await);
    for _ in 0..4 {
        watched.chained.add(10).await;
        watched.checkpoint(None).await.unwrap();
    }
    watched.chained.run("SET session_replication_role = replica").await;
    watched
        .chained
        .run(&format!(
            "UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 25); {}",
            rewrite(25)
        ))
        .await;
    let findings = watched.findings().await;
    assert_eq!((findings[0].kind, findings[0].first_bad.seq), (FindingKind::HistoryRewritten, Some(21)));
    assert!(findings[0].message.contains("between 21 and 30"), "{}", findings[0].message);
}

#[tokio::test(flavor = "multi_thread")]
async fn f102_an_older_database_put_back_is_a_rollback_until_somebody_says_that_it_was_meant() {
    let watched = Watched::new(Chained::new().await);
    watched.chained.add(5).await;
    watched.checkpoint(None).await.unwrap();
    let server = &watched.chained.server;
    let disconnect = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'consulting_tool'";
    server.sql(disconnect).unwrap();
    server.sql("CREATE DATABASE older TEMPLATE consulting_tool").unwrap();
    server.sql_in("consulting_tool", &insert(7)).unwrap();
    watched.checkpoint(None).await.unwrap();
    server.sql(disconnect).unwrap();
    server.sql("DROP DATABASE consulting_tool").unwrap();
    server.sql("ALTER DATABASE older RENAME TO consulting_tool").unwrap();
    let findings = watched.findings().await;
    assert_eq!((findings[0].kind, findings[0].first_bad.seq), (FindingKind::Rollback, Some(6)));
    server.sql_in("consulting_tool", &insert(20)).unwrap();
    let findings = watched.findings().await;
    assert_eq!((findings[0].kind, findings[0].first_bad.seq), (FindingKind::Rollback, Some(6)), "put back and gone on");
    let told = watched.checkpoint(None).await.unwrap();
    assert_eq!(told.findings[0].code, "ROLLBACK");
    watched.checkpoint(Some("restore drill")).await.unwrap();
    assert_eq!(watched.findings().await, [], "what was signed beyond the point of the restore counts no more");
    watched
        .chained
        .server
        .sql_in("consulting_tool", "SET session_replication_role = replica; UPDATE audit_logs SET action = 'x'")
        .unwrap();
    assert_eq!(watched.findings().await[0].kind, FindingKind::RowAltered);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_incremental_verification_reads_what_is_new_and_misses_nothing_there() {
    let watched = Watched::new(Chained::new().await);
    watched.chained.run(&history(100)).await;
    let outcome = watched.verify(Scope::Incremental).await.unwrap();
    assert!(outcome.summary.contains("100 rows"), "without a checkpoint everything is verified: {}", outcome.summary);
    watched.chained.add(7).await;
    watched.checkpoint(None).await.unwrap();
    let outcome = watched.verify(Scope::Incremental).await.unwrap();
    assert!(outcome.is_green() && outcome.summary.contains("7 rows"), "{}", outcome.summary);
    watched.chained.add(5).await;
    watched.chained.run("SET session_replication_role = replica").await;
    let newest = "(SELECT id FROM audit.chain_seq ORDER BY seq DESC LIMIT 1)";
    watched.chained.run(&format!("UPDATE audit_logs SET success = NULL WHERE id = {newest}")).await;
    let outcome = watched.verify(Scope::Incremental).await.unwrap();
    assert_eq!(outcome.findings[0].code, "ROW_ALTERED");
    assert!(outcome.findings[0].message.contains("seq 112"), "{}", outcome.findings[0].message);
}

#[tokio::test(flavor = "multi_thread")]
async fn f103_a_change_of_privileges_is_told_once_by_the_next_checkpoint() {
    let watched = Watched::new(Chained::new().await);
    watched.checkpoint(None).await.unwrap();
    watched.chained.run("CREATE ROLE auditor; GRANT SELECT ON audit.chain_seq TO auditor").await;
    let told = watched.checkpoint(None).await.unwrap();
    assert_eq!(told.findings[0].code, "SCHEMA_CHANGED", "{told:?}");
    assert!(watched.checkpoint(None).await.unwrap().is_green());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_with_a_login_computes_from_one_signed_hash_to_the_next() {
    use dbagent::ops::audit_witness;

    let watched = Watched::new(Chained::new().await);
    for rows in [0, 7, 30, 0, 5] {
        watched.chained.run(&insert(rows)).await;
        watched.checkpoint(None).await.unwrap();
    }
    let witness = async |pairs| {
        let sample = audit_witness::Sample {
            connection: watched.agent(),
            pairs,
            lock_timeout: options(Scope::Full).lock_timeout,
            profiles: Default::default(),
        };
        let options = audit_witness::Options {
            silence: chrono::TimeDelta::minutes(15),
            memory: watched.files.path().to_owned(),
            sample: Some(sample),
        };
        let outcome =
            audit_witness::run(std::slice::from_ref(&watched.repository), &options, &setting()).await.unwrap();
        outcome.findings.iter().map(|finding| (finding.code.clone(), finding.message.clone())).collect::<Vec<_>>()
    };
    assert_eq!(witness(99).await, []);
    watched.chained.run("SET session_replication_role = replica").await;
    let row = "WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 20)";
    let edits = [
        (
            format!("UPDATE audit_logs SET resource = 'x' {row}"),
            format!("UPDATE audit_logs SET resource = 'invoice' {row}"),
        ),
        // With everything after it hashed again: between 7 and 37 no rows lead to what was signed.
        (format!("UPDATE audit_logs SET user_agent = 'x' {row}; {}", rewrite(20)), String::new()),
    ];
    for (edit, undo) in edits {
        watched.chained.run(&edit).await;
        let told = witness(99).await;
        assert!(
            told.len() == 1 && told[0].0 == "HISTORY_REWRITTEN" && told[0].1.contains("places "),
            "{edit}: {told:?}"
        );
        watched.chained.run(&undo).await;
    }
    // The first pair lies before it: what is drawn is all that is claimed.
    let alone: Vec<_> = [witness(1).await, witness(1).await].concat();
    assert!(alone.iter().all(|(kind, _)| kind == "HISTORY_REWRITTEN"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_witness_without_the_database_sees_silence_loss_and_shrinking() {
    use dbagent::ops::audit_witness;

    let watched = Watched::new(Chained::new().await);
    let witness = async |silence: i64| {
        let options = audit_witness::Options {
            silence: chrono::TimeDelta::seconds(silence),
            memory: watched.files.path().to_owned(),
            sample: None,
        };
        let repositories = std::slice::from_ref(&watched.repository);
        let outcome = audit_witness::run(repositories, &options, &setting()).await.unwrap();
        outcome.findings.iter().map(|finding| finding.message.clone()).collect::<Vec<_>>().join("; ")
    };
    assert!(witness(900).await.contains("there is no checkpoint"));
    watched.chained.add(4).await;
    watched.checkpoint(None).await.unwrap();
    assert_eq!(witness(900).await, "");
    assert_eq!(files(&watched, ".sig").len(), 2, "the witness has signed it too");
    assert!(witness(-1).await.contains("the agent is silent"));
    watched.checkpoint(None).await.unwrap();
    assert_eq!(witness(900).await, "");
    for path in files(&watched, "").iter().rev().take(3) {
        std::fs::remove_file(path).unwrap();
    }
    assert!(witness(900).await.contains("was seen here and is gone"));
}
