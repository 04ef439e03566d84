//! What somebody with every right in the database can do to the log, and what the verification says of it: the right kind
//! and the first bad row, every time; and nothing at all while nobody does anything.

use std::sync::Arc;

use dbagent::model::audit::finding::{ChainFinding, FindingKind};
use dbagent::ops::audit_verify::{self, Scope, Signed, Verified};
use dbagent::postgres::Connection;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::audit_stage::{Chained, history, insert, options, setting};

/// Rows of the log that is attacked.
pub const ROWS: u32 = 150;

async fn verified(connection: &Connection, scope: Scope) -> Verified {
    audit_verify::verify(&options(scope), connection, &Signed::default(), &setting()).await.unwrap()
}

/// A kind of attack at place `at` of `rows`: what is done, and what must be said of it.
struct Attack {
    name: &'static str,
    sql: fn(u32, u32) -> String,
    kind: FindingKind,
    /// The first bad place; nothing where there is none to name.
    seq: fn(u32, u32) -> Option<u32>,
}

fn row(seq: u32) -> String {
    format!("id = (SELECT id FROM audit.chain_seq WHERE seq = {seq})")
}

/// Hashes rows again from place `from` to `to`, each after the one before.
fn rehash(from: u32, to: u32) -> String {
    format!(
        "DO $$ DECLARE p record; before text := (SELECT a.hash FROM audit_logs a JOIN audit.chain_seq USING (id, recorded_at) WHERE seq = {from} - 1);
         BEGIN FOR p IN SELECT * FROM audit.chain_seq WHERE seq BETWEEN {from} AND {to} ORDER BY seq LOOP
             UPDATE audit_logs SET previous_hash = before, hash = audit.row_hash(id, user_id, session_id, action, resource, resource_id,
                 details, ip_address, user_agent, success, error_code, error_message, recorded_at, before)
             WHERE id = p.id AND recorded_at = p.recorded_at RETURNING hash INTO before;
         END LOOP; END $$;"
    )
}

const FORGED: &str = "ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain;
    INSERT INTO audit_logs (id, action, hash, previous_hash, recorded_at) SELECT 'ffffffff-ffff-4fff-bfff-ffffffffffff', 'forged', H, P, T FROM";
const FORGED_END: &str = "; ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain";

fn forge(hash: &str, seq: u32) -> String {
    let recorded = "a.recorded_at + interval '1 microsecond'";
    let hash = hash.replace(
        "OWN",
        &format!("audit.row_hash('ffffffff-ffff-4fff-bfff-ffffffffffff', NULL, NULL, 'forged', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, {recorded}, a.hash)"),
    );
    let head =
        FORGED.replace(" H,", &format!(" {hash},")).replace(" P,", " a.hash,").replace(" T ", &format!(" {recorded} "));
    format!("{head} audit_logs a JOIN audit.chain_seq s USING (id, recorded_at) WHERE s.seq = {seq}{FORGED_END}")
}

