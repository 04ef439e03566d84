//! The golden rows: a server or a function that hashes otherwise is told, and a log that was carried elsewhere by the tools that
//! everybody has keeps its hashes.

use std::process::{Command, Stdio};

use dbagent::model::audit::finding::FindingKind;
use dbagent::ops::audit_verify::{self, Scope, Signed};
use dbagent::ops::{audit_install, audit_rebuild};
use dbagent::postgres::{Connection, find_tool};
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};

use crate::audit_stage::{self, Chained, Watched, history, insert, options, setting};
use crate::bc003_server::{self, Database};
use crate::stage::agent::RunningAgent;

/// The same function with another opinion of empty text.
const OTHERWISE: &str = "CREATE OR REPLACE FUNCTION audit.text_field(value text) RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(int4send(octet_length(convert_to(nullif(value, ''), 'UTF8'))) || convert_to(value, 'UTF8'), '\\xffffffff'::bytea)";

/// The same function, which fails.
const RAISES: &str =
    "CREATE OR REPLACE FUNCTION audit.text_field(value text) RETURNS bytea LANGUAGE plpgsql STABLE PARALLEL SAFE
    AS 'BEGIN RAISE EXCEPTION ''no such thing''; END'";

#[tokio::test(flavor = "multi_thread")]
async fn f106_a_function_that_hashes_otherwise_is_found_whatever_is_verified() {
    let watched = Watched::new(Chained::new().await);
    watched.chained.add(5).await;
    assert!(watched.verify(Scope::Full).await.unwrap().is_green());
    assert!(watched.checkpoint(None).await.unwrap().is_green());
    let found = [
        (OTHERWISE, "golden rows another hash"),
        (RAISES, "cannot be called"),
        ("REVOKE EXECUTE ON FUNCTION audit.row_bytes FROM dbagent_verify", "may not be called by dbagent_verify"),
        ("ALTER FUNCTION audit.row_hash RENAME TO row_digest", "audit.row_hash: is gone"),
    ];
    for (change, told) in found {
        watched.chained.run(change).await;
        for scope in [Scope::Full, Scope::Incremental] {
            let findings = watched.verify(scope.clone()).await.unwrap().findings;
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!(findings[0].code, FindingKind::SchemaChanged.name());
            assert!(findings[0].message.contains(told), "{scope:?}: {}", findings[0].message);
        }
        let signed = watched.checkpoint(None).await.unwrap();
        assert!(signed.findings[0].message.contains(told), "{signed:?}");
    }
    let raised = "SELECT count(*) || ' ' || min(kind) || ' ' || max(kind) FROM audit.alert_outbox";
    assert_eq!(
        watched.chained.text(raised).await,
        "1 SCHEMA_CHANGED SCHEMA_CHANGED",
        "told once, by whoever sees it first"
    );
}

#[test]
fn f106_an_agent_that_begins_to_lead_holds_the_golden_rows_against_its_server() {
    let desk = bc003_server::desk(Some("[job.audit-verify]\nverb = 'audit-verify'\nschedule = '0 0 29 2 *'\n"));
    desk.json(0, &["audit", "install", "--yes"]);
    let mut agent = RunningAgent::start(desk.command(&["run"]));
    agent.says("hash the golden rows as they must");
    drop(agent);
    desk.json(0, &["alert", "list"]);
    desk.site.ask(OTHERWISE);
    let mut agent = RunningAgent::start(desk.command(&["run"]));
    agent.says("SCHEMA_CHANGED: audit.row_hash");
    drop(agent);
    let alerts = desk.json(3, &["alert", "list"]);
    assert_eq!(alerts["alerts"][0]["kind"], "SCHEMA_CHANGED", "{alerts}");
}

/// What a verification that knows of nothing signed finds.
async fn findings(connection: &Connection) -> Vec<dbagent::model::audit::finding::ChainFinding> {
    let (options, nothing) = (options(Scope::Full), Signed::default());
    audit_verify::verify(&options, connection, &nothing, &setting()).await.unwrap().findings
}

