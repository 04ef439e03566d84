//! The agent on a hand-driven clock: due, lead, overlap, retry, reload, drain. No test sleeps.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use dbagent::catalog::history::{Filter, Interruption, Remembered, RunResult, SkipReason, SkipRecord, Trigger, read};
use dbagent::host::clock::Clock;
use dbagent::model::event::Event;
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::model::outcome::{Outcome, RepositoryOutcome, Verdict};
use dbagent::model::side::Side;
use dbagent::scheduler::{AgentEvent, CatchUp, Command, Job, Leadership, RetryPolicy};

use crate::scheduler_stage::{Asked, Machine, Running, at, failure, hours, job, leader, result_of, seconds};

const DAYBREAK: &str = "2026-03-10T00:00:00Z";

fn retried(name: &str, schedule: &str) -> Job {
    let retry = RetryPolicy { attempts: 3, first: seconds(60), longest: seconds(3600) };
    Job { retry, ..job(name, schedule) }
}

async fn skipped(agent: &mut Running) -> SkipRecord {
    agent
        .told(|event| match event {
            AgentEvent::Skipped { skip } => Some(skip),
            _ => None,
        })
        .await
}

#[tokio::test]
async fn a_job_runs_at_its_time_and_not_before() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T02:59:59Z").await;
    assert!(agent.nothing_begins().await);
    agent.advance(seconds(1)).await;
    let run = agent.asked().await;
    assert_eq!(
        (run.request.scheduled, run.request.attempt, run.request.fencing_token),
        (at("2026-03-10T03:00:00Z"), 1, 1)
    );
    run.succeed();
    let record = agent.finished().await;
    assert_eq!((record.trigger, record.missed), (Trigger::Schedule, 0));
    assert!(record.is_green() && agent.nothing_begins().await);
    assert_eq!(agent.status().await[0].next, Some(at("2026-03-11T03:00:00Z")));
}

#[tokio::test]
async fn jitter_delays_a_run_without_changing_what_it_is_for() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![Job { jitter: seconds(600), ..job("full", "0 3 * * *") }]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    agent.advance_to("2026-03-10T03:04:59Z").await;
    assert!(agent.nothing_begins().await);
    agent.advance(seconds(1)).await;
    assert_eq!(agent.asked().await.request.scheduled, at("2026-03-10T03:00:00Z"));
}

#[tokio::test]
async fn different_jobs_run_together_up_to_the_limit() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(["a", "b", "c"].map(|name| job(name, "0 3 * * *")).into());
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let (first, _second) = (agent.asked().await, agent.asked().await);
    assert!(agent.nothing_begins().await);
    agent.advance(hours(1)).await;
    first.succeed();
    let third = agent.asked().await;
    assert_eq!((third.request.job.as_str(), third.request.scheduled), ("c", at("2026-03-10T03:00:00Z")));
}

#[tokio::test]
async fn a_runs_events_lie_between_its_start_and_its_end_and_progress_is_thinned_out() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    for bytes in 0..100 {
        run.request.events.tell(Event::Progress { bytes, expected_bytes: None, rows: 0 });
        run.request.events.note("a note");
    }
    run.succeed();
    agent.stop().await;
    agent.agent.await.unwrap();
    let mut order = Vec::new();
    while let Some(event) = agent.told.recv().await {
        order.push(match event {
            AgentEvent::Started { .. } => "started",
            AgentEvent::Progress { event: Event::Progress { .. }, .. } => "progress",
            AgentEvent::Progress { .. } => "note",
            AgentEvent::Finished { .. } => "finished",
            AgentEvent::Stopped => "stopped",
            _ => continue,
        });
    }
    let notes = vec!["note"; 100];
    assert_eq!(order, [&["started", "progress"][..], &notes, &["finished", "stopped"]].concat());
}

#[tokio::test]
async fn a_run_that_panics_is_a_failed_run() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    // The hand-driven runner panics when it can tell nobody that it was asked.
    agent.asks.close();
    run.succeed();
    assert!(agent.finished().await.is_green());
    agent.advance(hours(24)).await;
    let record = agent.finished().await;
    assert!(
        matches!(result_of(&record), RunResult::Failed(failure) if failure.message.contains("panic")),
        "{record:?}"
    );
}

