//! What real agents do, as processes: killed, suspended, stopped at any moment, cut off from PostgreSQL.

use std::process::Command;
use std::time::Duration;

use chrono::Utc;
use serde_json::Value;

use crate::base_expiry::end_leases;
use crate::cli::Desk;
use crate::stage::agent::{MovableClock, RunningAgent, clients_of, until_next_hour};
use crate::stage::s3::S3Server;
use crate::stage::s3_fault::{Action, Rule};

/// Sessions that hold the leader's lock.
const LEADERS: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1684169063 AND granted";

/// Cuts the session that holds the leader's lock.
const CUT_THE_LEADER: &str = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_locks \
    WHERE locktype = 'advisory' AND classid = 1684169063 AND granted";

/// Cuts the session that holds the dump's snapshot.
const CUT_THE_SNAPSHOT: &str = "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity \
    WHERE datname = 'shop' AND state = 'idle in transaction'";

/// A plan with the dump of the shop on `schedule` and nothing else: whatever the hour, what is told is told of it.
fn dump_alone(desk: &Desk, schedule: &str) {
    let path = desk.site.root().join("plan.toml");
    let plan = std::fs::read_to_string(&path).unwrap();
    let (dump, _) = plan.split_once("[job.incremental]").unwrap();
    let dump = dump.replace("schedule = '0 3 * * *'", &format!("schedule = '{schedule}'\nretry = {{ attempts = 1 }}"));
    std::fs::write(path, dump).unwrap();
}

/// The same, every hour.
fn hourly(desk: &Desk) {
    dump_alone(desk, "0 * * * *");
}

/// The agent that works in the state directory `state`.
fn agent_in(desk: &Desk, state: &str, clock: &MovableClock) -> Command {
    let mut command = desk.command(&["run"]);
    command.env("DBAGENT_STATE_DIR", desk.site.root().join(state));
    clock.show(&mut command);
    command
}

/// What a command answers in the state directory `state`, on `clock`.
fn asked_in(desk: &Desk, state: &str, clock: &MovableClock, arguments: &[&str]) -> Value {
    let mut command = desk.command(arguments);
    command.arg("--json").env("DBAGENT_STATE_DIR", desk.site.root().join(state));
    clock.show(&mut command);
    let output = command.output().unwrap();
    // 3: what a killed leader left is a finding.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{arguments:?}: {}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs that ended well in the history of `state`, once the agent there has done what is due now.
fn runs_in(desk: &Desk, state: &str, clock: &MovableClock) -> Vec<Value> {
    asked_in(desk, state, clock, &["healthcheck"]);
    let history = asked_in(desk, state, clock, &["job", "history", "full"]);
    history["history"].as_array().unwrap().iter().map(|each| each["run"].clone()).collect()
}

#[cfg(feature = "failpoints")]
#[test]
fn f09_of_several_agents_one_leads_and_whoever_dies_no_run_is_lost_or_doubled() {
    let desk = Desk::new();
    hourly(&desk);
    let clock = MovableClock::new(desk.site.root());
    clock.set(until_next_hour(Utc::now(), 3));
    // The first leader dies in the middle of its run.
    let mut first = agent_in(&desk, "first", &clock);
    first.env("DBAGENT_FAILPOINT", "catalog.claimed=kill").env("DBAGENT_FAILPOINT_LOG", desk.site.root().join("fired"));
    let mut first = RunningAgent::start_leading(first);
    let names = &["second", "third", "fourth", "fifth"][..if cfg!(feature = "long") { 4 } else { 2 }];
    let mut others: Vec<(&str, RunningAgent)> = names
        .iter()
        .map(|&name| {
            let mut agent = RunningAgent::start(agent_in(&desk, name, &clock));
            agent.says("another agent leads");
            (name, agent)
        })
        .collect();
    assert_eq!(desk.site.ask(LEADERS), "1");
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&first.wait()), Some(9));
    assert_eq!(std::fs::read_to_string(desk.site.root().join("fired")).unwrap().lines().count(), 1);

    // Another takes over and does what the dead one owed; the others find it done.
    let (runner, mut leader) = next_leader(&mut others);
    leader.says("done: ");
    let runs = runs_in(&desk, runner, &clock);
    assert_eq!(runs.len(), 1, "{runs:?}");
    let backups = |state: &str| {
        let listed = asked_in(&desk, state, &clock, &["backup", "list"]);
        listed["backups"].as_array().unwrap().iter().filter(|backup| backup["job"] == "full").count()
    };
    assert_eq!(backups(runner), 1);
    for _ in 0..others.len() {
        assert_eq!(desk.site.ask(LEADERS), "1");
        leader.signal("KILL");
        leader.wait();
        let next = next_leader(&mut others);
        leader = next.1;
        assert!(runs_in(&desk, next.0, &clock).is_empty(), "{} ran what was done: {}", next.0, leader.said());
        assert_eq!((desk.site.ask(LEADERS), backups(next.0)), ("1".to_owned(), 1));
    }
}

