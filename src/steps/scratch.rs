//! A throw-away PostgreSQL server: for restore tests, the demo and our own tests.
//!
//! Lives in a temporary directory that only its own user can enter, listens on a Unix socket in there, and is gone with
//! everything it wrote when it is dropped. Durability is off: nothing of it is ever kept. As root, the server runs as
//! `postgres` or `nobody`, because PostgreSQL refuses to run as root.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use crate::host::durable::{self, FileError};
use crate::host::{Child, ChildError, ChildSpec, StopSignal, run_to_end};
use crate::postgres::{Connection, ConnectionRequest, PostgresError, find_tool};

const SUPERUSER: &str = "postgres";
const INITDB_TIME: Duration = Duration::from_secs(120);
const START_TIME: Duration = Duration::from_secs(60);
const STOP_TIME: Duration = Duration::from_secs(30);
const SQL_TIME: Duration = Duration::from_secs(300);
/// Free ports may be taken by somebody else before the server has them.
const PORT_ATTEMPTS: u32 = 5;
const READY: &str = "database system is ready to accept connections";
const SETTINGS: [(&str, &str); 8] = [
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("shared_buffers", "32MB"),
    ("unix_socket_permissions", "0700"),
    ("max_wal_size", "256MB"),
    ("lc_messages", "C"),
    ("logging_collector", "off"),
];

/// A server certificate and its key, both PEM.
#[derive(Clone, Debug)]
pub struct ScratchTls {
    /// Certificate chain, the server's first.
    pub certificate: String,
    /// Private key.
    pub key: SecretString,
}

/// How the server is to be.
#[derive(Clone, Debug, Default)]
pub struct ScratchOptions {
    /// Directory of the programs; searched for when absent.
    pub bin_directory: Option<PathBuf>,
    /// Settings over our own, by name.
    pub settings: Vec<(String, String)>,
    /// Arguments for initdb besides our own: `--wal-segsize=1`.
    pub initdb: Vec<String>,
    /// Listen on 127.0.0.1 as well, on a free port, for the superuser with this password (SCRAM).
    pub password: Option<SecretString>,
    /// Offer TLS on that port.
    pub tls: Option<ScratchTls>,
}