#[tokio::test]
async fn f07_a_stop_lets_a_run_end_and_begins_none() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *"), job("check", "1 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.advance_to("2026-03-10T03:00:50Z").await;
    agent.stop().await;
    agent.advance(seconds(14)).await;
    assert!(!run.request.cancel.is_cancelled());
    run.succeed();
    agent.agent.await.unwrap();
    assert!(agent.asks.recv().await.is_none(), "a run began while the agent was stopping");
    let past = machine.history().past("full").last.unwrap();
    assert!(past.is_green());
    assert_eq!(machine.history().last_scheduled("check"), Some(at(DAYBREAK)));
}

#[tokio::test]
async fn f07_a_run_that_does_not_end_is_cancelled_and_done_again_by_the_next_agent() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.stop().await;
    agent.advance(seconds(15)).await;
    assert!(run.request.cancel.is_cancelled());
    let record = agent.finished().await;
    assert_eq!(result_of(&record), &RunResult::Interrupted(Interruption::Shutdown));
    agent.agent.await.unwrap();

    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    let again = agent.asked().await;
    assert_eq!((again.request.attempt, again.request.scheduled), (2, at("2026-03-10T03:00:00Z")));
}

#[tokio::test]
async fn f07_whenever_the_stop_comes_the_agent_ends_in_time_and_every_run_has_an_end() {
    let (mut ended, mut interrupted) = (0, 0);
    for point in 0..60 {
        let machine = Machine::at("2026-03-10T02:59:30Z");
        let mut agent = machine.start(vec![job("a", "0 3 * * *"), job("b", "0 3 * * *")]);
        agent.stubborn.store(point % 5 == 0, Ordering::SeqCst);
        agent.advance(seconds(point * 2)).await;
        let (mut first, mut second) = (agent.asks.try_recv().ok(), agent.asks.try_recv().ok());
        agent.stop().await;
        let mut waited = 0;
        while !agent.has_ended_when_at_rest().await {
            first.take_if(|_| waited == point % 19).into_iter().for_each(Asked::succeed_if_waited_for);
            second.take_if(|_| waited == point % 29).into_iter().for_each(Asked::succeed_if_waited_for);
            machine.clock.advance(seconds(1));
            waited += 1;
        }
        assert!(waited <= 25, "stopping after {point} took {waited} s");
        assert_eq!(machine.history().unfinished(), Vec::new());
        for remembered in read(&machine.folder(), &Filter::default()).unwrap() {
            let Remembered::Run(run) = remembered else { panic!("{remembered:?}") };
            match result_of(&run) {
                RunResult::Done(_) => ended += 1,
                RunResult::Interrupted(Interruption::Shutdown) => interrupted += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(ended > 20 && interrupted > 20, "{ended} ended, {interrupted} interrupted");
}

#[tokio::test]
async fn f08_a_second_stop_is_immediate() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.stubborn.store(true, Ordering::SeqCst);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.stop().await;
    agent.status().await;
    assert!(!run.request.cancel.is_cancelled() && !agent.agent.is_finished());
    agent.stop().await;
    agent.agent.await.unwrap();
    assert!(run.request.cancel.is_cancelled());
    assert_eq!(machine.clock.now(), at("2026-03-10T03:00:00Z"));
    let last = machine.history().past("full").last.unwrap();
    assert_eq!(result_of(&last), &RunResult::Interrupted(Interruption::Shutdown));
}

#[tokio::test]
async fn f08_a_bad_reload_is_told_and_keeps_the_old_jobs() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.commands.send(Command::Reload(Err(failure(FailureKind::Usage)))).await.unwrap();
    let refused = agent.told(|event| match event {
        AgentEvent::ReloadRefused { message } => Some(message),
        _ => None,
    });
    assert_eq!(refused.await, "dump the tables");
    agent.advance_to("2026-03-10T03:00:00Z").await;
    assert_eq!(agent.asked().await.request.job, "full");
}

#[tokio::test]
async fn a_reload_adds_removes_and_changes_jobs_while_runs_go_on() {
    let machine = Machine::at(DAYBREAK);
    let mut agent =
        machine.start(vec![job("goes", "0 3 * * *"), job("changes", "0 5 * * *"), job("stays", "0 6 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    let jobs = vec![job("changes", "0 * * * *"), job("stays", "0 6 * * *"), job("new", "30 3 * * *")];
    agent.commands.send(Command::Reload(Ok(jobs))).await.unwrap();
    let (added, removed, changed) = agent
        .told(|event| match event {
            AgentEvent::Reloaded { added, removed, changed } if !added.contains(&"goes".to_owned()) => {
                Some((added, removed, changed))
            }
            _ => None,
        })
        .await;
    assert_eq!(
        (added, removed, changed),
        (vec!["new".to_owned()], vec!["goes".to_owned()], vec!["changes".to_owned()])
    );
    assert!(!run.request.cancel.is_cancelled() && agent.nothing_begins().await);
    run.succeed();
    assert!(agent.finished().await.is_green());
    let names: Vec<_> = agent.status().await.into_iter().map(|status| status.job).collect();
    assert_eq!(names, ["changes", "new", "stays"]);
    agent.advance_to("2026-03-10T03:30:00Z").await;
    assert_eq!(agent.asked().await.request.job, "new");
    agent.advance_to("2026-03-10T04:00:00Z").await;
    assert_eq!(agent.asked().await.request.job, "changes");
}

#[tokio::test]
async fn f10_losing_the_leadership_cancels_the_run_and_begins_none() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *"), job("check", "0 4 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.leadership.send(Leadership::Follower).unwrap();
    let record = agent.finished().await;
    assert!(run.request.cancel.is_cancelled());
    assert_eq!(result_of(&record), &RunResult::Interrupted(Interruption::LeadershipLost));
    agent.advance_to("2026-03-10T04:00:00Z").await;
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn f10_a_new_fencing_token_cancels_runs_of_the_old_one_even_if_the_gap_went_unseen() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.leadership.send(leader(2)).unwrap();
    let again = agent.asked().await;
    assert!(run.request.cancel.is_cancelled());
    assert_eq!((again.request.fencing_token, again.request.attempt), (2, 2));
}

#[tokio::test]
async fn f10_whoever_gives_out_leadership_is_gone_and_nothing_begins() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.status().await;
    let (unused, _) = tokio::sync::watch::channel(Leadership::Follower);
    drop(std::mem::replace(&mut agent.leadership, unused));
    agent.advance_to("2026-03-10T03:00:00Z").await;
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn why_a_job_cannot_be_run_by_hand_is_what_is_so() {
    let machine = Machine::at(DAYBREAK);
    let agent = machine.start_as(Leadership::Follower, vec![job("full", "0 * * * *")]);
    let refused = async || {
        let (answer, answered) = tokio::sync::oneshot::channel();
        agent.commands.send(Command::Run { job: "full".into(), answer }).await.unwrap();
        answered.await.unwrap().unwrap_err()
    };
    let failure = refused().await;
    assert_eq!((failure.kind, failure.message.as_str()), (FailureKind::LockHeld, "run job full: another agent leads"));
    let why = Failure::new(FailureKind::Authentication, "the login is refused").hint("Look.");
    agent.leadership.send(Leadership::Apart((&why).into())).unwrap();
    let failure = refused().await;
    assert_eq!(failure.kind, FailureKind::Authentication);
    let said = (failure.message.as_str(), failure.hint.as_deref());
    assert_eq!(said, ("run job full: the login is refused", Some("Look.")));
    agent.leadership.send(Leadership::Follower).unwrap();
    assert_eq!(refused().await.kind, FailureKind::LockHeld);
}

#[tokio::test]
async fn f09_a_follower_begins_nothing_and_takes_over_once() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start_as(Leadership::Follower, vec![job("full", "0 * * * *"), job("check", "0 * * * *")]);
    agent.advance_to("2026-03-10T05:10:00Z").await;
    assert!(agent.nothing_begins().await);
    let handled = BTreeMap::from([("check".to_owned(), at("2026-03-10T05:00:00Z"))]);
    agent.leadership.send(Leadership::Leader { fencing_token: 7, side: Side::Primary, handled }).unwrap();
    let run = agent.asked().await;
    assert_eq!((run.request.job.as_str(), run.request.scheduled), ("full", at("2026-03-10T05:00:00Z")));
    assert_eq!(run.request.fencing_token, 7);
    run.succeed();
    assert_eq!(agent.finished().await.missed, 4);
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn f11_after_three_days_down_a_dump_runs_once_and_tells_what_it_missed() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    agent.asked().await.succeed();
    agent.finished().await;
    agent.kill().await;
    machine.clock.set_wall(at("2026-03-13T12:00:00Z"));

    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    let missed = agent.told(|event| match event {
        AgentEvent::Missed { count, scheduled, .. } => Some((count, scheduled)),
        _ => None,
    });
    assert_eq!(missed.await, (2, at("2026-03-13T03:00:00Z")));
    let run = agent.asked().await;
    assert_eq!(run.request.scheduled, at("2026-03-13T03:00:00Z"));
    run.succeed();
    let record = agent.finished().await;
    assert_eq!((record.trigger, record.missed), (Trigger::CatchUp, 2));
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn f11_after_months_down_premake_runs_for_each_month_one_after_another() {
    let machine = Machine::at("2026-01-20T00:00:00Z");
    let plan = || vec![Job { catch_up: CatchUp::EachMonth, ..job("partitions", "0 1 * * *") }];
    machine.start(plan()).kill().await;
    machine.clock.set_wall(at("2026-04-02T12:00:00Z"));

    let mut agent = machine.start(plan());
    for (scheduled, missed) in [("2026-01-31", 11), ("2026-02-28", 27), ("2026-03-31", 30), ("2026-04-02", 1)] {
        let run = agent.asked().await;
        assert_eq!(run.request.scheduled, at(&format!("{scheduled}T01:00:00Z")));
        assert!(agent.nothing_begins().await, "months overlap");
        run.succeed();
        assert_eq!(agent.finished().await.missed, missed);
    }
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn f11_a_job_that_does_not_catch_up_tells_what_it_missed() {
    let machine = Machine::at(DAYBREAK);
    let plan = || vec![Job { catch_up: CatchUp::Skip, ..job("sync", "0 * * * *") }];
    machine.start(plan()).kill().await;
    machine.clock.set_wall(at("2026-03-10T05:30:00Z"));
    let mut agent = machine.start(plan());
    let skip = skipped(&mut agent).await;
    assert_eq!((skip.count, skip.reason, skip.scheduled), (5, SkipReason::Missed, at("2026-03-10T05:00:00Z")));
    assert!(agent.nothing_begins().await);
    agent.advance_to("2026-03-10T06:00:00Z").await;
    assert_eq!(agent.asked().await.request.scheduled, at("2026-03-10T06:00:00Z"));
}

#[tokio::test]
async fn f12_after_a_suspend_of_two_hours_there_is_one_run_and_no_burst() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("checkpoint", "*/5 * * * *")]);
    agent.advance(seconds(1)).await;
    machine.clock.set_wall(at("2026-03-10T02:00:30Z"));
    // The machine slept, so the agent did too: it wakes by its own look at the clock.
    machine.clock.slept_on_by(1).await;
    machine.clock.advance(seconds(60));
    let run = agent.asked().await;
    assert_eq!(run.request.scheduled, at("2026-03-10T02:00:00Z"));
    run.succeed();
    assert_eq!(agent.finished().await.missed, 23);
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn f12_a_clock_set_back_doubles_nothing_and_one_that_was_far_ahead_stops_nothing() {
    let machine = Machine::at("2026-03-10T02:30:00Z");
    let mut agent = machine.start(vec![job("full", "0 * * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    agent.asked().await.succeed();
    agent.finished().await;
    machine.clock.set_wall(at("2026-03-10T02:10:00Z"));
    agent.advance_to("2026-03-10T03:10:00Z").await;
    assert!(agent.nothing_begins().await);
    agent.advance_to("2026-03-10T04:00:00Z").await;
    agent.asked().await.succeed();
    agent.finished().await;

    machine.clock.set_wall(at("2036-03-10T02:10:00Z"));
    agent.advance(seconds(60)).await;
    agent.asked().await.succeed();
    agent.finished().await;
    machine.clock.set_wall(at("2026-03-10T05:10:00Z"));
    agent.advance(seconds(60)).await;
    let handled = agent.told(|event| match event {
        AgentEvent::ClockWentBack { handled, .. } => Some(handled),
        _ => None,
    });
    assert_eq!(handled.await, at("2036-03-10T02:00:00Z"));
    agent.advance_to("2026-03-10T06:00:00Z").await;
    assert_eq!(agent.asked().await.request.scheduled, at("2026-03-10T06:00:00Z"));
}

#[tokio::test]
async fn f13_a_job_longer_than_its_interval_never_overlaps_itself() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("incremental", "0 * * * *")]);
    agent.advance_to("2026-03-10T01:00:00Z").await;
    let run = agent.asked().await;
    agent.advance_to("2026-03-10T02:00:00Z").await;
    let skip = skipped(&mut agent).await;
    assert_eq!((skip.count, skip.reason, skip.scheduled), (1, SkipReason::StillRunning, at("2026-03-10T02:00:00Z")));
    assert!(agent.nothing_begins().await);
    run.succeed();
    agent.finished().await;
    assert!(agent.nothing_begins().await);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    assert_eq!(agent.asked().await.request.scheduled, at("2026-03-10T03:00:00Z"));
    let trouble = Filter { only_trouble: true, job: Some("incremental".to_owned()), ..Filter::default() };
    assert!(read(&machine.folder(), &trouble).unwrap().contains(&Remembered::Skipped(skip)));
}

#[tokio::test]
async fn f14_a_run_past_its_timeout_is_cancelled_and_fails() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![Job { timeout: Some(hours(3)), ..job("full", "0 3 * * *") }]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.advance(hours(3) - seconds(1)).await;
    assert!(!run.request.cancel.is_cancelled());
    agent.advance(seconds(1)).await;
    let record = agent.finished().await;
    let RunResult::Failed(failure) = result_of(&record) else { panic!("{record:?}") };
    assert_eq!(failure.message, "run job full within its timeout of 10800 s: go on: cancelled");
}

#[tokio::test]
async fn f14_a_run_that_ignores_its_cancelling_is_dropped_after_a_grace() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![Job { timeout: Some(hours(1)), ..job("full", "0 3 * * *") }]);
    agent.stubborn.store(true, Ordering::SeqCst);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    agent.advance(hours(1)).await;
    assert!(run.request.cancel.is_cancelled());
    agent.advance(seconds(29)).await;
    assert!(agent.status().await[0].running.is_some());
    agent.advance(seconds(1)).await;
    let record = agent.finished().await;
    assert!(matches!(result_of(&record), RunResult::Failed(_)));
    assert!(!agent.has_ended_when_at_rest().await);
    assert_eq!(agent.status().await[0].running, None);
    assert!(run.request.cancel.is_cancelled());
}

