//! One leadership is one term: jobs of one agent never fence each other, and a deposed leader is refused.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::agent_faults::into_s3_alone;
use crate::cli::Desk;
use crate::stage::agent::RunningAgent;
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};

/// Longer than another dump and a command take.
const HELD: Duration = Duration::from_secs(10);

/// A desk with a second job, `other`, that dumps into a folder of its own.
fn with_another_job(s3: &S3Server) -> Desk {
    let desk = into_s3_alone(s3);
    let path = desk.site.root().join("plan.toml");
    let plan = std::fs::read_to_string(&path).unwrap();
    let other = "[job.other]\nverb = 'dump'\nschedule = '0 4 * * *'\ntables = ['customers']\ndatabase = 'shop'\n";
    std::fs::write(path, plan.replace("[job.full]", &format!("{other}[job.full]"))).unwrap();
    desk
}

/// A dump through the running agent, held up by S3 right before its commit.
fn held_dump(desk: &Desk, s3: &S3Server) -> Child {
    s3.fault(Rule::once("PUT", ".sha256", Action::Delay(HELD)));
    let mut run = desk.command(&["job", "run", "full", "--json"]);
    let run = run.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while s3.fired() == 0 {
        assert!(Instant::now() < deadline, "the dump never came to its commit");
        std::thread::sleep(Duration::from_millis(5));
    }
    run
}

#[test]
fn a_long_dump_is_not_fenced_by_another_job_of_its_agent_nor_by_a_typed_keep_and_verify() {
    let s3 = S3Server::start();
    let desk = with_another_job(&s3);
    let _agent = RunningAgent::start_leading(desk.command(&["run"]));
    let mut long = held_dump(&desk, &s3);
    desk.json(0, &["job", "run", "other"]);
    desk.json(0, &["backup", "keep", "latest", "--reason", "audit"]);
    desk.json(0, &["backup", "verify", "latest"]);
    assert!(long.try_wait().unwrap().is_none(), "the dump was not held up for long enough to say anything");
    let output = long.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 2);
}

#[test]
fn f10_a_deposed_leaders_dump_fails_and_it_leads_on_only_after_taking_the_lock_again() {
    let s3 = S3Server::start();
    let desk = with_another_job(&s3);
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    let mut long = held_dump(&desk, &s3);
    // The lock lies in one database: through another one, a second leader is possible.
    let mut other = desk.command(&["job", "run", "other"]);
    other.env("DBAGENT_POSTGRES__DATABASE", "postgres").env("DBAGENT_STATE_DIR", desk.site.root().join("second"));
    let other = other.output().unwrap();
    assert_eq!(other.status.code(), Some(0), "{}", String::from_utf8_lossy(&other.stderr));
    assert!(long.try_wait().unwrap().is_none(), "the dump was not held up for long enough to say anything");
    let output = long.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{text}");
    agent.says("a repository has seen a later leadership");
    agent.leads();
    desk.json(0, &["job", "run", "full"]);
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 2);
}
