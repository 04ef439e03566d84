//! The binary as people use it: commands, exit codes, JSON, wrong inputs, signals.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::stage::agent::RunningAgent;
use crate::stage::s3::S3Server;
use crate::stage::site::{Site, TABLES};
use serde_json::Value;

/// A site with a configuration file, keys on disk and a plan with a dump of the shop.
pub struct Desk {
    pub site: Site,
    pub config: PathBuf,
    /// Variables that every command gets.
    pub environment: Vec<(&'static str, String)>,
    /// Whom every command runs as (user and group id), where that is not the test's own user.
    pub run_as: Option<(u32, u32)>,
}

impl Desk {
    pub fn new() -> Self {
        Self::at(Site::new(), &TABLES)
    }

    /// A desk over the tables that `schema` makes, on a server that takes prepared transactions.
    pub fn workload(schema: &str, tables: &[&str]) -> Self {
        let site = Site::with(&[("max_prepared_transactions", "100")]);
        site.ask(schema);
        Self::at(site, tables)
    }

    /// A desk over this site.
    pub fn at(site: Site, tables: &[&str]) -> Self {
        let root = site.root().to_owned();
        for (name, bytes) in [
            ("backup.asc", &site.pair.public),
            ("restore-key.asc", &site.pair.secret),
            ("signing.asc", &site.signing_secret),
        ] {
            write_private(&root.join(name), bytes);
        }
        let tables: Vec<String> = tables.iter().map(|table| format!("'{table}'")).collect();
        write_private(&root.join("plan.toml"), plan(&tables.join(", ")).as_bytes());
        let config = root.join("dbagent.toml");
        write_private(&config, configuration(&site).as_bytes());
        Self { site, config, environment: Vec::new(), run_as: None }
    }

    /// The same with a second repository, `s3`, on `server`.
    pub fn with_s3(server: &S3Server) -> Self {
        let mut desk = Self::new();
        let (endpoint, bucket) = (server.endpoint(), crate::stage::s3::BUCKET);
        desk.configure(&format!(
            "[repository.s3]\nurl = 's3://{bucket}/r'\nendpoint = '{endpoint}'\npath_style = true\n"
        ));
        desk.environment = server.environment();
        desk
    }

    /// Adds to the configuration, at its end.
    pub fn configure(&self, more: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        std::fs::write(&self.config, text + more).unwrap();
    }

    /// The binary with this configuration and an empty environment.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbagent"));
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("HOME", self.site.root());
        command.envs(self.environment.iter().cloned());
        if let Some((user, group)) = self.run_as {
            std::os::unix::process::CommandExt::gid(&mut command, group);
            std::os::unix::process::CommandExt::uid(&mut command, user);
            command.current_dir(self.site.root());
        }
        command.arg("--config").arg(&self.config).args(arguments).stdin(Stdio::null());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs with `--json`, expects `code`, gives the object.
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let output = self.command(arguments).arg("--json").output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let talk = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{text}\n{talk}");
        let value: Value = serde_json::from_str(text.trim()).unwrap_or_else(|error| panic!("{error}: {text}"));
        assert_eq!(value["schema_version"], 1);
        value
    }
}

fn plan(tables: &str) -> String {
    format!(
        "description = 'the shop'\n[job.full]\nverb = 'dump'\nschedule = '0 3 * * *'\ntables = [{tables}]\n\
         folder = 'full'\nname_prefix = 'shop_full'\nkeep = {{ local = '30 days', s3 = '30 days' }}\n\
         [job.incremental]\nverb = 'increment'\nschedule = '0 * * * *'\ntables = [{tables}]\nkeep = '24 hours'\n\
         [job.expire]\nverb = 'expire'\nschedule = '0 5 * * *'\n[job.base]\nverb = 'base-backup'\nschedule = '0 2 * * 6'\nenabled = false\n"
    )
}

