//! A BC-003 database on a scratch server.

use std::ops::Deref;

use dbagent::postgres::Session;
use dbagent::steps::bc003;
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};
use tokio_postgres::Client;

use crate::cli::Desk;

pub fn start() -> ScratchServer {
    ScratchServer::start(ScratchOptions::default()).unwrap()
}

/// A new database with the schema and the roles, and a superuser's session in it.
pub async fn installed(server: &ScratchServer, database: &str) -> Session {
    server.sql(&format!("CREATE DATABASE {database}")).unwrap();
    let session = server.connection().unwrap().with_database(database).connect().await.unwrap();
    install(&session).await;
    // The agent's sessions have an empty search_path, which the files must bear; the tests' statements are an application's.
    session.batch("SET search_path = public").await.unwrap();
    session
}

/// The schema and the roles, into a database that is there.
pub async fn install(session: &Session) {
    bc003::install(session.client()).await.unwrap();
    bc003::install_roles(session.client()).await.unwrap();
}

/// A desk whose database is a BC-003 one too; `plan` is its plan, where it needs another than a desk has.
pub fn desk(plan: Option<&str>) -> Desk {
    let desk = Desk::new();
    if let Some(plan) = plan {
        std::fs::write(desk.site.root().join("plan.toml"), plan).unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async { install(&desk.site.connection().connect().await.unwrap()).await });
    desk
}

/// One server with one BC-003 database; derefs to the superuser's connection.
pub struct Database {
    session: Session,
    pub server: ScratchServer,
}

impl Database {
    pub async fn new() -> Self {
        Self::on(start()).await
    }

    /// The same on a server with settings of its own.
    pub async fn on(server: ScratchServer) -> Self {
        Self { session: installed(&server, "consulting_tool").await, server }
    }

    /// The first column of the first row, as text.
    pub async fn text(&self, query: &str) -> String {
        text(self, query).await
    }

    pub async fn run(&self, statements: &str) {
        self.batch_execute(statements).await.unwrap();
    }

    /// The SQLSTATE that `statements` end with, or that they were taken.
    pub async fn refusal(&self, statements: &str) -> String {
        match self.batch_execute(statements).await {
            Ok(()) => "taken".into(),
            Err(error) => error.code().unwrap().code().to_owned(),
        }
    }
}

impl Deref for Database {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.session.client()
    }
}

pub async fn text(client: &Client, query: &str) -> String {
    let row = client.query_one(&format!("SELECT ({query})::text"), &[]).await.unwrap();
    row.get::<_, Option<String>>(0).unwrap_or_else(|| "NULL".into())
}