#[tokio::test]
async fn a_failed_run_is_tried_again_with_growing_waits_until_the_attempts_are_used_up() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    for (attempt, wait) in [(1, 30), (2, 60)] {
        let run = agent.asked().await;
        assert_eq!(run.request.attempt, attempt);
        run.end(Err(failure(FailureKind::Failed)));
        let (next, retry_at) = agent
            .told(|event| match event {
                AgentEvent::RetryAt { attempt, at, .. } => Some((attempt, at)),
                _ => None,
            })
            .await;
        assert_eq!((next, retry_at), (attempt + 1, machine.clock.now() + seconds(wait)));
        agent.advance(seconds(wait - 1)).await;
        assert!(agent.nothing_begins().await);
        agent.advance(seconds(1)).await;
    }
    agent.asked().await.end(Err(failure(FailureKind::Failed)));
    assert_eq!(agent.finished().await.attempt, 3);
    agent.advance(hours(2)).await;
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn a_broken_integrity_is_not_tried_again() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    agent.asked().await.end(Err(failure(FailureKind::Integrity)));
    agent.finished().await;
    agent.advance(hours(2)).await;
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn a_new_scheduled_run_takes_the_place_of_a_waiting_retry() {
    let machine = Machine::at(DAYBREAK);
    let retry = RetryPolicy { attempts: 3, first: hours(10), longest: hours(10) };
    let mut agent = machine.start(vec![Job { retry, ..job("full", "0 * * * *") }]);
    agent.advance_to("2026-03-10T01:00:00Z").await;
    agent.asked().await.end(Err(failure(FailureKind::Failed)));
    agent.finished().await;
    agent.advance_to("2026-03-10T02:00:00Z").await;
    let run = agent.asked().await;
    assert_eq!((run.request.attempt, run.request.scheduled), (1, at("2026-03-10T02:00:00Z")));
    run.succeed();
    agent.finished().await;
    agent.advance_to("2026-03-10T02:59:00Z").await;
    assert!(agent.nothing_begins().await);
}

