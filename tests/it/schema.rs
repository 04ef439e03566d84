//! What the agent owns in a database: installed once, in one transaction, refused when it is not what was installed.

use dbagent::app::install::SqlInstaller;
use dbagent::postgres::schema;

use crate::cli::Desk;
use crate::stage::site::Site;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_installed_is_recorded_and_installed_once() {
    let site = Site::new();
    let installer = SqlInstaller::new(site.connection(), Vec::new());
    let planned = installer.plan().await.unwrap();
    assert!(planned.migrations.contains(&"001_agent_schema"), "{planned:?}");
    assert_eq!(site.ask("SELECT to_regnamespace('dbagent') IS NULL"), "t", "a plan changed something");
    let done = installer.install().await.unwrap();
    assert_eq!(done.migrations, planned.migrations);
    let recorded = site.ask("SELECT count(*) FROM dbagent.migrations");
    assert_eq!(recorded, done.migrations.len().to_string());
    assert!(installer.plan().await.unwrap().is_empty());
    assert!(installer.install().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_installers_at_once_install_once() {
    let site = Site::new();
    let (one, two) =
        (SqlInstaller::new(site.connection(), Vec::new()), SqlInstaller::new(site.connection(), Vec::new()));
    let (one, two) = tokio::join!(one.install(), two.install());
    let installed = one.unwrap().migrations.len() + two.unwrap().migrations.len();
    assert_eq!(site.ask("SELECT count(*) FROM dbagent.migrations"), installed.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_fails_leaves_nothing_and_a_changed_record_stops_everything() {
    let site = Site::new();
    site.ask("CREATE SCHEMA dbagent");
    let installer = SqlInstaller::new(site.connection(), Vec::new());
    let failure = installer.install().await.unwrap_err();
    assert!(failure.full_message().contains("001_agent_schema"), "{}", failure.full_message());
    site.ask("DROP SCHEMA dbagent");
    installer.install().await.unwrap();
    site.ask("UPDATE dbagent.migrations SET digest = repeat('0', 64) WHERE number = 1");
    let session = site.connection().connect().await.unwrap();
    let refused = schema::pending(session.client(), &schema::PARTITIONS).await.unwrap_err();
    assert!(refused.message.contains("001_agent_schema was applied with another text"), "{refused}");
    site.ask("UPDATE dbagent.migrations SET digest = digest, number = 999 WHERE number = 1");
    assert!(installer.plan().await.unwrap_err().full_message().contains("newer"));
}

#[test]
fn the_command_shows_asks_and_installs() {
    let desk = Desk::new();
    let shown = desk.json(0, &["init", "--install-sql", "--plan"]);
    assert_eq!(shown["database"], "shop");
    assert!(shown["migrations"].as_array().unwrap().contains(&"001_agent_schema".into()), "{shown}");
    let refused = desk.json(15, &["init", "--install-sql"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("nobody is there to ask"), "{refused}");
    assert_eq!(desk.site.ask("SELECT to_regnamespace('dbagent') IS NULL"), "t");
    desk.json(0, &["init", "--install-sql", "--yes"]);
    let nothing = desk.json(0, &["init", "--install-sql", "--yes"]);
    assert_eq!(nothing["migrations"].as_array().unwrap().len(), 0);
}
