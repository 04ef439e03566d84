//! The verb `dump` and back again, on a real PostgreSQL.

use std::process::Command;

use crate::stage::site::Site;
use dbagent::model::manifest::{ObjectRole, VerificationLevel};
use dbagent::model::outcome::Verdict;

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
