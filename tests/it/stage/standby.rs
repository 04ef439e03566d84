//! A hot standby of a test's server, made by pg_basebackup, gone when dropped.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dbagent::host::durable::temporary_directory;
use dbagent::postgres::{Connection, ConnectionRequest, find_tool};
use dbagent::steps::scratch::ScratchServer;
use tempfile::TempDir;

pub struct Standby {
    server: Child,
    psql: PathBuf,
    directory: TempDir,
}

impl Standby {
    /// A standby of `primary` with these settings, which takes queries.
    pub fn of(primary: &ScratchServer, settings: &[&str]) -> Self {
        let directory = temporary_directory("dbagent-standby-", &std::env::temp_dir(), primary.run_as()).unwrap();
        let data = directory.path().join("data");
        let program = |name: &str| {
            let mut command = Command::new(find_tool(None, name).unwrap());
            if let Some((user, group)) = primary.run_as() {
                command.uid(user).gid(group);
            }
            command.current_dir(directory.path()).stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let source = format!("host={} port={} user=postgres", primary.directory().display(), primary.port());
        let mut copy = program("pg_basebackup");
        copy.args(["--checkpoint=fast", "--write-recovery-conf", "--no-sync", "--wal-method=stream"]);
        let copied = copy.args(["--dbname", &source, "--pgdata"]).arg(&data).status().unwrap();
        assert!(copied.success(), "pg_basebackup");
        let mut server = program("postgres");
        server.arg("-D").arg(&data).arg("-c").arg(format!("unix_socket_directories={}", directory.path().display()));
        server.args(["-c", "listen_addresses=", "-c", "port=5432", "-c", "fsync=off", "-c", "hot_standby=on"]);
        for setting in settings {
            server.args(["-c", setting]);
        }
        let server = server.stderr(Stdio::null()).spawn().unwrap();
        let standby = Self { server, psql: find_tool(None, "psql").unwrap(), directory };
        let deadline = Instant::now() + Duration::from_secs(60);
        while standby.try_ask("postgres", "SELECT pg_is_in_recovery()").as_deref() != Some("t") {
            assert!(Instant::now() < deadline, "the standby takes no queries");
            std::thread::sleep(Duration::from_millis(20));
        }
        standby
    }

    /// The directory of its socket.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A superuser's connection to `database`.
    pub fn connection(&self, database: &str) -> Connection {
        let request = ConnectionRequest {
            host: Some(self.directory.path().display().to_string()),
            port: Some(5432),
            user: Some("postgres".to_owned()),
            database: Some(database.to_owned()),
            ..ConnectionRequest::default()
        };
        request.resolve().unwrap()
    }

    /// A query's answer.
    pub fn ask(&self, database: &str, query: &str) -> String {
        self.try_ask(database, query).unwrap()
    }

    fn try_ask(&self, database: &str, query: &str) -> Option<String> {
        let mut psql = Command::new(&self.psql);
        psql.args(["-XqAt", "-h"]).arg(self.directory.path()).args(["-p", "5432", "-U", "postgres", "-d", database]);
        let output = psql.args(["-c", query]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        // SIGQUIT ends a postmaster with all its processes; a killed one would leave them.
        super::agent::signal(self.server.id(), "QUIT");
        let _ = self.server.wait();
    }
}