/// The one of `agents` that says that it leads next; it is taken out.
#[cfg(feature = "failpoints")]
fn next_leader<'a>(agents: &mut Vec<(&'a str, RunningAgent)>) -> (&'a str, RunningAgent) {
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        let leads = |agent: &mut RunningAgent| {
            agent.said().lines().any(|line| line.contains("fencing_token") && !line.contains("null"))
        };
        if let Some(at) = agents.iter_mut().position(|(_, agent)| leads(agent)) {
            return agents.remove(at);
        }
        assert!(std::time::Instant::now() < deadline, "nobody took over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn f10_a_leader_whose_session_is_cut_knows_it_before_anybody_else_leads() {
    let desk = Desk::new();
    let clock = MovableClock::new(desk.site.root());
    let mut agent = RunningAgent::start_leading(agent_in(&desk, "first", &clock));
    for _ in 0..if cfg!(feature = "long") { 10 } else { 1 } {
        assert_eq!(desk.site.ask(CUT_THE_LEADER), "1");
        let cut = std::time::Instant::now();
        agent.follows();
        // Others try for the lock every five seconds: whoever waits to be asked learns too late.
        assert!(cut.elapsed() < Duration::from_secs(2), "it took {:?}", cut.elapsed());
        agent.leads();
    }
}

#[test]
fn an_agent_without_its_server_does_not_say_that_another_leads() {
    let mut desk = Desk::new();
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    desk.site.server.stop();
    agent.follows();
    agent.says("cannot be reached to take the leadership");
    let refused = desk.json(1, &["job", "run", "full"]);
    let (said, hint) = (&refused["error"]["message"], &refused["error"]["hint"]);
    assert!(
        said.as_str().unwrap().contains("PostgreSQL cannot be reached to take the leadership: connect to"),
        "{said}"
    );
    assert!(!refused.to_string().contains("another agent"), "{refused}");
    assert!(hint.as_str().unwrap().contains("check that PostgreSQL runs"), "{hint}");
    drop(agent);
    let refused = desk.json(1, &["job", "run", "full"]);
    assert_eq!(&refused["error"]["hint"], hint, "as without an agent: {refused}");
}

#[test]
fn f10_a_job_run_by_hand_that_loses_the_lock_at_its_commit_commits_nothing() {
    assert!(f10_cut_at_the_commit(false, CUT_THE_LEADER).contains("leadership"));
}

#[test]
fn f10_an_agents_run_that_loses_the_lock_at_its_commit_commits_nothing() {
    assert!(f10_cut_at_the_commit(true, CUT_THE_LEADER).contains("leadership"));
}

#[test]
fn f10_a_job_whose_snapshot_session_is_cut_at_its_commit_commits_nothing() {
    assert!(f10_cut_at_the_commit(false, CUT_THE_SNAPSHOT).contains("snapshot"));
}

/// Cuts a session while S3 holds up the commit of a dump, by hand or through an agent. Gives what was answered.
fn f10_cut_at_the_commit(through_agent: bool, cut: &str) -> String {
    let s3 = S3Server::start();
    let desk = into_s3_alone(&s3);
    let agent = through_agent.then(|| RunningAgent::start_leading(desk.command(&["run"])));
    let output = run_and_cut(&desk, &s3, Rule::once("PUT", ".sha256", Action::Delay(Duration::from_secs(2))), cut);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{text}");
    drop(agent);
    assert!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().is_empty());
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
    text
}

