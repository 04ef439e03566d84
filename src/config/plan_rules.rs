//! What the keys of a plan mean together: which verb takes which key, names, the compliance minimum, managed servers.
//!
//! The compliance minimum asks that *some* dump job keeps each of its tables whole for that long in some repository: in
//! the shipped plan the daily dump goes after 30 days, and the weekly archive of the same table fulfils the minimum.

use chrono::{DateTime, Utc};

use crate::config::plan::{Job, Plan};
use crate::config::problems::Problems;
use crate::config::rules::{Checklist, PartitionRule, PurgeRule, PurgeScope};
use crate::model::keep::Keep;
use crate::model::key::OWN_FOLDERS;
use crate::model::retention::Policy;
use crate::model::span::Span;
use crate::model::status::longest_age;
use crate::model::table::TableName;
use crate::model::verb::Verb;

/// Youngest that an age rule of `purge` may delete.
const PURGE_FLOOR: fn() -> Span = || Span::days(1);

impl Plan {
    /// Retention of the artifacts of the job `name` in `repository`: its rules, and the compliance minimum where it is
    /// this job that fulfils it, as of `now`. A job that the plan does not have keeps for ever.
    pub fn policy(&self, name: &str, repository: &str, now: DateTime<Utc>) -> Policy {
        let Some(job) = self.job.get(name) else { return Policy::default() };
        let keep = job.keep_in(repository);
        let held = job.tables.iter().filter_map(|table| self.floor_of(table));
        let held = held.filter(|floor| self.fulfils(job, keep, floor));
        let floor = held.reduce(|longest, floor| if longest.may_be_shorter_than(floor) { floor } else { longest });
        let overdue_after = job.schedule.as_ref().and_then(|schedule| longest_age(schedule, now));
        Policy { keep: keep.cloned(), floor: floor.copied(), overdue_after }
    }

    fn floor_of(&self, table: &TableName) -> Option<&Span> {
        let same = |named: &TableName| named == table || named.schema.is_none() && named.name == table.name;
        self.retention_floor.iter().find(|(named, _)| same(named)).map(|(_, floor)| floor)
    }

    /// Whether `keep` is long enough for `floor`. Rules that do not count in time are: the decision itself holds what
    /// they would let go, in a job that has no other tables.
    fn fulfils(&self, job: &Job, keep: Option<&Keep>, floor: &Span) -> bool {
        let only_held = job.tables.iter().all(|table| self.floor_of(table).is_some());
        let by_age = |keep: &Keep| match keep.age.or(keep.window) {
            Some(age) => !age.may_be_shorter_than(floor),
            None => only_held,
        };
        job.verb == Verb::Dump && keep.is_none_or(by_age)
    }
}

/// Holds the whole plan against its rules. `repositories` are those of the configuration.
pub(in crate::config) fn validate(plan: &Plan, repositories: &[&str], problems: &mut Problems<'_>) {
    problems.check_component("name", &plan.name);
    for (name, job) in &plan.job {
        let key = format!("job.{name}");
        problems.check_name(&key, name);
        validate_job(plan, &key, job, problems);
        for repository in job.repositories_named().filter(|named| !repositories.contains(named)) {
            let message =
                format!("the configuration has no repository {repository:?}; what is said of it has no effect");
            problems.warn(&key, &message);
        }
    }
    for (table, rule) in &plan.partition {
        validate_partition(plan, table, rule, problems);
    }
    for (name, rule) in &plan.purge {
        problems.check_name(&format!("purge.{name}"), name);
        validate_purge(&format!("purge.{name}"), rule, problems);
    }
    for (table, floor) in &plan.retention_floor {
        validate_floor(plan, table, floor, repositories, problems);
    }
    validate_checklist(&plan.check, problems);
    problems.warnings.sort();
    problems.warnings.dedup();
}

fn validate_job(plan: &Plan, key: &str, job: &Job, problems: &mut Problems<'_>) {
    let at = |name: &str| format!("{key}.{name}");
    for (name, verbs) in KEYS_OF_VERBS {
        if problems.is_written(&at(name)) && !verbs.contains(&job.verb) {
            problems.error(&at(name), format!("the verb {} does not take it", job.verb));
        }
    }
    for (name, text) in [("folder", &job.folder), ("name_prefix", &job.name_prefix)] {
        text.iter().for_each(|text| problems.check_component(&at(name), text));
    }
    validate_folder(key, job, problems);
    let lengths = [
        ("timeout", job.timeout),
        ("no_progress_timeout", job.no_progress_timeout),
        ("lock_timeout", job.lock_timeout),
        ("retry.backoff", Some(job.retry.backoff)),
    ];
    lengths.into_iter().for_each(|(name, span)| problems.check_length(&at(name), span));
    problems.error_if(
        job.retry.attempts == 0,
        &at("retry.attempts"),
        "without a try nothing is done; write at least 1",
    );
    problems.error_if(job.timezone.is_some() && job.schedule.is_none(), &at("timezone"), "there is no schedule for it");
    let managed = plan.managed && matches!(job.verb, Verb::BaseBackup | Verb::WalSync);
    problems.error_if(managed, &at("verb"), "a managed server gives neither WAL nor its data directory");
    let files = job.verb == Verb::Files && job.directory.is_none();
    problems.error_if(files, key, "the verb files needs a directory");
    if let Some(first) = &job.after {
        validate_after(plan, &at("after"), first, job, problems);
    }
    validate_tables(&at("tables"), &job.tables, problems);
    validate_exact(&at("changed_at"), job, problems);
    let none = job.repositories.as_ref().is_some_and(Vec::is_empty);
    problems.error_if(none, &at("repositories"), "it could write nowhere; leave the key out to write to all");
}