fn incomplete(failed: &[&str]) -> Outcome {
    let outcome = |name: &str| RepositoryOutcome {
        repository: name.to_owned(),
        error: failed.contains(&name).then(|| "upload the object".to_owned()),
        stored_bytes: 7,
    };
    let artifact = Some(dbagent::model::id::ArtifactId::new(at(DAYBREAK)));
    let repositories = ["local", "s3", "far"].map(outcome).into();
    Outcome { verdict: Verdict::Incomplete, artifact, repositories, ..Outcome::ok("stored in some") }
}

#[tokio::test]
async fn an_incomplete_run_is_tried_again_for_the_repositories_that_lack_it_only() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let outcome = incomplete(&["s3", "far"]);
    agent.asked().await.end(Ok(outcome.clone()));
    agent.finished().await;
    agent.advance(seconds(30)).await;
    let run = agent.asked().await;
    assert_eq!(
        (run.request.only_repositories.as_slice(), run.request.completes),
        (&["s3".to_owned(), "far".to_owned()][..], outcome.artifact)
    );
    run.end(Err(failure(FailureKind::Failed)));
    agent.finished().await;
    agent.kill().await;

    // The next agent knows from the history what is left to do.
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance(seconds(60)).await;
    let run = agent.asked().await;
    assert_eq!(
        (run.request.attempt, run.request.only_repositories.len(), run.request.completes),
        (3, 2, outcome.artifact)
    );
}

