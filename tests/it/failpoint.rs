//! A fail point that is armed fires at its arrival, and says so before it acts.

use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, ExitStatus};

use dbagent::host::{FailPoint, reach};

/// The run below does this, in a process of its own; unarmed it must change nothing.
#[test]
fn points_are_passed_unless_one_is_armed() {
    for point in FailPoint::ALL.into_iter().chain(FailPoint::ALL) {
        reach(point).unwrap();
    }
}

fn run_with(order: &str) -> (ExitStatus, String) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("fired");
    let ran = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "failpoint::points_are_passed_unless_one_is_armed"])
        .env("DBAGENT_FAILPOINT", order)
        .env("DBAGENT_FAILPOINT_LOG", &log)
        .output()
        .unwrap();
    (ran.status, std::fs::read_to_string(log).unwrap_or_default())
}

#[test]
fn every_point_kills_the_process_when_armed() {
    for point in FailPoint::ALL {
        let (status, fired) = run_with(&format!("{}=kill", point.name()));
        assert_eq!(status.signal(), Some(9), "{}", point.name());
        assert_eq!(fired, format!("{} Kill\n", point.name()));
    }
}

#[test]
fn a_point_fires_at_its_nth_arrival_only() {
    let (status, fired) = run_with("dump.spawned=error:2");
    assert_eq!((status.code(), fired.as_str()), (Some(101), "dump.spawned Error\n"));
    let (status, fired) = run_with("dump.spawned=error:3");
    assert_eq!((status.code(), fired.as_str()), (Some(0), ""));
    let (status, _) = run_with("dump.nowhere=kill");
    assert_eq!(status.code(), Some(101), "an order that cannot be read was passed over");
}
