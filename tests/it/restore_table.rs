//! `restore --table`: beside, merge, replace.

use crate::stage::site::Site;
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::ops::dump;
use dbagent::ops::restore::{self, TableMode, TableOptions};
use std::time::Duration;

async fn restore(site: &Site, table: &str, mode: TableMode, plan_only: bool) -> Result<restore::TableResult, Failure> {
    let (doors, setting) = (site.restore_doors(), site.setting());
    let choice = restore::choose(&site.wanted(Some(table)), &doors, &setting).await?;
    let options = TableOptions {
        table: table.parse().unwrap(),
        mode,
        plan_only,
        lock_timeout: Duration::from_secs(2),
        reindex: true,
    };
    restore::restore_table(&options, &choice, &doors, &setting).await
}

const CUSTOMERS: &str = "SELECT count(*), sum(hashtext(c::text)) FROM customers c";

/// Deletes, changes and adds rows of customers, as an accident would.
fn damage(site: &Site) {
    site.ask(
        "UPDATE customers SET name = 'wrong' WHERE id BETWEEN 10 AND 20; \
         UPDATE customers SET referred_by = NULL WHERE referred_by > 490; \
         DELETE FROM customers WHERE id > 490; \
         INSERT INTO customers (email) VALUES ('new@example.org')",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn beside_makes_a_new_table_and_touches_nothing_else() {
    let site = Site::new();
    site.dump().await.unwrap();
    let before = site.ask(CUSTOMERS);
    damage(&site);
    let damaged = site.ask(CUSTOMERS);
    let restored = restore(&site, "customers", TableMode::Beside(None), false).await.unwrap().1.unwrap();
    assert_eq!(restored.target, "public.customers_restored");
    assert_eq!(site.ask(CUSTOMERS), damaged);
    assert_eq!(site.ask(&CUSTOMERS.replace("FROM customers", "FROM customers_restored")), before);
    let again = restore(&site, "customers", TableMode::Beside(None), false).await.unwrap_err();
    assert_eq!(again.kind, FailureKind::RefusedForSafety, "nothing is overwritten");
}

#[tokio::test(flavor = "multi_thread")]
async fn merge_brings_rows_back_and_deletes_none() {
    let site = Site::new();
    site.dump().await.unwrap();
    damage(&site);
    let (plan, nothing) = restore(&site, "customers", TableMode::Merge, true).await.unwrap();
    let counts = plan.unwrap().counts;
    assert_eq!((counts.missing, counts.extra), (10, 1));
    assert!(nothing.is_none());
    let damaged = site.ask(CUSTOMERS);
    assert_eq!(site.ask("SELECT count(*) FROM customers WHERE name = 'wrong'"), "11", "a plan changes nothing");
    restore(&site, "customers", TableMode::Merge, false).await.unwrap();
    assert_ne!(site.ask(CUSTOMERS), damaged);
    assert_eq!(site.ask("SELECT count(*) FROM customers WHERE name = 'wrong'"), "0");
    assert_eq!(site.ask("SELECT count(*) FROM customers"), "501");
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_makes_the_table_equal_and_fires_no_trigger() {
    let site = Site::new();
    let before = site.ask(CUSTOMERS);
    site.dump().await.unwrap();
    damage(&site);
    let restored = restore(&site, "customers", TableMode::Replace, false).await.unwrap().1.unwrap();
    assert!(restored.proofs[0].holds());
    assert_eq!(site.ask(CUSTOMERS), before, "updated_at included");
    let orders = site.ask("SELECT count(*) FROM orders");
    assert!(orders.parse::<u32>().unwrap() < 3000, "orders that the accident cascaded away are another table");
    restore(&site, "orders", TableMode::Replace, false).await.unwrap();
    assert_eq!(site.ask("SELECT count(*) FROM orders"), "3000");
    assert_eq!(
        site.ask("SELECT DISTINCT tgenabled FROM pg_trigger WHERE NOT tgisinternal"),
        "O",
        "triggers are back on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_refuses_to_delete_rows_that_others_refer_to() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask(
        "INSERT INTO customers (email) VALUES ('new@example.org'); \
         INSERT INTO orders (customer, note) SELECT max(id), 'cascades if deleted' FROM customers",
    );
    let before = site.ask(CUSTOMERS);
    let refused = restore(&site, "customers", TableMode::Replace, false).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::RefusedForSafety);
    assert!(refused.message.contains("orders_customer_fkey"), "{}", refused.message);
    assert_eq!(site.ask(CUSTOMERS), before);
    assert_eq!(site.ask("SELECT count(*) FROM orders"), "3001");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_comes_back_whole() {
    let site = Site::new();
    site.dump().await.unwrap();
    let query = "SELECT count(*), sum(hashtext(e::text)) FROM events e";
    let before = site.ask(query);
    site.ask("DELETE FROM events WHERE at < '2026-01-10'");
    restore(&site, "events", TableMode::Beside(Some("events_back".parse().unwrap())), false).await.unwrap();
    assert_eq!(site.ask(&query.replace("FROM events", "FROM events_back")), before);
    let refused = restore(&site, "events", TableMode::Replace, false).await.unwrap_err();
    assert!(refused.message.contains("no primary key"), "{}", refused.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn f81_a_table_with_an_awful_name_comes_back() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("DELETE FROM \"Odd \"\"name\"\"\" WHERE \"a.b\" > 10");
    restore(&site, "\"Odd \"\"name\"\"\"", TableMode::Replace, false).await.unwrap();
    assert_eq!(site.ask("SELECT count(*) FROM \"Odd \"\"name\"\"\""), "50");
}

#[tokio::test(flavor = "multi_thread")]
async fn f78_a_table_altered_since_is_refused_with_what_changed() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("ALTER TABLE orders RENAME note TO remark");
    let refused = restore(&site, "orders", TableMode::Merge, false).await.unwrap_err();
    assert!(
        refused.message.contains("note is gone") && refused.message.contains("remark is new"),
        "{}",
        refused.message
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn replace_leaves_the_rows_of_inheriting_tables_alone() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask(
        "CREATE TABLE old_orders () INHERITS (orders); INSERT INTO old_orders (customer, note) VALUES (1, 'kept')",
    );
    site.ask("DELETE FROM ONLY orders WHERE id <= 100");
    let (plan, _) = restore(&site, "orders", TableMode::Replace, false).await.unwrap();
    let counts = plan.unwrap().counts;
    assert_eq!((counts.missing, counts.differing, counts.extra), (100, 0, 0));
    assert_eq!(site.ask("SELECT count(*) FROM ONLY orders"), "3000");
    assert_eq!(site.ask("SELECT note FROM old_orders"), "kept");
}

const PARTS: &str = "CREATE TABLE parts (id int PRIMARY KEY, what text) PARTITION BY RANGE (id); \
     CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100); \
     CREATE TABLE parts_high PARTITION OF parts FOR VALUES FROM (100) TO (200); \
     CREATE TABLE uses (id int PRIMARY KEY, part int REFERENCES parts ON DELETE CASCADE); \
     INSERT INTO parts SELECT n, 'part ' || n FROM generate_series(0, 49) n";

#[tokio::test(flavor = "multi_thread")]
async fn replacing_one_partition_never_cascades_by_keys_of_its_parent() {
    let site = Site::new();
    site.ask(PARTS);
    let options = dump::Options { tables: Vec::new(), ..site.dump_options() };
    dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    site.ask("INSERT INTO parts VALUES (60, 'new'); INSERT INTO uses VALUES (1, 60)");
    for table in ["parts_low", "parts"] {
        let refused = restore(&site, table, TableMode::Replace, false).await.unwrap_err();
        assert_eq!(refused.kind, FailureKind::RefusedForSafety, "{table}: {}", refused.full_message());
        assert!(refused.message.contains("uses_part_fkey"), "{}", refused.message);
    }
    assert_eq!(site.ask("SELECT count(*) FROM uses"), "1");
    assert_eq!(site.ask("SELECT count(*) FROM parts"), "51");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_trigger_is_enabled_afterwards_as_it_was_before() {
    let site = Site::new();
    site.ask(PARTS);
    site.ask(
        "CREATE TRIGGER always BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION touch(); \
         CREATE TRIGGER off BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION touch(); \
         CREATE TRIGGER replica BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION touch(); \
         CREATE TRIGGER \"Plain one\" BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION touch(); \
         ALTER TABLE parts ENABLE ALWAYS TRIGGER always; ALTER TABLE parts DISABLE TRIGGER off; \
         ALTER TABLE parts ENABLE REPLICA TRIGGER replica; ALTER TABLE parts_low ENABLE ALWAYS TRIGGER \"Plain one\"",
    );
    let options = dump::Options { tables: Vec::new(), ..site.dump_options() };
    dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    let states = "SELECT string_agg(tgrelid::regclass || '.' || tgname || tgenabled::text, ' ' ORDER BY tgrelid::regclass::text, tgname) \
                  FROM pg_trigger WHERE NOT tgisinternal";
    let before = site.ask(states);
    site.ask("ALTER TABLE parts DISABLE TRIGGER \"Plain one\"");
    site.ask("DELETE FROM parts WHERE id = 7");
    site.ask(
        "ALTER TABLE parts ENABLE TRIGGER \"Plain one\"; ALTER TABLE parts_low ENABLE ALWAYS TRIGGER \"Plain one\"",
    );
    assert_eq!(site.ask(states), before);
    for table in ["parts_low", "parts"] {
        site.ask("DELETE FROM parts WHERE id = 8");
        restore(&site, table, TableMode::Replace, false).await.unwrap();
        assert_eq!(site.ask(states), before, "{table}");
        assert_eq!(site.ask("SELECT what FROM parts WHERE id = 8"), "part 8");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_comes_back_in_its_form_under_any_name() {
    let site = Site::new();
    let before = site.ask(CUSTOMERS);
    let events = site.ask("SELECT count(*), sum(hashtext(e::text)) FROM events e");
    site.dump().await.unwrap();
    site.increment().await.unwrap();
    site.ask("DROP TABLE customers CASCADE; DROP TABLE events; DROP TABLE \"Odd \"\"name\"\"\"");
    let gone = restore(&site, "customers", TableMode::Replace, false).await.unwrap_err();
    assert!(gone.kind == FailureKind::NothingMatches && gone.hint.unwrap().contains("--as public.customers"));

    let beside = restore(&site, "customers", TableMode::Beside(None), false).await.unwrap().1.unwrap();
    assert!(beside.target == "public.customers_restored" && beside.proofs.iter().all(|proof| proof.holds()));
    assert_eq!(site.ask(&CUSTOMERS.replace("FROM customers", "FROM customers_restored")), before);
    let name = TableMode::Beside(Some("customers".parse().unwrap()));
    restore(&site, "customers", name, false).await.unwrap();
    assert_eq!(site.ask(CUSTOMERS), before);
    let form = "SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || attnotnull::text || attgenerated::text, ', ' \
        ORDER BY attnum), (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ') FROM pg_constraint \
        WHERE conrelid = 'customers'::regclass AND contype = 'p') FROM pg_attribute WHERE attrelid = 'customers'::regclass AND attnum > 0";
    let form = site.ask(form);
    assert!(form.contains("shouted textfalses") && form.contains("customers_pkey PRIMARY KEY (id)"), "{form}");

    // A partitioned table comes back as a plain one, with all its rows.
    restore(&site, "events", TableMode::Beside(None), false).await.unwrap();
    assert_eq!(site.ask("SELECT count(*), sum(hashtext(e::text)) FROM events_restored e"), events);
    restore(&site, "\"Odd \"\"name\"\"\"", TableMode::Beside(Some("odd".parse().unwrap())), false).await.unwrap();
    assert_eq!(site.ask("SELECT count(*) FROM odd"), "50");
    let left = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace";
    assert_eq!(site.ask(left), "customers customers_restored events_restored left_out odd orders");
}

/// Everything that can belong to a table, on `thing`, and others that have to do with it.
const BELONGINGS: &str = "
    CREATE ROLE app; CREATE ROLE \"odd reader\"; CREATE ROLE passing;
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
    CREATE FUNCTION vanishing() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NEW; END$$;
    CREATE SCHEMA \"side room\";
    CREATE TABLE kinds (id int PRIMARY KEY); INSERT INTO kinds VALUES (1), (2);
    CREATE TABLE thing (
        id bigint GENERATED ALWAYS AS IDENTITY (START WITH 10 INCREMENT BY 5),
        number serial, kind int NOT NULL REFERENCES kinds, name text DEFAULT 'it''s; (new', wide numeric, parent bigint,
        doubled numeric GENERATED ALWAYS AS (wide * 2) STORED,
        CONSTRAINT \"thing's key\" PRIMARY KEY (id), CONSTRAINT named CHECK (name <> 'x;('))
        WITH (fillfactor = 70);
    CREATE TABLE \"thing x\" (id int); CREATE TRIGGER other BEFORE INSERT ON \"thing x\" FOR EACH ROW EXECUTE FUNCTION noted();
    ALTER TABLE thing ADD CONSTRAINT up FOREIGN KEY (parent) REFERENCES thing;
    CREATE UNIQUE INDEX thing_name ON thing (lower(name), number) WHERE kind > 0;
    CREATE INDEX \"idx; (odd\" ON thing USING brin (wide); CREATE INDEX thing_kind ON thing (kind); ALTER TABLE thing CLUSTER ON thing_kind;
    ALTER TABLE thing ALTER COLUMN wide SET STATISTICS 77, ALTER COLUMN name SET STORAGE external;
    CREATE STATISTICS thing_statistics (dependencies) ON kind, name FROM thing;
    CREATE TRIGGER noted AFTER UPDATE OF name ON thing FOR EACH ROW WHEN (NEW.name = 'a;(''b') EXECUTE FUNCTION noted();
    CREATE TRIGGER always BEFORE INSERT ON thing FOR EACH ROW EXECUTE FUNCTION noted();
    ALTER TABLE thing ENABLE ALWAYS TRIGGER always; ALTER TABLE thing DISABLE TRIGGER noted;
    CREATE RULE twice AS ON DELETE TO thing WHERE OLD.id < 0
        DO (DELETE FROM kinds WHERE id = -1; DELETE FROM kinds WHERE id = -2);
    CREATE POLICY mine ON thing FOR SELECT TO app USING (kind IN (SELECT id FROM kinds));
    ALTER TABLE thing ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, REPLICA IDENTITY USING INDEX \"thing's key\";
    COMMENT ON TABLE thing IS E'two\\nlines; (and a '' quote'; COMMENT ON COLUMN thing.wide IS 'how wide';
    COMMENT ON INDEX thing_name IS 'by name'; COMMENT ON TRIGGER noted ON thing IS 'a note'; COMMENT ON CONSTRAINT named ON thing IS 'c';
    ALTER TABLE thing OWNER TO app; GRANT SELECT ON thing TO \"odd reader\" WITH GRANT OPTION;
    GRANT UPDATE (name, wide) ON thing TO \"odd reader\"; GRANT USAGE ON SEQUENCE thing_number_seq TO \"odd reader\";
    REVOKE DELETE ON thing FROM app; GRANT SELECT, DELETE ON kinds TO app;
    INSERT INTO thing (kind, name, wide) SELECT n % 2 + 1, 'thing ' || n, n / 3.0 FROM generate_series(1, 300) n;
    UPDATE thing SET parent = id - 5 WHERE id > 10;
    CREATE VIEW things AS SELECT id, name FROM thing; CREATE TABLE uses (thing bigint CONSTRAINT uses_thing REFERENCES thing);
    CREATE PUBLICATION told FOR TABLE thing;";

/// Rows, and the form, of the tables whose names begin with `thing`: what pg_dump says of each.
fn form_of(site: &Site, tables: &[&str]) -> String {
    let mut program = std::process::Command::new(site.tools().pg_dump.path);
    program.args(["--schema-only", "--dbname=shop", "--username=postgres", "--host"]);
    program.arg(site.connection().host().to_string());
    program.arg(format!("--port={}", site.connection().port())).env_clear();
    program.args(tables.iter().map(|table| format!("--table={table}")));
    let output = program.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let script = String::from_utf8(output.stdout).unwrap();
    let kept = script.lines().filter(|line| !line.starts_with("\\") && !line.starts_with("--") && !line.is_empty());
    kept.map(|line| format!("{line}\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_comes_back_under_its_own_name_with_everything_that_was_its_own() {
    for with_increment in [false, true] {
        let site = Site::new();
        site.ask(BELONGINGS);
        let options = dump::Options { tables: Vec::new(), ..site.dump_options() };
        dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
        if with_increment {
            site.ask("UPDATE thing SET wide = 7 WHERE id < 100; INSERT INTO thing (kind) VALUES (2); DELETE FROM thing WHERE id = 1505");
            let options = dump::Options { tables: Vec::new(), ..site.increment_options() };
            dbagent::ops::increment::run(&options, &site.dump_doors(), None, &site.setting()).await.unwrap();
            let newest = site.artifacts("local").await.pop().unwrap();
            assert_eq!(newest.manifest.verb, dbagent::model::verb::Verb::Increment);
        }
        let query = "SELECT count(*), sum(hashtext(t::text)) FROM thing t";
        let (rows, form) = (site.ask(query), form_of(&site, &["thing", "\"thing x\""]));
        assert!(
            form.contains("CREATE POLICY") && form.contains("SET STATISTICS 77") && form.contains("OWNED BY"),
            "{form}"
        );
        site.ask("DROP TABLE thing CASCADE");
        let name = TableMode::Beside(Some("thing".parse().unwrap()));
        let restored = restore(&site, "thing", name, false).await.unwrap().1.unwrap();
        assert_eq!(restored.unrestored.failed, Vec::<String>::new());
        assert_eq!(site.ask(query), rows);
        assert_eq!(form_of(&site, &["thing", "\"thing x\""]), form, "increment: {with_increment}");
        let others = restored.unrestored.others.join("\n");
        assert!(["VIEW public things", "uses_thing", "told"].iter().all(|other| others.contains(other)), "{others}");
        assert!(!others.contains("INDEX") && !others.contains("TRIGGER"), "{others}");
        let next = site.ask("INSERT INTO thing (kind) VALUES (1) RETURNING id, number");
        let expected = if with_increment { "1515|302" } else { "1510|301" };
        assert_eq!(next.lines().next().unwrap(), expected, "sequences go on where they were");
        let left = "SELECT count(*) FROM pg_class WHERE relname LIKE 'dbagent%'";
        assert_eq!(site.ask(left), "0");
        assert_eq!(
            std::fs::read_dir(site.root())
                .unwrap()
                .filter(|entry| { entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("dbagent-schema") })
                .count(),
            0
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_of_a_table_that_is_gone_cannot_come_back_is_named_and_keeps_nothing_else_back() {
    let site = Site::new();
    site.ask(BELONGINGS);
    site.ask(
        "CREATE TRIGGER v BEFORE INSERT ON thing FOR EACH ROW EXECUTE FUNCTION vanishing(); GRANT SELECT ON thing TO passing",
    );
    let options = dump::Options { tables: Vec::new(), ..site.dump_options() };
    dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    let query = "SELECT count(*), sum(hashtext(t::text)) FROM thing t";
    let rows = site.ask(query);
    site.ask("DROP TABLE thing CASCADE; DROP FUNCTION vanishing(); DROP ROLE passing; DELETE FROM kinds WHERE id = 2");
    let name = TableMode::Beside(Some("thing".parse().unwrap()));
    let restored = restore(&site, "thing", name, false).await.unwrap().1.unwrap();
    assert!(restored.proofs.iter().all(|proof| proof.holds()));
    assert_eq!(site.ask(query), rows);
    let failed = restored.unrestored.failed;
    let named = |what: &str, why: &str| failed.iter().any(|each| each.contains(what) && each.contains(why));
    assert!(named("CREATE TRIGGER v ", "vanishing"), "{failed:?}");
    assert!(named("ADD CONSTRAINT thing_kind_fkey", "violates foreign key"), "{failed:?}");
    assert!(named("TO passing", "does not exist"), "{failed:?}");
    assert_eq!(failed.len(), 3, "{failed:?}");
    let form = form_of(&site, &["thing"]);
    assert!(["CREATE POLICY", "thing_name", "CREATE TRIGGER noted"].iter().all(|each| form.contains(each)), "{form}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_that_is_gone_comes_back_partitioned_and_a_partition_by_itself() {
    let site = Site::new();
    site.ask(PARTS);
    site.ask(
        "CREATE INDEX parts_what ON parts (what); CREATE TABLE parts_mid PARTITION OF parts FOR VALUES FROM (200) TO (300) \
             PARTITION BY LIST (id); \
         CREATE TABLE parts_mid_all PARTITION OF parts_mid DEFAULT; \
         CREATE TRIGGER touched BEFORE UPDATE ON parts FOR EACH ROW EXECUTE FUNCTION touch(); \
         COMMENT ON TABLE parts_low IS 'the low ones'; INSERT INTO parts VALUES (150, 'h'), (250, 'm')",
    );
    let options = dump::Options { tables: Vec::new(), ..site.dump_options() };
    dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    let query = "SELECT tableoid::regclass::text, count(*), sum(hashtext(p::text)) FROM parts p GROUP BY 1 ORDER BY 1";
    let (rows, form) = (site.ask(query), form_of(&site, &["parts", "parts_*"]));
    site.ask("DROP TABLE parts CASCADE");
    let whole = TableMode::Beside(Some("parts".parse().unwrap()));
    let restored = restore(&site, "parts", whole, false).await.unwrap().1.unwrap();
    assert_eq!(restored.unrestored.failed, Vec::<String>::new());
    assert_eq!((site.ask(query), form_of(&site, &["parts", "parts_*"])), (rows, form));

    // A partition by itself is not attached: that would change another table. How is said.
    let low = "SELECT count(*), sum(hashtext(p::text)) FROM parts_low p";
    let rows = site.ask(low);
    site.ask("DROP TABLE parts_low");
    let one = TableMode::Beside(Some("parts_low".parse().unwrap()));
    let restored = restore(&site, "parts_low", one, false).await.unwrap().1.unwrap();
    assert_eq!((site.ask(low), site.ask("SELECT count(*) FROM parts")), (rows, "2".to_owned()));
    let others = restored.unrestored.others.join("\n");
    assert!(others.contains("TABLE ATTACH public parts_low"), "{others}");
    site.ask("ALTER TABLE parts ATTACH PARTITION parts_low FOR VALUES FROM (0) TO (100)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_types_are_gone_too_is_refused_with_a_way_out_and_leaves_nothing() {
    let site = Site::new();
    site.dump().await.unwrap();
    let before = "SELECT count(*) FROM pg_class";
    site.ask("DROP TABLE customers CASCADE; DROP TYPE mood");
    let count = site.ask(before);
    let failure = restore(&site, "customers", TableMode::Beside(None), false).await.unwrap_err();
    assert!(failure.message.contains("mood") && failure.hint.unwrap().contains("--to-database"), "{}", failure.message);
    assert_eq!(site.ask(before), count);
    let nowhere = restore(&site, "nothere", TableMode::Beside(None), false).await.unwrap_err();
    assert!(nowhere.message.contains("with the table nothere"), "{}", nowhere.message);
}
