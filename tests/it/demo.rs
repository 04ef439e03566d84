//! `dbagent demo`: shows its claims, leaves nothing behind, and what is kept works.
//!
//! The whole tour is the program itself, with a temporary directory of its own to look into afterwards.

use std::fs::Permissions;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use chrono::NaiveDate;
use dbagent::app::App;
use dbagent::app::demo::{self, Options};
use dbagent::config::LoadRequest;
use dbagent::model::event::Events;
use dbagent::model::failure::FailureKind;
use dbagent::model::outcome::Verdict;
use dbagent::postgres::find_tool;
use dbagent::steps::bc003::Scale;

const CLAIMS: [&str; 9] = [
    "dump",
    "restore equal",
    "increment",
    "table restored",
    "flipped byte found",
    "PITR",
    "partitions",
    "chain",
    "tamper alert",
];

/// What PostgreSQL is told to call: this process is the tests.
const PROGRAM: &str = env!("CARGO_BIN_EXE_dbagent");

fn small() -> Scale {
    let first_month = NaiveDate::from_ymd_opt(2025, 11, 1).unwrap();
    Scale { first_month, months: 1, users: 100, audit_rows_per_month: 400 }
}

fn start_tour(temporary: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_dbagent"))
        .args(["demo", "--json"])
        .env("TMPDIR", temporary)
        .env("HOME", temporary.join("home"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A directory that the server's user can pass through.
fn open_directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
    directory
}

fn json_of(output: &str) -> serde_json::Value {
    serde_json::from_str(output).unwrap_or_else(|error| panic!("{error}: {output}"))
}

fn assert_nothing_left(temporary: &Path) {
    let left: Vec<_> = std::fs::read_dir(temporary).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let name = temporary.to_str().unwrap().as_bytes();
    for process in std::fs::read_dir("/proc").unwrap() {
        let words = std::fs::read(process.unwrap().path().join("cmdline")).unwrap_or_default();
        let ours = words.windows(name.len()).any(|window| window == name);
        assert!(!ours, "still running: {}", String::from_utf8_lossy(&words));
    }
}

#[test]
fn the_demo_shows_its_claims_and_leaves_nothing_behind() {
    let temporary = open_directory();
    let ended = start_tour(temporary.path()).wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    let said = json_of(&String::from_utf8_lossy(&ended.stdout));
    assert!(ended.status.success(), "{said}\n{told}");
    let claims = said["claims"].as_array().unwrap_or_else(|| panic!("{said}\n{told}"));
    assert_eq!(claims.iter().map(|claim| claim["name"].as_str().unwrap()).collect::<Vec<_>>(), CLAIMS);
    assert!(claims.iter().all(|claim| claim["ok"] == true), "{said}\n{told}");
    assert!(claims.iter().all(|claim| claim["seconds"].as_f64().unwrap() > 0.0), "{said}");
    for command in
        ["$ dbagent init", "$ dbagent job run full", "$ dbagent restore --table", "$ dbagent backup verify", "wal push"]
    {
        assert!(told.contains(command), "{told}");
    }
    assert_nothing_left(temporary.path());
}

#[test]
fn a_demo_that_is_told_to_stop_clears_everything_away() {
    let temporary = open_directory();
    let mut tour = start_tour(temporary.path());
    let mut told = BufReader::new(tour.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("$ dbagent restore") {
        line.clear();
        assert!(told.read_line(&mut line).unwrap() > 0, "it ended before it was told to");
    }
    let process = rustix::process::Pid::from_child(&tour);
    rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
    let began = Instant::now();
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    let ended = tour.wait_with_output().unwrap();
    assert!(began.elapsed() < Duration::from_secs(30), "{rest}");
    let said = json_of(&String::from_utf8_lossy(&ended.stdout));
    assert_eq!(ended.status.code(), Some(1), "{said}");
    assert!(said["error"]["message"].as_str().unwrap().contains("told to stop"), "{said}");
    assert_nothing_left(temporary.path());
}

/// Runs the line of the kept how-to that ends with `end`.
fn run_line(how_to: &str, end: &str) {
    let line = how_to.lines().find(|line| line.ends_with(end)).unwrap();
    // pg_ctl's server would hold pipes open for as long as it runs.
    let ended = Command::new("sh").args(["-c", line]).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
    assert!(ended.success(), "{line}");
}

/// Types what the break-glass sheet says under "without dbagent", for the dump of the demo.
fn restore_by_the_sheet(directory: &Path) -> Output {
    let sheet = std::fs::read_to_string(directory.join("break-glass.txt")).unwrap();
    let (_, section) = sheet.split_once("3. RESTORE WITHOUT DBAGENT").unwrap();
    let (section, _) = section.split_once("4. TO A MOMENT").unwrap();
    let typed = section.lines().filter_map(|line| line.strip_prefix("     "));
    let typed = typed.map(|line| line.split("   ").next().unwrap()).collect::<Vec<_>>().join("\n");
    assert!(typed.contains("gpg --verify") && typed.contains("pg_restore --section=post-data"), "{typed}");
    let dumps = std::fs::read_dir(directory.join("repository/full")).unwrap();
    let stems = dumps.filter_map(|entry| {
        entry.unwrap().file_name().to_str().unwrap().strip_suffix(".manifest.json").map(str::to_owned)
    });
    let typed = typed
        .replace("STEM", &stems.min().unwrap())
        .replace("restore-key.asc signing-certificate.asc", "../../restore-key.asc ../../signing-certificate.asc")
        .replace("less", "cat >/dev/null");
    let programs = find_tool(None, "pg_restore").unwrap().parent().unwrap().display().to_string();
    let path = format!("{programs}:{}", std::env::var("PATH").unwrap());
    let home = tempfile::Builder::new().prefix("gpg").permissions(Permissions::from_mode(0o700)).tempdir().unwrap();
    let script = format!(
        "set -eu -o pipefail; exec 3>&1 >&2\n{typed}\n\
         psql -XAtc 'SELECT count(*) FROM users' NAME_restored >&3; gpgconf --kill all"
    );
    Command::new("bash")
        .args(["-c", &script])
        .current_dir(directory.join("repository/full"))
        .env("PATH", path)
        .env("GNUPGHOME", home.path())
        .env("PGHOST", directory.join("server"))
        .env("PGUSER", "postgres")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_demo_can_be_started_again_and_goes_on() {
    let place = open_directory();
    let directory = place.path().join("kept");
    let options = Options { keep: Some(directory.clone()), scale: Some(small()), program: Some(PROGRAM.into()) };
    let claims = demo::run(&options, Events::nowhere(), Default::default()).await.unwrap();
    assert!(claims.iter().all(|claim| claim.ok), "{claims:?}");
    for (name, mode) in [("dbagent.toml", 0o600), ("restore-key.asc", 0o600), ("repository", 0o700)] {
        let found = directory.join(name).metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(found, mode, "{name}");
    }

    let how_to = std::fs::read_to_string(directory.join("HOW-TO.txt")).unwrap();
    run_line(&how_to, "start");
    let request = LoadRequest { path: Some(directory.join("dbagent.toml")), search: Vec::new() };
    let app = App::load(request).unwrap();
    let outcome = app.run_job("full", None, &app.setting(Events::nowhere(), Default::default())).await;
    let by_hand = restore_by_the_sheet(&directory);
    run_line(&how_to, "stop");
    assert!(by_hand.status.success(), "{}", String::from_utf8_lossy(&by_hand.stderr));
    assert_eq!(String::from_utf8_lossy(&by_hand.stdout).trim(), "100", "users restored without dbagent");
    assert_eq!(outcome.unwrap().verdict, Verdict::Ok);
    let dumps = std::fs::read_dir(directory.join("repository/full")).unwrap();
    let dumps = dumps.filter(|entry| entry.as_ref().unwrap().path().to_string_lossy().ends_with(".manifest.json"));
    assert_eq!(dumps.count(), 2, "the demo's and ours");
}

#[tokio::test]
async fn a_directory_with_something_in_it_is_not_taken_for_the_stage() {
    let place = open_directory();
    std::fs::write(place.path().join("mine"), "precious").unwrap();
    let options = Options { keep: Some(place.path().to_owned()), scale: Some(small()), program: Some(PROGRAM.into()) };
    let refused = demo::run(&options, Events::nowhere(), Default::default()).await.unwrap_err();
    assert_eq!(refused.kind, FailureKind::RefusedForSafety);
    assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 1);
}
