//! Rows that an earlier application has hashed: they keep their hashes, each is held to the formula that is pinned for its range
//! and to no other, and whoever edits the formula later is found.

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use dbagent::model::audit::finding::{ChainFinding, FindingKind};
use dbagent::model::audit::profile::{Definition, Profile, Profiles};
use dbagent::model::failure::Failure;
use dbagent::ops::audit_backfill::{self, Backfilled};
use dbagent::ops::audit_verify::{self, Options, Scope, Signed};
use dbagent::ops::{audit_install, audit_rebuild};
use dbagent::postgres::Connection;
use serde_json::Value;

use crate::audit_stage::{insert, month, options, setting, terms};
use crate::bc003_server::{self, Database};
use crate::cli::Desk;

/// What the earlier application computed, in its own words; nothing of dbagent's.
const OLD_HASH: &str = "
CREATE FUNCTION public.old_hash(a public.audit_logs, before text) RETURNS text LANGUAGE sql STABLE SET timezone = 'UTC' AS $$
    SELECT encode(sha256(convert_to('v2#' || a.id || '|' || coalesce(replace(a.user_id::text, '-', ''), '~') || '|' || coalesce(a.action, '~')
        || '|' || coalesce(a.resource, '~') || '|' || coalesce(a.resource_id, '~')
        || '|' || coalesce(replace(replace(a.details::text, ': ', ':'), ', ', ','), '~') || '|' || coalesce(a.ip_address, '~')
        || '|' || coalesce(CASE WHEN a.success THEN '1' ELSE '0' END, '~') || '|' || coalesce(a.error_message, '~')
        || '|' || to_char(a.recorded_at, 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') || '|' || before, 'UTF8')), 'hex')
$$;";

const COLUMNS: [&str; 11] = [
    "id",
    "user_id:hex",
    "action",
    "resource",
    "resource_id",
    "details:compact",
    "ip_address",
    "success:digit",
    "error_message",
    "recorded_at:iso-ms",
    "previous_hash",
];

const NOTHING: &str = "0000000000000000000000000000000000000000000000000000000000000000";

/// Rows of the earlier application: `count` from `from` on, a second apart; every tenth is later in time than in the chain.
fn old_rows(from: DateTime<Utc>, count: u32) -> String {
    format!(
        "SET timezone = 'UTC';
         DO $do$ DECLARE entry public.audit_logs; before text := '{NOTHING}'; BEGIN
         FOR n IN 1..{count} LOOP
             entry := NULL;
             entry.id := md5('old row ' || n)::uuid;
             entry.user_id := CASE WHEN n % 3 > 0 THEN md5('user' || n)::uuid END;
             entry.action := 'invoice.' || n;
             entry.resource := CASE n % 4 WHEN 0 THEN '' WHEN 1 THEN 'gr' || chr(252) || 'n' END;
             entry.details := jsonb_build_object('n', n, 'amount', n * 1.10, 'of', 'x' || chr(8364));
             entry.success := n % 5 > 0;
             entry.recorded_at := '{}'::timestamp + n * interval '1.000321 seconds' + CASE n % 10 WHEN 3 THEN interval '7 seconds' ELSE '0' END;
             entry.previous_hash := before;
             entry.hash := public.old_hash(entry, before);
             before := entry.hash;
             INSERT INTO public.audit_logs SELECT entry.*;
         END LOOP; END $do$",
        from.format("%F %T")
    )
}

fn definition(from: DateTime<Utc>, until: DateTime<Utc>) -> Definition {
    Definition {
        name: "consulting_tool/v2".into(),
        from,
        until,
        prefix: "v2#".into(),
        separator: "|".into(),
        suffix: String::new(),
        null: "~".into(),
        genesis: Some(NOTHING.parse().unwrap()),
        columns: COLUMNS.map(str::to_owned).into(),
    }
}

fn profiles(definitions: impl IntoIterator<Item = Definition>) -> Profiles {
    Profiles::of(definitions.into_iter().map(|each| Profile::of(each).unwrap()).collect()).unwrap()
}

/// Old rows in the log.
const OLD: u32 = 80;
/// Rows that came after the range, before the chain.
const NEW: u32 = 15;

/// A log with rows of an earlier application, whose range ends two hours ago, and of one since that knows nothing of hashes.
struct Stage {
    database: Database,
    from: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl Stage {
    async fn new() -> Self {
        let database = Database::new().await;
        let now = Utc::now().trunc_subsecs(0);
        let (from, until) = (now - TimeDelta::days(12), now - TimeDelta::hours(2));
        database.run(OLD_HASH).await;
        database.run(&old_rows(from, OLD)).await;
        let stage = Self { database, from, until };
        stage.later_rows(NEW, "50 minutes").await;
        audit_install::run(&stage.connection(), &setting()).await.unwrap();
        stage
    }

    async fn later_rows(&self, count: u32, ago: &str) {
        let rows = format!(
            "INSERT INTO audit_logs (hash, action, recorded_at) SELECT repeat('0', 64), 'later', timezone('UTC', now()) - interval '{ago}'
             + n * interval '1 second' FROM generate_series(1, {count}) n"
        );
        self.database.run(&rows).await;
    }

    fn connection(&self) -> Connection {
        self.database.server.connection().unwrap().with_database("consulting_tool")
    }

    fn profiles(&self) -> Profiles {
        profiles([definition(self.from, self.until)])
    }

    async fn backfill(&self, profiles: &Profiles) -> Result<Backfilled, Failure> {
        audit_backfill::run(&self.connection(), 7, profiles, &setting()).await
    }

    /// What a verification finds that is configured so.
    async fn findings(&self, profiles: &Profiles) -> Vec<ChainFinding> {
        let terms = dbagent::steps::checkpoint::Terms { profiles: profiles.clone(), ..terms() };
        let options = Options { terms, ..options(Scope::Full) };
        let (connection, signed) = (self.connection().with_role(Some("dbagent_verify")), Signed::default());
        audit_verify::verify(&options, &connection, &signed, &setting()).await.unwrap().findings
    }

    async fn kinds(&self, profiles: &Profiles) -> Vec<(FindingKind, Option<i64>)> {
        self.findings(profiles).await.iter().map(|finding| (finding.kind, finding.first_bad.seq)).collect()
    }

    /// Past the triggers, as a superuser can.
    async fn forge(&self, sql: &str) {
        self.database
            .run(&format!("SET session_replication_role = replica; {sql}; SET session_replication_role = DEFAULT"))
            .await;
    }

    /// Every old row as it is, hashes included.
    async fn old(&self) -> String {
        let old = "SELECT md5(string_agg(a::text, ',' ORDER BY id)) || ' ' || count(*) FROM audit_logs a WHERE action LIKE 'invoice.%' AND resource_id IS NULL";
        self.database.text(old).await
    }

    /// Everything as it is, to come back to.
    async fn save(&self) {
        let tables = [
            ("log", "audit_logs"),
            ("seq", "audit.chain_seq"),
            ("head", "audit.chain_head"),
            ("pins", "audit.profiles"),
        ];
        for (name, table) in tables {
            self.database.run(&format!("CREATE TABLE public.saved_{name} AS SELECT * FROM {table}")).await;
        }
    }

    /// Does what a superuser can, looks, and undoes it.
    async fn attacked(&self, sql: &str, profiles: &Profiles) -> Vec<(FindingKind, Option<i64>)> {
        let (past, on) = (
            "ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain",
            "ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain",
        );
        self.forge(&format!("{past}; {sql}; {on}")).await;
        let told = self.kinds(profiles).await;
        let undo = "DELETE FROM audit_logs; DELETE FROM audit.chain_seq; DELETE FROM audit.chain_head; DELETE FROM audit.profiles;
            INSERT INTO audit_logs SELECT * FROM saved_log; INSERT INTO audit.chain_seq SELECT * FROM saved_seq;
            INSERT INTO audit.chain_head SELECT * FROM saved_head; INSERT INTO audit.profiles SELECT * FROM saved_pins";
        self.forge(&format!("{past}; {undo}; {on}")).await;
        told
    }
}

fn row(seq: u32) -> String {
    format!("id = (SELECT id FROM audit.chain_seq WHERE seq = {seq})")
}

/// Hashes rows from place `from` on again, side tables too: `old` and `new` are SQL for a row `a` after hash `before`.
fn rewrite(from: u32, to: u32, hash: &str) -> String {
    format!(
        "DO $do$ DECLARE p record; before text := (SELECT coalesce(max(hash), '{NOTHING}') FROM audit.chain_seq WHERE seq = {from} - 1); BEGIN
         FOR p IN SELECT * FROM audit.chain_seq WHERE seq BETWEEN {from} AND {to} ORDER BY seq LOOP
             UPDATE audit_logs a SET previous_hash = before, hash = {hash} WHERE id = p.id AND recorded_at = p.recorded_at RETURNING a.hash INTO before;
             UPDATE audit.chain_seq SET hash = before WHERE seq = p.seq;
         END LOOP;
         UPDATE audit.chain_head SET hash = before WHERE seq = {to}; END $do$"
    )
}

const BY_V1: &str = "audit.row_hash(id, user_id, session_id, action, resource, resource_id, details, ip_address, user_agent, success, \
    error_code, error_message, recorded_at, before)";
const BY_V2: &str = "old_hash(a, before)";

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_application_keep_their_hashes_and_the_chain_goes_on_from_them() {
    let stage = Stage::new().await;
    let (before, profiles) = (stage.old().await, stage.profiles());
    assert_eq!(audit_backfill::plan(&stage.connection(), &profiles, &setting()).await.unwrap(), u64::from(OLD));
    assert_eq!(stage.database.text("SELECT count(*) FROM audit.chain_seq").await, "0", "planned only");
    let done = stage.backfill(&profiles).await.unwrap();
    assert_eq!((done.kept, done.rows), (u64::from(OLD), u64::from(OLD + NEW)));
    assert_eq!(stage.old().await, before, "verbatim");
    stage.database.run(&format!("SET ROLE bc003_app; {}; RESET ROLE", insert(5))).await;
    assert_eq!(stage.findings(&profiles).await, []);
    let boundary = "SELECT count(*) FROM audit_logs a JOIN audit.chain_seq s USING (id, recorded_at) JOIN audit.chain_seq p ON p.seq = s.seq - 1
        WHERE a.previous_hash = p.hash AND s.seq IN (2, 80, 81, 100)";
    assert_eq!(stage.database.text(boundary).await, "4", "one chain across the boundary");
    // Without its formula nothing is called altered: the one that is pinned counts, and the difference is told.
    let told = stage.findings(&Profiles::default()).await;
    assert_eq!(told.iter().map(|each| each.kind).collect::<Vec<_>>(), [FindingKind::SchemaChanged], "{told:?}");
    assert!(
        told[0]
            .message
            .contains("[audit.profile.\"consulting_tool/v2\"] is pinned in audit.profiles and not configured")
    );
    let again = stage.backfill(&profiles).await.unwrap_err();
    assert!(again.full_message().contains("chained already"), "{}", again.full_message());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_attack_on_old_rows_and_on_their_formula_is_named() {
    use FindingKind as Kind;
    let (stage, mut carried_out) = (Stage::new().await, 0);
    let profiles = stage.profiles();
    stage.backfill(&profiles).await.unwrap();
    stage.database.run(&insert(5)).await;
    stage.save().await;
    let last = OLD + NEW + 5;
    let forged = "'00000000-0000-4000-8000-00000000000f'::uuid";
    let fork = format!(
        "INSERT INTO audit_logs SELECT (jsonb_populate_record(a, jsonb_build_object('id', {forged}, 'previous_hash', a.hash))).* FROM audit_logs a WHERE {};
         UPDATE audit_logs a SET hash = old_hash(a, previous_hash) WHERE id = {forged}",
        row(30)
    );
    let attacks = [
        ("edited", Kind::RowAltered, Some(30), format!("UPDATE audit_logs SET action = 'x' WHERE {}", row(30))),
        ("first row's beginning", Kind::RowAltered, Some(1), format!("UPDATE audit_logs SET previous_hash = NULL WHERE {}", row(1))),
        ("deleted", Kind::RowMissing, Some(30), format!("DELETE FROM audit_logs WHERE {}", row(30))),
        ("deleted, with its place", Kind::RowMissing, Some(30), format!("DELETE FROM audit_logs WHERE {}; DELETE FROM audit.chain_seq WHERE seq = 30", row(30))),
        ("contents swapped", Kind::RowAltered, Some(30), format!("UPDATE audit_logs a SET action = b.action FROM audit_logs b WHERE (a.{0} AND b.{1}) OR (a.{1} AND b.{0})", row(30), row(55))),
        ("places swapped", Kind::LinkBroken, Some(30), "UPDATE audit.chain_seq SET seq = seq + 1000 WHERE seq IN (30, 55); UPDATE audit.chain_seq SET seq = 1085 - (seq - 1000) - 1000 WHERE seq > 1000".into()),
        ("edited and hashed by its own formula", Kind::RowAltered, Some(30), format!("UPDATE audit_logs SET action = 'x' WHERE {0}; UPDATE audit_logs a SET hash = old_hash(a, previous_hash) WHERE {0}", row(30))),
        ("hashed by v1 inside the range", Kind::RowAltered, Some(30), format!("UPDATE audit_logs a SET hash = {} WHERE {}", BY_V1.replace("before", "previous_hash"), row(30))),
        ("everything from there on by v1, side tables too", Kind::RowAltered, Some(30), rewrite(30, last, BY_V1)),
        ("rows after the range by the old formula, side tables too", Kind::RowAltered, Some(i64::from(OLD) + 4), rewrite(OLD + 4, last, BY_V2)),
        ("moved out of the range", Kind::RowMissing, Some(30), format!("UPDATE audit_logs SET recorded_at = timezone('UTC', now()) - interval '90 minutes' WHERE {}", row(30))),
        ("moved out of the range with its place", Kind::RowAltered, Some(30), format!("UPDATE audit_logs SET recorded_at = timezone('UTC', now()) - interval '90 minutes' WHERE {}; UPDATE audit.chain_seq SET recorded_at = (SELECT recorded_at FROM audit_logs WHERE {0}) WHERE seq = 30", row(30))),
        ("a sound row beside another", Kind::Fork, Some(31), fork),
        ("another formula pinned", Kind::SchemaChanged, None, "UPDATE audit.profiles SET definition = replace(definition, '\"separator\":\"|\"', '\"separator\":\",\"')".into()),
        ("the same with its digest", Kind::SchemaChanged, None, "UPDATE audit.profiles SET definition = d, digest = encode(sha256(convert_to(d, 'UTF8')), 'hex') FROM (SELECT replace(definition, '\"v2#\"', '\"v1#\"') AS d FROM audit.profiles) n".into()),
        ("another range for SQL", Kind::SchemaChanged, None, "UPDATE audit.profiles SET until_at = until_at - interval '1 day'".into()),
        ("the pin removed", Kind::SchemaChanged, None, "DELETE FROM audit.profiles".into()),
    ];
    for (name, kind, seq, sql) in attacks {
        let told = stage.attacked(&sql, &profiles).await;
        assert!(told.contains(&(kind, seq)), "{name}: {told:?}");
        carried_out += 1;
    }
    assert_eq!(carried_out, 17);
    let insert = "GRANT INSERT ON audit.profiles TO bc003_app";
    stage.database.run(insert).await;
    let told = stage.findings(&profiles).await;
    assert!(told.len() == 1 && told[0].message.contains("audit.profiles: bc003_app may INSERT there"), "{told:?}");
    stage.database.run("REVOKE INSERT ON audit.profiles FROM bc003_app").await;
    stage.forge(&format!("UPDATE audit_logs SET action = 'x' WHERE {}", row(30))).await;
    let told = stage.findings(&profiles).await;
    assert!(told[0].message.ends_with("; the first is held to consulting_tool/v2"), "{told:?}");
    stage.forge(&format!("UPDATE audit_logs SET action = 'invoice.30' WHERE {}", row(30))).await;
    assert_eq!(stage.findings(&profiles).await, [], "nothing was left behind");
}

/// Why `backfill` refuses, having changed nothing.
async fn refusal(stage: &Stage, profiles: &Profiles) -> String {
    let failure = stage.backfill(profiles).await.unwrap_err();
    let left = stage.database.text("SELECT count(*) FROM audit.chain_seq").await;
    let pins = stage.database.text("SELECT count(*) FROM audit.profiles").await;
    assert_eq!((left.as_str(), pins.as_str()), ("0", "0"), "{}", failure.full_message());
    failure.full_message()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_chain_by_its_formula_is_not_pinned() {
    let stage = Stage::new().await;
    let good = definition(stage.from, stage.until);
    let hour = TimeDelta::hours(1);
    let before = stage.from + TimeDelta::seconds(20);
    let cases = [
        (vec![Definition { separator: ",".into(), ..good.clone() }], "80 of 80 rows have another hash"),
        (vec![Definition { genesis: None, ..good.clone() }], "80 rows follow a row that is not there"),
        (
            vec![Definition { until: Utc::now().trunc_subsecs(0) - TimeDelta::minutes(58), ..good.clone() }],
            "the trigger takes rows of the last hour",
        ),
        (vec![Definition { from: before, ..good.clone() }], "comes before a range that it is not in"),
        (
            vec![
                good.clone(),
                Definition {
                    name: "v3".into(),
                    genesis: None,
                    from: stage.until,
                    until: stage.until + TimeDelta::minutes(1),
                    ..good.clone()
                },
            ],
            "no row lies in the range of \"v3\"",
        ),
        (
            vec![
                Definition { until: before, ..good.clone() },
                Definition { name: "v3".into(), genesis: None, from: before + hour, ..good.clone() },
            ],
            "comes before a range that it is not in",
        ),
    ];
    for (definitions, expected) in cases {
        let told = refusal(&stage, &profiles(definitions)).await;
        assert!(told.contains(expected), "{told}");
    }
    let altered = "UPDATE audit_logs SET action = 'x' WHERE id = md5('old row 30')::uuid";
    let put_back = "UPDATE audit_logs SET action = 'invoice.30' WHERE id = md5('old row 30')::uuid";
    stage.forge(altered).await;
    let told = refusal(&stage, &stage.profiles()).await;
    let id = stage.database.text("SELECT md5('old row 30')::uuid").await;
    assert!(told.contains("1 of 80 rows have another hash") && told.contains(&id), "{told}");
    stage.forge(put_back).await;
    // Written by two sessions at once, each after the same row.
    let fork = "INSERT INTO audit_logs SELECT (jsonb_populate_record(a, '{\"id\": \"00000000-0000-4000-8000-00000000000f\"}')).* FROM audit_logs a
        WHERE id = md5('old row 30')::uuid; UPDATE audit_logs a SET hash = old_hash(a, previous_hash) WHERE id = '00000000-0000-4000-8000-00000000000f'";
    stage.forge(fork).await;
    let told = refusal(&stage, &stage.profiles()).await;
    assert!(told.contains("are not one chain") && told.contains("follow"), "{told}");
    stage.forge("DELETE FROM audit_logs WHERE id = '00000000-0000-4000-8000-00000000000f'").await;
    // Chained anew already: the old hashes are gone.
    stage.database.query_one("SELECT audit.backfill(10, false)", &[]).await.unwrap();
    let told = stage.backfill(&stage.profiles()).await.unwrap_err().full_message();
    assert!(told.contains("rows are chained by v1 already"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_was_interrupted_goes_on_and_takes_no_late_row_into_the_range() {
    let stage = Stage::new().await;
    let profiles = stage.profiles();
    // The last step needs the lock that somebody holds: it is given up after five seconds, with all but that done.
    let holder = stage.connection().connect().await.unwrap();
    holder.batch("BEGIN; LOCK TABLE public.audit_logs IN ROW EXCLUSIVE MODE").await.unwrap();
    let held = stage.backfill(&profiles).await.unwrap_err().full_message();
    assert!(held.contains("lock"), "{held}");
    holder.batch("COMMIT").await.unwrap();
    assert_eq!(stage.database.text("SELECT count(*) FROM audit.chain_seq").await, (OLD + NEW).to_string());
    // Another formula than the one that is pinned is not taken up.
    let other = self::profiles([Definition { separator: ",".into(), ..definition(stage.from, stage.until) }]);
    let told = stage.backfill(&other).await.unwrap_err().full_message();
    assert!(told.contains("is configured in other words than it is pinned"), "{told}");
    // Somebody writes a row of a time that is over.
    stage.database.run(&format!("INSERT INTO audit_logs (id, hash, recorded_at) VALUES ('00000000-0000-4000-8000-00000000000f', repeat('0', 64), '{}')", stage.from.format("%F %T"))).await;
    let told = stage.backfill(&profiles).await.unwrap_err().full_message();
    assert!(told.contains("came into the range of a pinned formula"), "{told}");
    stage.forge("DELETE FROM audit_logs WHERE id = '00000000-0000-4000-8000-00000000000f'").await;
    // Rows that come late, behind others, and a death after they have their places: neither stops the next run.
    stage.later_rows(3, "60 minutes").await;
    stage.database.query_one("SELECT audit.backfill(10, true)", &[]).await.unwrap();
    stage.later_rows(2, "55 minutes").await;
    let done = stage.backfill(&profiles).await.unwrap();
    assert_eq!((done.kept, done.rows), (0, 2));
    assert_eq!(stage.findings(&profiles).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_came_back_alone_is_pinned_again_when_its_places_are_rebuilt() {
    let stage = Stage::new().await;
    let profiles = stage.profiles();
    stage.backfill(&profiles).await.unwrap();
    let places = "SELECT md5(string_agg(s::text, ',' ORDER BY seq)) FROM audit.chain_seq s";
    let before = stage.database.text(places).await;
    let lose = "DELETE FROM audit.chain_seq; DELETE FROM audit.chain_head";
    stage.database.run(&format!("{lose}; DELETE FROM audit.profiles")).await;
    assert_eq!(
        audit_rebuild::run(&stage.connection(), &[], &profiles, &setting()).await.unwrap(),
        u64::from(OLD + NEW)
    );
    assert_eq!(stage.database.text(places).await, before);
    assert_eq!(stage.findings(&profiles).await, []);
    // Pinned there, it is not replaced by what is configured.
    stage.database.run(lose).await;
    let refused = audit_rebuild::run(&stage.connection(), &[], &Profiles::default(), &setting()).await.unwrap_err();
    assert!(refused.full_message().contains("not configured"), "{}", refused.full_message());
}

const PLAN: &str = "description = 'the log'\n[job.partitions]\nverb = 'partition'\n[job.checkpoint]\nverb = 'audit-checkpoint'\n\
    [job.log]\nverb = 'dump'\nschedule = '0 4 * * 0'\ntables = ['audit_logs']\n\
    [partition.audit_logs]\nkey = 'recorded_at'\nretention = '2 months'\nseal = true\n";

/// A desk whose log has rows of an earlier application in the four months before this one, and its formula configured.
fn desk() -> Desk {
    let desk = bc003_server::desk(Some(PLAN));
    desk.configure("[postgres.roles]\npartition = 'dbagent_part'\naudit-verify = 'dbagent_verify'\naudit-checkpoint = 'dbagent_verify'\n");
    let start = desk.site.ask("SELECT to_char(date_trunc('month', timezone('UTC', now())) - interval '4 months', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')");
    desk.site.ask(&format!(
        "DO $$ BEGIN FOR back IN 1..4 LOOP EXECUTE format('CREATE TABLE IF NOT EXISTS public.audit_logs_%s PARTITION OF public.audit_logs FOR VALUES FROM (%L) TO (%L)',
             to_char('{start}'::timestamp + (back - 1) * interval '1 month', 'YYYY_MM'), '{start}'::timestamp + (back - 1) * interval '1 month',
             '{start}'::timestamp + back * interval '1 month'); END LOOP; END $$"
    ));
    desk.site.ask(OLD_HASH);
    // A day apart: some thirty rows in each month.
    let rows = old_rows(start.parse().unwrap(), 110).replace("n * interval '1.000321 seconds'", "n * interval '1 day'");
    desk.site.ask(&rows);
    let until = start.parse::<DateTime<Utc>>().unwrap() + TimeDelta::days(115);
    let columns = COLUMNS.map(|column| format!("'{column}'")).join(", ");
    desk.configure(&format!(
        "[audit.profile.'consulting_tool/v2']\nfrom = '{start}'\nuntil = '{}'\ncolumns = [{columns}]\nprefix = 'v2#'\nseparator = '|'\nnull = '~'\ngenesis = '{NOTHING}'\n",
        until.format("%FT%TZ")
    ));
    desk.json(3, &["audit", "install", "--yes"]);
    desk.json(0, &["init", "--install-sql", "--yes"]);
    desk
}

fn codes(outcome: &Value) -> Vec<&str> {
    let findings = outcome["outcome"]["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["code"].as_str().unwrap()).collect()
}

fn edit(desk: &Desk, from: &str, to: &str) {
    let text = std::fs::read_to_string(&desk.config).unwrap();
    assert!(text.contains(from));
    std::fs::write(&desk.config, text.replace(from, to)).unwrap();
}

#[test]
fn a_pinned_formula_is_signed_in_checkpoints_and_seals_and_an_edit_of_it_is_an_alarm() {
    let desk = desk();
    assert_eq!(desk.json(0, &["audit", "backfill", "--plan"])["kept"], 110);
    let done = desk.json(0, &["audit", "backfill", "--yes"]);
    assert_eq!((&done["kept"], &done["rows"]), (&110.into(), &110.into()), "{done}");
    desk.site.ask(&insert(4));
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["audit", "checkpoint"]);
    desk.site.ask(&insert(2));
    desk.json(0, &["audit", "checkpoint"]);
    desk.json(0, &["audit", "verify", "--incremental"]);
    desk.json(0, &["audit", "verify", "--partition", &month(&desk, 2)]);

    // Computed from one signed hash to the next by a witness that has a login, past the end of the range.
    desk.json(0, &["audit", "witness", "--sample", "5"]);

    // Edited in the configuration: told by verification and checkpoint, every time, and nothing is called altered.
    edit(&desk, "separator = '|'", "separator = ','");
    for _ in 0..2 {
        let told = desk.json(13, &["audit", "verify"]);
        assert_eq!(codes(&told), ["SCHEMA_CHANGED"], "{told}");
        assert!(
            told["outcome"]["findings"][0]["message"].as_str().unwrap().contains("in other words than it is pinned"),
            "{told}"
        );
        assert_eq!(codes(&desk.json(13, &["audit", "checkpoint"])), ["SCHEMA_CHANGED"]);
        assert_eq!(codes(&desk.json(13, &["audit", "witness", "--sample", "1"])), ["SCHEMA_CHANGED"]);
    }
    // And in the database too, so that both agree: what was signed does not, and no checkpoint is signed over it.
    let reformed = "UPDATE audit.profiles SET definition = d, digest = encode(sha256(convert_to(d, 'UTF8')), 'hex')
        FROM (SELECT replace(definition, '\"separator\":\"|\"', '\"separator\":\",\"') AS d FROM audit.profiles) n";
    desk.site.ask(reformed);
    for _ in 0..2 {
        assert!(codes(&desk.json(13, &["audit", "verify"])).contains(&"SCHEMA_CHANGED"));
        let told = desk.json(13, &["audit", "checkpoint"]);
        assert_eq!(codes(&told), ["SCHEMA_CHANGED"], "{told}");
        assert!(told.to_string().contains("the chain contradicts the one of"), "nothing is signed: {told}");
    }
    edit(&desk, "separator = ','", "separator = '|'");
    desk.site.ask(
        &reformed.replace("\":\"|\"'", "\":\";\"'").replace("\":\",\"'", "\":\"|\"'").replace("\":\";\"'", "\":\",\"'"),
    );
    assert_eq!(codes(&desk.json(0, &["audit", "verify"])), [] as [&str; 0]);
    desk.json(0, &["audit", "checkpoint"]);

    // A month of old rows is sealed and dropped; its rows are proven by the formula that the seal carries, whatever is configured.
    let row = desk.site.ask("SELECT id FROM audit_logs ORDER BY recorded_at LIMIT 1");
    let hash = desk.site.ask("SELECT hash FROM audit_logs ORDER BY recorded_at LIMIT 1");
    let maintained = desk.json(0, &["partition", "maintain", "--yes"]);
    assert!(maintained["outcome"]["summary"].as_str().unwrap().contains("2 dropped"), "{maintained}");
    desk.json(0, &["audit", "verify"]);
    edit(&desk, "[audit.profile.'consulting_tool/v2']", "[audit.profile.'other/v2']");
    let proven = desk.json(0, &["audit", "prove", &row]);
    assert_eq!(proven["proof"]["hash"], hash);
    let file = desk.site.root().join("proof.json");
    std::fs::write(&file, proven.to_string()).unwrap();
    desk.json(0, &["audit", "prove", &row, "--from", file.to_str().unwrap()]);
    let told = desk.json(13, &["audit", "verify"]);
    assert_eq!(codes(&told), ["SCHEMA_CHANGED"], "{told}");
    edit(&desk, "[audit.profile.'other/v2']", "[audit.profile.'consulting_tool/v2']");

    // A restore brings old rows back as they were.
    desk.json(0, &["job", "run", "log"]);
    desk.site.ask("SET session_replication_role = replica; UPDATE audit_logs SET action = 'x' WHERE id = (SELECT id FROM audit.chain_seq ORDER BY seq LIMIT 1)");
    assert_eq!(codes(&desk.json(13, &["audit", "verify"])), ["ROW_ALTERED"]);
    let restored = desk.json(0, &["restore", "--table", "audit_logs", "--mode", "replace", "--yes"]);
    assert_eq!(restored["audit"]["chain"], "whole", "{restored}");
    assert_eq!(codes(&desk.json(0, &["audit", "verify"])), [] as [&str; 0]);
}
