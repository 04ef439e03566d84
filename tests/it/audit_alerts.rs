//! Alerts: told once for each kind, on the channel, until somebody acknowledges them; never lost, also when the database is
//! down or the agent dies between two steps.

use std::time::Duration;

use dbagent::model::audit::alert::is_authentic;
use dbagent::model::audit::finding::{ChainFinding, FindingKind};
use dbagent::model::outcome::Verdict;
use dbagent::ops::alert;
use dbagent::ops::audit_verify::Scope;
use dbagent::steps::alert::deliver;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, NoTls};

use crate::audit_stage::{self, Chained, KEY, Watched, history};
use crate::bc003_server;
use crate::cli::Desk;

/// A connection that listens as the consumers of alerts do.
struct Listener {
    heard: mpsc::UnboundedReceiver<Value>,
    client: tokio_postgres::Client,
}

impl Listener {
    async fn new(server: &dbagent::steps::scratch::ScratchServer, database: &str) -> Self {
        let mut config = tokio_postgres::Config::new();
        config.host_path(server.directory()).port(server.port()).user("postgres").dbname(database);
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let (tell, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notice) = message {
                    assert!(notice.payload().len() <= 4096);
                    tell.send(serde_json::from_str(notice.payload()).unwrap_or(Value::Null)).unwrap();
                }
            }
        });
        client.batch_execute("LISTEN audit_tampering_detected").await.unwrap();
        Self { heard, client }
    }

    async fn next(&mut self) -> Value {
        tokio::time::timeout(Duration::from_secs(20), self.heard.recv()).await.unwrap().unwrap()
    }

    /// What was heard until now.
    async fn rest(&mut self) -> Vec<Value> {
        self.client.batch_execute("SELECT 1").await.unwrap();
        let mut rest = Vec::new();
        while let Ok(value) = self.heard.try_recv() {
            rest.push(value);
        }
        rest
    }
}

async fn tamper(watched: &Watched) {
    let edit = "SET session_replication_role = replica; UPDATE audit_logs SET action = 'forged' WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 33)";
    watched.chained.run(edit).await;
}