fn configuration(site: &Site) -> String {
    let root = site.root().display();
    let connection = site.connection();
    format!(
        "cluster = 'shop'\nplan = 'plan.toml'\nstate_dir = '{root}/state'\n\
         [postgres]\nhost = '{host}'\nport = {port}\nuser = '{user}'\ndatabase = 'shop'\n\
         [repository.local]\nurl = 'file://{root}/local'\n\
         [encryption]\nrecipients = ['backup.asc']\nfingerprints = ['{fingerprint}']\n\
         signing_key = 'signing.asc'\ndecryption_key = 'restore-key.asc'\n",
        host = site.server.directory().display(),
        port = site.server.port(),
        user = connection.user(),
        fingerprint = site.pair.fingerprint,
    )
}

fn write_private(path: &Path, bytes: &[u8]) {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true).mode(0o600).open(path).unwrap().write_all(bytes).unwrap();
}

#[test]
fn a_day_with_dbagent() {
    let desk = Desk::new();
    let run = desk.json(0, &["job", "run", "full"]);
    let outcome = &run["run"]["end"]["result"]["done"];
    assert_eq!(outcome["verdict"], "ok", "{run}");
    let list = desk.json(0, &["backup", "list"]);
    let backup = &list["backups"][0];
    let id = backup["id"].as_str().unwrap().to_owned();
    for field in ["id", "verb", "job", "name", "finished", "repository", "verified"] {
        assert!(!backup[field].is_null(), "{field} in {backup}");
    }
    assert_eq!(desk.json(0, &["backup", "show", "latest"])["copies"][0]["manifest"]["id"], id.as_str());
    assert_eq!(desk.json(0, &["backup", "verify", "--deep"])["verified"][0]["good"], true);
    let restored = desk.json(0, &["restore", "--database", "shop", "--to-database", "shop2"]);
    assert_eq!(restored["rows"], 7550);
    let table = desk.json(0, &["restore", "--table", "orders", "--mode", "replace", "--yes"]);
    assert_eq!(table["rows"], 3000);
    let history = desk.json(0, &["job", "history"]);
    assert_eq!(history["history"].as_array().unwrap().len(), 1);
    let expire = desk.json(0, &["expire", "--plan"]);
    assert_eq!(expire["repositories"][0]["artifacts"][0]["keep"], true);
    assert_eq!(desk.json(15, &["backup", "delete", &id, "--yes"])["error"]["code"], 15, "the last good one stays");
}

#[test]
fn wrong_inputs_get_their_exit_codes_and_a_way_on() {
    let desk = Desk::new();
    let code_of = |arguments: &[&str]| {
        let error = desk.command(arguments).arg("--json").output().unwrap();
        let value: Value = serde_json::from_slice(&error.stdout).unwrap();
        assert_eq!(Some(i64::from(error.status.code().unwrap())), value["error"]["code"].as_i64());
        value["error"]["code"].as_i64().unwrap()
    };
    assert_eq!(code_of(&["job", "run", "nonsense"]), 10);
    assert_eq!(code_of(&["job", "run", "base"]), 15, "the server does not archive");
    assert_eq!(code_of(&["backup", "show", "latest"]), 10);
    assert_eq!(code_of(&["restore", "--database", "shop", "--to-database", "other"]), 10);
    assert_eq!(code_of(&["restore", "--database", "shop", "--until", "yesterday"]), 2);
    assert_eq!(code_of(&["restore", "--database", "shop", "--until", "2026-01-01 10:00"]), 2, "no offset");
    assert_eq!(code_of(&["nonsense"]), 2);
    assert_eq!(code_of(&["restore"]), 2);
    assert_eq!(code_of(&["healthcheck"]), 1);
    assert_eq!(code_of(&["backup", "list", "--repository", "nowhere"]), 2);
}

#[test]
fn destructive_commands_without_a_terminal_need_yes_and_refuse_what_is_unsafe() {
    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    assert_eq!(desk.json(15, &["expire"])["error"]["code"], 15);
    assert_eq!(desk.json(15, &["restore", "--database", "shop"])["error"]["code"], 15, "it is there");
    let refused = desk.run(&["restore", "--database", "shop"]);
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("there is one already") && !said.contains("using"), "before a backup is read: {said}");
    assert_eq!(desk.json(15, &["restore", "--database", "shop", "--replace"])["error"]["code"], 15);
    let replaced = desk.json(0, &["restore", "--database", "shop", "--replace", "--yes"]);
    assert_eq!(replaced["restored"], "shop");
    assert_eq!(desk.site.ask("SELECT count(*) FROM orders"), "3000");
}

