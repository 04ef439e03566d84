//! The verb `dump` and back again, on a real PostgreSQL.

use std::process::Command;

use crate::stage::site::{Site, TABLES};
use dbagent::model::failure::FailureKind;
use dbagent::model::manifest::{ObjectRole, VerificationLevel};
use dbagent::model::outcome::Verdict;
use dbagent::ops::{dump, restore};

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_restores_equal_into_a_new_database() {
    let site = Site::new();
    let outcome = site.dump().await.unwrap();
    assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
    let restored = site.restore_database("copy").await.unwrap();
    assert_eq!(restored.rows(), 500 + 3000 + 4000 + 50);
    assert!(restored.proofs.iter().all(|proof| proof.holds()));
    for query in [
        "SELECT count(*), sum(hashtext(c::text)) FROM customers c",
        "SELECT count(*), sum(hashtext(o::text)) FROM orders o",
        "SELECT tableoid::regclass::text, count(*) FROM events GROUP BY 1 ORDER BY 1",
        "SELECT last_value FROM customers_id_seq",
        "SELECT count(*) FROM glad",
        "SELECT conname FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1",
        "SELECT indexrelid::regclass::text FROM pg_index WHERE indexrelid::regclass::text NOT LIKE 'pg_%' ORDER BY 1",
        "SELECT tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1",
    ] {
        let copy = site.server.sql_in("copy", query).unwrap();
        assert_eq!(copy.trim(), site.ask(query), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_says_what_was_dumped() {
    let site = Site::new();
    site.dump().await.unwrap();
    let artifact = site.artifacts("local").await.remove(0);
    let manifest = &artifact.manifest;
    assert_eq!(manifest.verification.level, VerificationLevel::ReadBack);
    assert_eq!(manifest.recipients.join(" "), site.pair.fingerprint);
    assert_eq!(manifest.source.database, "shop");
    assert!(manifest.source.system_identifier.is_some() && manifest.source.lsn.is_some());
    let rows = |name: &str| {
        let record = manifest.tables.iter().find(|record| record.table.name == name).unwrap();
        record.content.map(|content| content.rows)
    };
    assert_eq!((rows("customers"), rows("orders"), rows("events")), (Some(500), Some(3000), None));
    assert_eq!(rows("events_2026_01"), Some(1116));
    assert_eq!(manifest.objects.len(), 5);
    assert!(manifest.objects.iter().any(|object| object.role == ObjectRole::Checksums));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_tools_alone_restore_a_dump() {
    let site = Site::new();
    site.dump().await.unwrap();
    let manifest = site.artifacts("local").await.remove(0).manifest;
    let folder = site.root().join("local/full");
    let home = tempfile::tempdir().unwrap();
    let key = home.path().join("key.asc");
    std::fs::write(&key, &site.pair.secret).unwrap();
    site.server.sql("CREATE DATABASE by_hand").unwrap();
    let name = |role| manifest.object(role).unwrap().key.name().to_owned();
    let bin = site.tools().pg_restore.path.parent().unwrap().to_owned();
    let script = format!(
        "set -eu -o pipefail; cd '{folder}'; sha256sum --quiet -c '{sums}'; gpg --batch --quiet --import '{key}'; \
         for section in pre-data post-data; do gpg --batch --quiet -d '{schema}' | gunzip > \"$GNUPGHOME/schema\"; \
         if [ $section = pre-data ]; then '{bin}/pg_restore' --section=pre-data -d by_hand \"$GNUPGHOME/schema\"; \
         gpg --batch --quiet -d '{data}' | gunzip | '{bin}/pg_restore' --section=data -d by_hand; \
         else '{bin}/pg_restore' --section=post-data -d by_hand \"$GNUPGHOME/schema\"; fi; done",
        folder = folder.display(),
        sums = name(ObjectRole::Checksums),
        key = key.display(),
        schema = name(ObjectRole::Schema),
        data = name(ObjectRole::Data),
        bin = bin.display(),
    );
    let ran = Command::new("bash")
        .args(["-c", &script])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("GNUPGHOME", home.path())
        .env("PGHOST", site.server.directory())
        .env("PGPORT", site.server.port().to_string())
        .env("PGUSER", site.connection().user())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    let query = "SELECT count(*), sum(hashtext(c::text)) FROM customers c";
    assert_eq!(site.server.sql_in("by_hand", query).unwrap().trim(), site.ask(query));
    let query = "SELECT count(*), sum(hashtext(e::text)) FROM events e";
    assert_eq!(site.server.sql_in("by_hand", query).unwrap().trim(), site.ask(query));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_backup_of_one_table_is_never_taken_for_the_database() {
    let site = Site::new();
    let of = |job: &str, tables: &[&str]| dump::Options {
        job: job.to_owned(),
        folder: job.to_owned(),
        tables: tables.iter().map(|table| table.parse().unwrap()).collect(),
        ..site.dump_options()
    };
    let make = async |options: dump::Options| dump::run(&options, &site.dump_doors(), &site.setting()).await.unwrap();
    make(of("archive", &["events"])).await;
    make(of("customers", &["customers"])).await;
    let refused = site.restore_database("unclear").await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::RefusedForSafety);
    assert!(refused.message.contains("archive: 1 tables") && refused.message.contains("customers: 1 tables"));
    make(of("full", &TABLES)).await;
    make(of("archive", &["events"])).await;
    site.restore_database("copy").await.unwrap();
    assert_eq!(site.server.sql_in("copy", "SELECT count(*) FROM orders").unwrap().trim(), "3000");
}

#[tokio::test(flavor = "multi_thread")]
async fn materialized_views_are_filled_those_that_others_read_first() {
    let site = Site::new();
    site.ask(
        "CREATE MATERIALIZED VIEW zz_base AS SELECT id FROM customers WHERE id <= 7; \
         CREATE MATERIALIZED VIEW aa_upon AS SELECT sum(id) AS total FROM zz_base; \
         CREATE MATERIALIZED VIEW broken AS SELECT 1 / count(*) AS one FROM left_out",
    );
    site.dump().await.unwrap();
    site.restore_database("copy").await.unwrap();
    assert_eq!(site.server.sql_in("copy", "SELECT total FROM aa_upon").unwrap().trim(), "28");
    assert!(site.server.sql_in("copy", "SELECT * FROM broken").is_err(), "left_out has no rows in this dump");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_is_replaced_under_an_application_that_keeps_coming_back() {
    let site = Site::new();
    site.dump().await.unwrap();
    site.ask("DELETE FROM orders");
    let stop = tokio_util::sync::CancellationToken::new();
    let pool: Vec<_> = (0..4)
        .map(|_| {
            let (connection, stop) = (site.connection(), stop.clone());
            tokio::spawn(async move {
                let mut served = 0;
                while !stop.is_cancelled() {
                    if let Ok(session) = connection.connect().await {
                        // Stays until the server ends it, and is back at once.
                        let _ = session.client().batch_execute("SELECT pg_sleep(5)").await;
                        served += 1;
                    }
                }
                served
            })
        })
        .collect();
    let choice = restore::choose(&site.wanted(None), &site.restore_doors(), &site.setting()).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some("shop".into()), replace: true, no_owner: false };
    restore::restore_database(&options, &choice, &site.restore_doors(), &site.setting()).await.unwrap();
    assert_eq!(site.ask("SELECT count(*) FROM orders"), "3000");
    stop.cancel();
    site.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(5)%' AND pid <> pg_backend_pid()");
    for application in pool {
        assert!(application.await.unwrap() > 0, "an application never connected");
    }
    let left = "SELECT string_agg(datname, ' ') FROM pg_database WHERE datname LIKE 'dbagent_%' OR NOT datallowconn AND datname <> 'template0'";
    assert_eq!(site.ask(left), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_gives_its_leases_back_also_when_it_fails() {
    let site = Site::new();
    site.dump().await.unwrap();
    let storage = &site.repositories[0].storage;
    let leases = async || storage.list("leases/", None).await.unwrap().objects.len();
    let doors = site.restore_doors();
    let choice = restore::choose(&site.wanted(None), &doors, &site.setting()).await.unwrap();
    assert_eq!(leases().await, 1);
    let there = restore::DatabaseOptions { to_database: Some("shop".into()), replace: false, no_owner: false };
    let refused = restore::restore_database(&there, &choice, &doors, &site.setting()).await.unwrap_err();
    assert_eq!((refused.kind, leases().await), (FailureKind::RefusedForSafety, 0));
    let key = &site.artifacts("local").await[0].manifest.objects[0].key;
    let path = site.root().join("local").join(key.to_string());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(restore::choose(&site.wanted(None), &doors, &site.setting()).await.is_err());
    assert_eq!(leases().await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_belongs_to_the_database_itself_comes_back_with_it() {
    let site = Site::new();
    site.server.sql("CREATE ROLE keeper; CREATE ROLE passing").unwrap();
    site.server
        .sql(
            "ALTER DATABASE shop SET work_mem = '7MB'; ALTER DATABASE shop SET app.note = E'two;\nlines ''q'''; \
             ALTER DATABASE shop SET default_transaction_read_only = on; ALTER ROLE keeper IN DATABASE shop SET jit = off; \
             ALTER ROLE passing IN DATABASE shop SET app.secret = 'xyzzy'; \
             COMMENT ON DATABASE shop IS 'it''s ours'; ALTER DATABASE shop CONNECTION LIMIT 55; \
             ALTER DATABASE shop OWNER TO keeper; REVOKE ALL ON DATABASE shop FROM PUBLIC",
        )
        .unwrap();
    let properties = |name: &str| {
        let query = format!(
            "SELECT d.datdba::regrole, d.datconnlimit, d.datacl, shobj_description(d.oid, 'pg_database'), \
             (SELECT string_agg(s.setrole::regrole || ' ' || s.setconfig::text, '; ' ORDER BY 1) FROM pg_db_role_setting s \
              WHERE s.setdatabase = d.oid) FROM pg_database d WHERE datname = '{name}'"
        );
        site.server.sql(&query).unwrap()
    };
    site.dump().await.unwrap();
    site.restore_database("Copy ;\"of\" it").await.unwrap();
    assert_eq!(properties("Copy ;\"of\" it"), properties("shop"));
    // Owners left out, only what is the database's own remains.
    let choice = restore::choose(&site.wanted(None), &site.restore_doors(), &site.setting()).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some("plain".into()), replace: false, no_owner: true };
    restore::restore_database(&options, &choice, &site.restore_doors(), &site.setting()).await.unwrap();
    let plain = properties("plain");
    assert!(plain.contains("work_mem=7MB") && plain.contains("55") && !plain.contains("keeper"), "{plain}");

    // A role that is gone costs what is its own and nothing else, and no value is told.
    site.server.sql("ALTER ROLE passing IN DATABASE shop RESET ALL; ALTER ROLE passing IN DATABASE \"Copy ;\"\"of\"\" it\" RESET ALL; DROP ROLE passing").unwrap();
    let notes = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = notes.clone();
    let events = dbagent::model::event::Events::to(move |event| {
        if let dbagent::model::event::Event::Note { text } = event {
            noted.lock().unwrap().push(text);
        }
    });
    let setting = dbagent::ops::Setting { events, ..site.setting() };
    let choice = restore::choose(&site.wanted(None), &site.restore_doors(), &setting).await.unwrap();
    let options = restore::DatabaseOptions { to_database: Some("third".into()), replace: false, no_owner: false };
    restore::restore_database(&options, &choice, &site.restore_doors(), &setting).await.unwrap();
    assert_eq!(properties("third"), properties("shop"));
    let notes = notes.lock().unwrap().join("\n");
    assert!(notes.contains("passing") && notes.contains("app.secret") && !notes.contains("xyzzy"), "{notes}");
}

#[tokio::test(flavor = "multi_thread")]
async fn programs_that_are_slow_to_connect_still_find_the_password() {
    let site = Site::with_passwords();
    let slow = "#!/bin/bash\ncase \"$*\" in *--version*) ;; *) sleep 1;; esac\nexec REAL \"$@\"\n";
    let directory = crate::dump_faults::tools_with(&site, slow);
    let mut doors = site.dump_doors();
    doors.tools = dbagent::postgres::ClientTools::find(Some(&directory), 14).unwrap();
    let outcome = dump::run(&site.dump_options(), &doors, &site.setting()).await.unwrap();
    assert_eq!(outcome.verdict, Verdict::Ok, "{outcome:?}");
    let restored = site.restore_database("copy").await.unwrap();
    assert!(restored.proofs.iter().all(|proof| proof.holds()) && restored.rows() == 7550);
}