/// A job stores under its own name unless it names a folder; what lies in the repository's own folders is never listed.
fn validate_folder(key: &str, job: &Job, problems: &mut Problems<'_>) {
    let name = key.rsplit_once('.').map_or(key, |(_, name)| name);
    let (at, folder) = match &job.folder {
        Some(folder) => (format!("{key}.folder"), folder.as_str()),
        None => (key.to_owned(), name),
    };
    if MAKE_ARTIFACTS.contains(&job.verb) && OWN_FOLDERS.contains(&folder) {
        problems.error(&at, format!("the folder {folder} is the repository's own; name another with `folder`"));
    }
}

/// Keys that only some verbs take.
const KEYS_OF_VERBS: [(&str, &[Verb]); 14] = [
    ("exact", &[Verb::Increment]),
    ("changed_at", &[Verb::Increment]),
    ("tables", &[Verb::Dump, Verb::Increment, Verb::RestoreTest]),
    ("large_objects", &[Verb::Dump]),
    ("kind", &[Verb::BaseBackup]),
    ("source", &[Verb::BaseBackup]),
    ("mode", &[Verb::AuditVerify]),
    ("period", &[Verb::Report]),
    ("directory", &[Verb::Files]),
    ("object_lock", &[Verb::AuditCheckpoint]),
    ("folder", &[Verb::Dump, Verb::Increment, Verb::Partition, Verb::Files]),
    ("name_prefix", &[Verb::Dump, Verb::Increment, Verb::Files]),
    ("keep", MAKE_ARTIFACTS),
    ("storage_class", MAKE_ARTIFACTS),
];

const MAKE_ARTIFACTS: &[Verb] = &[
    Verb::Dump,
    Verb::Increment,
    Verb::BaseBackup,
    Verb::WalSync,
    Verb::Partition,
    Verb::Files,
    Verb::AuditCheckpoint,
    Verb::RestoreTest,
    Verb::Report,
];

fn validate_after(plan: &Plan, key: &str, first: &str, job: &Job, problems: &mut Problems<'_>) {
    problems.error_if(job.schedule.is_some(), key, "it has a schedule of its own; leave one of the two out");
    match plan.job.get(first) {
        None => {
            let known = plan.job.keys().map(String::as_str);
            problems.unknown(key, format!("the plan has no job {first:?}"), first, known);
        }
        Some(other) => {
            problems.error_if(other.after.is_some(), key, "that job itself comes after another");
            // Such a job would be shown and never run.
            problems.error_if(job.verb.is_built(), key, "is not built yet; give the job a schedule of its own");
        }
    }
}

fn validate_tables(key: &str, tables: &[TableName], problems: &mut Problems<'_>) {
    for (at, table) in tables.iter().enumerate() {
        if tables[..at].contains(table) {
            problems.error(key, format!("the table {table} is named twice"));
        }
    }
}

/// Not to be exact has to be asked for twice: for the job, and table by table.
fn validate_exact(key: &str, job: &Job, problems: &mut Problems<'_>) {
    let named = !job.changed_at.is_empty();
    problems.error_if(
        named && job.exact,
        key,
        "increments of these tables would miss deletions and late rows; say so with `exact = false`",
    );
    problems.error_if(
        !named && !job.exact,
        key,
        "`exact = false` needs the tables that are not exact and the column that says when a row changed",
    );
    for table in job.changed_at.keys().filter(|table| !job.tables.is_empty() && !job.tables.contains(table)) {
        problems.error(key, format!("the job does not cover {table}"));
    }
}

fn validate_partition(plan: &Plan, table: &TableName, rule: &PartitionRule, problems: &mut Problems<'_>) {
    let key = format!("partition.{table}.retention");
    let month = Span::months(1);
    let floor = plan.floor_of(table).copied().unwrap_or(month);
    let retention = rule.retention.unwrap_or(floor);
    if retention.may_be_shorter_than(&month) {
        problems.error(&key, "a partition of a month stays at least 1 month");
    } else if retention.may_be_shorter_than(&floor) {
        problems.error(&key, format!("{retention} is shorter than the plan's retention_floor of {floor}"));
    }
    let premake = format!("partition.{table}.premake");
    problems.error_if(!(1..=120).contains(&rule.premake), &premake, "expected 1 to 120 months ahead");
    let unproven = rule.seal && !rule.archive;
    problems.error_if(unproven, &format!("partition.{table}.archive"), "a seal needs the archive that it speaks of");
    problems.check_length(&format!("partition.{table}.lock_timeout"), rule.lock_timeout);
}