#[test]
fn plan_says_what_is_not_built_and_global_flags_stand_anywhere() {
    let desk = Desk::new();
    let path = desk.site.root().join("plan.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let more = "[job.base-incremental]\nverb = 'base-backup'\nkind = 'incremental'\nschedule = '0 2 * * 0-5'\n\
        [job.report]\nverb = 'report'\nperiod = 'weekly'\nschedule = '0 7 * * 1'\n";
    std::fs::write(&path, text + more).unwrap();
    let plan = desk.json(0, &["plan"]);
    let jobs = plan["jobs"].as_array().unwrap();
    let built = |name: &str| jobs.iter().find(|job| job["name"] == name).unwrap()["built"].clone();
    assert_eq!((built("base"), built("base-incremental"), built("report")), (true.into(), true.into(), false.into()));
    let text = String::from_utf8(desk.run(&["plan"]).stdout).unwrap();
    assert!(text.contains("not built yet"), "{text}");
    let before = desk.command(&["--json", "plan"]).output().unwrap();
    assert!(serde_json::from_slice::<Value>(&before.stdout).is_ok());
}

#[test]
fn a_second_process_is_told_who_holds_the_lock() {
    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    let key = desk.site.ask("SELECT 1");
    assert_eq!(key, "1");
    let lock = desk.site.root().join("state/agent.lock");
    let held = dbagent::host::FileLock::take(&lock, "a test").unwrap();
    let refused = desk.json(11, &["job", "run", "full"]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("a test"), "{refused}");
    drop(held);
}

#[test]
fn a_flipped_byte_is_found_and_the_backup_is_not_used() {
    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    let folder = desk.site.root().join("local/full");
    let data = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path());
    let data = data.filter(|path| path.to_string_lossy().ends_with(".dump.gz.gpg"));
    let data = data.max_by_key(|path| std::fs::metadata(path).unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&data).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&data, bytes).unwrap();
    assert_eq!(desk.json(13, &["backup", "verify"])["verified"][0]["good"], false);
    let list = desk.json(0, &["backup", "list"]);
    assert_eq!(list["backups"][0]["verified"], false, "damage is remembered");
    desk.json(13, &["restore", "--database", "shop", "--to-database", "other"]);
    assert_eq!(
        desk.site
            .ask("SELECT count(*) FROM pg_database WHERE datname NOT IN ('postgres', 'shop') AND NOT datistemplate"),
        "0"
    );
}

#[test]
fn completions_and_manual_pages_are_made() {
    let desk = Desk::new();
    let bash = desk.run(&["completions", "bash"]);
    assert!(String::from_utf8_lossy(&bash.stdout).contains("dbagent"));
    let pages = tempfile::tempdir().unwrap();
    assert!(desk.run(&["man", &pages.path().display().to_string()]).status.success());
    assert!(pages.path().join("dbagent-restore.1").exists());
}

#[test]
fn f07_a_running_agent_takes_requests_and_ends_well_on_sigterm() {
    let desk = Desk::new();
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    assert_eq!(desk.json(0, &["healthcheck"])["healthy"], true);
    let run = desk.json(0, &["job", "run", "full"]);
    assert_eq!(run["run"]["end"]["result"]["done"]["verdict"], "ok");
    assert_eq!(desk.json(11, &["run"])["error"]["code"], 11, "one agent per state directory");
    agent.signal("TERM");
    assert_eq!(agent.wait().code(), Some(0));
    assert!(!desk.site.root().join("state/agent.sock").exists());
    assert_eq!(desk.json(1, &["healthcheck"])["error"]["code"], 1);
}

