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