async fn watched() -> Watched {
    let chained = Chained::new().await;
    chained.run(&history(60)).await;
    Watched::new(chained)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_superusers_edit_is_heard_by_who_listens_and_repeated_until_acknowledged() {
    let watched = watched().await;
    let mut listener = Listener::new(&watched.chained.server, "consulting_tool").await;
    assert!(watched.verify(Scope::Full).await.unwrap().is_green());
    assert_eq!(listener.rest().await, [] as [Value; 0], "a whole chain raises nothing");
    tamper(&watched).await;
    let outcome = watched.verify(Scope::Full).await.unwrap();
    assert_eq!((outcome.verdict, outcome.findings.len()), (Verdict::Findings, 1), "{outcome:?}");
    let told = listener.next().await;
    for (field, value) in [
        ("severity", "critical"),
        ("message", "Audit log hash chain verification failed"),
        ("kind", "ROW_ALTERED"),
        ("chain", "audit_logs"),
        ("database", "consulting_tool"),
    ] {
        assert_eq!(told[field], value);
    }
    assert_eq!((&told["first_bad"]["seq"], &told["bad_rows"]), (&33.into(), &1.into()));
    for field in
        ["timestamp", "alert_id", "run_id", "system_identifier", "expected", "actual", "last_good_checkpoint", "hmac"]
    {
        assert!(told[field].is_string(), "{field} in {told}");
    }
    assert!(is_authentic(&told, KEY) && !told.to_string().contains("forged"), "no content of rows");
    assert_eq!(watched.chained.text("SELECT count(*) FROM audit.findings WHERE kind = 'ROW_ALTERED'").await, "1");

    // F109, F112: found again, it is the same alert, and it is not sent before its time, nor stored again.
    watched.verify(Scope::Full).await.unwrap();
    assert_eq!(listener.rest().await, [] as [Value; 0]);
    let day =
        std::fs::read_dir(watched.files.path().join("repository/alerts")).unwrap().next().unwrap().unwrap().path();
    let object = day.join(format!("{}.json", told["alert_id"].as_str().unwrap()));
    std::fs::remove_file(&object).unwrap();
    watched.verify(Scope::Full).await.unwrap();
    let again: Value = serde_json::from_slice(&std::fs::read(object).unwrap()).unwrap();
    assert_eq!((&again["id"], &again["payload"]["alert_id"]), (&told["alert_id"], &told["alert_id"]));
    assert!(is_authentic(&again["payload"], KEY));
    let stored: Vec<_> = std::fs::read_dir(day).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(stored, [std::ffi::OsString::from(format!("{}.json", told["alert_id"].as_str().unwrap()))]);
    watched.chained.run("UPDATE audit.alert_outbox SET last_sent_at = now() - interval '5 minutes'").await;
    assert!(deliver(&watched.alerts()).await.is_empty());
    assert_eq!(listener.next().await["alert_id"], told["alert_id"]);
    let (kept, waiting) = alert::list(&watched.alerts(), false).await.unwrap();
    assert_eq!((kept.len(), kept[0].sends, waiting.len()), (1, 2, 0));

    let id = kept[0].id.parse().unwrap();
    assert_eq!(alert::acknowledge(&watched.alerts(), Some(id), "ada", Some("a drill")).await.unwrap().len(), 1);
    watched.chained.run("UPDATE audit.alert_outbox SET last_sent_at = now() - interval '1 hour'").await;
    deliver(&watched.alerts()).await;
    assert_eq!(listener.rest().await, [] as [Value; 0], "what is acknowledged is not repeated");
    assert!(alert::acknowledge(&watched.alerts(), Some(id), "ada", None).await.is_err(), "nor acknowledged twice");
    assert!(watched.files.path().join("repository/alerts").is_dir(), "the second channel has it too");
}

#[tokio::test(flavor = "multi_thread")]
async fn f112_a_million_bad_rows_are_one_alert() {
    let watched = watched().await;
    watched.chained.run("SET session_replication_role = replica; UPDATE audit_logs SET success = NULL").await;
    let outcome = watched.verify(Scope::Full).await.unwrap();
    assert_eq!(outcome.findings.len(), 1);
    let counts = "SELECT count(*) || ' ' || max((payload ->> 'bad_rows')::int) || ' ' || max((payload -> 'first_bad' ->> 'seq')::int) FROM audit.alert_outbox";
    assert_eq!(watched.chained.text(counts).await, "1 60 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f113_while_the_database_is_down_alerts_wait_and_are_told_when_it_is_back() {
    let watched = watched().await;
    let Watched { chained, files, repository } = watched;
    let mut chained = std::sync::Arc::into_inner(chained).unwrap();
    chained.stop_server();
    let watched = Watched { chained: chained.into(), files, repository };
    for _ in 0..2 {
        watched.verify(Scope::Full).await.unwrap_err();
    }
    assert_eq!(watched.spool().names().unwrap().len(), 1, "the same is kept once");
    let troubles = deliver(&watched.alerts()).await;
    assert_eq!(troubles[0].code, "alerts-waiting");
    let (_, waiting) = alert::list(&watched.alerts(), false).await.unwrap();
    assert_eq!(waiting.len(), 1);

    let Watched { chained, files, repository } = watched;
    let mut chained = std::sync::Arc::into_inner(chained).unwrap();
    chained.resume_server();
    let watched = Watched { chained: chained.into(), files, repository };
    let mut listener = Listener::new(&watched.chained.server, "consulting_tool").await;
    assert!(deliver(&watched.alerts()).await.is_empty());
    assert_eq!(listener.next().await["kind"], "VERIFY_FAILED_TO_RUN");
    assert!(watched.spool().names().unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn f109_whoever_listens_late_or_again_or_slowly_still_hears() {
    let watched = watched().await;
    tamper(&watched).await;
    watched.verify(Scope::Full).await.unwrap();
    let state = "SELECT count(*) || ' ' || sum(sends) FROM audit.alert_outbox";
    assert_eq!(watched.chained.text(state).await, "1 1", "sent, and nobody listened");
    let repeat = async || {
        watched.chained.run("UPDATE audit.alert_outbox SET last_sent_at = now() - interval '5 minutes'").await;
        assert!(deliver(&watched.alerts()).await.is_empty());
    };
    let mut late = Listener::new(&watched.chained.server, "consulting_tool").await;
    repeat().await;
    let told = late.next().await;
    assert_eq!(told["first_bad"]["seq"], 33);
    let ended =
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN%' AND pid <> pg_backend_pid()";
    assert_eq!(watched.chained.text(ended).await, "true", "the listener is cut off");
    repeat().await;
    // One that sits in a transaction is given what came meanwhile once that ends.
    let mut slow = Listener::new(&watched.chained.server, "consulting_tool").await;
    slow.client.batch_execute("BEGIN").await.unwrap();
    repeat().await;
    assert_eq!(slow.rest().await, [] as [Value; 0]);
    slow.client.batch_execute("COMMIT").await.unwrap();
    assert_eq!(slow.next().await["alert_id"], told["alert_id"]);
    assert_eq!(watched.chained.text(state).await, "1 4");
}

/// A queue of notices that is full ends the COMMIT of whoever notifies, where notices are put into it (PostgreSQL,
/// src/backend/commands/async.c, PreCommit_Notify). Before PostgreSQL 17 the queue has 8 GiB, so here that COMMIT ends for want
/// of the lock which it takes there: another notifier holds it, whose own commit waits for a standby that never comes.
#[tokio::test(flavor = "multi_thread")]
async fn f110_while_no_commit_with_a_notice_succeeds_the_outbox_keeps_it_and_repeats() {
    let watched = watched().await;
    let mut listener = Listener::new(&watched.chained.server, "consulting_tool").await;
    for statement in [
        "SET synchronous_commit = local",
        "ALTER DATABASE consulting_tool SET synchronous_commit = local",
        "ALTER SYSTEM SET synchronous_standby_names = 'nobody'",
        "SELECT pg_reload_conf()",
    ] {
        watched.chained.run(statement).await;
    }
    let blocker = watched.chained.session().await;
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let is_over = over.clone();
    let blocking = tokio::spawn(async move {
        blocker.batch("SET synchronous_commit = on").await.unwrap();
        // The setting may not have reached everybody the first time.
        while !is_over.load(std::sync::atomic::Ordering::SeqCst) {
            blocker.batch("NOTIFY elsewhere").await.unwrap();
        }
    });
    let stuck = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    while watched.chained.text(stuck).await == "0" {}
    tamper(&watched).await;
    let outcome = watched.verify(Scope::Full).await.unwrap();
    let waiting = outcome.findings.iter().find(|finding| finding.code == "alerts-waiting").unwrap();
    assert!(waiting.message.contains("send an alert"), "{}", waiting.message);
    let state = "SELECT count(*) || ' ' || sum(sends) FROM audit.alert_outbox";
    assert_eq!(watched.chained.text(state).await, "1 0", "kept by a commit of its own, and not sent");
    assert_eq!(listener.rest().await, [] as [Value; 0]);
    over.store(true, std::sync::atomic::Ordering::SeqCst);
    watched.chained.run("ALTER SYSTEM RESET synchronous_standby_names").await;
    watched.chained.run("SELECT pg_reload_conf()").await;
    blocking.await.unwrap();
    assert!(deliver(&watched.alerts()).await.is_empty());
    assert_eq!(listener.next().await["first_bad"]["seq"], 33);
    assert_eq!(watched.chained.text(state).await, "1 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f110_an_alert_that_cannot_be_sent_is_kept_and_sent_later() {
    let watched = watched().await;
    let function =
        watched.chained.text("SELECT pg_get_functiondef('public.alert_audit_log_tampering(uuid)'::regprocedure)").await;
    watched.chained.run("DROP FUNCTION public.alert_audit_log_tampering(uuid)").await;
    tamper(&watched).await;
    let outcome = watched.verify(Scope::Full).await.unwrap();
    assert!(outcome.findings.iter().any(|finding| finding.code == "alerts-waiting"), "{outcome:?}");
    let state = "SELECT count(*) || ' ' || sum(sends) FROM audit.alert_outbox";
    assert_eq!(watched.chained.text(state).await, "1 0", "kept, and not sent");
    watched.chained.run(&function).await;
    assert!(deliver(&watched.alerts()).await.is_empty());
    assert_eq!(watched.chained.text(state).await, "1 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f108_f111_what_is_too_long_is_sent_short_and_what_is_forged_is_no_alert() {
    let watched = watched().await;
    let mut listener = Listener::new(&watched.chained.server, "consulting_tool").await;
    for length in [10, 3000, 4200, 20_000] {
        watched
            .chained
            .run(&format!(
                "INSERT INTO audit.alert_outbox (alert_id, run_id, kind, severity, payload)
                 VALUES (gen_random_uuid(), gen_random_uuid(), 'ROW_ALTERED', 'critical',
                     jsonb_build_object('severity', 'critical', 'message', repeat('é', {length}), 'kind', 'ROW_ALTERED'))"
            ))
            .await;
        deliver(&watched.alerts()).await;
        let told = listener.next().await;
        assert_eq!(told["severity"], "critical", "{length}");
        assert_eq!(told["shortened"] == true, length > 1000, "{length}");
    }
    watched
        .chained
        .application()
        .await
        .batch("SELECT pg_catalog.pg_notify('audit_tampering_detected', '{\"severity\": \"critical\"}')")
        .await
        .unwrap();
    let forged = listener.next().await;
    assert!(!is_authentic(&forged, KEY));
    assert_eq!(
        watched.chained.text("SELECT count(*) FROM audit.alert_outbox").await,
        "4",
        "the outbox does not know it"
    );
}

#[test]
fn a_payload_names_every_kind_in_words() {
    for kind in FindingKind::ALL {
        assert!(ChainFinding::new(kind, "x").to_finding().message.starts_with(kind.name()));
        assert!(kind.headline().starts_with("Audit log"));
    }
}

/// A desk whose database has a chained audit log.
fn desk() -> Desk {
    let desk = bc003_server::desk(None);
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&audit_stage::insert(20));
    desk
}

#[test]
fn the_shell_installs_verifies_signs_and_acknowledges() {
    let desk = desk();
    assert_eq!(desk.json(0, &["audit", "install", "--yes"])["chained"], true);
    let verified = desk.json(0, &["audit", "verify"]);
    assert!(verified["outcome"]["summary"].as_str().unwrap().contains("20 rows"), "{verified}");
    desk.json(0, &["audit", "checkpoint"]);
    desk.json(0, &["audit", "verify", "--incremental"]);
    desk.json(0, &["alert", "list"]);
    desk.site.ask("SET session_replication_role = replica; DELETE FROM audit_logs WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 7)");
    let broken = desk.json(13, &["audit", "verify"]);
    assert_eq!(broken["outcome"]["findings"][0]["code"], "ROW_MISSING", "{broken}");
    let listed = desk.json(3, &["alert", "list"]);
    let id = listed["alerts"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(listed["alerts"][0]["payload"]["first_bad"]["seq"], 7);
    let shown = String::from_utf8(desk.run(&["alert", "list"]).stdout).unwrap();
    assert!(shown.contains("first bad: seq 7, id ") && shown.contains("good checkpoint: checkpoints/"), "{shown}");
    desk.json(10, &["alert", "ack", "00000000-0000-7000-8000-000000000000", "--by", "ada"]);
    desk.json(0, &["alert", "ack", &id, "--by", "ada", "--note", "a drill"]);
    desk.json(0, &["alert", "list"]);
    desk.json(0, &["alert", "test"]);
    desk.json(0, &["alert", "ack", "--all", "--by", "ada"]);
    assert_eq!(desk.json(0, &["alert", "list", "--all"])["alerts"].as_array().unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verification_that_did_not_run_is_an_alert_of_the_next_checkpoint() {
    let watched = watched().await;
    let hour = chrono::TimeDelta::hours(1);
    assert!(watched.checkpoint_expecting(Some(hour), None).await.unwrap().is_green(), "the chain is young");
    let waited = |outcome: dbagent::model::outcome::Outcome| {
        let codes: Vec<_> = outcome.findings.into_iter().map(|finding| finding.code).collect();
        assert_eq!(codes, ["VERIFY_FAILED_TO_RUN"]);
    };
    let never = chrono::TimeDelta::zero();
    waited(watched.checkpoint_expecting(Some(never), None).await.unwrap());
    assert!(watched.verify(Scope::Full).await.unwrap().is_green());
    assert!(watched.checkpoint_expecting(Some(hour), None).await.unwrap().is_green());
    waited(watched.checkpoint_expecting(Some(never), None).await.unwrap());
    let open = "SELECT count(*) || ' ' || min(payload ->> 'detail') FROM audit.alert_outbox";
    let told = watched.chained.text(open).await;
    assert!(
        told.starts_with("1 no verification of the chain was signed since"),
        "one alert until it is acknowledged: {told}"
    );
    assert_eq!(watched.signed().await.count(), 5, "checkpoints are signed all the same");
}

#[test]
fn f103_what_somebody_changed_of_the_protection_is_said_and_put_back() {
    let desk = desk();
    let changes = [
        "ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain",
        "DROP TRIGGER zz_audit_chain ON audit_logs",
        "CREATE OR REPLACE FUNCTION audit.chain_row() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
        "ALTER FUNCTION audit.close_head() OWNER TO postgres; ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close",
        "ALTER ROLE audit_owner LOGIN; ALTER TABLE audit.chain_seq OWNER TO postgres",
    ];
    for change in changes {
        let change = change.replace("postgres", desk.site.connection().user());
        desk.site.ask(&change);
        let installed = desk.json(3, &["audit", "install", "--yes"]);
        let told = installed["not_as_installed"].as_array().unwrap().len();
        assert!(told > 0, "{change}: {installed}");
        desk.json(13, &["audit", "verify"]);
        let repaired = desk.json(0, &["audit", "repair", "--yes"]);
        assert_eq!((repaired["before"].as_array().unwrap().len(), &repaired["left"]), (told, &serde_json::json!([])));
        assert_eq!(desk.json(0, &["audit", "install", "--yes"])["chained"], true);
        desk.site.ask(&format!("SET ROLE bc003_app; {}", audit_stage::insert(2)));
        assert_eq!(desk.site.ask(&format!("SELECT ({})", audit_stage::INTEGRITY)), "whole", "{change}");
        desk.json(0, &["audit", "verify"]);
    }
    // Whose privilege it is and why the trigger is there, a person must say.
    desk.site.ask("GRANT UPDATE ON audit_logs TO bc003_app");
    let left = desk.json(3, &["audit", "repair", "--yes"]);
    assert!(left["left"][0].as_str().unwrap().contains("bc003_app may UPDATE"), "{left}");
    // In a database whose log was never chained nothing is put on.
    desk.site.server.sql("CREATE DATABASE plain").unwrap();
    desk.json(15, &["audit", "repair", "--database", "plain", "--yes"]);
}

#[cfg(feature = "failpoints")]
#[test]
fn g10_an_agent_killed_between_any_two_steps_loses_no_alert() {
    use std::os::unix::process::ExitStatusExt as _;

    let desk = desk();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut fired = 0;
    for (at, point) in ["alert.spooled", "alert.kept", "alert.sent"].iter().enumerate() {
        let seq = at + 3;
        let mut listener = runtime.block_on(Listener::new(&desk.site.server, "shop"));
        desk.site.ask(&format!("SET session_replication_role = replica; UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = {seq})"));
        let killed =
            desk.command(&["audit", "verify"]).env("DBAGENT_FAILPOINT", format!("{point}=kill")).output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        fired += 1;
        desk.run(&["audit", "checkpoint"]);
        let told = runtime.block_on(listener.next());
        assert_eq!((&told["kind"], &told["first_bad"]["seq"]), (&"ROW_ALTERED".into(), &3.into()), "{point}");
        desk.json(0, &["alert", "ack", "--all", "--by", "test"]);
    }
    assert_eq!(fired, 3);
}

/// Agents killed between two steps, listeners that come late, a database that is down, five hundred times.
#[cfg(feature = "long")]
#[test]
fn g10_long_five_hundred_alerts_are_all_heard() {
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Instant;

    const RUNS: usize = 500;
    let mut desk = desk();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let points = ["alert.spooled", "alert.kept", "alert.sent"];
    desk.site.ask("SET session_replication_role = replica; UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq WHERE seq = 3)");
    let (mut took, mut fired) = (Vec::new(), [0; 5]);
    for run in 0..RUNS {
        let listen = |desk: &Desk| runtime.block_on(Listener::new(&desk.site.server, "shop"));
        let (mut listener, kind) = match run % 5 {
            at @ 0..=2 => {
                let listener = listen(&desk);
                let point = format!("{}=kill", points[at]);
                let killed = desk.command(&["audit", "verify"]).env("DBAGENT_FAILPOINT", point).output().unwrap();
                fired[at] += i32::from(killed.status.signal() == Some(9));
                (listener, "ROW_ALTERED")
            }
            3 => {
                desk.run(&["audit", "verify"]);
                fired[3] += desk
                    .site
                    .ask("SELECT max(sends) FROM audit.alert_outbox WHERE acknowledged_at IS NULL")
                    .parse::<i32>()
                    .unwrap();
                desk.site.ask("UPDATE audit.alert_outbox SET last_sent_at = now() - interval '5 minutes'");
                (listen(&desk), "ROW_ALTERED")
            }
            _ => {
                desk.site.server.stop();
                fired[4] += i32::from(!desk.run(&["audit", "verify"]).status.success());
                desk.site.server.resume().unwrap();
                (listen(&desk), "VERIFY_FAILED_TO_RUN")
            }
        };
        let recovered = Instant::now();
        desk.run(&["audit", "checkpoint"]);
        let told = runtime.block_on(listener.next());
        took.push(recovered.elapsed());
        assert_eq!(told["kind"], kind, "run {run}");
        desk.json(0, &["alert", "ack", "--all", "--by", "test"]);
    }
    took.sort_unstable();
    audit_stage::figure(&format!(
        "{RUNS} alerts, {fired:?} faults fired, all heard; median {:?}, longest {:?}",
        took[RUNS / 2],
        took[RUNS - 1]
    ));
    assert_eq!(fired, [100; 5]);
    assert!(took[RUNS / 2] < Duration::from_secs(5) && took[RUNS - 1] < Duration::from_secs(300));
}

#[test]
fn f106b_a_restored_log_keeps_its_hashes_and_goes_on_as_the_same_chain() {
    let desk = desk();
    let plan = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, text + "[job.log]\nverb = 'dump'\nschedule = '0 4 * * 0'\ntables = ['audit_logs']\n")
        .unwrap();
    desk.json(0, &["job", "run", "log"]);
    let list = desk.json(0, &["backup", "list", "--job", "log"]);
    let id = list["backups"][0]["id"].as_str().unwrap();
    let restored = desk.json(0, &["restore", "--database", "shop", "--backup", id, "--to-database", "copy"]);
    let audit = &restored["audit"];
    assert_eq!((&audit["rebuilt"], &audit["chain"]), (&20.into(), &"whole".into()), "{audit}");
    assert_eq!(audit["stated"], "not_needed", "a copy is not what is signed");
    let ask = |query: &str| desk.site.server.sql_in("copy", query).unwrap();
    let hashes = "SELECT md5(string_agg(hash, ',' ORDER BY recorded_at, id)) FROM audit_logs";
    assert_eq!(ask(hashes), desk.site.ask(hashes), "loaded as they were");
    ask(&audit_stage::insert(1));
    ask("DELETE FROM audit.chain_seq; UPDATE audit.chain_head SET seq = 0, hash = NULL");
    ask("DELETE FROM audit.chain_head");
    assert!(desk.site.server.sql_in("copy", &audit_stage::insert(1)).is_err(), "without a head nothing is added");
    let rebuilt = desk.json(0, &["audit", "rebuild", "--database", "copy", "--yes"]);
    assert_eq!(rebuilt["rows"], 21);
    ask(&audit_stage::insert(3));
    assert_eq!(ask(&format!("SELECT ({})", audit_stage::INTEGRITY)), "whole");
    desk.json(0, &["audit", "verify", "--database", "copy"]);
    desk.json(15, &["audit", "rebuild", "--database", "copy", "--yes"]);
}
