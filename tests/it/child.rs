//! Children are watched, ended with everything they started, and never believed before they exit with status 0.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use dbagent::host::{Child, ChildError, ChildInput, ChildSpec, Ending, Source as _, run_to_end};

const SOON: Duration = Duration::from_secs(5);

fn shell(script: &str) -> ChildSpec {
    ChildSpec { grace: Duration::from_millis(300), ..ChildSpec::new("/bin/sh", ["-c", script]) }
}

/// What reading the child to its end came to.
fn read(spec: &ChildSpec) -> (Vec<u8>, Result<Box<Child>, ChildError>) {
    let mut child = Box::new(Child::spawn(spec).unwrap());
    let mut bytes = Vec::new();
    match child.read_to_end(&mut bytes) {
        Ok(_) => (bytes, Ok(child)),
        Err(error) => {
            assert!(child.finish().is_err(), "a child that failed was complete");
            (bytes, Err(error.downcast::<ChildError>().unwrap()))
        }
    }
}

/// Waits until a process is gone, or a zombie that only waits for its parent: a killed helper takes a moment to die.
fn has_ended(process: &str) -> bool {
    let waited = Instant::now();
    while !is_gone(process) {
        if waited.elapsed() > SOON {
            return false;
        }
        thread::yield_now();
    }
    true
}

fn is_gone(process: &str) -> bool {
    match std::fs::read_to_string(Path::new("/proc").join(process.trim()).join("stat")) {
        Ok(stat) => stat.rsplit(')').next().unwrap().trim_start().starts_with(['Z', 'X']),
        Err(_) => true,
    }
}

#[test]
fn a_child_that_ends_well_is_complete() {
    let (bytes, child) = read(&shell("echo one; echo two"));
    assert_eq!(bytes, b"one\ntwo\n");
    assert_eq!(child.unwrap().finish().unwrap().bytes(), 8);
}

#[test]
fn a_child_left_before_its_end_is_not_complete() {
    let mut child = Box::new(Child::spawn(&shell("echo one; echo two")).unwrap());
    child.read_exact(&mut [0; 4]).unwrap();
    assert!(child.finish().is_err());
}

#[test]
fn f14_a_stopped_child_is_ended_when_nothing_moves() {
    let script = "echo $$; echo waiting for a lock >&2; kill -STOP $$; echo never";
    let spec = ChildSpec { no_progress: Some(Duration::from_millis(400)), ..shell(script) };
    let (bytes, ended) = read(&spec);
    let error = ended.unwrap_err();
    assert!(matches!(error.ending, Ending::NoProgress(_)), "{error}");
    assert!(error.to_string().contains("waiting for a lock"), "{error}");
    assert!(has_ended(&String::from_utf8(bytes).unwrap()));
}

#[test]
fn f14_a_child_that_ignores_sigterm_is_killed_with_its_helpers() {
    let script = "trap '' TERM; sleep 1000 & echo $!; wait; wait";
    let spec = ChildSpec { no_progress: Some(Duration::from_millis(300)), ..shell(script) };
    let (bytes, ended) = read(&spec);
    assert!(matches!(ended.unwrap_err().ending, Ending::NoProgress(_)));
    assert!(has_ended(&String::from_utf8(bytes).unwrap()), "a helper outlived its group");
}

#[test]
fn f14_a_child_that_trickles_is_ended_at_its_total_limit() {
    let spec = ChildSpec {
        no_progress: Some(SOON),
        total: Some(Duration::from_millis(500)),
        ..shell("while :; do echo x; sleep 0.05; done")
    };
    let (bytes, ended) = read(&spec);
    assert!(matches!(ended.unwrap_err().ending, Ending::TooLong(_)));
    assert!(!bytes.is_empty());
}

#[test]
fn f14_a_child_that_closes_its_output_and_hangs_is_ended() {
    let spec =
        ChildSpec { no_progress: Some(Duration::from_millis(300)), ..shell("echo x; exec >&-; exec sleep 1000") };
    let (bytes, ended) = read(&spec);
    assert_eq!(bytes, b"x\n");
    assert!(matches!(ended.unwrap_err().ending, Ending::NoProgress(_)));
}

#[test]
fn f15_a_child_that_fails_after_output_is_an_error_with_its_last_words() {
    let (bytes, ended) = read(&shell("echo half a dump; echo 'error: connection lost' >&2; exit 3"));
    assert_eq!(bytes, b"half a dump\n");
    let error = ended.unwrap_err();
    assert!(matches!(error.ending, Ending::Status(3)), "{error}");
    assert!(error.to_string().contains("error: connection lost"), "{error}");
}

#[test]
fn f15_a_child_that_a_signal_ends_is_an_error() {
    let (_, ended) = read(&shell("echo half a dump; kill -KILL $$"));
    assert!(matches!(ended.unwrap_err().ending, Ending::Signal(9)));
}

#[test]
fn f15_warnings_of_a_child_that_ends_well_are_reported() {
    let (_, ended) = read(&shell("echo 'pg_dump: warning: there are circular constraints' >&2; echo dump"));
    let child = ended.unwrap();
    assert_eq!(child.messages().warnings(), ["pg_dump: warning: there are circular constraints"]);
    assert_eq!(child.finish().unwrap().bytes(), 5);
}