fn validate_purge(key: &str, rule: &PurgeRule, problems: &mut Problems<'_>) {
    let at = |name: &str| format!("{key}.{name}");
    let ordered = rule.order_by.is_some();
    let latest = rule.delete == PurgeScope::Latest;
    problems.error_if(
        latest && !ordered,
        key,
        "delete = \"latest\" needs order_by, the column that says which is newest",
    );
    problems.error_if(!latest && ordered, &at("order_by"), "only delete = \"latest\" takes it");
    let too_young = rule.older_than.is_some_and(|age| age.may_be_shorter_than(&PURGE_FLOOR()));
    problems.error_if(too_young, &at("older_than"), "nothing younger than 1 day may be deleted by age");
    problems.check_percent(&at("max_percent"), rule.max_percent);
    problems.check_percent(&at("alert_percent"), rule.alert_percent);
    problems.error_if(rule.batch == Some(0), &at("batch"), "a batch of no rows never ends");
    problems.error_if(rule.attempts.is_some_and(|tries| !(1..=3).contains(&tries)), &at("attempts"), "expected 1 to 3");
    let lengths = [
        ("statement_timeout", rule.statement_timeout),
        ("lock_timeout", rule.lock_timeout),
        ("idle_in_transaction_session_timeout", rule.idle_in_transaction_session_timeout),
    ];
    lengths.into_iter().for_each(|(name, span)| problems.check_length(&at(name), span));
    let forms = [
        ("password", rule.password.is_some()),
        ("password_file", rule.password_file.is_some()),
        ("password_command", rule.password_command.is_some()),
        ("password_aws_secret", rule.password_aws_secret.is_some()),
    ];
    crate::config::validate::one_form(&format!("{key}."), &forms, problems);
}

/// Some dump job must keep the table for as long as the floor says, if any dump job has it.
fn validate_floor(plan: &Plan, table: &TableName, floor: &Span, repositories: &[&str], problems: &mut Problems<'_>) {
    let key = format!("retention_floor.{table}");
    problems.check_length(&key, Some(*floor));
    let has = |job: &&Job| job.verb == Verb::Dump && job.tables.iter().any(|other| plan.floor_of(other) == Some(floor));
    let jobs: Vec<_> = plan.job.values().filter(has).collect();
    let fulfilled =
        |name: &str| jobs.iter().any(|job| job.writes_to(name) && plan.fulfils(job, job.keep_in(name), floor));
    let mut named = jobs.iter().flat_map(|job| job.repositories_named()).chain(repositories.iter().copied());
    let by_all =
        jobs.iter().any(|job| job.repositories_named().next().is_none() && plan.fulfils(job, job.keep_in(""), floor));
    if jobs.is_empty() || by_all {
        return;
    }
    if !named.any(fulfilled) {
        problems.error(&key, format!("no job keeps {table} for {floor}; let one keep it that long in a repository"));
    } else if !repositories.iter().any(|name| fulfilled(name)) {
        problems.warn(&key, &format!("no repository of the configuration keeps {table} for {floor}"));
    }
}

/// Roles that `sql/roles/` makes; what they may have is known without the plan.
const OWN_ROLES: [&str; 4] = ["bc003_app", "dbagent_base", "dbagent_dump", "dbagent_mon"];

fn validate_security(check: &Checklist, problems: &mut Problems<'_>) {
    for role in check.roles.iter().filter(|role| !OWN_ROLES.contains(&role.as_str())) {
        let message = format!("{role:?} is no role of dbagent's; say what it may have in [check.role.{role}]");
        problems.unknown("check.roles", message, role, OWN_ROLES);
    }
    let twice = check.rds_cluster.is_some() && check.rds_instance.is_some();
    problems.error_if(twice, "check.rds_instance", "name the cluster or the instance, not both");
    let named = check.rds_cluster.is_some() || check.rds_instance.is_some();
    let asked = check.log_retention.is_some() || check.backup_retention.is_some();
    problems.error_if(
        named && !asked,
        "check",
        "rds_cluster and rds_instance serve log_retention and backup_retention",
    );
}

fn validate_checklist(check: &Checklist, problems: &mut Problems<'_>) {
    validate_security(check, problems);
    let shares = [("disk", check.disk_percent), ("memory", check.memory_percent), ("cpu", check.cpu_percent)];
    shares.into_iter().for_each(|(name, share)| problems.check_percent(&format!("check.{name}_percent"), share));
    for address in &check.http {
        let fine = address.parse::<url::Url>().is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        problems.error_if(!fine, "check.http", "expected addresses such as \"http://127.0.0.1:5001/health\"");
    }
    for address in check.tcp.iter().chain(check.redis.iter().map(|redis| &redis.address)) {
        let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
        problems.error_if(port.is_none(), "check", "expected addresses such as \"127.0.0.1:6379\"");
    }
}