fn attacks() -> Vec<Attack> {
    use FindingKind as Kind;
    let here: fn(u32, u32) -> Option<u32> = |at, _| Some(at);
    let attack = |name, kind, seq, sql| Attack { name, sql, kind, seq };
    vec![
        attack("a row is edited", Kind::RowAltered, here, |at, _| {
            let columns = [
                "action = 'invoice.delete'",
                "success = NOT success",
                "user_id = gen_random_uuid()",
                "details = NULL",
                "details = details || '{\"n\": 1.0}'",
                "ip_address = ''",
            ];
            format!("UPDATE audit_logs SET {} WHERE {}", columns[at as usize % columns.len()], row(at))
        }),
        attack("a row's hash is written over", Kind::RowAltered, here, |at, _| {
            format!("UPDATE audit_logs SET hash = repeat('5', 64) WHERE {}", row(at))
        }),
        attack("a row's link is written over", Kind::RowAltered, here, |at, _| {
            format!("UPDATE audit_logs SET previous_hash = repeat('5', 64) WHERE {}", row(at))
        }),
        attack("a row is edited and hashed again", Kind::RowAltered, here, |at, _| {
            format!("UPDATE audit_logs SET action = 'x' WHERE {}; {}", row(at), rehash(at, at))
        }),
        attack("a row is edited and everything after it hashed again", Kind::RowAltered, here, |at, rows| {
            format!("UPDATE audit_logs SET action = 'x' WHERE {}; {}", row(at), rehash(at, rows))
        }),
        attack("a row is deleted", Kind::RowMissing, here, |at, _| format!("DELETE FROM audit_logs WHERE {}", row(at))),
        attack("a row and its place are deleted", Kind::RowMissing, here, |at, _| {
            format!("DELETE FROM audit_logs WHERE {}; DELETE FROM audit.chain_seq WHERE seq = {at}", row(at))
        }),
        attack("a row is deleted and the places closed up", Kind::LinkBroken, here, |at, rows| {
            format!(
                "DELETE FROM audit_logs WHERE {}; DELETE FROM audit.chain_seq WHERE seq = {at};
                 ALTER TABLE audit.chain_seq DROP CONSTRAINT chain_seq_seq_check;
                 UPDATE audit.chain_seq SET seq = -seq WHERE seq > {at}; UPDATE audit.chain_seq SET seq = -seq - 1 WHERE seq < 0;
                 ALTER TABLE audit.chain_seq ADD CONSTRAINT chain_seq_seq_check CHECK (seq > 0);
                 UPDATE audit.chain_head SET seq = {rows} - 1",
                row(at)
            )
        }),
        attack("a row is moved in time", Kind::RowMissing, here, |at, _| {
            format!("UPDATE audit_logs SET recorded_at = recorded_at + interval '1 microsecond' WHERE {}", row(at))
        }),
        attack(
            "a row is inserted beside the trigger",
            Kind::RowExtra,
            |_, _| None,
            |at, _| forge("repeat('6', 64)", at),
        ),
        attack("a sound row is inserted after another", Kind::Fork, |at, _| Some(at + 1), |at, _| forge("OWN", at)),
        attack("two rows change contents", Kind::RowAltered, here, |at, rows| {
            let (one, other) = (row(at), row(rows));
            format!(
                "UPDATE audit_logs a SET resource_id = b.resource_id FROM audit_logs b WHERE a.{one} AND b.{other};
                     UPDATE audit_logs SET resource_id = '{at}' WHERE {other}"
            )
        }),
        attack("two places change", Kind::LinkBroken, here, |at, rows| {
            format!(
                "CREATE TEMP TABLE two AS SELECT * FROM audit.chain_seq WHERE seq IN ({at}, {rows} - 1);
                 DELETE FROM audit.chain_seq WHERE seq IN ({at}, {rows} - 1);
                 INSERT INTO audit.chain_seq SELECT {at} + {rows} - 1 - seq, id, recorded_at, hash FROM two"
            )
        }),
        attack("the tail is cut", Kind::TailCut, here, |at, _| {
            format!("DELETE FROM audit_logs WHERE id IN (SELECT id FROM audit.chain_seq WHERE seq >= {at})")
        }),
        attack("the tail and its places are cut", Kind::TailCut, here, |at, _| {
            format!(
                "DELETE FROM audit_logs WHERE id IN (SELECT id FROM audit.chain_seq WHERE seq >= {at});
                 DELETE FROM audit.chain_seq WHERE seq >= {at}"
            )
        }),
        attack("a place is deleted", Kind::LinkBroken, here, |at, _| {
            format!("DELETE FROM audit.chain_seq WHERE seq = {at}")
        }),
        attack(
            "the head is set back",
            Kind::LinkBroken,
            |at, _| Some(at - 1),
            |at, _| {
                format!(
                    "ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close;
                 UPDATE audit.chain_head SET (seq, hash) = (SELECT seq, hash FROM audit.chain_seq WHERE seq = {at} - 1);
                 ALTER TABLE audit.chain_head ENABLE ALWAYS TRIGGER chain_head_close"
                )
            },
        ),
        attack("every row is truncated away", Kind::TailCut, |_, _| Some(1), |_, _| "TRUNCATE audit_logs".to_owned()),
        attack(
            "a partition is detached or dropped",
            Kind::UnsealedRemoval,
            |_, _| Some(1),
            |at, _| {
                let how = if at % 2 == 0 { "ALTER TABLE audit_logs DETACH PARTITION %s" } else { "DROP TABLE %s" };
                let oldest = "SELECT tableoid::regclass FROM audit_logs ORDER BY recorded_at LIMIT 1";
                format!("DO $$ BEGIN EXECUTE format('{how}', ({oldest})); END $$")
            },
        ),
        attack(
            "a partition with rows of its own is attached",
            Kind::RowExtra,
            |_, _| None,
            |at, _| {
                format!(
                    "CREATE TABLE brought (LIKE audit_logs INCLUDING ALL);
                     INSERT INTO brought SELECT * FROM audit_logs WHERE {};
                     UPDATE brought SET id = gen_random_uuid(), recorded_at = '2097-01-05';
                     ALTER TABLE audit_logs ATTACH PARTITION brought FOR VALUES FROM ('2097-01-01') TO ('2097-02-01')",
                    row(at)
                )
            },
        ),
        attack(
            "the protection is taken off",
            Kind::SchemaChanged,
            |_, _| None,
            |at, _| {
                let statements = [
                    "ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain",
                    "ALTER TABLE audit_logs ENABLE REPLICA TRIGGER zz_audit_chain",
                    "ALTER TABLE audit_logs ENABLE TRIGGER zz_audit_chain",
                    "DROP TRIGGER zz_audit_chain ON audit_logs",
                    "ALTER TABLE audit_logs_default DISABLE TRIGGER zz_audit_chain",
                    "CREATE OR REPLACE FUNCTION audit.chain_row() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS 'BEGIN RETURN NEW; END'",
                    "ALTER FUNCTION audit.chain_row() OWNER TO postgres",
                    "ALTER FUNCTION audit.chain_row() SECURITY INVOKER",
                    "ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close",
                    "GRANT UPDATE ON audit_logs TO bc003_app",
                    "GRANT INSERT ON audit.chain_seq TO bc003_app",
                    "ALTER TABLE audit.chain_seq OWNER TO postgres",
                    "ALTER ROLE audit_owner LOGIN",
                    "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.action := NULL; RETURN NEW; END'; CREATE TRIGGER zzz BEFORE INSERT ON audit_logs FOR EACH ROW EXECUTE FUNCTION f()",
                ];
                statements[at as usize % statements.len()].to_owned()
            },
        ),
    ]
}

