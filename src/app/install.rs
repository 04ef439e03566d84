//! Installs what the agent owns in a database: the files of `sql/schema/`, by an administrator's login.
//!
//! The agent's own login must not own what it calls, so the files are applied by somebody else: a login named for this one
//! time, whose password comes from libpq's places and is not kept. Nothing is applied unasked.

use serde::Serialize;

use crate::app::App;
use crate::model::failure::Failure;
use crate::model::verb::Verb;
use crate::postgres::schema::{self, Migration};
use crate::postgres::{Connection, ConnectionRequest};

/// The files this version installs.
const NUMBERS: std::ops::RangeInclusive<i32> = schema::PARTITIONS;

/// What would be, or was, installed.
#[derive(Clone, Debug, Serialize)]
pub struct SqlPlan {
    /// The database.
    pub database: String,
    /// Who installs it.
    pub login: String,
    /// Files of `sql/schema/`, without their ending.
    pub migrations: Vec<&'static str>,
}

impl SqlPlan {
    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty()
    }
}

/// Installs into one database, as one login.
#[derive(Debug)]
pub struct SqlInstaller {
    connection: Connection,
}

impl App {
    /// An installer for `database` (that of the connection when absent) as the login of `admin_url`; without one, as the
    /// agent's own.
    pub fn sql_installer(&self, admin_url: Option<&str>, database: Option<&str>) -> Result<SqlInstaller, Failure> {
        let own = self.connection(Verb::Check, database)?.with_role(None);
        let Some(url) = admin_url else { return Ok(SqlInstaller { connection: own }) };
        let request = ConnectionRequest {
            url: Some(url.to_owned()),
            environment: self.environment.0.clone(),
            ..ConnectionRequest::default()
        };
        let names_one = url::Url::parse(url).is_ok_and(|url| url.path().len() > 1);
        let admin = request.resolve()?;
        let database = database.map(str::to_owned).or_else(|| (!names_one).then(|| own.database().to_owned()));
        let connection = database.map_or(admin.clone(), |database| admin.with_database(&database));
        Ok(SqlInstaller { connection })
    }
}

impl SqlInstaller {
    /// Installs as the login of `connection`.
    pub fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// What is not installed yet.
    pub async fn plan(&self) -> Result<SqlPlan, Failure> {
        let session = self.connection.connect().await?;
        Ok(self.told(&schema::pending(session.client(), &NUMBERS).await?))
    }

    /// Installs it, in one transaction.
    pub async fn install(&self) -> Result<SqlPlan, Failure> {
        let session = self.connection.connect().await?;
        Ok(self.told(&schema::install(session.client(), &NUMBERS).await?))
    }

    fn told(&self, migrations: &[Migration]) -> SqlPlan {
        SqlPlan {
            database: self.connection.database().to_owned(),
            login: self.connection.user().to_owned(),
            migrations: migrations.iter().map(|migration| migration.name).collect(),
        }
    }
}