/// Why there is no scratch server.
#[derive(Debug, thiserror::Error)]
pub enum ScratchError {
    /// A program is not there, or a login cannot be made.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// initdb, the server or psql failed.
    #[error(transparent)]
    Child(#[from] ChildError),
    /// Its files cannot be made.
    #[error(transparent)]
    File(#[from] FileError),
    /// No user to run it as, no free port, or it did not come up.
    #[error("{0}")]
    Other(String),
}

/// A running throw-away server. Dropping it stops it and removes its directory.
#[derive(Debug)]
pub struct ScratchServer {
    server: Option<Child>,
    programs: Programs,
    options: ScratchOptions,
    port: u16,
    run_as: Option<(u32, u32)>,
    // Last, so that the server is gone before its files are.
    directory: TempDir,
}

#[derive(Debug)]
struct Programs {
    initdb: PathBuf,
    postgres: PathBuf,
    psql: PathBuf,
}

impl ScratchServer {
    /// Makes and starts a server. Takes one to three seconds; blocks.
    pub fn start(options: ScratchOptions) -> Result<Self, ScratchError> {
        let find = |name: &str| find_tool(options.bin_directory.as_deref(), name);
        let programs = Programs { initdb: find("initdb")?, postgres: find("postgres")?, psql: find("psql")? };
        let run_as = server_user()?;
        let directory = durable::temporary_directory("dbagent-scratch-", &std::env::temp_dir(), run_as)?;
        if !durable::fits_a_socket(directory.path(), ".s.PGSQL.65535") {
            let text = format!("use {} for a socket: the path is too long; set TMPDIR", directory.path().display());
            return Err(ScratchError::Other(text));
        }
        let mut scratch = Self { server: None, programs, options, port: 5432, run_as, directory };
        scratch.initialize()?;
        scratch.resume()?;
        Ok(scratch)
    }

    /// A superuser's connection to the database `postgres`: over the socket, or over TCP with the password if the
    /// options asked for one.
    pub fn connection(&self) -> Result<Connection, ScratchError> {
        let tcp = self.options.password.is_some();
        let socket = self.directory().display().to_string();
        let request = ConnectionRequest {
            host: Some(if tcp { "127.0.0.1".to_owned() } else { socket }),
            port: Some(self.port),
            user: Some(SUPERUSER.to_owned()),
            database: Some("postgres".to_owned()),
            password: self.options.password.clone(),
            ..ConnectionRequest::default()
        };
        Ok(request.resolve()?)
    }

    /// The directory of its socket.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory of its data.
    pub fn data_directory(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// Its port, on the socket as on TCP.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// User and group id the server runs as, where that is not this process's own.
    pub fn run_as(&self) -> Option<(u32, u32)> {
        self.run_as
    }

    /// Process id of the postmaster, while it runs.
    pub fn process_id(&mut self) -> Option<u32> {
        self.server.as_mut().map(Child::id)
    }

    /// The last lines of the server's log.
    pub fn log(&self) -> Vec<String> {
        self.server.as_ref().map(|server| server.messages().last()).unwrap_or_default()
    }

    /// Runs `statements` in the database `postgres` as superuser, in one transaction unless they say otherwise, and
    /// gives what they print: rows as lines, columns separated by `|`.
    pub fn sql(&self, statements: &str) -> Result<String, ScratchError> {
        self.sql_in("postgres", statements)
    }

    /// The same in `database`.
    pub fn sql_in(&self, database: &str, statements: &str) -> Result<String, ScratchError> {
        self.psql(database, ["--command", statements])
    }

    /// Runs the script `file` in `database`, each statement by itself, and gives what it prints.
    pub fn sql_file(&self, database: &str, file: &Path) -> Result<String, ScratchError> {
        self.psql(database, ["--file", &file.display().to_string()])
    }

    /// Shuts it down in good order; [`ScratchServer::resume`] starts it again.
    pub fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(StopSignal::Interrupt);
        }
    }

    /// Stops it at once, as a crash would.
    pub fn crash(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop(StopSignal::Quit);
        }
    }

    /// Gives a stopped server another certificate for its next start.
    pub fn set_tls(&mut self, tls: ScratchTls) -> Result<(), ScratchError> {
        self.write_tls(&tls)?;
        self.options.tls = Some(tls);
        Ok(())
    }

    /// Starts it after a stop. A server that runs goes on.
    pub fn resume(&mut self) -> Result<(), ScratchError> {
        let mut attempts = 0;
        while self.server.is_none() {
            attempts += 1;
            let launched = self.launch();
            if launched.is_err() && self.options.password.is_some() && attempts < PORT_ATTEMPTS {
                continue;
            }
            self.server = Some(launched?);
        }
        Ok(())
    }

    fn initialize(&self) -> Result<(), ScratchError> {
        let mut arguments = vec![
            format!("--pgdata={}", self.data_directory().display()),
            format!("--username={SUPERUSER}"),
            "--auth-local=trust".to_owned(),
            "--auth-host=scram-sha-256".to_owned(),
            "--encoding=UTF8".to_owned(),
            "--data-checksums".to_owned(),
            "--no-sync".to_owned(),
            "--no-instructions".to_owned(),
        ];
        if let Some(password) = &self.options.password {
            let file = self.private_file("password", password.expose_secret())?;
            arguments.push(format!("--pwfile={}", file.display()));
        }
        arguments.extend(self.options.initdb.iter().cloned());
        self.initdb(&arguments)?;
        if let Some(tls) = &self.options.tls {
            self.write_tls(tls)?;
        }
        Ok(())
    }

    fn write_tls(&self, tls: &ScratchTls) -> Result<(), ScratchError> {
        self.private_file("server.crt", &tls.certificate)?;
        self.private_file("server.key", tls.key.expose_secret())?;
        Ok(())
    }

    /// In the locale that knows all letters and no country, or in C where the system has no such thing.
    fn initdb(&self, arguments: &[String]) -> Result<(), ChildError> {
        let run = |locale: &str| {
            let arguments = arguments.iter().cloned().chain([locale.to_owned()]).collect();
            run_to_end(&self.spec(&self.programs.initdb, arguments), INITDB_TIME).map(drop)
        };
        match run("--locale=C.UTF-8") {
            Err(error) if error.to_string().contains("invalid locale") => run("--locale=C"),
            done => done,
        }
    }

