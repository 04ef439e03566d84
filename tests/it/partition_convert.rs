//! A plain table becomes a partitioned one while it is written to, and back, and whatever kills the run loses nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::outcome::Outcome;
use dbagent::ops::partition::{Converter, Phase, TableRule};
use dbagent::postgres::Connection;
use tokio::task::JoinHandle;

use crate::stage::yard::Yard;

/// Table `logs` with 20,000 rows of ten months, some of no month at all, and `mirror`, which the writer keeps equal.
const LOGS: &str = "
SET ROLE landlord;
CREATE TABLE logs (id bigserial, at timestamp NOT NULL DEFAULT now(), who text CHECK (who <> ''), n int DEFAULT 0,
    loud text GENERATED ALWAYS AS (upper(who)) STORED, CONSTRAINT logs_key PRIMARY KEY (id, at), UNIQUE (at, id, who)) WITH (fillfactor = 85);
CREATE INDEX logs_who ON logs (who) WHERE n > 3;
COMMENT ON TABLE logs IS 'what happened';
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS
    $$BEGIN IF NEW.n = 0 THEN NEW.n := 1; END IF; RETURN NEW; END$$;
INSERT INTO logs (at, who) SELECT now() - make_interval(days => g % 280), 'w' || g FROM generate_series(1, 20000) g;
INSERT INTO logs (at, who) VALUES ('2099-01-01', 'far'), ('infinity', 'never'), ('1901-01-01', 'long ago');
CREATE TRIGGER shout BEFORE INSERT ON logs FOR EACH ROW EXECUTE FUNCTION shout();
ALTER TABLE logs ENABLE ALWAYS TRIGGER shout;
GRANT SELECT, INSERT ON logs TO app;
CREATE TABLE mirror AS SELECT * FROM logs; CREATE INDEX ON mirror (id);
RESET ROLE;";

const DIFFERENCE: &str =
    "SELECT count(*) FROM ((TABLE logs EXCEPT ALL TABLE mirror) UNION ALL (TABLE mirror EXCEPT ALL TABLE logs)) d";

async fn yard() -> (Yard, TableRule) {
    let mut yard = Yard::new().await;
    yard.ask(LOGS);
    let plain = TableRule { name: "logs".parse().unwrap(), ..yard.rule.clone() };
    let visits = std::mem::replace(&mut yard.rule, plain.clone());
    yard.install().await;
    yard.rule = visits;
    (yard, plain)
}

async fn convert(yard: &Yard, rule: &TableRule) -> Result<Outcome, Failure> {
    let (doors, setting) = (yard.doors(), yard.site.setting());
    Converter::open(rule, &doors, &setting).await?.convert().await
}

async fn undo(yard: &Yard, rule: &TableRule) -> Result<Outcome, Failure> {
    let (doors, setting) = (yard.doors(), yard.site.setting());
    Converter::open(rule, &doors, &setting).await?.undo().await
}

async fn finish(yard: &Yard, rule: &TableRule) -> Result<Outcome, Failure> {
    let (doors, setting) = (yard.doors(), yard.site.setting());
    Converter::open(rule, &doors, &setting).await?.finish().await
}

/// What the writer does at its step number `k`: inserts, updates, rows that change their month, deletes. Where a row changes
/// its partition PostgreSQL fires the triggers of INSERT, so only rows are moved that this trigger leaves alone.
fn work(k: u64) -> String {
    let id = k * 7919 % 20_000;
    match k % 5 {
        0 | 1 => format!(
            "WITH new AS (INSERT INTO public.logs (at, who) VALUES (now() - make_interval(days => {}), 'writer') RETURNING *) \
             INSERT INTO public.mirror SELECT * FROM new",
            k % 300
        ),
        2 => {
            format!("UPDATE public.logs SET n = {k} WHERE id = {id}; UPDATE public.mirror SET n = {k} WHERE id = {id}")
        }
        3 => format!(
            "UPDATE public.logs SET at = at - interval '40 days' WHERE id = {id} AND n > 0; \
             UPDATE public.mirror SET at = at - interval '40 days' WHERE id = {id} AND n > 0"
        ),
        _ => format!("DELETE FROM public.logs WHERE id = {id}; DELETE FROM public.mirror WHERE id = {id}"),
    }
}