const HASHES: &str =
    "SELECT md5(string_agg(hash || coalesce(previous_hash, ''), ',' ORDER BY recorded_at, id)) FROM audit_logs";

fn tool(name: &str, server: &ScratchServer, database: &str) -> Command {
    let mut command = Command::new(find_tool(None, name).unwrap());
    command.env("PGHOST", server.directory()).env("PGPORT", server.port().to_string());
    command.args(["-U", "postgres", "-d", database]);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn f106_a_log_that_pg_dump_carried_to_another_cluster_is_the_same_chain_there() {
    let chained = Chained::new().await;
    chained.run(&history(300)).await;
    chained.add(20).await;
    let other = bc003_server::start();
    for role in ["audit_owner", "dbagent_verify", "dbagent_part", "dbagent_part_owner", "bc003_app"] {
        other.sql(&format!("CREATE ROLE {role}")).unwrap();
    }
    other.sql("CREATE DATABASE carried").unwrap();
    let mut dump = tool("pg_dump", &chained.server, "consulting_tool");
    let mut dump = dump.arg("--no-subscriptions").stdout(Stdio::piped()).spawn().unwrap();
    let restored = tool("psql", &other, "carried")
        .args(["-qX", "-v", "ON_ERROR_STOP=1"])
        .stdin(dump.stdout.take().unwrap())
        .stdout(Stdio::null())
        .output()
        .unwrap();
    assert!(
        dump.wait().unwrap().success() && restored.status.success(),
        "{}",
        String::from_utf8_lossy(&restored.stderr)
    );
    assert_eq!(other.sql_in("carried", HASHES).unwrap(), chained.text(&format!("({HASHES})")).await);
    let connection = other.connection().unwrap().with_database("carried");
    assert_eq!(findings(&connection).await, []);
    other.sql_in("carried", &insert(3)).unwrap();
    assert_eq!(other.sql_in("carried", &format!("SELECT ({})", audit_stage::INTEGRITY)).unwrap(), "whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn f106_a_log_that_logical_replication_carried_becomes_the_same_chain_there() {
    let settings = vec![("wal_level".to_owned(), "logical".to_owned())];
    let server = ScratchServer::start(ScratchOptions { settings, ..ScratchOptions::default() }).unwrap();
    let chained = Chained::on(Database::on(server).await).await;
    chained.run(&history(100)).await;
    chained.run("CREATE PUBLICATION log FOR TABLE audit_logs WITH (publish_via_partition_root = true)").await;
    let copy = Database::new().await;
    let (host, port) = (chained.server.directory().display().to_string(), chained.server.port());
    copy.run(&format!(
        "CREATE SUBSCRIPTION log CONNECTION 'host={host} port={port} user=postgres dbname=consulting_tool' PUBLICATION log"
    ))
    .await;
    chained.add(20).await;
    // Copied at first, and streamed since.
    while copy.text("SELECT count(*) FROM audit_logs").await != "120" {
        tokio::task::yield_now().await;
    }
    copy.run("DROP SUBSCRIPTION log").await;
    let hashes = format!("({HASHES})");
    assert_eq!(copy.text(&hashes).await, chained.text(&hashes).await);
    // What was carried is chained again by its own links; nothing is hashed anew.
    let connection = copy.server.connection().unwrap().with_database("consulting_tool");
    assert!(!audit_install::run(&connection, &setting()).await.unwrap().chained);
    assert_eq!(audit_rebuild::run(&connection, &[], &Default::default(), &setting()).await.unwrap(), 120);
    let (_, left) = audit_install::repair(&connection, &setting()).await.unwrap();
    assert_eq!(left, []);
    copy.run(&insert(5)).await;
    assert_eq!(findings(&connection).await, []);
    assert_eq!(copy.text(&format!("({})", audit_stage::INTEGRITY)).await, "whole");
}
