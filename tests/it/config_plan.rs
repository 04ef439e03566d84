//! Plans: the three that ship, every key of every verb, and what is refused.

use std::path::Path;

use dbagent::config::{BUILT_IN, BaseKind, CatchUp, Plan, PurgeScope, load_plan, plan_schema};
use dbagent::model::span::Span;
use dbagent::model::verb::Verb;
use tempfile::TempDir;

const BOTH: [&str; 2] = ["local", "s3"];

fn built_in(name: &str) -> (Plan, Vec<String>) {
    load_plan(name, Path::new(""), &BOTH).unwrap()
}

fn read(text: &str, repositories: &[&str]) -> Result<(Plan, Vec<String>), Vec<String>> {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("p.toml"), text).unwrap();
    let strip = format!("{}/", folder.path().display());
    let errors = |errors: dbagent::config::ConfigErrors| {
        errors.0.iter().map(|error| error.to_string().replace(&strip, "")).collect()
    };
    load_plan("p.toml", folder.path(), repositories).map_err(errors)
}

fn span(text: &str) -> Span {
    text.parse().unwrap()
}

#[test]
fn the_plans_that_ship_load_without_a_warning() {
    for (name, text) in BUILT_IN {
        let (plan, warnings) = built_in(name);
        assert_eq!(plan.name, name);
        assert_eq!(warnings, Vec::<String>::new(), "{name}");
        assert_eq!(read(text, &BOTH).unwrap().0.job.len(), plan.job.len(), "as a file");
    }
    assert!(plan_schema()["properties"]["job"].is_object());
}

#[test]
fn bc_003_is_the_table_of_the_specification() {
    let (plan, _) = built_in("bc-003");
    let rows: Vec<String> = plan
        .job
        .iter()
        .map(|(name, job)| {
            format!("{name} {} {}", job.verb, job.schedule.as_ref().map_or_else(String::new, ToString::to_string))
        })
        .collect();
    assert_eq!(
        rows,
        [
            "audit-archive dump 0 4 * * 0",
            "audit-verify audit-verify 30 2 * * *",
            "audit-verify-hourly audit-verify 20 * * * *",
            "audit-verify-sample audit-verify 50 3 * * *",
            "base base-backup 0 2 * * 6",
            "base-incremental base-backup 0 2 * * 0-5",
            "check check 30 0 * * *",
            "checkpoint audit-checkpoint */5 * * * *",
            "expire expire 0 5 * * *",
            "full dump 0 3 * * *",
            "incremental increment 0 * * * *",
            "partitions partition 0 1 * * *",
            "report-monthly report 0 7 2 * *",
            "report-weekly report 0 7 * * 1",
            "restore-test restore-test 0 6 1 * *",
            "wal-sync wal-sync */10 * * * *",
        ]
    );
    let full = &plan.job["full"];
    assert_eq!(full.tables.len(), 11);
    assert_eq!((full.folder.as_deref(), full.name_prefix.as_deref()), (Some("full"), Some("bc003_full")));
    assert_eq!(full.keep_in("s3").unwrap().age, Some(span("30 days")));
    assert_eq!(full.timeout, Some(span("3 hours")));
    let archive = &plan.job["audit-archive"];
    assert_eq!((archive.storage_class_in("s3"), archive.storage_class_in("local")), (Some("GLACIER"), None));
    assert_eq!(archive.keep_in("local").unwrap().age, Some(span("90 days")));
    assert_eq!(plan.job["incremental"].keep_in("s3").unwrap().age, Some(span("24 hours")));
    let base = &plan.job["base-incremental"];
    assert_eq!(base.kind, Some(BaseKind::Incremental));
    assert_eq!(base.keep_in("local").unwrap().chains.map(u32::from), Some(2));
    assert_eq!(base.keep_in("s3").unwrap().window, Some(span("30 days")));
    assert_eq!(plan.job["partitions"].catch_up(), CatchUp::Each);
    assert_eq!(plan.job["full"].catch_up(), CatchUp::Once);
    let retention: Vec<_> = plan.partition.values().map(|rule| rule.retention.unwrap().to_string()).collect();
    assert_eq!(retention, ["36 months", "6 months", "12 months"]);
}

