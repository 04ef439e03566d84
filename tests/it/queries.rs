//! The query files of sql/: each says what it is, and PostgreSQL takes each; sums over stretches of a table.

use std::fs;
use std::path::Path;

use dbagent::app::install::SqlInstaller;
use dbagent::model::digest::TableSum;
use dbagent::model::table::QualifiedTable;
use dbagent::postgres::copy;

use crate::stage::site::Site;

/// Folders whose files hold one statement each; the others hold scripts, which the tests of their rooms run.
const FOLDERS: [&str; 9] = ["server", "dump", "table", "check", "increment", "wal", "partition", "base", "recovery"];

#[tokio::test(flavor = "multi_thread")]
async fn every_query_file_has_a_header_and_is_a_statement_that_postgresql_takes() {
    let site = Site::new();
    SqlInstaller::new(site.connection(), Vec::new()).install().await.unwrap();
    let session = site.connection().connect().await.unwrap();
    let mut seen = 0;
    for folder in FOLDERS {
        for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sql").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = fs::read_to_string(&path).unwrap();
            let header: String = text.lines().take_while(|line| line.starts_with("--")).collect::<Vec<_>>().join("\n");
            for word in ["Privilege", "Versions"] {
                assert!(header.to_lowercase().contains(&word.to_lowercase()), "{}: no {word}", path.display());
            }
            if let Err(error) = session.client().prepare(&text).await {
                panic!("{}: {error:?}", path.display());
            }
            seen += 1;
        }
    }
    assert!(seen >= 20, "only {seen} query files were found");
}

#[tokio::test(flavor = "multi_thread")]
async fn stretches_of_a_table_add_up_to_the_table() {
    let site = Site::new();
    site.server
        .sql_in(
            "shop",
            "CREATE TABLE long AS SELECT n, repeat(md5(n::text), 20) AS text FROM generate_series(1, 5000) n",
        )
        .unwrap();
    site.server.sql_in("shop", "DELETE FROM long WHERE n % 7 = 0 OR n BETWEEN 1000 AND 2000").unwrap();
    let session = copy::connect(&site.connection(), "UTF8").await.unwrap();
    let (table, columns) = (QualifiedTable::new("public", "long"), ["n".to_owned(), "text".to_owned()]);
    let whole = copy::sum_table(&session, &table, &columns).await.unwrap();
    assert!(whole.rows > 3000);
    let mut pieces = TableSum::default();
    for blocks in [0..1, 1..37, 37..120, 120..i64::MAX] {
        let piece = copy::sum_blocks(&session, &table, &columns, Some(blocks.clone()), None).await.unwrap();
        assert!(piece.rows > 0 && piece.rows < whole.rows, "{blocks:?} has {} rows", piece.rows);
        pieces.merge(&piece);
    }
    assert_eq!(pieces, whole);
}