#[test]
fn f10_a_snapshot_session_cut_while_the_manifest_is_stored_does_not_turn_a_good_dump_into_a_failure() {
    let s3 = S3Server::start();
    let desk = into_s3_alone(&s3);
    // The first such PUT is the signature's.
    let rule = Rule::once("PUT", ".manifest.json", Action::Delay(Duration::from_secs(2))).after(1);
    let output = run_and_cut(&desk, &s3, rule, CUT_THE_SNAPSHOT);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 1);
}

/// A desk whose only repository is `s3`.
pub fn into_s3_alone(s3: &S3Server) -> Desk {
    let desk = Desk::with_s3(s3);
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let (before, after) = text.split_once("[repository.local]").unwrap();
    let (_, after) = after.split_once("[encryption]").unwrap();
    std::fs::write(&desk.config, format!("{before}[encryption]{after}")).unwrap();
    let plan = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&plan).unwrap();
    std::fs::write(&plan, text.replace("local = '30 days', ", "")).unwrap();
    desk
}

/// Runs the dump and cuts a session once `rule` holds a request up.
fn run_and_cut(desk: &Desk, s3: &S3Server, rule: Rule, cut: &str) -> std::process::Output {
    s3.fault(rule);
    let mut run = desk.command(&["job", "run", "full", "--json"]);
    let run = run.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let deadline = std::time::Instant::now() + Duration::from_secs(30);
    while s3.fired() == 0 {
        assert!(std::time::Instant::now() < deadline, "the dump never came there");
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(desk.site.ask(cut), "1");
    run.wait_with_output().unwrap()
}

#[test]
fn f12_an_agent_suspended_for_hours_runs_once_and_goes_on_as_before() {
    let desk = Desk::new();
    hourly(&desk);
    let clock = MovableClock::new(desk.site.root());
    let start = until_next_hour(Utc::now(), 1800);
    clock.set(start);
    let mut agent = RunningAgent::start_leading(agent_in(&desk, "state", &clock));
    agent.signal("STOP");
    clock.set(start + 5 * 3600);
    agent.signal("CONT");
    let runs = runs_in(&desk, "state", &clock);
    agent.says("done: ");
    assert!(runs.len() <= 1, "a burst: {runs:?}");
    let runs = runs_in(&desk, "state", &clock);
    assert_eq!((runs.len(), &runs[0]["missed"]), (1, &Value::from(4)), "{runs:?}");
    assert_eq!(runs[0]["trigger"], "catch-up");
    // The next hour comes in its time.
    clock.set(start + 5 * 3600 + 1800);
    asked_in(&desk, "state", &clock, &["healthcheck"]);
    agent.says("done: ");
    let runs = runs_in(&desk, "state", &clock);
    assert_eq!(runs.len(), 2, "{runs:?}");
    assert!(runs.iter().any(|run| run["trigger"] == "schedule"), "{runs:?}");
}

/// The same by the real clock, which takes minutes.
#[cfg(feature = "long")]
#[test]
fn f12_long_an_agent_suspended_for_minutes_runs_once_and_goes_on_as_before() {
    let desk = Desk::new();
    dump_alone(&desk, "* * * * *");
    let clock = MovableClock::new(desk.site.root());
    let mut agent = RunningAgent::start_leading(agent_in(&desk, "state", &clock));
    agent.says("done: ");
    agent.signal("STOP");
    std::thread::sleep(Duration::from_secs(200));
    agent.signal("CONT");
    agent.says("done: ");
    let runs = runs_in(&desk, "state", &clock);
    let missed: u64 = runs.iter().map(|run| run["missed"].as_u64().unwrap()).sum();
    assert_eq!((runs.len(), missed), (2, 2), "three times passed, one run stands for them: {runs:?}");
    agent.says("done: ");
    assert_eq!(runs_in(&desk, "state", &clock).len(), 3);
}

/// Whether `holds` does within a second, less than what pg_dump needs to end by itself: the kernel takes its moment.
fn comes_true(holds: impl Fn() -> bool) -> bool {
    let deadline = std::time::Instant::now() + Duration::from_secs(1);
    while std::time::Instant::now() < deadline {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    holds()
}

/// Steps of a dump, as the agent tells them.
const STEPS: [&str; 5] =
    ["taking the snapshot", "dumping the roles", "dumping the schema", "dumping 7 tables", "committing and reading"];

/// In turn: time to end the run, hardly any, and time that a second signal takes away.
const GRACES: [&str; 3] = ["25 s", "1 s", "30 s"];

/// Temporary files in the repository.
fn unfinished(desk: &Desk) -> String {
    let found = Command::new("find").arg(desk.site.root().join("local")).args(["-name", "*.part"]).output().unwrap();
    String::from_utf8(found.stdout).unwrap()
}

/// Stops an agent at `rounds` moments of a run, gently and at once in turn, and looks at what is left.
fn stop_at_moments(rounds: usize) {
    let desk = Desk::new();
    let (mut whole, mut cut_off, mut left_before) = (0, 0, String::new());
    for round in 0..rounds {
        let mut command = desk.command(&["run"]);
        let grace = GRACES[round % 3];
        command.env("DBAGENT_AGENT__SHUTDOWN_GRACE", grace);
        let mut agent = RunningAgent::start_leading(command);
        let mut asked = desk.command(&["job", "run", "full", "--json"]);
        let asked = asked.stdout(std::process::Stdio::piped()).spawn().unwrap();
        agent.says(STEPS[round % STEPS.len()]);
        std::thread::sleep(Duration::from_micros(rand::random::<u64>() % 60_000));
        agent.signal("TERM");
        let at_once = round % 3 == 2;
        if at_once {
            agent.signal("TERM");
        }
        assert_eq!(agent.wait().code(), Some(0), "round {round}: {}", agent.said());
        for program in ["pg_dump", "pg_dumpall"] {
            let left = || clients_of(desk.site.server.directory(), program);
            assert!(comes_true(|| left().is_empty()), "round {round} left {program} {:?}", left());
        }
        // Only a second signal takes it the time to clean up; expiry does it then.
        assert!(at_once || unfinished(&desk) == left_before, "round {round} left {}", unfinished(&desk));
        left_before = unfinished(&desk);
        let done = asked.wait_with_output().unwrap().status.success();
        cut_off += usize::from(!done);
        // Who is cut off right after the manifest was put does not learn that the dump is there; it is whole all the same.
        let listed = desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len();
        let expected = whole + usize::from(done);
        let late = usize::from(!done && grace != GRACES[0]);
        assert!((expected..=expected + late).contains(&listed), "round {round}: {listed} listed: {}", agent.said());
        whole = listed;
    }
    assert!(whole > 0 && cut_off > 0, "{whole} ended, {cut_off} were cut off");
    end_leases(&desk);
    let mut expire = desk.command(&["expire", "--yes"]);
    let expired = expire.env("DBAGENT_AGENT__EXPIRE_GRACE", "0 seconds").output().unwrap();
    assert!(matches!(expired.status.code(), Some(0 | 3)), "{expired:?}");
    assert_eq!(unfinished(&desk), "");
    let verified = desk.json(0, &["backup", "verify", "--deep"]);
    assert!(verified["verified"].as_array().unwrap().iter().all(|copy| copy["good"] == true));
    desk.json(0, &["restore", "--database", "shop", "--to-database", "copy"]);
}

#[test]
fn f07_f08_stopped_at_any_moment_of_a_run_an_agent_leaves_no_child_and_nothing_half_made() {
    stop_at_moments(6);
}

#[cfg(feature = "long")]
#[test]
fn f07_f08_long_stopped_at_200_moments_of_a_run_an_agent_leaves_no_child_and_nothing_half_made() {
    stop_at_moments(200);
}