#[test]
fn the_dify_and_managed_plans_say_what_the_specification_says() {
    let (dify, _) = built_in("dify");
    let rule = &dify.purge["dify-messages"];
    assert_eq!(
        (rule.table.name.as_str(), rule.key.as_str(), rule.delete),
        ("messages", "conversation_id", PurgeScope::All)
    );
    assert_eq!(rule.statement_timeout, Some(span("5s")));
    assert_eq!(dify.job["storage"].after.as_deref(), Some("database"));
    assert_eq!((dify.check.disk_percent, dify.check.log[0].lines), (Some(85), 50));
    let (managed, _) = built_in("managed");
    assert!(managed.managed && managed.check.tls);
    assert!(!managed.job.values().any(|job| matches!(job.verb, Verb::BaseBackup | Verb::WalSync)));
}

#[test]
fn the_example_of_the_specification_loads_and_warns_of_a_repository_that_is_not_there() {
    let text = r#"
description = "BC-003: access control and security"
retention_floor = { audit_logs = "36 months" }      # the plan's own compliance minimum

[job.full]
verb = "dump"
schedule = "0 3 * * *"
tables = ["users", "roles", "permissions"]           # literal names, schema optional
folder = "full"
name_prefix = "bc003_full"
keep = { local = "30 days", s3 = "30 days" }         # by repository name; a single value means all
timeout = "3 hours"

[job.audit-archive]
verb = "dump"
schedule = "0 4 * * 0"
tables = ["audit_logs"]
folder = "audit_logs"
name_prefix = "audit_logs"
storage_class = { s3 = "GLACIER" }
keep = { local = "90 days", s3 = "3 years" }

[job.incremental]
verb = "increment"
schedule = "0 * * * *"
tables = ["users", "roles", "permissions"]           # all eleven in the shipped plan
keep = "24 hours"
"#;
    assert_eq!(read(text, &BOTH).unwrap().1, Vec::<String>::new());
    let (_, warnings) = read(text, &["local"]).unwrap();
    assert_eq!(
        warnings.iter().filter(|warning| warning.contains("has no repository \"s3\"")).count(),
        2,
        "{warnings:?}"
    );
    assert!(warnings.iter().any(|warning| warning.contains("keeps audit_logs for 36 months")), "{warnings:?}");
}

#[test]
fn the_floor_is_held_by_the_job_that_fulfils_it_alone() {
    let (plan, _) = built_in("bc-003");
    let now = "2025-11-05T12:00:00Z".parse().unwrap();
    assert_eq!(plan.policy("full", "s3", now).overdue_after, Some(chrono::TimeDelta::days(2)), "twice its interval");
    assert_eq!(plan.policy("audit-archive", "s3", now).floor, Some(span("36 months")));
    assert_eq!(plan.policy("audit-archive", "local", now).floor, None);
    assert_eq!(plan.policy("full", "s3", now).floor, None);
    assert_eq!(plan.policy("gone", "s3", now), Default::default());
    let counted =
        "retention_floor = { a = \"1 year\" }\n[job.x]\nverb = \"dump\"\ntables = [\"a\"]\nkeep = { count = 3 }";
    assert_eq!(read(counted, &BOTH).unwrap().0.policy("x", "s3", now).floor, Some(span("1 year")));
}

#[test]
fn a_plan_with_only_the_jobs_it_needs_is_valid() {
    assert!(read("", &[]).is_ok());
    let (plan, _) = read("[job.x]\nverb = \"dump\"", &[]).unwrap();
    assert_eq!(plan.name, "p");
    assert!(plan.job["x"].enabled && plan.job["x"].due().is_none());
}

#[test]
fn a_timezone_moves_the_schedule() {
    let (plan, _) = read("[job.x]\nverb = \"dump\"\nschedule = \"0 3 * * *\"\ntimezone = \"Asia/Tokyo\"", &[]).unwrap();
    let next = plan.job["x"].due().unwrap().next_after("2025-11-03T00:00:00Z".parse().unwrap()).unwrap();
    assert_eq!(next.to_rfc3339(), "2025-11-03T18:00:00+00:00");
}

