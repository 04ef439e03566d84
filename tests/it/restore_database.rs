//! How a whole database is restored: frozen rows where that pays, indexes and the proof side by side.

use std::sync::Arc;

use crate::stage::site::Site;
use dbagent::model::event::{Event, Events};
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::table::QualifiedTable;
use dbagent::ops::restore;
use dbagent::postgres::tables;

/// Pages whose rows all are known to be visible, and all pages, of `orders` in the database `name`.
fn pages(site: &Site, name: &str) -> (u32, u32) {
    let query = "SELECT relallvisible || ' ' || relpages FROM pg_class WHERE relname = 'orders'";
    let said = site.server.sql_in(name, query).unwrap();
    let (visible, all) = said.trim().split_once(' ').unwrap();
    (visible.parse().unwrap(), all.parse().unwrap())
}

async fn restore_with(site: &Site, jobs: usize, name: &str, events: Events) -> Result<restore::Restored, Failure> {
    let mut setting = site.setting();
    setting.events = events;
    let doors = restore::Doors { jobs, ..site.restore_doors() };
    let choice = restore::choose(&site.wanted(None), &doors, &setting).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some(name.into()), replace: false, no_owner: false };
    restore::restore_database(&options, &choice, &doors, &setting).await
}

/// No database but those that are always there and the source's own.
fn require_nothing_left(site: &Site) {
    assert_eq!(site.server.sql("SELECT count(*) FROM pg_database").unwrap().trim(), "4");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_table_is_frozen_by_one_connection_or_loaded_by_many() {
    let site = Site::new();
    let more = "INSERT INTO orders (customer, note) SELECT n % 500 + 1, repeat('more ' || n, 9) FROM generate_series(1, 60000) n";
    site.server.sql_in("shop", more).unwrap();
    site.dump().await.unwrap();
    for (jobs, frozen) in [(1, true), (2, true), (3, false)] {
        let name = format!("with_{jobs}");
        let restored = restore_with(&site, jobs, &name, Events::nowhere()).await.unwrap();
        assert_eq!(restored.rows(), 500 + 63000 + 4000 + 50);
        let (visible, all) = pages(&site, &name);
        assert!(all > 600, "{all} pages are too few to be worth freezing");
        assert_eq!(visible, if frozen { all } else { 0 }, "with {jobs} connections");
        let content = "SELECT count(*), sum(hashtext(o::text)) FROM orders o";
        assert_eq!(site.server.sql_in(&name, content).unwrap().trim(), site.ask(content));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_empty_ordinary_table_of_ours_is_truncated_before_it_is_filled() {
    let site = Site::new();
    let statements = [
        "CREATE TABLE fresh (id int)",
        "CREATE TABLE filled (id int); INSERT INTO filled VALUES (1)",
        "CREATE TABLE emptied (id int); INSERT INTO emptied VALUES (1); DELETE FROM emptied",
        "CREATE TABLE parted (id int) PARTITION BY LIST (id)",
        "CREATE ROLE loader; CREATE TABLE insertable (id int); GRANT INSERT ON insertable TO loader",
        "CREATE TABLE truncatable (id int); GRANT INSERT, TRUNCATE ON truncatable TO loader",
    ];
    for statement in statements {
        site.server.sql_in("shop", statement).unwrap();
    }
    let session = site.connection().connect().await.unwrap();
    let loader = site.connection().with_role(Some("loader")).connect().await.unwrap();
    for (table, ours, the_loaders) in [
        ("fresh", true, false),
        ("filled", false, false),
        ("emptied", false, false),
        ("parted", false, false),
        ("insertable", true, false),
        ("truncatable", true, true),
    ] {
        let name = QualifiedTable::new("public", table);
        assert_eq!(tables::is_refillable(session.client(), &name).await.unwrap(), ours, "{table}");
        assert_eq!(tables::is_refillable(loader.client(), &name).await.unwrap(), the_loaders, "{table} for the loader");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_that_cannot_be_built_beside_the_proof_is_told_and_nothing_is_left() {
    let site = Site::new();
    let statements = [
        "CREATE FUNCTION at_home(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS
         $$BEGIN RETURN n / (current_database() = 'shop')::int; END$$",
        "CREATE INDEX orders_at_home ON orders (at_home(id))",
    ];
    for statement in statements {
        site.server.sql_in("shop", statement).unwrap();
    }
    site.dump().await.unwrap();
    let failure = site.restore_database("copy").await.unwrap_err();
    let told = failure.full_message();
    assert!(told.contains("division by zero") || told.contains("orders_at_home"), "{told}");
    require_nothing_left(&site);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_is_gone_before_the_proof_fails_the_restore_though_all_indexes_were_built() {
    let site = Arc::new(Site::new());
    site.dump().await.unwrap();
    let server = site.clone();
    let events = Events::to(move |event| {
        if matches!(&event, Event::Step { text } if text == "restoring post-data") {
            let query = "SELECT datname FROM pg_database WHERE datname LIKE 'dbagent%'";
            let name = server.server.sql(query).unwrap();
            let gone = "DELETE FROM public.orders WHERE id = 7 RETURNING id";
            assert_eq!(
                server.server.sql_in(name.trim(), gone).unwrap().lines().next(),
                Some("7"),
                "nothing was deleted"
            );
        }
    });
    let failure = restore_with(&site, 2, "copy", events).await.unwrap_err();
    assert_eq!(failure.kind, FailureKind::Integrity);
    let told = failure.full_message();
    assert!(told.contains("orders has 2999 rows where the dump has 3000"), "{told}");
    require_nothing_left(&site);
}