    fn launch(&mut self) -> Result<Child, ScratchError> {
        if self.options.password.is_some() {
            self.port = free_port()?;
        }
        let mut arguments = vec!["-D".to_owned(), self.data_directory().display().to_string()];
        let own = SETTINGS.map(|(name, value)| (name.to_owned(), value.to_owned()));
        for (name, value) in own.into_iter().chain(self.place_settings()).chain(self.options.settings.clone()) {
            arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
        }
        let server = Child::spawn(&ChildSpec { grace: STOP_TIME, ..self.spec(&self.programs.postgres, arguments) })?;
        let messages = server.messages();
        if messages.wait_for(READY, START_TIME) {
            return Ok(server);
        }
        server.stop(StopSignal::Quit);
        Err(ScratchError::Other(format!("start a scratch server; it said: {}", messages.last().join(" / "))))
    }

    fn place_settings(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.directory().join(name).display().to_string();
        let listen = if self.options.password.is_some() { "127.0.0.1" } else { "" };
        let mut settings = vec![
            ("port", self.port.to_string()),
            ("listen_addresses", listen.to_owned()),
            ("unix_socket_directories", self.directory().display().to_string()),
        ];
        if self.options.tls.is_some() {
            settings.push(("ssl", "on".to_owned()));
            settings.push(("ssl_cert_file", path("server.crt")));
            settings.push(("ssl_key_file", path("server.key")));
        }
        settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// A program that runs as the server's user, in the server's directory.
    fn spec(&self, program: &Path, arguments: Vec<String>) -> ChildSpec {
        let directory = Some(self.directory().to_owned());
        ChildSpec { directory, run_as: self.run_as, ..ChildSpec::new(program, arguments) }
    }

    fn private_file(&self, name: &str, content: &str) -> Result<PathBuf, ScratchError> {
        let path = self.directory().join(name);
        durable::replace(&path, content.as_bytes())?;
        durable::give_to(&path, self.run_as)?;
        Ok(path)
    }

    fn psql(&self, database: &str, what: [&str; 2]) -> Result<String, ScratchError> {
        let arguments = ["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"];
        let mut spec = ChildSpec::new(&self.programs.psql, arguments.into_iter().chain(what));
        let socket = self.directory().display().to_string();
        let port = self.port.to_string();
        let login = [("PGHOST", &*socket), ("PGPORT", &port), ("PGUSER", SUPERUSER), ("PGDATABASE", database)];
        spec.environment = login.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        spec.environment.insert("PGCLIENTENCODING".into(), "UTF8".into());
        let said = run_to_end(&spec, SQL_TIME)?;
        Ok(String::from_utf8_lossy(&said.stdout).trim_end().to_owned())
    }
}

impl Drop for ScratchServer {
    fn drop(&mut self) {
        self.crash();
    }
}

/// Whom a server of ours runs as, user and group id: ourselves, unless we are root.
pub fn server_user() -> Result<Option<(u32, u32)>, ScratchError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let users = durable::read_bounded(Path::new("/etc/passwd"), 1 << 20)?;
    let users = String::from_utf8_lossy(&users);
    let found = ["postgres", "nobody"].into_iter().find_map(|name| user_in(&users, name));
    found.map(Some).ok_or_else(|| ScratchError::Other("find a user to run a scratch server as, not root".to_owned()))
}

/// User and group id of `name` in the text of passwd(5).
fn user_in(users: &str, name: &str) -> Option<(u32, u32)> {
    users.lines().find_map(|line| {
        let mut fields = line.split(':');
        let found = fields.next() == Some(name);
        let (user, group) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        found.then_some((user, group))
    })
}

fn free_port() -> Result<u16, ScratchError> {
    let bound = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| ScratchError::Other(format!("find a free port: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let users = "root:x:0:0::/root:/bin/sh\npostgres2:x:7:7::/:/x\npostgres:x:101:104:,,,:/var/lib:/bin/sh\n";
        assert_eq!(user_in(users, "postgres"), Some((101, 104)));
        assert_eq!(user_in(users, "nobody"), None);
    }
}