#[test]
fn f08_a_bad_configuration_on_sighup_keeps_the_old_one() {
    let desk = Desk::new();
    let mut agent = RunningAgent::start_leading(desk.command(&["run"]));
    let good = std::fs::read_to_string(&desk.config).unwrap();
    std::fs::write(&desk.config, format!("{good}\nnonsense = 1\n")).unwrap();
    agent.signal("HUP");
    assert!(agent.says("reload_refused").contains("nonsense"));
    std::fs::write(&desk.config, good).unwrap();
    assert_eq!(desk.json(0, &["job", "run", "full"])["run"]["end"]["result"]["done"]["verdict"], "ok");
}

#[test]
fn f09_two_agents_on_one_cluster_have_one_leader() {
    let desk = Desk::new();
    let _leader = RunningAgent::start_leading(desk.command(&["run"]));
    let other = desk.site.root().join("other-state");
    let refused = desk.command(&["job", "run", "full", "--json"]).env("DBAGENT_STATE_DIR", &other).output().unwrap();
    assert_eq!(refused.status.code(), Some(11), "{}", String::from_utf8_lossy(&refused.stdout));
}

#[test]
fn f25_without_its_state_directory_everything_is_still_known() {
    let desk = Desk::new();
    desk.json(0, &["job", "run", "full"]);
    let before = desk.json(0, &["backup", "list"]);
    std::fs::remove_dir_all(desk.site.root().join("state")).unwrap();
    assert_eq!(desk.json(0, &["backup", "list"]), before);
    desk.json(0, &["restore", "--database", "shop", "--to-database", "copy"]);
    desk.json(0, &["job", "run", "full"]);
    assert_eq!(desk.json(0, &["backup", "list"])["backups"].as_array().unwrap().len(), 2);
}

#[test]
fn f21_without_file_descriptors_a_dump_fails_clearly_and_the_next_one_works() {
    let desk = Desk::new();
    let ordinary = desk.command(&["job", "run", "full", "--json"]);
    let mut limited = Command::new("bash");
    limited.args(["-c", "ulimit -n 14; exec \"$0\" \"$@\""]).arg(ordinary.get_program()).args(ordinary.get_args());
    let failed = limited.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", desk.site.root()).output().unwrap();
    assert!(!failed.status.success());
    let text = String::from_utf8_lossy(&failed.stdout).into_owned() + &String::from_utf8_lossy(&failed.stderr);
    assert!(text.contains("open files"), "{text}");
    let left = desk.json(0, &["backup", "list"]);
    assert_eq!(left["backups"].as_array().unwrap().len(), 0);
    desk.json(0, &["job", "run", "full"]);
}

#[test]
fn f54_secrets_are_in_no_argument_no_output_and_no_file_of_ours() {
    let desk = Desk::new();
    let canary = "s3cret-canary-5b1e";
    let mut command = desk.command(&["config", "show"]);
    let shown = command.env("DBAGENT_POSTGRES__PASSWORD", canary).output().unwrap();
    assert!(shown.status.success());
    let ran = desk.command(&["-vv", "job", "run", "full"]).env("DBAGENT_POSTGRES__PASSWORD", canary).output().unwrap();
    assert!(ran.status.success());
    for output in [&shown, &ran] {
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(!text.contains(canary), "{text}");
    }
    let found = Command::new("grep").args(["-rlaF", canary]).arg(desk.site.root()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&found.stdout), "");
}

#[test]
fn a_pghost_left_in_the_shell_does_not_lead_elsewhere_than_the_url() {
    let desk = Desk::new();
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let socket = desk.site.server.directory().display().to_string().replace('/', "%2F");
    let (user, port) = (desk.site.connection().user().to_owned(), desk.site.server.port());
    let start = text.find("host = ").unwrap();
    let end = text.find("[repository.local]").unwrap();
    let url = format!("url = 'postgres://{user}@{socket}:{port}/shop'\n");
    std::fs::write(&desk.config, format!("{}{url}{}", &text[..start], &text[end..])).unwrap();
    let ran = desk.command(&["job", "run", "full"]).env("PGHOST", "/nowhere").env("PGPORT", "1").output().unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
}
