//! What partition maintenance must survive: kills, strays in default, foreign keys, locks held by others.

use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use dbagent::model::outcome::Verdict;
use dbagent::postgres::Connection;
use tokio::task::JoinHandle;

use crate::stage::yard::{Yard, codes};

/// Runs `statement` again and again until told to stop; gives how often, and the longest time one took.
fn busy(connection: Connection, statement: &'static str) -> (Arc<AtomicBool>, JoinHandle<(u64, Duration)>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let task = tokio::spawn(async move {
        let session = connection.connect().await.unwrap();
        let (mut times, mut longest) = (0, Duration::ZERO);
        while !stopped.load(Ordering::SeqCst) {
            let began = Instant::now();
            session.batch(statement).await.unwrap();
            longest = longest.max(began.elapsed());
            times += 1;
        }
        (times, longest)
    });
    (stop, task)
}

async fn ended(busy: (Arc<AtomicBool>, JoinHandle<(u64, Duration)>)) -> (u64, Duration) {
    busy.0.store(true, Ordering::SeqCst);
    busy.1.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn f90_rows_in_default_move_with_their_month_and_are_never_out_of_sight() {
    let yard = Yard::new().await;
    yard.as_owner(
        "CREATE TABLE visits_default PARTITION OF visits DEFAULT; \
         INSERT INTO visits (at, who) SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '1 month 3 days', 'stray' \
             FROM generate_series(1, 2000); \
         INSERT INTO visits (at, who) VALUES ('1999-05-05', 'lost'), ('infinity', 'never')",
    );
    let sum = "SELECT count(*), sum(hashtext(v::text)::bigint) FROM visits v WHERE who IN ('stray', 'lost', 'never')";
    let before = yard.ask(sum);
    let watch = "DO $$BEGIN IF (SELECT count(*) FROM public.visits WHERE who = 'stray') <> 2000 THEN RAISE 'out of sight'; END IF; END$$";
    let watching = busy(yard.site.connection(), watch);
    let outcome = yard.maintain().await;
    let (looks, _) = ended(watching).await;
    assert!(looks > 5, "only {looks} looks");
    assert!(outcome.summary.contains("2000 rows moved out of default"), "{}", outcome.summary);
    assert_eq!(codes(&outcome), ["rows-in-default"], "{:?}", outcome.findings);
    assert!(
        outcome.findings[0].message.contains("2 rows in its default partition (1999-05: 1)"),
        "{:?}",
        outcome.findings
    );
    assert_eq!(yard.ask(sum), before, "rows were changed, lost or touched by a trigger");
    assert_eq!(yard.ask(&format!("SELECT count(*) FROM {}", yard.month(1))), "2000");
    let triggers = "SELECT string_agg(tgname || tgenabled::text, ',') FROM pg_trigger WHERE tgrelid = 'visits_default'::regclass AND NOT tgisinternal";
    assert_eq!(yard.ask(triggers), "markA");
}

#[tokio::test(flavor = "multi_thread")]
async fn f90_more_rows_than_one_move_takes_come_in_parts_of_the_month() {
    let yard = Yard::new().await;
    yard.as_owner(
        "CREATE TABLE visits_default PARTITION OF visits DEFAULT; ALTER TABLE visits DISABLE TRIGGER mark; \
         INSERT INTO visits (at, who) SELECT date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC' + interval '1 month' \
             + make_interval(days => g % 3), 'many' FROM generate_series(1, 54000) g",
    );
    let outcome = yard.maintain().await;
    assert_eq!(outcome.verdict, Verdict::Ok, "{:?}", outcome.findings);
    let next = yard.month(1);
    let parts = yard.ask(&format!(
        "SELECT string_agg(relid::regclass || ' ' || (SELECT count(*) FROM visits WHERE tableoid = relid), ', ' ORDER BY relid::regclass::text) \
         FROM pg_partition_tree('visits') WHERE relid::regclass::text LIKE '{next}%'"
    ));
    assert_eq!(parts, format!("{next}_01 36000, {next}_03 18000"));
    let disabled =
        format!("SELECT tgenabled FROM pg_trigger WHERE tgrelid = '{next}_01'::regclass AND NOT tgisinternal");
    assert_eq!(yard.ask(&disabled), "D");
    assert!(yard.maintain().await.is_green());
}

#[tokio::test(flavor = "multi_thread")]
async fn f91_detaching_is_concurrent_where_it_may_be_and_plain_where_there_is_a_default() {
    let mut yard = Yard::new().await;
    yard.rule.rule.keep_detached = true;
    yard.ask("GRANT landlord TO keeper");
    assert!(yard.maintain().await.is_green());
    // Only DETACH CONCURRENTLY leaves the partition's bounds behind, as a check.
    let checks =
        |month| format!("SELECT count(*) FROM pg_constraint WHERE conrelid = '{month}'::regclass AND contype = 'c'");
    assert_eq!(yard.ask(&checks(yard.month(-8))), "2");
    yard.as_owner("CREATE TABLE visits_default PARTITION OF visits DEFAULT");
    yard.rule.rule.retention = Some("5 months".parse().unwrap());
    yard.install().await;
    let outcome = yard.maintain().await;
    assert!(outcome.is_green() && outcome.summary.contains("1 detached"), "{outcome:?}");
    assert_eq!(yard.ask(&checks(yard.month(-6))), "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn f91_a_detachment_that_was_cut_off_is_finished() {
    let yard = Yard::new().await;
    yard.ask("GRANT landlord TO keeper");
    let reader = yard.site.connection().connect().await.unwrap();
    reader.batch("BEGIN; SELECT count(*) FROM public.visits").await.unwrap();
    let outcome = yard.maintain().await;
    let pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending";
    assert_eq!(yard.ask(pending), "1", "the fault did not fire: {outcome:?}");
    assert!(
        codes(&outcome).contains(&"partition-not-detached") && codes(&outcome).contains(&"detach-pending"),
        "{outcome:?}"
    );
    reader.batch("COMMIT").await.unwrap();
    let outcome = yard.maintain().await;
    assert_eq!(outcome.verdict, Verdict::Ok, "{:?}", outcome.findings);
    assert_eq!((yard.ask(pending).as_str(), yard.partitions()), ("0", yard.months(-6..=3)));
    assert_eq!(yard.ask(&format!("SELECT to_regclass('{}') IS NULL", yard.month(-8))), "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn f92_a_partition_that_rows_refer_to_stays_and_the_key_is_named() {
    let yard = Yard::new().await;
    yard.as_owner(&format!(
        "CREATE TABLE notes (visit bigint, at timestamptz, CONSTRAINT of_visit FOREIGN KEY (visit, at) REFERENCES visits ON DELETE CASCADE); \
         INSERT INTO notes SELECT id, at FROM {} LIMIT 3",
        yard.month(-8)
    ));
    let outcome = yard.maintain().await;
    assert_eq!(codes(&outcome), ["partition-referenced"]);
    assert!(outcome.findings[0].message.contains("3 by public.notes.of_visit"), "{:?}", outcome.findings);
    assert_eq!(yard.ask("SELECT count(*) FROM notes"), "3");
    let mut left = yard.months(-6..=3);
    left.insert(0, yard.month(-8));
    assert_eq!(yard.partitions(), left);
    yard.ask("DELETE FROM notes");
    assert!(yard.maintain().await.is_green());
    assert_eq!(yard.partitions(), yard.months(-6..=3));
}

#[tokio::test(flavor = "multi_thread")]
async fn f95_a_table_that_is_in_use_is_tried_patiently_and_nobody_waits_long_behind_us() {
    let yard = Yard::new().await;
    yard.as_owner("CREATE TABLE visits_default PARTITION OF visits DEFAULT");
    let holder = yard.site.connection().connect().await.unwrap();
    holder.batch("BEGIN; LOCK TABLE public.visits IN ACCESS SHARE MODE; LOCK TABLE public.visits_default IN ACCESS SHARE MODE").await.unwrap();
    let writing = busy(yard.site.connection(), "INSERT INTO public.visits (who) VALUES ('writer')");
    let outcome = yard.maintain().await;
    let (writes, longest) = ended(writing).await;
    // Making needs the default partition alone, detaching the parent: the holder is in the way of both.
    let told = codes(&outcome);
    assert_eq!(told.iter().filter(|code| **code == "partition-not-made").count(), 3, "{:?}", outcome.findings);
    assert_eq!(told.iter().filter(|code| **code == "partition-not-detached").count(), 2);
    assert!(outcome.findings[0].message.contains("in 5 tries of 300ms"), "{:?}", outcome.findings[0]);
    assert!(writes > 50 && longest < Duration::from_millis(1300), "{writes} writes, the longest {longest:?}");
    assert_eq!(yard.partitions(), yard.months(-8..=0));
    holder.batch("COMMIT").await.unwrap();
    assert!(yard.maintain().await.is_green());
    assert_eq!(yard.partitions(), yard.months(-6..=3));
}

#[tokio::test(flavor = "multi_thread")]
async fn f95_a_creation_is_not_taken_back_by_a_drop_that_cannot_get_its_lock() {
    let yard = Yard::new().await;
    let holder = yard.site.connection().connect().await.unwrap();
    holder.batch("BEGIN; SELECT count(*) FROM public.visits").await.unwrap();
    let outcome = yard.maintain().await;
    assert_eq!(codes(&outcome), ["partition-not-detached"; 2]);
    assert_eq!(yard.partitions(), yard.months(-8..=3));
}

#[cfg(feature = "failpoints")]
#[tokio::test(flavor = "multi_thread")]
async fn f05_killed_anywhere_the_next_run_ends_what_was_begun() {
    use crate::cli::Desk;

    let yard = Yard::new().await;
    let months = |ahead| [yard.month(ahead), yard.month(ahead + 1)];
    let (old, ahead) = (months(-8), months(2));
    let kept = yard.months(-6..=3);
    let rebuild = format!(
        "SET ROLE landlord; SET timezone = 'UTC'; DROP TABLE IF EXISTS {}, {}; RESET ROLE; DELETE FROM dbagent.partition_records WHERE table_name IN ('{1}', '{0}'); SET ROLE landlord; \
         DO $$ BEGIN FOR back IN 7..8 LOOP EXECUTE format('CREATE TABLE IF NOT EXISTS visits_%s PARTITION OF visits FOR VALUES FROM (%L) TO (%L)', \
             to_char(now() - make_interval(months => back), 'YYYY_MM'), date_trunc('month', now()) - make_interval(months => back), \
             date_trunc('month', now()) - make_interval(months => back - 1)); \
         INSERT INTO visits (at, who) SELECT date_trunc('month', now()) - make_interval(months => back), 'again' \
             FROM generate_series(1, 40 - (SELECT count(*) FROM visits WHERE at >= date_trunc('month', now()) - make_interval(months => back) \
             AND at < date_trunc('month', now()) - make_interval(months => back - 1))::int); END LOOP; END $$",
        ahead[0], ahead[1]
    );
    let desk = Desk::at(yard.site, &["customers"]);
    let plan = "description = 'months'\n[job.partitions]\nverb = 'partition'\n[partition.visits]\nkey = 'at'\nretention = '6 months'\n";
    std::fs::write(desk.site.root().join("plan.toml"), plan).unwrap();
    desk.configure("[postgres.roles]\npartition = 'dbagent_part'\ndump = 'dbagent_dump'\n");
    let log = desk.site.root().join("fired");
    let points = [
        "partition.made=kill",
        "partition.made=kill:2",
        "partition.archived=kill",
        "partition.archived=kill:2",
        "partition.recorded=kill",
        "partition.detached=kill",
        "partition.dropped=kill",
        "partition.detached=kill:2",
        "dump.object_committed=kill",
        "catalog.signature_put=kill",
    ];
    for point in points {
        desk.site.ask(&rebuild);
        let _ = std::fs::remove_file(&log);
        let mut command = desk.command(&["partition", "maintain", "--yes"]);
        let killed = command.env("DBAGENT_FAILPOINT", point).env("DBAGENT_FAILPOINT_LOG", &log).output().unwrap();
        assert_eq!(killed.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&killed.stderr));
        assert!(std::fs::read_to_string(&log).unwrap().contains("Kill"), "{point} did not fire");
        for month in &old {
            if desk.site.ask(&format!("SELECT to_regclass('{month}') IS NOT NULL")) == "t" {
                assert_eq!(desk.site.ask(&format!("SELECT count(*) FROM {month}")), "40", "{point}: {month}");
            } else {
                let held = desk.site.artifacts("local").await;
                assert!(
                    held.iter().any(|artifact| artifact.manifest.tables[0].table.name == *month),
                    "{point}: {month} is lost"
                );
            }
        }
        let done = desk.json(0, &["partition", "maintain", "--yes"]);
        assert_eq!(done["outcome"]["verdict"], "ok", "{point}: {done}");
        let listed = desk.json(0, &["partition", "list"]);
        let partitions = listed["tables"][0]["partitions"].as_array().unwrap().iter();
        let names: Vec<String> = partitions
            .map(|fact| fact["partition"].as_str().unwrap().trim_start_matches("public.").to_owned())
            .collect();
        assert_eq!(names, kept, "{point}");
        assert_eq!(desk.site.ask("SELECT count(*) FROM pg_inherits WHERE inhdetachpending"), "0");
    }
}
