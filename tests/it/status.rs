//! How a status is put together from what repositories and the run history say.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dbagent::catalog::history::{Entry, History, HistoryLimits, RecordedFailure, RunRecord, RunResult, Trigger};
use dbagent::catalog::{Artifact, ArtifactName, Inventory};
use dbagent::model::digest::Digest;
use dbagent::model::failure::FailureKind;
use dbagent::model::id::{ArtifactId, RunId};
use dbagent::model::manifest::{Manifest, Verification, VerificationLevel};
use dbagent::model::outcome::{Outcome, Severity};
use dbagent::model::status::{Freshness, LastResult, StatusModel};
use dbagent::model::verb::Verb;
use dbagent::ops::status::{Inputs, Job, Read, assemble, last_runs};
use serde_json::json;

fn now() -> DateTime<Utc> {
    "2026-03-01T04:00:00Z".parse().unwrap()
}

fn job(repositories: &[&str]) -> Job {
    Job {
        name: "full".into(),
        verb: Verb::Dump,
        built: true,
        schedule: Some("0 3 * * *".parse().unwrap()),
        database: Some("shop".into()),
        tables: 0,
        repositories: repositories.iter().map(|name| (*name).to_owned()).collect(),
    }
}

/// An artifact of `job`, begun `hours` ago and finished at once.
fn artifact(job: &str, hours: i64) -> Artifact {
    let started = now() - TimeDelta::hours(hours);
    let verification = Verification { level: VerificationLevel::ReadBack, at: started };
    let manifest: Manifest = serde_json::from_value(json!({
        "format": 1, "id": ArtifactId::new(started), "run": RunId::new(started), "verb": "dump", "job": job,
        "plan": "p", "cluster": "c", "agent_version": "0", "started": started, "finished": started,
        "source": {"system_identifier": null, "timeline": null, "database": "shop", "database_oid": 5,
            "server_version": "15", "encoding": "UTF8", "tools": [], "snapshot": null, "lsn": null},
        "objects": [], "recipients": [], "tables": [], "sequences": [], "schema_fingerprint": null,
        "large_objects": "none", "fencing_token": 1, "catalog": {"sequence": 1}, "verification": verification,
    }))
    .unwrap();
    Artifact {
        repository: "local".into(),
        name: ArtifactName::new(job, job, started).unwrap(),
        manifest,
        manifest_digest: Digest::of(b""),
        signed_by: None,
        verified: Some(verification),
        damaged: None,
        pinned: None,
    }
}

fn damaged(hours: i64) -> Artifact {
    Artifact { verified: None, damaged: Some("it was changed".into()), ..artifact("full", hours) }
}

fn holding(artifacts: Vec<Artifact>) -> Read {
    ("local".to_owned(), Ok(Inventory { artifacts, ..Inventory::default() }))
}

fn assembled(repositories: Vec<Read>, jobs: Vec<Job>) -> StatusModel {
    let runs = Ok(BTreeMap::new());
    let (cluster, plan) = ("c".into(), Some("p".into()));
    let (wal, recovery) = (Vec::new(), Default::default());
    let (chain, partitions) = (None, Vec::new());
    let (drills, cost) = (Vec::new(), None);
    assemble(&Inputs { cluster, plan, jobs, repositories, runs, wal, recovery, chain, partitions, drills, cost }, now())
}

/// The freshness of the one job in the one repository, and whether all is green.
fn judged(artifacts: Vec<Artifact>) -> (Freshness, bool) {
    let model = assembled(vec![holding(artifacts)], vec![job(&["local"])]);
    (model.jobs[0].dump.as_ref().unwrap().copies[0].freshness, model.green)
}

#[test]
fn an_artifact_is_current_for_twice_the_interval_and_no_longer() {
    assert_eq!(judged(vec![artifact("full", 48)]), (Freshness::Current, true));
    assert_eq!(judged(vec![artifact("full", 49)]), (Freshness::Overdue, false));
    assert_eq!(judged(vec![artifact("full", 90), artifact("full", 1)]), (Freshness::Current, true));
    assert_eq!(judged(Vec::new()), (Freshness::Missing, false));
}

#[test]
fn only_a_verified_artifact_of_the_job_itself_counts() {
    assert_eq!(judged(vec![artifact("another", 1)]), (Freshness::Missing, false));
    let unverified = Artifact { verified: None, ..artifact("full", 1) };
    assert_eq!(judged(vec![unverified]), (Freshness::Missing, false));
    assert_eq!(judged(vec![artifact("full", 60), damaged(1)]), (Freshness::Overdue, false));
}

