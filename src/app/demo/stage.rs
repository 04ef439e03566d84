//! The stage: a server with the BC-003 database in it, and a site made by `init` as a user would make it.
//!
//! Reads no variable and no file of the user's: nothing of the demo can reach a real server. Dropping it ends the server
//! and removes both directories.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Months, NaiveDate, Utc};
use tempfile::TempDir;

use crate::app::demo::Guide;
use crate::app::terms::Terms;
use crate::app::{App, init};
use crate::config::{self, Environment, LoadRequest};
use crate::host::{ChildSpec, durable, run_to_end};
use crate::model::failure::{Failure, FailureKind};
use crate::model::size::ByteSize;
use crate::model::verb::Verb;
use crate::steps::bc003::{self, Bc003Error, Scale};
use crate::steps::scratch::{ScratchError, ScratchOptions, ScratchServer};

/// The database of the tour; the built-in plan names it.
pub(super) const DATABASE: &str = "consulting_tool";
/// Folder of the repository below the site.
pub(super) const REPOSITORY: &str = "repository";

const LET_IN_TIME: Duration = Duration::from_secs(60);

/// A server, a site, and the application that the site's configuration gives.
pub(super) struct Stage {
    pub(super) app: App,
    pub(super) server: ScratchServer,
    pub(super) site: TempDir,
}

/// The first of four months of which the last is the present one.
pub(super) fn first_month(now: DateTime<Utc>) -> NaiveDate {
    let today = now.date_naive();
    today.checked_sub_months(Months::new(3)).unwrap_or(today)
}

impl Stage {
    pub(super) async fn build(scale: Scale, program: Option<&Path>, guide: &Guide) -> Result<Self, Failure> {
        let server = start_server(guide).await?;
        let site = durable::temporary_directory("dbagent-demo-", &std::env::temp_dir(), None)
            .map_err(|error| Failure::new(FailureKind::Failed, "make the demo's directory").because(error))?;
        let mut app = open_site(&site, &server, guide)?;
        app.program = program.map(Path::to_path_buf);
        if let Some(owner) = server.run_as() {
            app.program = Some(let_in(owner, &site, &app.program()?)?);
        }
        let stage = Self { app, server, site };
        guide.unless_stopped(stage.fill(scale, guide)).await?;
        Ok(stage)
    }

    /// Where the repository's objects lie.
    pub(super) fn repository(&self) -> PathBuf {
        self.site.path().join(REPOSITORY)
    }

    async fn fill(&self, scale: Scale, guide: &Guide) -> Result<(), Failure> {
        guide.events.step("making the database consulting_tool and its rows");
        let began = guide.clock.monotonic();
        let connection = self.app.connection(Verb::Dump, None)?;
        connection.with_database("postgres").connect().await?.batch(&format!("CREATE DATABASE {DATABASE}")).await?;
        let session = connection.connect().await?;
        let client = session.client();
        // Archived from the claim that needs it on; what it takes to make the database is no part of it.
        session.batch("ALTER SYSTEM SET archive_command = 'true'").await?;
        session.batch("SELECT pg_catalog.pg_reload_conf()").await?;
        bc003::install(client).await.map_err(not_made)?;
        bc003::install_roles(client).await.map_err(not_made)?;
        bc003::generate(client, scale).await.map_err(not_made)?;
        let size = client.query_one("SELECT pg_catalog.pg_database_size(pg_catalog.current_database())", &[]).await;
        let size: i64 = size.map_err(|error| session.failed("ask the size of the database", error))?.get(0);
        guide.events.note(format!(
            "The database {DATABASE} holds the eleven tables of an access-control application, {} with indexes \
             ({:.1} s).",
            ByteSize(size.unsigned_abs()),
            guide.seconds_since(began)
        ));
        Ok(())
    }
}

