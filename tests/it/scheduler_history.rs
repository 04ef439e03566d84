//! The run history on a real disk: durable lines, torn ends, segments, reading beside a writer.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::PathBuf;

use chrono::{DateTime, TimeDelta, Utc};
use dbagent::catalog::history::{
    Entry, Filter, History, HistoryLimits, RecordedFailure, Remembered, RunRecord, RunResult, SkipReason, SkipRecord,
    Trigger, read,
};
use dbagent::model::failure::FailureKind;
use dbagent::model::id::RunId;
use dbagent::model::outcome::{Outcome, Verdict};
use dbagent::model::verb::Verb;
use tempfile::TempDir;

use crate::scheduler_stage::at;

fn noon() -> DateTime<Utc> {
    at("2026-03-10T12:00:00Z")
}

fn run(job: &str, scheduled: DateTime<Utc>) -> RunRecord {
    RunRecord {
        run: RunId::new(scheduled),
        job: job.to_owned(),
        verb: Verb::Dump,
        trigger: Trigger::Schedule,
        scheduled,
        started: scheduled,
        attempt: 1,
        missed: 0,
        only_repositories: Vec::new(),
        completes: None,
        end: None,
    }
}

fn done(run: &RunRecord) -> Entry {
    Entry::Ended(run.clone().ended(run.started + TimeDelta::minutes(1), RunResult::Done(Outcome::ok("done"))))
}

fn below(folder: &TempDir) -> PathBuf {
    folder.path().join("history")
}

fn open(folder: &TempDir) -> History {
    History::open(&below(folder), HistoryLimits::default(), noon()).unwrap()
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(below(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

fn read_all(folder: &TempDir) -> Vec<Remembered> {
    read(&below(folder), &Filter::default()).unwrap()
}

#[test]
fn a_run_is_remembered_across_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (run("full", noon()), run("full", noon() + TimeDelta::days(1)));
    let history = open(&folder);
    for entry in [Entry::Begun(first.clone()), done(&first), Entry::Begun(second.clone())] {
        history.append(&entry, noon()).unwrap();
    }
    drop(history);
    let history = open(&folder);
    assert_eq!(history.last_scheduled("full"), Some(second.scheduled));
    assert_eq!(history.unfinished(), vec![second.clone()]);
    assert_eq!(history.past("other").handled, None);
    let Entry::Ended(first) = done(&first) else { unreachable!() };
    assert_eq!(read_all(&folder), [Remembered::Run(second), Remembered::Run(first)]);
}

#[test]
fn f06_a_torn_line_is_cut_off_and_nothing_else_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(&folder);
    let whole = run("full", noon());
    history.append(&Entry::Begun(whole.clone()), noon()).unwrap();
    let kept = fs::read(&files(&folder)[0]).unwrap();
    history.append(&Entry::Begun(run("check", noon())), noon()).unwrap();
    let all = fs::read(&files(&folder)[0]).unwrap();
    drop(history);
    for torn in (kept.len()..all.len()).step_by(7).chain([all.len() - 1]) {
        fs::write(&files(&folder)[0], &all[..torn]).unwrap();
        assert_eq!(read_all(&folder), [Remembered::Run(whole.clone())], "torn at {torn}");
        let history = open(&folder);
        assert_eq!(history.opened().torn_bytes as usize, torn - kept.len());
        assert_eq!(history.unfinished(), vec![whole.clone()]);
        assert_eq!(fs::read(&files(&folder)[0]).unwrap(), kept);
        history.append(&done(&whole), noon()).unwrap();
        assert_eq!(open(&folder).unfinished(), []);
    }
}

#[test]
fn a_line_that_cannot_be_read_is_counted_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    open(&folder);
    let strange = b"{\"version\":9,\"entry\":{\"from-the-future\":1}}\n\xff\xfe\n";
    OpenOptions::new().append(true).open(&files(&folder)[0]).unwrap().write_all(strange).unwrap();
    let history = open(&folder);
    assert_eq!(history.opened().unreadable_lines, 2);
    history.append(&Entry::Begun(run("full", noon())), noon()).unwrap();
    assert_eq!(read_all(&folder).len(), 1);
    assert!(fs::read(&files(&folder)[0]).unwrap().starts_with(strange));
}