#[test]
fn an_artifact_from_the_future_does_not_look_new() {
    assert_eq!(judged(vec![artifact("full", -24 * 365)]), (Freshness::Missing, false));
}

#[test]
fn damage_is_critical_until_a_newer_good_one_stands_in() {
    let severity = |artifacts| {
        let model = assembled(vec![holding(artifacts)], vec![job(&["local"])]);
        (model.repositories[0].findings[0].severity, model.green)
    };
    assert_eq!(severity(vec![artifact("full", 30), damaged(2)]), (Severity::Critical, false));
    assert_eq!(severity(vec![damaged(30), artifact("full", 2)]), (Severity::Warning, true));
}

#[test]
fn every_repository_counts_and_one_that_was_not_read_is_unknown() {
    let unread: Read = ("s3".to_owned(), Err("reach it".to_owned()));
    let model = assembled(vec![holding(vec![artifact("full", 1)]), unread], vec![job(&["local", "s3"])]);
    let dump = model.jobs[0].dump.as_ref().unwrap();
    assert_eq!(
        dump.copies.iter().map(|copy| copy.freshness).collect::<Vec<_>>(),
        [Freshness::Current, Freshness::Unknown]
    );
    assert!(!model.green && !dump.overdue);
    assert!(model.headline.ends_with("(1 copy, verified). But what s3 holds is not known."), "{}", model.headline);
    let holds = model.repositories.iter().map(|repository| repository.holds.map(|holds| holds.artifacts));
    assert_eq!(holds.collect::<Vec<_>>(), [Some(1), None], "what is not known is not counted as nothing");
    assert!(!assembled(vec![holding(vec![artifact("full", 1)])], vec![job(&["local", "gone"])]).green);
}

#[test]
fn a_job_without_a_schedule_has_no_age_to_be_late_by() {
    let by_hand = Job { schedule: None, ..job(&["local"]) };
    let model = assembled(vec![holding(vec![artifact("full", 9000)])], vec![by_hand]);
    assert!(model.green && model.jobs[0].next.is_none());
}

fn begun(minutes_ago: i64) -> RunRecord {
    let started = now() - TimeDelta::minutes(minutes_ago);
    RunRecord {
        run: RunId::new(started),
        job: "full".into(),
        verb: Verb::Dump,
        trigger: Trigger::Schedule,
        scheduled: started,
        started,
        attempt: 1,
        missed: 0,
        only_repositories: Vec::new(),
        completes: None,
        end: None,
    }
}

#[test]
fn the_last_run_is_the_last_that_ended_and_ones_own_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("history");
    let jobs = [job(&["local"])];
    let own = begun(1);
    assert!(last_runs(&folder, &jobs, own.run).unwrap()["full"].ended.is_none());
    let history = History::open(&folder, HistoryLimits::default(), now()).unwrap();
    let failure = RecordedFailure { kind: FailureKind::Failed, message: "dump".into(), hint: None };
    let good = begun(90).ended(now(), RunResult::Done(Outcome::ok("done")));
    let bad = begun(60).ended(now(), RunResult::Failed(failure));
    for entry in [Entry::Ended(good), Entry::Ended(bad), Entry::Begun(begun(30)), Entry::Begun(own.clone())] {
        history.append(&entry, now()).unwrap();
    }
    let repositories = vec![holding(Vec::new())];
    let runs = last_runs(&folder, &jobs, own.run);
    let (cluster, wal, recovery) = ("c".into(), Vec::new(), Default::default());
    let inputs = Inputs {
        cluster,
        plan: None,
        jobs: jobs.to_vec(),
        repositories,
        runs,
        wal,
        recovery,
        chain: None,
        partitions: Vec::new(),
        drills: Vec::new(),
        cost: None,
    };
    let model = assemble(&inputs, now());
    let last = model.jobs[0].last.as_ref().unwrap();
    assert_eq!((last.result, last.message.as_str()), (LastResult::Failed, "failed to dump"));
    assert_eq!(model.jobs[0].running_since, Some(now() - TimeDelta::minutes(30)));
}

#[test]
fn f114_a_history_that_cannot_be_read_is_said_and_no_last_run_invented() {
    let inputs = Inputs {
        cluster: "c".into(),
        plan: None,
        jobs: vec![job(&["local"])],
        repositories: vec![holding(vec![artifact("full", 1)])],
        runs: Err("read it".into()),
        wal: Vec::new(),
        chain: None,
        partitions: Vec::new(),
        recovery: Default::default(),
        drills: Vec::new(),
        cost: None,
    };
    let model = assemble(&inputs, now());
    assert_eq!(model.history_unreadable.as_deref(), Some("read it"));
    assert!(model.jobs[0].last.is_none());
}