async fn start_server(guide: &Guide) -> Result<ScratchServer, Failure> {
    guide.require_going_on()?;
    guide.events.step("starting a throw-away PostgreSQL");
    let began = guide.clock.monotonic();
    let settings = vec![("archive_mode".to_owned(), "on".to_owned())];
    let options = ScratchOptions { settings, ..ScratchOptions::default() };
    let started = guide.blocking("start PostgreSQL", || ScratchServer::start(options)).await?;
    let server = started.map_err(not_started)?;
    guide.require_going_on()?;
    guide.events.note(format!(
        "A PostgreSQL of its own runs in {}, reached by a socket in there that nobody else can enter ({:.1} s).",
        server.directory().display(),
        guide.seconds_since(began)
    ));
    Ok(server)
}

/// Lets the server's user, whom PostgreSQL runs as where we are root, read what its archive_command needs, and gives it a copy
/// of the program in a place that it can reach. The state directory stays ours.
fn let_in(owner: (u32, u32), site: &TempDir, program: &Path) -> Result<PathBuf, Failure> {
    let copy = site.path().join("dbagent");
    let run = |name: &str, words: Vec<OsString>| run_to_end(&ChildSpec::new(name, words), LET_IN_TIME).map(drop);
    run("cp", vec!["--".into(), program.into(), copy.clone().into()])?;
    let mut words: Vec<OsString> = vec!["-R".into(), format!("{}:{}", owner.0, owner.1).into(), "--".into()];
    let names = durable::names_in(site.path())
        .map_err(|error| Failure::new(FailureKind::Failed, "list the demo's directory").because(error))?;
    words.extend(names.iter().filter(|name| *name != init::STATE).map(|name| site.path().join(name).into()));
    run("chown", words)?;
    durable::give_to(site.path(), Some(owner)).map_err(|error| {
        Failure::new(FailureKind::Failed, "let PostgreSQL into the demo's directory").because(error)
    })?;
    Ok(copy)
}

/// Makes the site as `dbagent init` does, and loads what it wrote.
fn open_site(site: &TempDir, server: &ScratchServer, guide: &Guide) -> Result<App, Failure> {
    guide.events.step("making keys and a configuration");
    let answers = init::Answers {
        cluster: "demo".to_owned(),
        postgres_url: postgres_url(server.directory(), server.port()),
        repository: site.path().join(REPOSITORY).to_string_lossy().into_owned(),
    };
    let options = init::Options {
        directory: site.path().to_owned(),
        recipients: Vec::new(),
        profile: config::Profile::default(),
        answers,
        name_decryption_key: true,
    };
    let made = init::run(&options, guide.clock.now())?;
    guide.events.note(format!(
        "\n$ dbagent init --yes\nBackups are encrypted to {} and signed by {}; the keys are in {}.",
        made.recipients.join(" "),
        made.signing_key,
        site.path().display()
    ));
    let request = LoadRequest { path: Some(made.configuration), search: Vec::new() };
    let environment = Environment::default();
    let loaded = config::load(&request, &environment)
        .map_err(|errors| Failure::new(FailureKind::Usage, "load the demo's configuration").because(errors))?;
    // Nobody else knows this server: the demo leads it.
    let terms = Terms::of_leadership();
    let (loaded, environment) = (Arc::new(loaded), Arc::new(environment));
    Ok(App { loaded, environment, clock: guide.clock.clone(), request, terms, program: None })
}

/// The superuser's login by the socket in `directory`.
fn postgres_url(directory: &Path, port: u16) -> String {
    format!("postgres:///{DATABASE}?host={}&port={port}&user=postgres", encoded(directory))
}

/// `path` as it stands in addresses.
pub(super) fn encoded(path: &Path) -> String {
    url::Url::from_file_path(path).map_or_else(|()| path.display().to_string(), |url| url.path().replace('&', "%26"))
}

fn not_started(error: ScratchError) -> Failure {
    let hint = "The demo needs PostgreSQL's server programs, 14 or later: apt-get install postgresql";
    match error {
        ScratchError::Postgres(error) => Failure::from(error).hint(hint),
        error => Failure::new(FailureKind::Failed, "start a throw-away PostgreSQL").because(error).hint(hint),
    }
}

fn not_made(error: Bc003Error) -> Failure {
    Failure::new(FailureKind::Failed, "make the demo's database").because(error)
}