#[test]
fn old_segments_are_dropped_and_what_matters_is_carried_on() {
    let folder = tempfile::tempdir().unwrap();
    let limits = HistoryLimits { segment_bytes: 4000, total_bytes: 20_000, keep: TimeDelta::days(400) };
    let history = History::open(&below(&folder), limits, noon()).unwrap();
    let (yearly, hanging) = (run("yearly", noon()), run("hanging", noon()));
    for entry in [Entry::Begun(yearly.clone()), done(&yearly), Entry::Begun(hanging.clone())] {
        history.append(&entry, noon()).unwrap();
    }
    for minute in 0..150 {
        let often = run("often", noon() + TimeDelta::minutes(minute));
        history.append(&Entry::Begun(often.clone()), noon()).unwrap();
        history.append(&done(&often), noon()).unwrap();
    }
    let bytes: u64 = files(&folder).iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes <= 20_000 + 4000 && files(&folder).len() > 2, "{bytes} bytes in {} files", files(&folder).len());
    let before = read_all(&folder);
    let history = open(&folder);
    assert_eq!(history.last_scheduled("yearly"), Some(noon()));
    assert_eq!(history.last_scheduled("often"), Some(noon() + TimeDelta::minutes(149)));
    assert_eq!(history.unfinished(), [hanging]);
    let mut seen: Vec<_> = before.iter().map(|remembered| format!("{remembered:?}")).collect();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), before.len(), "a run carried into a new segment is told twice");
}

#[test]
fn segments_past_their_age_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let history = open(&folder);
    for week in 0..120 {
        let weekly = run("full", noon() + TimeDelta::weeks(week));
        history.append(&Entry::Ended(weekly.clone()), weekly.started).unwrap();
    }
    let kept = read_all(&folder).len();
    assert!((57..=70).contains(&kept), "{kept} runs are kept");
}

#[test]
fn a_history_is_read_newest_first_through_filters() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(read(&below(&folder), &Filter::default()).unwrap(), []);
    let history = open(&folder);
    for hour in 0..10 {
        let begun = run(if hour % 2 == 0 { "full" } else { "check" }, noon() + TimeDelta::hours(hour));
        let failed = RecordedFailure { kind: FailureKind::LockHeld, message: "lock it".to_owned(), hint: None };
        let incomplete = Outcome { verdict: Verdict::Incomplete, ..Outcome::ok("stored in some") };
        let result = match hour {
            8 => RunResult::Failed(failed),
            9 => RunResult::Done(incomplete),
            _ => RunResult::Done(Outcome::ok("done")),
        };
        history.append(&Entry::Ended(begun.clone().ended(begun.started, result)), noon()).unwrap();
    }
    let skip = SkipRecord {
        job: "full".to_owned(),
        verb: Verb::Dump,
        scheduled: noon(),
        count: 3,
        at: noon(),
        reason: SkipReason::Missed,
    };
    history.append(&Entry::Skipped(skip), noon()).unwrap();
    let hours = |filter: Filter| -> Vec<i64> {
        let scheduled = |remembered: &Remembered| match remembered {
            Remembered::Run(run) => (run.scheduled - noon()).num_hours(),
            Remembered::Skipped(_) => -1,
        };
        read(&below(&folder), &filter).unwrap().iter().map(scheduled).collect()
    };
    assert_eq!(hours(Filter { limit: Some(3), ..Filter::default() }), [-1, 9, 8]);
    assert_eq!(hours(Filter { only_trouble: true, ..Filter::default() }), [-1, 9, 8]);
    assert_eq!(hours(Filter { job: Some("check".to_owned()), ..Filter::default() }), [9, 7, 5, 3, 1]);
    assert_eq!(hours(Filter { since: Some(noon() + TimeDelta::hours(7)), ..Filter::default() }), [9, 8, 7]);
}

#[test]
fn the_form_of_a_line_does_not_change_unnoticed() {
    let folder = tempfile::tempdir().unwrap();
    let golden = concat!(
        r#"{"version":1,"entry":{"settled":{"job":"full","handled":"2026-03-10T12:00:00Z"}}}"#,
        "\n",
        r#"{"version":1,"entry":{"ended":{"run":"019cd7b4-0000-7000-8000-000000000001","job":"full","verb":"dump","#,
        r#""trigger":"catch-up","scheduled":"2026-03-10T12:00:00Z","started":"2026-03-10T12:00:01Z","attempt":1,"#,
        r#""missed":2,"end":{"finished":"2026-03-10T12:01:00Z","result":{"failed":{"kind":"lock-held","#,
        r#""message":"lock it","hint":null}}}}}}"#,
        "\n",
    );
    drop(open(&folder));
    fs::write(below(&folder).join("history-000001-20260310.jsonl"), golden).unwrap();
    let history = open(&folder);
    assert_eq!(history.opened().unreadable_lines, 0);
    let last = history.past("full").last.unwrap();
    history.append(&Entry::Settled { job: "full".to_owned(), handled: noon() }, noon()).unwrap();
    history.append(&Entry::Ended(last), noon()).unwrap();
    assert_eq!(fs::read_to_string(&files(&folder)[0]).unwrap(), golden.repeat(2));
}