/// Writes until told to stop; gives how often, and the longest time one transaction took.
fn writer(connection: Connection) -> (Arc<AtomicBool>, JoinHandle<(u64, Duration)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let session = connection.connect().await.unwrap();
        let (mut k, mut longest) = (0, Duration::ZERO);
        while !stopped.load(Ordering::SeqCst) {
            let began = Instant::now();
            session.batch(&work(k)).await.unwrap();
            longest = longest.max(began.elapsed());
            k += 1;
        }
        (k, longest)
    });
    (stop, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_converted_while_it_is_written_to_and_nobody_waits_long() {
    let (yard, rule) = yard().await;
    let (stop, task) = writer(yard.site.connection());
    let outcome = convert(&yard, &rule).await.unwrap();
    assert!(outcome.summary.contains("compared equal"), "{}", outcome.summary);
    stop.store(true, Ordering::SeqCst);
    let (writes, longest) = task.await.unwrap();
    assert!(writes > 100, "only {writes} writes");
    assert!(longest < rule.lock_timeout + Duration::from_secs(1), "a write took {longest:?}");
    assert_eq!(yard.ask(DIFFERENCE), "0");
    let form = yard.ask(
        "SELECT relkind, obj_description(oid), pg_get_userbyid(relowner), has_table_privilege('app', oid, 'INSERT'), has_table_privilege('app', oid, 'DELETE'), \
           (SELECT string_agg(indexrelid::regclass::text, ' ' ORDER BY indexrelid::regclass::text) FROM pg_index WHERE indrelid = c.oid), \
           (SELECT string_agg(tgname || tgenabled::text, ' ') FROM pg_trigger WHERE tgrelid = c.oid AND tgname = 'shout'), \
           (SELECT reltuples > 0 FROM pg_class WHERE oid = c.oid) \
         FROM pg_class c WHERE oid = 'logs'::regclass",
    );
    assert_eq!(form, "p|what happened|landlord|t|f|logs_at_id_who_key logs_key logs_who|shoutA|t");
    // The writer's oldest rows may have come there too.
    assert_eq!(yard.ask("SELECT count(*) FROM logs_default WHERE who IN ('far', 'never', 'long ago')"), "3");
    let options = "SELECT DISTINCT array_to_string(reloptions, ',') FROM pg_partition_tree('logs') t JOIN pg_class c ON c.oid = relid WHERE isleaf";
    assert_eq!(yard.ask(options), "fillfactor=85");
    // Once more proven, the plain table goes, and nothing of the conversion is left.
    let outcome = finish(&yard, &rule).await.unwrap();
    assert!(outcome.summary.contains("were equal"), "{}", outcome.summary);
    let left = "SELECT count(*) FROM pg_class WHERE relname LIKE '%dbagent%' OR relname LIKE 'convert_journal%'";
    assert_eq!(yard.ask(left), "0");
    assert_eq!(yard.ask("SELECT count(*) FROM pg_proc WHERE proname LIKE 'convert_track_%'"), "0");
    let inserted = "INSERT INTO logs (who) VALUES ('new') RETURNING (SELECT max(id) FROM logs) < id, n";
    assert_eq!(yard.ask(inserted).lines().next().unwrap(), "t|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversion_can_be_taken_back_until_its_end_with_everything_written_since() {
    let (yard, rule) = yard().await;
    let plain = yard.ask("SELECT 'logs'::regclass::oid");
    convert(&yard, &rule).await.unwrap();
    assert_ne!(yard.ask("SELECT 'logs'::regclass::oid"), plain);
    let (stop, task) = writer(yard.site.connection());
    let outcome = undo(&yard, &rule).await.unwrap();
    assert!(outcome.summary.contains("plain table again"), "{}", outcome.summary);
    stop.store(true, Ordering::SeqCst);
    let (writes, longest) = task.await.unwrap();
    assert!(writes > 10 && longest < rule.lock_timeout + Duration::from_secs(1), "{writes} writes, {longest:?}");
    assert_eq!((yard.ask("SELECT 'logs'::regclass::oid"), yard.ask(DIFFERENCE)), (plain, "0".into()));
    let indexes = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_index JOIN pg_class c ON c.oid = indexrelid WHERE indrelid = 'logs'::regclass";
    assert_eq!(yard.ask(indexes), "logs_at_id_who_key logs_key logs_who");
    assert_eq!(yard.ask("SELECT tgenabled FROM pg_trigger WHERE tgrelid = 'logs'::regclass AND tgname = 'shout'"), "A");
    assert_eq!(yard.ask("SELECT count(*) FROM dbagent.conversions"), "0");
    yard.ask("INSERT INTO logs (who) VALUES ('new')");
    // And forth again.
    convert(&yard, &rule).await.unwrap();
    finish(&yard, &rule).await.unwrap();
    assert_eq!(undo(&yard, &rule).await.unwrap_err().kind, FailureKind::NothingMatches);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_way_is_said_before_anything_starts() {
    let (yard, rule) = yard().await;
    let obstacles = [
        ("ALTER TABLE logs DROP CONSTRAINT logs_key", "no primary key"),
        ("ALTER TABLE logs DROP CONSTRAINT logs_key, ADD PRIMARY KEY (id)", "does not contain at"),
        ("CREATE UNIQUE INDEX odd ON logs (who, id)", "odd does not contain at"),
        (
            "CREATE TABLE refers (id bigint, at timestamp, CONSTRAINT why FOREIGN KEY (id, at) REFERENCES logs)",
            "the foreign key why of refers",
        ),
        ("CREATE VIEW seen AS SELECT * FROM logs", "the view or rule on seen"),
        ("CREATE FUNCTION f() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM logs; END", "the function f()"),
        ("ALTER TABLE logs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY", "holds for its owner too"),
        ("CREATE POLICY seen ON customers USING (EXISTS (SELECT FROM logs))", "the policy seen on customers"),
        ("CREATE TABLE kept (entry logs)", "column entry of table kept"),
        ("CREATE FUNCTION g(logs) RETURNS int LANGUAGE sql AS 'SELECT 1'", "g(logs)"),
        ("CREATE PUBLICATION whole FOR TABLES IN SCHEMA public", "the publication whole publishes its schema"),
        ("CREATE PUBLICATION p FOR TABLE logs", "publication p"),
        ("CREATE PUBLICATION everything FOR ALL TABLES", "publishes all tables"),
        ("CREATE TABLE child () INHERITS (logs)", "inherit"),
        ("ALTER TABLE logs ADD COLUMN i int GENERATED ALWAYS AS IDENTITY", "identity column"),
        (
            "ALTER TABLE logs ADD COLUMN c bigint REFERENCES customers",
            "ADD CONSTRAINT logs_c_fkey FOREIGN KEY (c) REFERENCES",
        ),
        ("ALTER TABLE logs ALTER COLUMN at TYPE text", "of type date, timestamp"),
        ("ALTER TABLE logs SET UNLOGGED", "no ordinary logged table"),
    ];
    let session = yard.site.connection().connect().await.unwrap();
    let oid = "SELECT oid FROM pg_class WHERE relname = 'logs'";
    for (statement, told) in obstacles {
        session.batch(&format!("BEGIN; SET LOCAL search_path = public; {statement}")).await.unwrap();
        let oid: u32 = session.client().query_one(oid, &[]).await.unwrap().get(0);
        let query = include_str!("../../sql/partition/convert_obstacles.sql");
        let rows = session.client().query(query, &[&oid, &"at"]).await.unwrap();
        let said: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        assert!(said.iter().any(|said| said.contains(told)), "{statement}: {said:?}");
        session.batch("ROLLBACK").await.unwrap();
    }
    yard.ask("CREATE VIEW seen AS SELECT * FROM logs");
    let before = yard.ask("SELECT count(*) FROM pg_class");
    let refused = convert(&yard, &rule).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::RefusedForSafety);
    assert_eq!(yard.ask("SELECT count(*) FROM pg_class"), before);
    let partitioned = convert(&yard, &yard.rule).await.unwrap_err();
    assert!(partitioned.full_message().contains("it is partitioned already"), "{}", partitioned.full_message());
}

/// Everything of the table and around it that a refused conversion must leave as it is.
const SURROUNDINGS: &str = "SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
    SELECT concat_ws(' ', oid, relname, relkind, relfilenode, relowner, relacl, relrowsecurity, relreplident) FROM pg_class
        WHERE relnamespace IN ('public'::regnamespace, 'dbagent'::regnamespace)
    UNION ALL SELECT concat_ws(' ', conrelid, conname, pg_get_constraintdef(oid)) FROM pg_constraint
    UNION ALL SELECT concat_ws(' ', tgrelid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(' ', attname, attnotnull, attidentity) FROM pg_attribute WHERE attrelid = 'logs'::regclass
    UNION ALL SELECT concat_ws(' ', ev_class, rulename) FROM pg_rewrite
    UNION ALL SELECT concat_ws(' ', polrelid, polname) FROM pg_policy
    UNION ALL SELECT concat_ws(' ', oid, prosrc) FROM pg_proc WHERE pronamespace = 'dbagent'::regnamespace
    UNION ALL SELECT concat_ws(' ', 'conversion', original) FROM dbagent.conversions
    UNION ALL SELECT md5(string_agg(l::text, '|' ORDER BY id)) FROM logs l) x (line)";

/// Something that is not carried over: how it gets there, how it is told, how it is taken away before, and how it is brought back
/// after the conversion.
struct InTheWay {
    made: &'static str,
    told: &'static str,
    away: &'static str,
    back: &'static str,
}

const NOT_CARRIED_OVER: [InTheWay; 7] = [
    InTheWay {
        made: "CREATE TABLE refers (id bigint, at timestamp, CONSTRAINT why FOREIGN KEY (id, at) REFERENCES logs)",
        told: "ALTER TABLE public.refers DROP CONSTRAINT why",
        away: "ALTER TABLE public.refers DROP CONSTRAINT why",
        back: "ALTER TABLE public.refers ADD CONSTRAINT why FOREIGN KEY (id, at) REFERENCES logs",
    },
    InTheWay {
        made: "ALTER TABLE logs ADD COLUMN c bigint CONSTRAINT whose REFERENCES customers",
        told: "ALTER TABLE public.logs ADD CONSTRAINT whose FOREIGN KEY (c) REFERENCES public.customers(id)",
        away: "ALTER TABLE public.logs DROP CONSTRAINT whose",
        back: "ALTER TABLE public.logs ADD CONSTRAINT whose FOREIGN KEY (c) REFERENCES public.customers(id)",
    },
    InTheWay {
        made: "ALTER TABLE logs ADD COLUMN i int GENERATED ALWAYS AS IDENTITY",
        told: "ALTER TABLE public.logs ALTER COLUMN i DROP IDENTITY",
        away:
            "BEGIN; LOCK TABLE logs IN SHARE ROW EXCLUSIVE MODE; ALTER TABLE public.logs ALTER COLUMN i DROP IDENTITY;
            CREATE SEQUENCE numbers; SELECT setval('numbers', max(i)) FROM logs; GRANT USAGE ON SEQUENCE numbers TO app;
            ALTER TABLE logs ALTER COLUMN i SET DEFAULT nextval('numbers'); COMMIT",
        back: "",
    },
    InTheWay {
        made: "CREATE VIEW seen AS SELECT who, n FROM logs; GRANT SELECT ON seen TO app",
        told: "the view or rule on public.seen depends on it; drop it and make it again afterwards",
        away: "DROP VIEW seen",
        back: "CREATE VIEW seen AS SELECT who, n FROM logs; GRANT SELECT ON seen TO app",
    },
    InTheWay {
        made: "CREATE RULE gone AS ON DELETE TO logs DO ALSO NOTIFY gone",
        told: "the view or rule on public.logs depends on it; drop it and make it again afterwards",
        away: "DROP RULE gone ON logs",
        back: "CREATE RULE gone AS ON DELETE TO logs DO ALSO NOTIFY gone",
    },
    InTheWay {
        made: "ALTER TABLE logs ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY",
        told: "ALTER TABLE public.logs NO FORCE ROW LEVEL SECURITY",
        away: "ALTER TABLE public.logs NO FORCE ROW LEVEL SECURITY",
        back: "ALTER TABLE public.logs FORCE ROW LEVEL SECURITY",
    },
    InTheWay {
        made: "CREATE POLICY known ON customers TO app USING (EXISTS (SELECT FROM logs))",
        told: "the policy known on public.customers depends on it",
        away: "DROP POLICY known ON customers",
        back: "CREATE POLICY known ON customers TO app USING (EXISTS (SELECT FROM logs))",
    },
];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_carried_over_is_refused_untouched_and_follows_by_the_statements_that_are_told() {
    let (yard, rule) = yard().await;
    for one in &NOT_CARRIED_OVER {
        yard.ask(one.made);
        let before = yard.ask(SURROUNDINGS);
        let refused = convert(&yard, &rule).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::RefusedForSafety, "{}", one.made);
        assert!(refused.full_message().contains(one.told), "{}", refused.full_message());
        assert_eq!(yard.ask(SURROUNDINGS), before, "{}", one.made);
    }
    let (doors, setting) = (yard.doors(), yard.site.setting());
    let planned = Converter::open(&rule, &doors, &setting).await.unwrap().plan().await.unwrap();
    for one in &NOT_CARRIED_OVER {
        assert!(planned.obstacles.iter().any(|obstacle| obstacle.contains(one.told)), "{:?}", planned.obstacles);
        yard.ask(one.away);
    }
    assert_eq!(planned.obstacles.len(), NOT_CARRIED_OVER.len(), "{:?}", planned.obstacles);
    let rows = "SELECT md5(string_agg(l::text, '|' ORDER BY id)) FROM logs l";
    let before = yard.ask(rows);
    convert(&yard, &rule).await.unwrap();
    finish(&yard, &rule).await.unwrap();
    assert_eq!(yard.ask(rows), before);
    NOT_CARRIED_OVER.iter().filter(|one| !one.back.is_empty()).for_each(|one| drop(yard.ask(one.back)));
    let refused = yard.site.connection().connect().await.unwrap();
    refused.batch("SET search_path = public").await.unwrap();
    for forbidden in ["INSERT INTO logs (who, c) VALUES ('new', -1)", "INSERT INTO refers VALUES (-1, now())"] {
        assert!(refused.batch(forbidden).await.is_err(), "{forbidden}: the foreign keys hold again");
    }
    yard.ask("INSERT INTO logs (who) VALUES ('new')");
    assert_eq!(
        yard.ask("SELECT i > 20003 AND i = (SELECT max(i) FROM logs) FROM logs WHERE who = 'new'"),
        "t",
        "numbers go on"
    );
    assert_eq!(yard.ask("SELECT count(*) FROM seen WHERE who = 'new'"), "1", "the view reads the partitioned table");
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_is_carried_over_and_no_month_evades_it() {
    let (yard, rule) = yard().await;
    yard.ask(
        "GRANT UPDATE, DELETE ON logs TO app; GRANT USAGE ON SEQUENCE logs_id_seq TO app; ALTER TABLE logs ENABLE ROW LEVEL SECURITY;
         CREATE POLICY own ON logs FOR SELECT TO app, landlord USING (who = 'w7');
         CREATE POLICY adding ON logs AS PERMISSIVE FOR INSERT WITH CHECK (who <> 'nobody');
         CREATE POLICY never ON logs AS RESTRICTIVE FOR UPDATE USING (false);
         ALTER TABLE logs REPLICA IDENTITY USING INDEX logs_key",
    );
    let policies = "SELECT string_agg(concat_ws(' ', policyname, permissive, roles, cmd, qual, with_check), '|' ORDER BY policyname) \
        FROM pg_policies WHERE tablename = 'logs'";
    let (before, rows) = (yard.ask(policies), yard.ask("SELECT count(*) FROM logs"));
    assert_eq!(before.matches('|').count(), 2, "{before}");
    convert(&yard, &rule).await.unwrap();
    assert_eq!(yard.ask("SELECT relkind::text || relrowsecurity FROM pg_class WHERE oid = 'logs'::regclass"), "ptrue");
    assert_eq!(yard.ask(policies), before);
    assert_eq!(yard.ask("SELECT count(*) FROM logs"), rows);
    let app = yard.site.connection().connect().await.unwrap();
    app.batch("SET search_path = public; SET ROLE app").await.unwrap();
    let month = yard.ask("SELECT tableoid::regclass FROM logs WHERE who = 'w7'");
    for evading in [&format!("SELECT FROM {month}"), "INSERT INTO logs (who) VALUES ('nobody')"] {
        assert!(app.batch(evading).await.is_err(), "{evading}");
    }
    app.batch("INSERT INTO logs (who) VALUES ('somebody')").await.unwrap();
    let sees = app.client().query("SELECT who FROM logs", &[]).await.unwrap();
    assert_eq!((sees.len(), sees[0].get::<_, &str>(0)), (1, "w7"));
    assert_eq!(app.client().execute("UPDATE logs SET n = 9", &[]).await.unwrap(), 0, "restrictive policies too");
    let identities = "SELECT string_agg(DISTINCT relreplident::text, '') FROM pg_partition_tree('logs') t JOIN pg_class c ON c.oid = t.relid";
    assert_eq!(yard.ask(identities), "i");
    // Forced meanwhile, the policies would hide what was written since from whoever takes it back.
    yard.ask("INSERT INTO logs (who) VALUES ('late'); ALTER TABLE logs FORCE ROW LEVEL SECURITY");
    let refused = undo(&yard, &rule).await.unwrap_err().full_message();
    assert!(refused.contains("row-level security"), "{refused}");
    yard.ask("ALTER TABLE logs NO FORCE ROW LEVEL SECURITY");
    assert_eq!(yard.ask("SELECT relkind FROM pg_class WHERE oid = 'logs'::regclass"), "p");
    let rows = yard.ask("SELECT count(*) FROM logs");
    undo(&yard, &rule).await.unwrap();
    assert_eq!(
        (yard.ask("SELECT count(*) FROM logs"), yard.ask("SELECT count(*) FROM logs WHERE who = 'late'")),
        (rows, "1".into())
    );
    assert_eq!(
        (yard.ask(policies), yard.ask("SELECT relkind FROM pg_class WHERE oid = 'logs'::regclass")),
        (before, "r".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversion_that_cannot_get_its_lock_stays_where_it_is_and_goes_on() {
    let (yard, mut rule) = yard().await;
    rule.lock_timeout = Duration::from_millis(20);
    let holder = yard.site.connection().connect().await.unwrap();
    holder.batch("BEGIN; LOCK TABLE public.logs IN ROW EXCLUSIVE MODE").await.unwrap();
    let refused = convert(&yard, &rule).await.unwrap_err();
    assert!(refused.full_message().contains("begin the conversion"), "{}", refused.full_message());
    assert_eq!(yard.ask("SELECT count(*) FROM dbagent.conversions"), "0");
    holder.batch("COMMIT; BEGIN").await.unwrap();
    // The second lock: it comes to the swap, and the table is in use again by then.
    let (doors, setting) = (yard.doors(), yard.site.setting());
    let converter = Converter::open(&rule, &doors, &setting).await.unwrap();
    let hold = async {
        while yard.ask("SELECT count(*) FROM dbagent.conversions") == "0" {
            tokio::task::yield_now().await;
        }
        holder.batch("LOCK TABLE public.logs IN ACCESS SHARE MODE").await.unwrap();
    };
    let (refused, ()) = tokio::join!(converter.convert(), hold);
    let refused = refused.unwrap_err();
    assert!(refused.full_message().contains("give the name"), "{}", refused.full_message());
    drop(converter);
    holder.batch("COMMIT").await.unwrap();
    yard.ask("DELETE FROM logs WHERE id < 50; DELETE FROM mirror WHERE id < 50");
    let converter = Converter::open(&rule, &doors, &setting).await.unwrap();
    assert_eq!(converter.plan().await.unwrap().phase, Some(Phase::Copying));
    converter.convert().await.unwrap();
    assert_eq!(
        (yard.ask(DIFFERENCE).as_str(), yard.ask("SELECT relkind FROM pg_class WHERE relname = 'logs'").as_str()),
        ("0", "p")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_that_differ_are_never_swapped() {
    let (yard, rule) = yard().await;
    let (doors, setting) = (yard.doors(), yard.site.setting());
    let converter = Converter::open(&rule, &doors, &setting).await.unwrap();
    let plain = yard.ask("SELECT 'logs'::regclass::oid");
    // Somebody alters the copy behind the journal's back, as soon as it holds everything.
    let meddle = async {
        while yard.ask("SELECT count(*) FROM pg_class WHERE relname = 'logs_default'") == "0" {
            tokio::task::yield_now().await;
        }
        yard.ask("DELETE FROM logs_default WHERE who = 'far'");
    };
    let (converted, ()) = tokio::join!(converter.convert(), meddle);
    let failure = match converted {
        Err(failure) => failure,
        // The comparison was over before: then it is the last one that must find it.
        Ok(_) => finish(&yard, &rule).await.unwrap_err(),
    };
    assert_eq!(failure.kind, FailureKind::Integrity, "{}", failure.full_message());
    drop(converter);
    if yard.ask("SELECT 'logs'::regclass::oid") == plain {
        undo(&yard, &rule).await.unwrap();
        assert_eq!(yard.ask(DIFFERENCE), "0");
    }
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn f05_a_conversion_killed_anywhere_is_gone_on_with() {
    use std::os::unix::process::ExitStatusExt as _;

    use crate::cli::Desk;

    let (yard, _) = yard().await;
    let desk = Desk::at(yard.site, &["customers"]);
    let plan = "description = 'logs'\n[job.partitions]\nverb = 'partition'\n[partition.logs]\nkey = 'at'\nlock_timeout = '300 ms'\n";
    std::fs::write(desk.site.root().join("plan.toml"), plan).unwrap();
    desk.configure("[postgres.roles]\npartition = 'dbagent_part'\ndump = 'dbagent_dump'\n");
    let log = desk.site.root().join("fired");
    let shown = desk.json(0, &["partition", "convert", "logs", "--plan"]);
    assert!(shown["steps"].as_array().unwrap().len() > 3 && shown["phase"].is_null(), "{shown}");
    for round in 0..2 {
        for point in
            ["convert.begun", "convert.month_copied", "convert.month_copied:3", "convert.caught_up", "convert.swapped"]
        {
            let (name, nth) = point.split_once(':').unwrap_or((point, "1"));
            let _ = std::fs::remove_file(&log);
            let mut command = desk.command(&["partition", "convert", "logs", "--yes"]);
            command.env("DBAGENT_FAILPOINT", format!("{name}=kill:{nth}")).env("DBAGENT_FAILPOINT_LOG", &log);
            let killed = command.output().unwrap();
            assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
            assert!(std::fs::read_to_string(&log).unwrap().contains("Kill"), "{point} did not fire");
            for k in 0..40 {
                desk.site.ask(&work(round * 1000 + k));
            }
            assert_eq!(desk.site.ask(DIFFERENCE), "0", "{point}");
        }
        desk.json(0, &["partition", "convert", "logs", "--yes"]);
        assert_eq!(desk.site.ask(DIFFERENCE), "0");
        if round == 0 {
            desk.json(0, &["partition", "convert", "logs", "--undo", "--yes"]);
        }
    }
    desk.json(0, &["partition", "convert", "logs", "--finish", "--yes"]);
    assert_eq!(desk.site.ask(DIFFERENCE), "0");
    let listed = desk.json(3, &["partition", "list"]);
    assert!(listed["tables"][0]["partitions"].as_array().unwrap().len() > 12, "{listed}");
}