#[tokio::test]
async fn a_manual_run_is_answered_with_its_end_and_leaves_the_schedule_alone() {
    let machine = Machine::at("2026-03-10T02:50:00Z");
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    let answer = agent.ask_for("full").await;
    let run = agent.asked().await;
    run.end(Err(failure(FailureKind::Failed)));
    let record = answer.await.unwrap().unwrap();
    assert_eq!(record.trigger, Trigger::Manual);
    assert!(matches!(result_of(&record), RunResult::Failed(_)));
    agent.advance_to("2026-03-10T02:59:59Z").await;
    assert!(agent.nothing_begins().await, "a manual run was tried again");
    agent.advance(seconds(1)).await;
    assert_eq!(agent.asked().await.request.scheduled, at("2026-03-10T03:00:00Z"));
}

#[tokio::test]
async fn a_manual_run_is_refused_while_the_job_runs_and_where_it_cannot_be_begun() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await;
    let kind = |answer: Result<_, dbagent::model::failure::Failure>| answer.unwrap_err().kind;
    assert_eq!(kind(agent.ask_for("full").await.await.unwrap()), FailureKind::LockHeld);
    assert_eq!(kind(agent.ask_for("fool").await.await.unwrap()), FailureKind::NothingMatches);
    agent.leadership.send(Leadership::Follower).unwrap();
    agent.finished().await;
    assert_eq!(kind(agent.ask_for("full").await.await.unwrap()), FailureKind::LockHeld);
    assert!(run.request.cancel.is_cancelled() && agent.nothing_begins().await);
}