#[test]
fn bad_plans_are_told_with_line_and_key() {
    let job = |keys: &str| format!("[job.x]\nverb = \"dump\"\n{keys}");
    let partition =
        |keys: &str| format!("retention_floor = {{ a = \"36 months\" }}\n[partition.a]\nkey = \"at\"\n{keys}");
    let purge = |keys: &str| format!("[purge.x]\ntable = \"t\"\nkey = \"id\"\n{keys}");
    let cases: Vec<(String, &str)> = vec![
        ("[job.x]\nverb = \"dmup\"".into(), "p.toml:2:8: job.x.verb: unknown word \"dmup\""),
        ("[job.x]\nschedule = \"@daily\"".into(), "p.toml:1:1: job.x.verb: the key is missing"),
        ("[job.\"a b\"]\nverb = \"dump\"".into(), "p.toml:1:1: job.a b: a name is 1 to 63"),
        (job("schedul = \"@daily\""), "p.toml:3:1: job.x.schedul: unknown key, did you mean \"schedule\"?"),
        (
            job("schedule = \"0 0 30 2 *\""),
            "p.toml:3:12: job.x.schedule: read \"0 0 30 2 *\" as a schedule: none of its months has such a day",
        ),
        (
            job("schedule = \"0 0 3 * * *\""),
            "p.toml:3:12: job.x.schedule: read \"0 0 3 * * *\" as a schedule: it has 6 fields",
        ),
        (job("timezone = \"UTC\""), "p.toml:3:12: job.x.timezone: there is no schedule for it"),
        (job("keep = 30"), "p.toml:3:8: job.x.keep: expected what to keep"),
        (job("keep = \"0 days\""), "p.toml:3:8: job.x.keep: keep for no time at all"),
        (job("keep = { local = \"30 dyas\" }"), "p.toml:3:18: job.x.keep.local: read \"30 dyas\" as a length of time"),
        (
            job("keep = { local = { cuont = 3 } }"),
            "p.toml:3:20: job.x.keep.local.cuont: unknown key, did you mean \"count\"?",
        ),
        (job("keep = { count = 3, s3 = \"1 day\" }"), "p.toml:3:8: job.x.keep: mix rules and names of repositories"),
        (job("tables = [\"a.b.c\"]"), "p.toml:3:11: job.x.tables: use \"a.b.c\" as a table name"),
        (job("tables = [\"a\", \"a\"]"), "p.toml:3:10: job.x.tables: the table a is named twice"),
        (job("folder = \"../x\""), "p.toml:3:10: job.x.folder: is part of the names in the repository"),
        (job("name_prefix = \"a/b\""), "p.toml:3:15: job.x.name_prefix: is part of the names in the repository"),
        (job("kind = \"full\""), "p.toml:3:8: job.x.kind: the verb dump does not take it"),
        (job("exact = false"), "p.toml:3:9: job.x.exact: the verb dump does not take it"),
        (
            "[job.x]\nverb = \"increment\"\nchanged_at = { a = \"at\" }".into(),
            "p.toml:3:14: job.x.changed_at: increments of these tables would miss deletions and late rows; say so with `exact = false`",
        ),
        (
            "[job.x]\nverb = \"increment\"\ntables = [\"a\"]\nexact = false\nchanged_at = { b = \"at\" }".into(),
            "p.toml:5:14: job.x.changed_at: the job does not cover b",
        ),
        (job("period = \"weekly\""), "p.toml:3:10: job.x.period: the verb dump does not take it"),
        (job("timeout = \"0 s\""), "p.toml:3:11: job.x.timeout: a length of zero makes it useless"),
        (job("retry = { attempts = 0 }"), "p.toml:3:22: job.x.retry.attempts: without a try nothing is done"),
        (job("retry = { atempts = 1 }"), "p.toml:3:11: job.x.retry.atempts: unknown key, did you mean \"attempts\"?"),
        (job("repositories = []"), "p.toml:3:16: job.x.repositories: it could write nowhere"),
        (job("folder = \"leases\""), "p.toml:3:10: job.x.folder: the folder leases is the repository's own"),
        (
            "[job.catalog]\nverb = \"dump\"".into(),
            "p.toml:1:1: job.catalog: the folder catalog is the repository's own",
        ),
        (
            "[job.y]\nverb = \"dump\"\n[job.x]\nverb = \"dump\"\nafter = \"y\"".into(),
            "p.toml:5:9: job.x.after: is not built yet; give the job a schedule of its own",
        ),
        (job("after = \"y\""), "p.toml:3:9: job.x.after: the plan has no job \"y\""),
        (job("catch_up = \"twice\""), "p.toml:3:12: job.x.catch_up: unknown word \"twice\""),
        ("[job.x]\nverb = \"files\"".into(), "p.toml:1:1: job.x: the verb files needs a directory"),
        (
            "managed = true\n[job.x]\nverb = \"base-backup\"".into(),
            "p.toml:3:8: job.x.verb: a managed server gives neither WAL",
        ),
        (
            partition("retention = \"35 months\""),
            "p.toml:4:13: partition.a.retention: 35 months is shorter than the plan's retention_floor of 36 months",
        ),
        (partition("premake = 0"), "p.toml:4:11: partition.a.premake: expected 1 to 120"),
        (partition("seal = true\narchive = false"), "p.toml:5:11: partition.a.archive: a seal needs the archive"),
        (
            "[partition.b]\nkey = \"at\"\nretention = \"20 days\"".into(),
            "p.toml:3:13: partition.b.retention: a partition of a month stays at least 1 month",
        ),
        (
            partition("retenton = \"3 years\""),
            "p.toml:4:1: partition.a.retenton: unknown key, did you mean \"retention\"?",
        ),
        (purge("delete = \"some\""), "p.toml:4:10: purge.x.delete: unknown word \"some\""),
        (purge("delete = \"latest\""), "p.toml:1:1: purge.x: delete = \"latest\" needs order_by"),
        (
            purge("delete = \"all\"\nolder_than = \"0 days\""),
            "p.toml:5:14: purge.x.older_than: nothing younger than 1 day",
        ),
        (purge("delete = \"all\"\nattempts = 9"), "p.toml:5:12: purge.x.attempts: expected 1 to 3"),
        ("[check]\ndisk_percent = 101".into(), "p.toml:2:16: check.disk_percent: expected 1 to 100 percent"),
        (
            "[check]\nroles = ['dbagent_dmp']".into(),
            "p.toml:2:9: check.roles: \"dbagent_dmp\" is no role of dbagent's; say what it may have in [check.role.dbagent_dmp]",
        ),
        (
            "[check]\nlog_retention = '1 day'\nrds_cluster = 'a'\nrds_instance = 'b'".into(),
            "p.toml:4:16: check.rds_instance: name the cluster or the instance, not both",
        ),
        ("[check]\nrds_cluster = 'a'".into(), "p.toml:1:1: check: rds_cluster and rds_instance serve log_retention"),
        ("[check.role.a]\nattributes = ['ROOT']".into(), "p.toml:2:15: check.role.a.attributes: unknown word \"ROOT\""),
        ("[check]\nhttp = [\"localhost\"]".into(), "p.toml:2:8: check.http: expected addresses such as"),
        (
            "retention_floor = { a = \"1 year\" }\n[job.x]\nverb = \"dump\"\ntables = [\"a\"]\nkeep = \"364 days\""
                .into(),
            "p.toml:1:25: retention_floor.a: no job keeps a for 12 months",
        ),
    ];
    let mut wrong = Vec::new();
    for (text, expected) in &cases {
        let told = read(text, &BOTH).err().unwrap_or_default();
        if !told.first().is_some_and(|first| first.starts_with(expected)) {
            wrong.push(format!("{text:?}\n  expected {expected}\n  told     {told:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_plan_that_is_not_there_is_told_with_the_built_in_ones() {
    let error = load_plan("bc003", Path::new("/nonexistent"), &[]).unwrap_err().to_string();
    assert!(error.contains("there is no plan /nonexistent/bc003"), "{error}");
    assert!(error.contains("did you mean \"bc-003\"?"), "{error}");
}
