//! Partitions maintained: months made like their parent, months past retention archived, proven and dropped.

use dbagent::model::manifest::VerificationLevel;
use dbagent::model::outcome::Verdict;
use dbagent::model::partition::Rule;
use dbagent::ops::partition::{self, TableRule};

use crate::cli::Desk;
use crate::stage::standby::Standby;
use crate::stage::yard::{PAST, Yard, codes};

#[tokio::test(flavor = "multi_thread")]
async fn months_ahead_are_made_like_their_parent_and_their_sisters() {
    let yard = Yard::new().await;
    assert_eq!(yard.partitions(), yard.months(-(PAST as i32)..=0));
    // Made by the server, so that it is its own.
    let place = yard.site.server.directory().join("elsewhere");
    yard.ask(&format!("COPY (SELECT 1) TO PROGRAM 'mkdir {}'", place.display()));
    yard.site.server.sql(&format!("CREATE TABLESPACE elsewhere LOCATION '{}'", place.display())).unwrap();
    yard.ask("GRANT CREATE ON TABLESPACE elsewhere TO landlord, dbagent_part_owner; ALTER TABLE ONLY visits SET TABLESPACE elsewhere");
    let outcome = yard.maintain().await;
    assert_eq!(outcome.verdict, Verdict::Ok, "{:?}", outcome.findings);
    let made = yard.month(3);
    assert_eq!(yard.ask(&format!("SELECT tablespace FROM pg_tables WHERE tablename = '{made}'")), "elsewhere");
    let facts = yard.ask(&format!(
        "SELECT pg_get_userbyid(relowner), relreplident, array_to_string(reloptions, ','), \
           (SELECT attstattarget FROM pg_attribute WHERE attrelid = c.oid AND attname = 'who'), \
           has_table_privilege('app', c.oid, 'SELECT, INSERT'), has_table_privilege('app', c.oid, 'DELETE'), \
           has_column_privilege('app', c.oid, 'seen', 'UPDATE'), \
           (SELECT string_agg(tgname || tgenabled::text, ',') FROM pg_trigger WHERE tgrelid = c.oid AND NOT tgisinternal), \
           (SELECT count(*) FROM pg_index i JOIN pg_inherits h ON h.inhrelid = i.indexrelid WHERE i.indrelid = c.oid AND i.indisvalid) \
         FROM pg_class c WHERE oid = '{made}'::regclass"
    ));
    assert_eq!(facts, "landlord|f|fillfactor=77|321|t|f|t|markA|2");
    yard.ask("INSERT INTO visits (at, who) VALUES (now() + interval '2 months', 'early')");
    assert_eq!(yard.ask("SELECT seen FROM visits WHERE who = 'early'"), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f93_a_month_past_retention_is_archived_proven_and_dropped_and_can_be_restored() {
    let yard = Yard::new().await;
    let gone = yard.months(-8..=-7);
    let before = yard.ask("SELECT count(*) FROM visits");
    let outcome = yard.maintain().await;
    assert_eq!(outcome.verdict, Verdict::Ok, "{:?}", outcome.findings);
    assert!(outcome.summary.contains("3 made, 2 archived, 2 dropped"), "{}", outcome.summary);
    assert_eq!(yard.partitions(), yard.months(-6..=3));
    assert_eq!(yard.ask("SELECT count(*) FROM visits"), (before.parse::<u64>().unwrap() - 80).to_string());
    let artifacts = yard.site.artifacts("local").await;
    assert_eq!(artifacts.len(), 2);
    for (artifact, name) in artifacts.iter().zip(&gone) {
        assert_eq!(artifact.manifest.job, "partitions");
        assert_eq!(artifact.manifest.verification.level, VerificationLevel::ReadBack);
        let [table] = artifact.manifest.tables.as_slice() else { panic!("{:?}", artifact.manifest.tables) };
        assert_eq!((&table.table.name, table.content.unwrap().rows), (name, 40));
        assert_eq!(yard.ask(&format!("SELECT to_regclass('{name}') IS NULL")), "t");
        let record = format!(
            "SELECT archive_id, archive_rows, dropped_at IS NOT NULL FROM dbagent.partition_records WHERE table_name = '{name}'"
        );
        assert_eq!(yard.ask(&record), format!("{}|40|t", artifact.manifest.id));
    }
    yard.site.restore_database("rescued").await.unwrap();
    let newest = gone.last().unwrap();
    assert_eq!(yard.site.server.sql_in("rescued", &format!("SELECT count(*) FROM {newest}")).unwrap().trim(), "40");
    // And again: nothing is left to do.
    let again = yard.maintain().await;
    assert!(again.summary.contains("0 made, 0 dropped") && again.is_green(), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_archive_is_wanted_a_month_goes_without_one() {
    let mut yard = Yard::new().await;
    yard.rule.rule.archive = false;
    yard.install().await;
    let outcome = yard.maintain().await;
    assert_eq!(outcome.verdict, Verdict::Ok, "{:?}", outcome.findings);
    assert!(outcome.summary.contains("3 made, 2 dropped"), "{}", outcome.summary);
    assert_eq!(yard.partitions(), yard.months(-6..=3));
    assert!(yard.site.artifacts("local").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn no_setting_of_a_session_moves_a_bound() {
    let yard = Yard::new().await;
    for role in ["keeper", "dbagent_part", "dbagent_part_owner"] {
        yard.ask(&format!(
            "ALTER ROLE {role} SET timezone = 'Pacific/Kiritimati'; ALTER ROLE {role} SET datestyle = 'SQL, DMY'"
        ));
    }
    yard.ask("ALTER DATABASE shop SET timezone = 'America/St_Johns'; ALTER DATABASE shop SET datestyle = 'German'");
    assert_eq!(yard.maintain().await.verdict, Verdict::Ok);
    assert_eq!(yard.maintain().await.verdict, Verdict::Ok, "and reads them as what they are");
    let bound = format!(
        "SET timezone = 'UTC'; SET datestyle = 'ISO'; SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = '{}'",
        yard.month(2)
    );
    let first = |ahead: i32| {
        yard.ask(&format!(
            "SELECT to_char(timezone('UTC', now()) + interval '{ahead} months', 'YYYY-MM-\"01 00:00:00+00\"')"
        ))
    };
    let wanted = format!("FOR VALUES FROM ('{}') TO ('{}')", first(2), first(3));
    assert_eq!(yard.ask(&bound).lines().last().unwrap(), wanted);
}

#[tokio::test(flavor = "multi_thread")]
async fn f93_without_an_archive_nothing_goes_and_months_are_made_all_the_same() {
    let yard = Yard::new().await;
    let refused =
        || dbagent::model::failure::Failure::new(dbagent::model::failure::FailureKind::Usage, "encrypt: no keys");
    let doors = partition::Doors { archive: Err(refused()), ..yard.doors() };
    let outcome = partition::run(&yard.options(), &doors, &yard.site.setting()).await.unwrap();
    assert_eq!(yard.partitions(), yard.months(-8..=3));
    let archive = ["partition-archive-failed", "partition-not-archived"];
    assert_eq!(codes(&outcome), [archive, archive].concat(), "{:?}", outcome.findings);
    // A repository that must have it and cannot be opened.
    let mut doors = yard.doors();
    doors.archive.as_mut().unwrap().unopened.push(("s3".into(), refused()));
    let outcome = partition::run(&yard.options(), &doors, &yard.site.setting()).await.unwrap();
    assert_eq!(codes(&outcome), [archive, archive].concat());
    assert_eq!(yard.partitions().len(), 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn f93_an_archive_that_is_damaged_or_of_other_rows_is_made_anew() {
    let mut yard = Yard::new().await;
    yard.rule.rule.seal = true;
    yard.install().await;
    yard.maintain().await;
    let artifacts = yard.site.artifacts("local").await;
    assert_eq!(artifacts.len(), 2, "archived, and held by the missing seal");
    let data = &artifacts[0].manifest.objects[0];
    let path = yard.site.root().join("local").join(data.key.as_str());
    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    yard.ask(&format!("UPDATE {} SET who = 'somebody else' WHERE id = (SELECT min(id) FROM {0})", yard.month(-7)));
    yard.maintain().await;
    let after = yard.site.artifacts("local").await;
    assert_eq!(after.len(), 4, "one was damaged, of the other the rows have changed");
    yard.maintain().await;
    assert_eq!(yard.site.artifacts("local").await.len(), 4, "good archives were made again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_table_gives_nothing_away_without_a_seal_of_these_rows() {
    let mut yard = Yard::new().await;
    yard.rule.rule.seal = true;
    yard.install().await;
    let outcome = yard.maintain().await;
    assert_eq!(codes(&outcome), ["partition-not-sealed"; 2]);
    assert!(outcome.findings[0].message.contains("needs a seal"), "{}", outcome.findings[0].message);
    let (oldest, next) = (yard.month(-8), yard.month(-7));
    let archive = yard
        .ask(&format!("SELECT 1 FROM dbagent.partition_records WHERE table_name = '{oldest}' AND archive_id IS NULL"));
    assert_eq!(archive, "1", "nothing is recorded before the gate opens");
    let artifacts = yard.site.artifacts("local").await;
    let (first, second) = (artifacts[0].manifest.id, artifacts[1].manifest.id);
    yard.ask(&format!(
        "CREATE SCHEMA audit; CREATE TABLE audit.seals (partition text PRIMARY KEY, rows bigint, artifact text); \
         GRANT USAGE ON SCHEMA audit TO dbagent_part_owner; GRANT SELECT ON audit.seals TO dbagent_part_owner; \
         INSERT INTO audit.seals VALUES ('public.{oldest}', 40, '{first}'), ('public.{next}', 39, '{second}')"
    ));
    let outcome = yard.maintain().await;
    assert_eq!(codes(&outcome), ["partition-not-sealed"; 2], "a row in the database alone opens nothing");
    assert_eq!(yard.partitions(), yard.months(-8..=3));
    // A sealed table's privileges stand on the parent alone.
    assert_eq!(yard.ask(&format!("SELECT has_table_privilege('app', '{}', 'INSERT')", yard.month(3))), "f");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_partition_stays_as_a_table_where_that_is_wanted() {
    let mut yard = Yard::new().await;
    yard.rule.rule.keep_detached = true;
    let outcome = yard.maintain().await;
    assert!(outcome.is_green() && outcome.summary.contains("2 detached and kept, 0 dropped"), "{outcome:?}");
    assert_eq!(yard.partitions(), yard.months(-6..=3));
    assert_eq!(yard.ask(&format!("SELECT count(*) FROM {}", yard.month(-8))), "40");
    assert!(yard.maintain().await.is_green(), "what is kept is not taken up again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_that_somebody_else_took_away_is_told() {
    let yard = Yard::new().await;
    yard.maintain().await;
    yard.ask(&format!("DROP TABLE {}", yard.month(-5)));
    yard.ask(&format!("ALTER TABLE visits DETACH PARTITION {}", yard.month(-4)));
    let outcome = yard.maintain().await;
    let told: Vec<_> = outcome.findings.iter().filter(|finding| finding.code == "partition-missing").collect();
    assert_eq!(told.len(), 2, "{:?}", outcome.findings);
    assert!(told[0].message.contains("is gone") && told[1].message.contains("was detached"), "{told:?}");
    // The detached table has the name that its month would have.
    assert!(codes(&outcome).contains(&"partition-not-made"), "{:?}", outcome.findings);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_functions_do_only_what_they_are_for_whoever_calls_them() {
    let yard = Yard::new().await;
    let session = yard.keeper("dbagent_part").connect().await.unwrap();
    session.batch("SET default_transaction_read_only = off").await.unwrap();
    let present = yard.ask(&format!("SELECT '{}'::regclass::oid", yard.month(0)));
    let old = yard.ask(&format!("SELECT '{}'::regclass::oid", yard.month(-8)));
    let customers = yard.ask("SELECT 'customers'::regclass::oid");
    session.batch("SELECT dbagent.see_partitions('public', 'visits')").await.unwrap();
    let refused = [
        "SELECT dbagent.make_partition('public', 'events', 'events_2030_01', '2030-01-01', '2030-02-01')".to_owned(),
        "SELECT dbagent.make_partition('public', 'visits', 'customers', '2030-01-01', '2030-02-01')".to_owned(),
        "SELECT dbagent.make_partition('public', 'visits', 'visits_2030_01', '2030-01-01', '2031-01-01')".to_owned(),
        "SELECT dbagent.make_partition('public', 'visits', 'visits_2099_01', '2099-01-01', '2099-02-01')".to_owned(),
        "SELECT dbagent.make_partition('public', 'visits; DROP TABLE visits', 'v', '2030-01-01', '2030-02-01')"
            .to_owned(),
        "SELECT dbagent.see_partitions('public', 'events')".to_owned(),
        format!("SELECT dbagent.detach_partition('public', 'visits', {old}, false)"),
        format!(
            "SELECT dbagent.record_archive({present}, 'a', 40, ''); SELECT dbagent.detach_partition('public', 'visits', {present}, false)"
        ),
        format!("SELECT dbagent.detach_partition('public', 'visits', {customers}, false)"),
        format!("SELECT dbagent.record_archive({customers}, 'a', 0, '')"),
        format!("SELECT dbagent.record_archive({old}, 'a', 40, ''); SELECT dbagent.drop_detached({old})"),
        format!("SELECT dbagent.drop_detached({customers})"),
        "SELECT dbagent.register_parent('public', 'customers', 'born', '1 month', false, false)".to_owned(),
        "SELECT dbagent.move_strays(0, 0, 'true')".to_owned(),
        "UPDATE dbagent.partition_rules SET retention = '1 month'".to_owned(),
        "UPDATE dbagent.partition_records SET archive_id = 'x'".to_owned(),
        "DROP TABLE public.visits".to_owned(),
        "SELECT * FROM public.visits".to_owned(),
        "CREATE TABLE dbagent.mine ()".to_owned(),
    ];
    for statement in refused {
        assert!(session.batch(&statement).await.is_err(), "taken: {statement}");
    }
    // A lie about the archive is found by the count.
    let lie = format!(
        "SELECT dbagent.record_archive({old}, 'a', 39, ''); SELECT dbagent.detach_partition('public', 'visits', {old}, false)"
    );
    session.batch(&lie).await.unwrap();
    let error = session.batch(&format!("SELECT dbagent.drop_detached({old})")).await.unwrap_err();
    assert!(error.full_message().contains("it has 40 rows, its archive 39"), "{}", error.full_message());
    assert_eq!(yard.ask(&format!("SELECT count(*) FROM {}", yard.month(-8))), "40");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_left_alone() {
    let yard = Yard::new().await;
    let standby = Standby::of(&yard.site.server, &[]);
    let at = |role: &str| standby.connection("shop").with_role(Some(role));
    let doors = partition::Doors { connection: at("dbagent_part"), reader: at("dbagent_dump"), ..yard.doors() };
    let outcome = partition::run(&yard.options(), &doors, &yard.site.setting()).await.unwrap();
    assert!(outcome.is_green() && outcome.summary.contains("standby"), "{outcome:?}");
    assert!(partition::look(&yard.options(), &doors, &yard.site.setting()).await.unwrap().is_none());
    assert_eq!(yard.partitions().len(), 9);
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_maintained_do_not_hold_up_the_others() {
    let yard = Yard::new().await;
    yard.ask("CREATE TABLE hashed (at timestamptz) PARTITION BY HASH (at); CREATE TABLE twice (a date, b date) PARTITION BY RANGE (a, b)");
    let rule = |name: &str, key: &str| TableRule {
        name: name.parse().unwrap(),
        rule: Rule { key: key.into(), ..yard.rule.rule.clone() },
        ..yard.rule.clone()
    };
    let mut options = yard.options();
    let others = [
        rule("nowhere", "at"),
        rule("customers", "born"),
        rule("events", "what"),
        rule("hashed", "at"),
        rule("twice", "a"),
    ];
    options.rules.splice(0..0, others);
    let outcome = partition::run(&options, &yard.doors(), &yard.site.setting()).await.unwrap();
    let wanted = ["partition-table-missing", "not-partitioned", "partition-key", "partition-key", "partition-key"];
    assert_eq!(codes(&outcome), wanted, "{:?}", outcome.findings);
    assert_eq!(yard.partitions(), yard.months(-6..=3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_pg_partman_manages_is_refused() {
    let yard = Yard::new().await;
    let there = yard.ask("SELECT count(*) FROM pg_available_extensions WHERE name = 'pg_partman'");
    assert_eq!(there, "1", "pg_partman is not installed: run deploy/setup test");
    yard.ask(
        "CREATE SCHEMA partman; CREATE EXTENSION pg_partman SCHEMA partman; \
         CREATE TABLE theirs (at timestamptz NOT NULL, n int) PARTITION BY RANGE (at); \
         SELECT partman.create_parent('public.theirs', 'at', 'native', 'monthly')",
    );
    let before = yard.ask("SELECT count(*) FROM pg_inherits WHERE inhparent = 'theirs'::regclass");
    let theirs = TableRule { name: "theirs".parse().unwrap(), ..yard.rule.clone() };
    let mut options = yard.options();
    options.rules.push(theirs);
    let outcome = partition::run(&options, &yard.doors(), &yard.site.setting()).await.unwrap();
    assert_eq!(codes(&outcome), ["managed-by-pg-partman"], "{:?}", outcome.findings);
    assert!(outcome.findings[0].message.contains("public.theirs"), "{:?}", outcome.findings);
    assert_eq!(yard.partitions(), yard.months(-6..=3));
    assert_eq!(yard.ask("SELECT count(*) FROM pg_inherits WHERE inhparent = 'theirs'::regclass"), before);
    // Where its configuration may not be read, every table could be its.
    let blind = partition::Doors { reader: yard.keeper("dbagent_part"), ..yard.doors() };
    let outcome = partition::run(&yard.options(), &blind, &yard.site.setting()).await.unwrap();
    assert_eq!(codes(&outcome), ["managed-by-pg-partman"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checklist_and_the_commands_say_what_is_there_and_what_is_to_be_done() {
    let yard = Yard::new().await;
    let oldest = yard.month(-8);
    let desk = Desk::at(yard.site, &["customers"]);
    let plan = "description = 'months'\n[job.partitions]\nverb = 'partition'\n[partition.visits]\nkey = 'at'\nretention = '6 months'\n";
    std::fs::write(desk.site.root().join("plan.toml"), plan).unwrap();
    desk.configure("[postgres.roles]\npartition = 'dbagent_part'\ndump = 'dbagent_dump'\n");
    let lines = |desk: &Desk| -> Vec<(String, String)> {
        let checked = desk.json(3, &["check"]);
        let lines = checked["checks"].as_array().unwrap().iter().filter(|line| line["check"] == "partitions").cloned();
        let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        lines.map(|line| (text(&line["status"]), text(&line["message"]))).collect()
    };
    let before = lines(&desk);
    assert!(before[0].0 == "fail" && before[0].1.contains("has 0 months ahead"), "{before:?}");
    let shown = desk.json(3, &["partition", "plan"]);
    let table = &shown["tables"][0];
    assert_eq!((table["make"].as_array().unwrap().len(), table["retire"].as_array().unwrap().len()), (3, 2), "{shown}");
    assert_eq!(table["retire"][0]["partition"], format!("public.{oldest}"));
    let listed = String::from_utf8(desk.run(&["partition", "list"]).stdout).unwrap();
    assert!(listed.contains(" <") && listed.contains("PUBLIC.VISITS"), "{listed}");
    let refused = desk.json(15, &["partition", "maintain"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("archive and drop 2 partitions"), "{refused}");
    desk.json(0, &["job", "run", "partitions"]);
    assert_eq!(
        lines(&desk),
        [("ok".to_owned(), "public.visits: 10 partitions, 3 months ahead, none overdue".to_owned())]
    );
    // What was dropped comes back as a table, and can be attached again.
    desk.site.ask(&format!("CREATE TABLE {oldest} (LIKE visits INCLUDING ALL)"));
    desk.json(0, &["restore", "--table", &oldest, "--mode", "merge", "--yes"]);
    assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM {oldest}")), "40");
    desk.site.ask(&format!(
        "SET timezone = 'UTC'; DO $$ BEGIN EXECUTE format('ALTER TABLE visits ATTACH PARTITION {oldest} FOR VALUES FROM (%L) TO (%L)', \
         date_trunc('month', now()) - interval '8 months', date_trunc('month', now()) - interval '7 months'); END $$"
    ));
    assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM visits WHERE tableoid = '{oldest}'::regclass")), "40");
}
