//! A BC-003 database on a PostgreSQL of its own, in a temporary directory, reached by a Unix socket only.

use std::fs::File;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use dbagent::steps::bc003;
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

/// A running server; dropped, it is stopped and gone.
pub struct Server {
    directory: TempDir,
    binaries: PathBuf,
}

impl Server {
    pub fn start() -> Self {
        let server = Self { directory: TempDir::new().unwrap(), binaries: binaries() };
        let data = server.socket().join("data");
        run(Command::new("cp").arg("-R").args([server.template(), data.clone()]));
        if is_root() {
            run(Command::new("chown").arg("-R").arg("postgres").arg(server.socket()));
        }
        let options = format!("-c listen_addresses='' -c unix_socket_directories={} -F", server.socket().display());
        let log = server.socket().join("log");
        run(server.command("pg_ctl").arg("-D").arg(&data).arg("-l").arg(log).args(["-o", &options, "-w", "start"]));
        server
    }

    /// What initdb makes, kept below `target`: copying it is ten times faster.
    fn template(&self) -> PathBuf {
        let version = String::from_utf8(run(self.command("initdb").arg("--version")).stdout).unwrap();
        let kept = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(version.trim().replace(['(', ')', ' '], "-"));
        let lock = File::create(kept.with_added_extension("lock")).unwrap();
        lock.lock().unwrap();
        if !kept.exists() {
            let scratch = TempDir::new().unwrap();
            if is_root() {
                run(Command::new("chown").arg("postgres").arg(scratch.path()));
            }
            let made = scratch.path().join("data");
            let options = ["--no-sync", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8"];
            run(self.command("initdb").args(options).arg("-D").arg(&made));
            let partial = kept.with_added_extension("partial");
            run(Command::new("cp").arg("-RT").args([&made, &partial]));
            std::fs::rename(partial, &kept).unwrap();
        }
        kept
    }

    pub fn socket(&self) -> &Path {
        self.directory.path()
    }

    /// A PostgreSQL program, run as somebody PostgreSQL accepts.
    pub fn command(&self, program: &str) -> Command {
        let path = self.binaries.join(program);
        let mut command = match is_root() {
            true => Command::new("runuser"),
            false => Command::new(&path),
        };
        if is_root() {
            command.args(["-u", "postgres", "--"]).arg(&path);
        }
        command.current_dir("/").env("PGHOST", self.socket());
        command
    }

    pub async fn connect(&self, user: &str, database: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket()).user(user).dbname(database);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A new database with the schema and the roles, and a superuser's connection to it.
    pub async fn installed(&self, database: &str) -> Client {
        let postgres = self.connect("postgres", "postgres").await;
        postgres.batch_execute(&format!("CREATE DATABASE {database}")).await.unwrap();
        let client = self.connect("postgres", database).await;
        bc003::install(&client).await.unwrap();
        bc003::install_roles(&client).await.unwrap();
        client
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.socket().join("data");
        let stopped = self.command("pg_ctl").arg("-D").arg(data).args(["-m", "immediate", "stop"]).output();
        drop(stopped);
    }
}

/// One server with one BC-003 database; derefs to the superuser's connection.
pub struct Database {
    client: Client,
    pub server: Server,
}

impl Database {
    pub async fn new() -> Self {
        let server = Server::start();
        Self { client: server.installed("consulting_tool").await, server }
    }

    /// The first column of the first row, as text.
    pub async fn text(&self, query: &str) -> String {
        text(&self.client, query).await
    }

    pub async fn run(&self, statements: &str) {
        self.client.batch_execute(statements).await.unwrap();
    }

    /// The SQLSTATE that `statements` end with, or that they were taken.
    pub async fn refusal(&self, statements: &str) -> String {
        match self.client.batch_execute(statements).await {
            Ok(()) => "taken".into(),
            Err(error) => error.code().unwrap().code().to_owned(),
        }
    }
}

impl Deref for Database {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

pub async fn text(client: &Client, query: &str) -> String {
    let row = client.query_one(&format!("SELECT ({query})::text"), &[]).await.unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".into())
}

pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    output
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn binaries() -> PathBuf {
    let output = run(Command::new("pg_config").arg("--bindir"));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
