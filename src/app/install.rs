//! Installs what the agent owns in a database: the files of `sql/schema/`, by an administrator's login.
//!
//! The agent's own login must not own what it calls, so the files are applied by somebody else: a login named for this one
//! time, whose password comes from libpq's places and is not kept. Nothing is applied unasked.

use serde::Serialize;

use crate::app::App;
use crate::model::failure::Failure;
use crate::model::verb::Verb;
use crate::postgres::partitions::Maintenance;
use crate::postgres::schema::{self, Migration};
use crate::postgres::{Connection, ConnectionRequest, PostgresErrorKind};
use crate::steps::partitions::TableRule;

/// The files this version installs.
const NUMBERS: std::ops::RangeInclusive<i32> = schema::PARTITIONS;

/// The file that brings the register of tables.
const REGISTER: i32 = 11;

/// What would be, or was, installed.
#[derive(Clone, Debug, Serialize)]
pub struct SqlPlan {
    /// The database.
    pub database: String,
    /// Who installs it.
    pub login: String,
    /// Files of `sql/schema/`, without their ending.
    pub migrations: Vec<&'static str>,
    /// What concerns the tables that the plan has partition rules for, a sentence each.
    pub tables: Vec<String>,
}

impl SqlPlan {
    /// Whether nothing is left to do.
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty() && self.tables.is_empty()
    }
}

/// Installs into one database, as one login.
#[derive(Debug)]
pub struct SqlInstaller {
    connection: Connection,
    rules: Vec<TableRule>,
}

impl App {
    /// An installer for `database` (that of the connection when absent) as the login of `admin_url`; without one, as the
    /// agent's own.
    pub fn sql_installer(&self, admin_url: Option<&str>, database: Option<&str>) -> Result<SqlInstaller, Failure> {
        let own = self.connection(Verb::Check, database)?.with_role(None);
        let rules = if self.loaded.plan.is_some() { self.partition_rules()? } else { Vec::new() };
        let Some(url) = admin_url else { return Ok(SqlInstaller { connection: own, rules }) };
        let request = ConnectionRequest {
            url: Some(url.to_owned()),
            environment: self.environment.0.clone(),
            ..ConnectionRequest::default()
        };
        let names_one = url::Url::parse(url).is_ok_and(|url| url.path().len() > 1);
        let admin = request.resolve()?;
        let database = database.map(str::to_owned).or_else(|| (!names_one).then(|| own.database().to_owned()));
        let connection = database.map_or(admin.clone(), |database| admin.with_database(&database));
        Ok(SqlInstaller { connection, rules })
    }
}

impl SqlInstaller {
    /// Installs as the login of `connection`, and hands the tables of `rules` over to partition maintenance.
    pub fn new(connection: Connection, rules: Vec<TableRule>) -> Self {
        Self { connection, rules }
    }

    /// Where it installs.
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// What is not installed yet.
    pub async fn plan(&self) -> Result<SqlPlan, Failure> {
        let maintenance = Maintenance::connect(&self.connection).await?;
        let pending = schema::pending(maintenance.session().client(), &NUMBERS).await?;
        let is_new = pending.iter().any(|migration| migration.number == REGISTER);
        let mut tables = Vec::new();
        for rule in &self.rules {
            tables.extend(planned(&maintenance, rule, is_new).await?);
        }
        Ok(self.told(&pending, tables))
    }

    /// Installs it: the files in one transaction, then each table by itself.
    pub async fn install(&self) -> Result<SqlPlan, Failure> {
        let maintenance = Maintenance::connect(&self.connection).await?;
        let applied = schema::install(maintenance.session().client(), &NUMBERS).await?;
        maintenance.session().batch("SET lock_timeout = '3s'").await?;
        let mut tables = Vec::new();
        for rule in &self.rules {
            match maintenance.origin(&rule.name).await {
                Ok(origin) => tables.extend(maintenance.register(&origin.table, &rule.rule).await?),
                Err(error) if error.kind == PostgresErrorKind::MissingObject => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(self.told(&applied, tables))
    }

    fn told(&self, migrations: &[Migration], tables: Vec<String>) -> SqlPlan {
        SqlPlan {
            database: self.connection.database().to_owned(),
            login: self.connection.user().to_owned(),
            migrations: migrations.iter().map(|migration| migration.name).collect(),
            tables,
        }
    }
}

/// What would be changed for one table; nothing for one that this database does not have.
async fn planned(maintenance: &Maintenance, rule: &TableRule, is_new: bool) -> Result<Vec<String>, Failure> {
    let origin = match maintenance.origin(&rule.name).await {
        Ok(origin) => origin,
        Err(error) if error.kind == PostgresErrorKind::MissingObject => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let table = &origin.table;
    let lacking = maintenance.lacking_rights(&origin).await?;
    let mut changes: Vec<String> = lacking.iter().map(|change| format!("{table}: {change}")).collect();
    if is_new || maintenance.is_registered_as(table, &rule.rule).await? != Some(true) {
        let kept = rule.rule.retention.map_or("for ever".to_owned(), |retention| retention.to_string());
        changes.insert(0, format!("{table}: hand it over to partition maintenance, kept {kept}"));
    }
    Ok(changes)
}