#[tokio::test]
async fn f01_a_run_its_agent_died_in_is_reported_and_done_again() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T03:00:00Z").await;
    let run = agent.asked().await.request.run;
    agent.kill().await;
    assert_eq!(machine.history().unfinished().len(), 1);

    let mut agent = machine.start(vec![retried("full", "0 3 * * *")]);
    let record = agent.finished().await;
    assert_eq!((record.run, result_of(&record)), (run, &RunResult::Interrupted(Interruption::AgentDied)));
    let again = agent.asked().await;
    assert_eq!((again.request.attempt, again.request.scheduled), (2, at("2026-03-10T03:00:00Z")));
    again.succeed();
    agent.finished().await;
    assert!(agent.nothing_begins().await);
}

#[tokio::test]
async fn an_instant_missed_before_the_first_run_of_a_job_is_not_lost() {
    let machine = Machine::at("2026-03-30T00:00:00Z");
    machine.start(vec![job("restore-test", "0 6 1 * *")]).kill().await;
    machine.clock.set_wall(at("2026-04-01T07:00:00Z"));
    let mut agent = machine.start(vec![job("restore-test", "0 6 1 * *")]);
    assert_eq!(agent.asked().await.request.scheduled, at("2026-04-01T06:00:00Z"));
}

#[tokio::test]
async fn a_history_that_cannot_be_written_is_told_and_stops_nothing() {
    let machine = Machine::at(DAYBREAK);
    let mut agent = machine.start(vec![job("full", "0 3 * * *")]);
    agent.advance_to("2026-03-10T02:00:00Z").await;
    // A segment of the history is begun after a month, and cannot be where its folder is gone.
    std::fs::remove_dir_all(machine.folder()).unwrap();
    agent.advance(hours(24 * 31)).await;
    let run = agent.asked().await;
    let message = agent.told(|event| match event {
        AgentEvent::HistoryFailed { message } => Some(message),
        _ => None,
    });
    assert!(message.await.starts_with("write the run history: "));
    run.succeed();
    assert!(agent.finished().await.is_green());
}