#[test]
fn a_stopper_ends_a_child_that_is_being_waited_for() {
    let child = Child::spawn(&shell("echo ready; exec sleep 1000")).unwrap();
    let stopper = child.stopper();
    let reader = thread::spawn(move || {
        let mut child = child;
        child.read_exact(&mut [0; 6]).unwrap();
        stopper.stop();
        child.read(&mut [0; 1]).unwrap_err()
    });
    let error = reader.join().unwrap();
    assert!(matches!(ChildError::within(&error).unwrap().ending, Ending::Stopped), "{error}");
}

#[test]
fn dropping_a_child_ends_its_group() {
    let mut child = Child::spawn(&shell("sleep 1000 & echo $!; wait")).unwrap();
    let (own, mut helper) = (child.id().to_string(), [0; 16]);
    let read = child.read(&mut helper).unwrap();
    drop(child);
    assert!(has_ended(&own) && has_ended(std::str::from_utf8(&helper[..read]).unwrap()));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let error = Child::spawn(&ChildSpec::new("/nowhere/pg_dump", [""; 0])).unwrap_err();
    assert!(matches!(error.ending, Ending::NotStarted(_)));
    assert!(error.to_string().contains("/nowhere/pg_dump"), "{error}");
}

#[test]
fn a_child_sees_only_the_variables_it_is_given() {
    let mut spec = ChildSpec::new("/usr/bin/env", [""; 0]);
    spec.environment.insert("PGAPPNAME".into(), "dbagent".into());
    let said = String::from_utf8(run_to_end(&spec, SOON).unwrap().stdout).unwrap();
    let names: Vec<&str> = said.lines().filter_map(|line| line.split('=').next()).collect();
    let known = ["PATH", "HOME", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "LC_ALL", "PGAPPNAME"];
    assert!(names.iter().all(|name| known.contains(name)), "{names:?}");
    assert!(names.contains(&"PGAPPNAME") && names.contains(&"PATH"));
}

#[test]
fn a_child_runs_as_another_user_where_root_asks_for_it() {
    let spec = ChildSpec { run_as: Some((65534, 65534)), ..ChildSpec::new("/usr/bin/id", ["-u"]) };
    match run_to_end(&spec, SOON) {
        Ok(finished) => assert_eq!(finished.stdout, b"65534\n"),
        Err(error) => {
            assert!(matches!(error.ending, Ending::NotStarted(_)), "{error}");
            assert!(!rustix::process::geteuid().is_root(), "{error}");
        }
    }
}

#[test]
fn a_short_command_that_takes_too_long_is_ended() {
    let error = run_to_end(&shell("exec sleep 1000"), Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error.ending, Ending::TooLong(_)), "{error}");
}

#[test]
fn a_fed_child_gets_every_byte() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("copy");
    let mut child = ChildInput::spawn(&shell(&format!("cat > {}; echo done >&2", file.display()))).unwrap();
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    child.write_all(&bytes).unwrap();
    assert_eq!(child.finish().unwrap().last(), ["done"]);
    assert!(std::fs::read(file).unwrap() == bytes);
}

#[test]
fn f15_a_fed_child_that_fails_is_an_error() {
    let mut child =
        ChildInput::spawn(&shell("cat > /dev/null; echo 'pg_restore: error: no room' >&2; exit 1")).unwrap();
    child.write_all(b"archive").unwrap();
    let error = child.finish().unwrap_err();
    assert!(matches!(error.ending, Ending::Status(1)), "{error}");
    assert!(error.to_string().contains("no room"), "{error}");
}

#[test]
fn a_fed_child_that_stops_reading_early_is_an_error() {
    let mut child = ChildInput::spawn(&shell("head -c 1 > /dev/null")).unwrap();
    let error = child.write_all(&vec![0; 8 << 20]).unwrap_err();
    assert!(matches!(ChildError::within(&error).unwrap().ending, Ending::InputLeft), "{error}");
    assert!(child.finish().is_err());
}

#[test]
fn f14_a_fed_child_that_is_stopped_is_ended() {
    let spec = ChildSpec { no_progress: Some(Duration::from_millis(300)), ..shell("kill -STOP $$") };
    let mut child = ChildInput::spawn(&spec).unwrap();
    let error = child.write_all(&vec![0; 8 << 20]).unwrap_err();
    assert!(matches!(ChildError::within(&error).unwrap().ending, Ending::NoProgress(_)), "{error}");
}

#[test]
fn a_command_of_the_operators_has_the_whole_environment_any_other_child_has_not() {
    // cargo sets CARGO_MANIFEST_DIR for its tests.
    let mut spec = shell("printf %s \"$CARGO_MANIFEST_DIR\"");
    assert_eq!(run_to_end(&spec, SOON).unwrap().stdout, b"");
    spec.inherits_all = true;
    assert_eq!(run_to_end(&spec, SOON).unwrap().stdout, env!("CARGO_MANIFEST_DIR").as_bytes());
}