/// A log of rows of two months that is put back after each attack.
pub struct Arena {
    pub chained: Arc<Chained>,
}

impl Arena {
    pub async fn new() -> Self {
        let chained = Chained::new().await;
        chained.run(&history(ROWS - 10)).await;
        chained.add(10).await;
        let whole = verified(&chained.connection(), Scope::Full).await;
        assert_eq!(
            (whole.rows, whole.seq, whole.findings.as_slice()),
            (u64::from(ROWS), i64::from(ROWS), [].as_slice())
        );
        chained
            .run(
                "CREATE SCHEMA saved; CREATE TABLE saved.log AS SELECT * FROM audit_logs;
                 CREATE TABLE saved.seq AS SELECT * FROM audit.chain_seq; CREATE TABLE saved.head AS SELECT * FROM audit.chain_head",
            )
            .await;
        Self { chained: Arc::new(chained) }
    }

    /// Does what a superuser can.
    pub fn attack(&self, database: &str, sql: &str) {
        let server = &self.chained.server;
        let script = server.directory().join("attack.sql");
        std::fs::write(&script, format!("SET session_replication_role = replica;\n{sql};\n")).unwrap();
        server.sql_file(database, &script).unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    /// Puts the rows of log and side tables back.
    pub fn put_back(&self) {
        self.attack(
            "consulting_tool",
            "BEGIN; ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain; ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close;
             DELETE FROM audit_logs; DELETE FROM audit.chain_seq; DELETE FROM audit.chain_head;
             INSERT INTO audit_logs SELECT * FROM saved.log; INSERT INTO audit.chain_seq SELECT * FROM saved.seq;
             INSERT INTO audit.chain_head SELECT * FROM saved.head;
             ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain; ALTER TABLE audit.chain_head ENABLE ALWAYS TRIGGER chain_head_close; COMMIT",
        );
    }

    /// What a verification says after `sql`, which changes rows only, or in a copy of the database.
    async fn after(&self, sql: &str, in_a_copy: bool) -> Vec<ChainFinding> {
        if !in_a_copy {
            self.attack("consulting_tool", sql);
            let findings = verified(&self.chained.connection(), Scope::Full).await.findings;
            self.put_back();
            return findings;
        }
        let server = &self.chained.server;
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'consulting_tool'").unwrap();
        server.sql("CREATE DATABASE arena TEMPLATE consulting_tool").unwrap();
        self.attack("arena", sql);
        let connection = server.connection().unwrap().with_database("arena");
        let findings = verified(&connection, Scope::Full).await.findings;
        server.sql("DROP DATABASE arena WITH (FORCE)").unwrap();
        server.sql("ALTER ROLE audit_owner NOLOGIN").unwrap();
        findings
    }
}

async fn campaign(seed: u64, rounds: u32) -> u32 {
    let arena = Arena::new().await;
    let mut random = StdRng::seed_from_u64(seed);
    let mut carried_out = 0;
    for attack in attacks() {
        for _ in 0..rounds {
            let at = random.random_range(3..ROWS - 3);
            let ddl = matches!(attack.kind, FindingKind::UnsealedRemoval | FindingKind::SchemaChanged)
                || attack.name.contains("attached");
            let findings = arena.after(&(attack.sql)(at, ROWS), ddl).await;
            let expected = (attack.kind, (attack.seq)(at, ROWS).map(i64::from));
            let told: Vec<_> = findings.iter().map(|finding| (finding.kind, finding.first_bad.seq)).collect();
            assert!(told.contains(&expected), "{} at {at} (seed {seed}): {findings:#?}", attack.name);
            carried_out += 1;
        }
    }
    assert_eq!(arena.after("SELECT", false).await, [], "nothing was left behind");
    crate::audit_stage::figure(&format!("{carried_out} attacks, every one named with its kind and its first bad row"));
    carried_out
}

#[tokio::test(flavor = "multi_thread")]
async fn f102_f103_every_attack_is_named_with_its_first_bad_row() {
    assert!(campaign(1, 3).await >= 60);
}

#[cfg(feature = "long")]
#[tokio::test(flavor = "multi_thread")]
async fn f102_long_twelve_hundred_attacks_are_named() {
    assert!(campaign(2, 60).await >= 1200);
}

#[tokio::test(flavor = "multi_thread")]
async fn f107_verifying_while_sessions_insert_and_partitions_go_raises_no_alarm() {
    let chained = Arc::new(Chained::new().await);
    chained.run(&history(500)).await;
    let stop = tokio_util::sync::CancellationToken::new();
    let mut writers = tokio::task::JoinSet::new();
    for level in ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"] {
        let (chained, stop) = (chained.clone(), stop.clone());
        writers.spawn(async move {
            let session = chained.session().await;
            let mut committed = 0;
            while !stop.is_cancelled() {
                let script = format!(
                    "BEGIN ISOLATION LEVEL {level}; {}; SAVEPOINT s; {}; ROLLBACK TO s; COMMIT",
                    insert(3),
                    insert(2)
                );
                match session.batch(&script).await {
                    Ok(()) => committed += 1,
                    Err(_) => session.batch("ROLLBACK").await.unwrap(),
                }
            }
            committed
        });
    }
    let (ddl, stopping) = (chained.session().await, stop.clone());
    writers.spawn(async move {
        let mut made = 0;
        while !stopping.is_cancelled() {
            let statements =
                "SET lock_timeout = '1s'; CREATE TABLE IF NOT EXISTS public.audit_logs_2098_01 PARTITION OF public.audit_logs
                FOR VALUES FROM ('2098-01-01') TO ('2098-02-01'); DROP TABLE public.audit_logs_2098_01";
            made += i32::from(ddl.batch(statements).await.is_ok());
        }
        made
    });
    let mut rows = 0;
    for scope in [Scope::Full, Scope::Incremental, Scope::Full, Scope::Full, Scope::Full] {
        let verified = verified(&chained.connection(), scope).await;
        assert_eq!(verified.findings, []);
        assert!(verified.rows >= rows);
        rows = verified.rows;
    }
    stop.cancel();
    let worked = writers.join_all().await;
    assert!(worked.iter().all(|count| *count > 0), "somebody never got through: {worked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn f107_a_deadlock_with_whoever_drops_a_month_is_no_alarm() {
    let chained = Chained::new().await;
    chained.add(3).await;
    chained
        .run("CREATE TABLE audit_logs_2098_01 PARTITION OF audit_logs FOR VALUES FROM ('2098-01-01') TO ('2098-02-01')")
        .await;
    let dropping = chained.session().await;
    let lock = |name: &str| format!("LOCK TABLE ONLY public.{name} IN ACCESS EXCLUSIVE MODE");
    dropping.batch(&format!("SET deadlock_timeout = '20s'; BEGIN; {}", lock("audit_logs_2098_01"))).await.unwrap();
    let goes_on = async {
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'audit_logs_2098_01'::regclass";
        while chained.text(waiting).await == "0" {}
        dropping.batch(&lock("audit_logs_default")).await.unwrap();
        dropping.batch("ROLLBACK").await.unwrap();
    };
    let connection = chained.connection();
    let (whole, ()) = tokio::join!(verified(&connection, Scope::Full), goes_on);
    assert_eq!((whole.rows, whole.findings.len()), (3, 0));
    // The fault fired: PostgreSQL counts what it broke.
    while chained.text("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()").await == "0" {}
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_is_verified_by_itself() {
    let chained = Chained::new().await;
    chained.run(&history(100)).await;
    let oldest = chained.text("SELECT tableoid::regclass FROM audit_logs ORDER BY recorded_at LIMIT 1").await;
    let scope = Scope::Partition(oldest.clone());
    let whole = verified(&chained.connection(), scope.clone()).await;
    assert_eq!((whole.rows, whole.findings.len()), (50, 0));
    chained.run("SET session_replication_role = replica").await;
    chained.run(&format!("UPDATE audit_logs SET action = 'x' WHERE {}", row(80))).await;
    assert_eq!(verified(&chained.connection(), scope.clone()).await.findings, [], "that row lies in another partition");
    chained.run(&format!("UPDATE audit_logs SET action = 'x' WHERE {}", row(30))).await;
    let findings = verified(&chained.connection(), scope).await.findings;
    assert_eq!((findings[0].kind, findings[0].first_bad.seq), (FindingKind::RowAltered, Some(30)));
    assert_eq!(findings[0].first_bad.partition, Some(oldest));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_log_is_whole_and_a_database_without_one_is_not_verified() {
    let chained = Chained::new().await;
    let verified = verified(&chained.connection(), Scope::Full).await;
    assert_eq!((verified.rows, verified.hash, verified.findings.len()), (0, None, 0));
    let elsewhere = chained.server.connection().unwrap();
    let (options, nothing) = (options(Scope::Full), Signed::default());
    let failure = audit_verify::verify(&options, &elsewhere, &nothing, &setting()).await.unwrap_err();
    assert!(failure.full_message().contains("no table public.audit_logs"), "{}", failure.full_message());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_no_order_at_all_are_still_verified_in_bounded_memory() {
    let chained = Chained::new().await;
    chained.run(&history(2000)).await;
    let partition = chained.text("SELECT tableoid::regclass FROM audit_logs ORDER BY recorded_at LIMIT 1").await;
    chained.run(&format!("CREATE INDEX by_hash ON {partition} (hash); CLUSTER {partition} USING by_hash")).await;
    let whole = verified(&chained.connection(), Scope::Full).await;
    assert_eq!((whole.rows, whole.findings.len()), (2000, 0));
}
