//! From `[postgres]` to a connection and the client tools that fit its server.

use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::app::{App, secrets};
use crate::config::{Origin, Secret, SslMode};
use crate::host::secrets_manager::{StoredLogin, Version};
use crate::model::failure::{Failure, FailureKind};
use crate::model::verb::Verb;
use crate::postgres::{ClientTools, Connection, ConnectionRequest, PostgresErrorKind};

impl App {
    /// The login, acting as the role that `[postgres.roles]` names for `verb`, in `database` where one is named.
    pub fn connection(&self, verb: Verb, database: Option<&str>) -> Result<Connection, Failure> {
        let connection = match self.loaded.config.postgres.secret() {
            Some(Secret::AwsSecret(name)) => self.connection_of_aws_secret(name, verb)?,
            secret => {
                let password = secret.map(|secret| secrets::resolve(&secret, "the PostgreSQL password")).transpose()?;
                self.request(verb, None, password).resolve()?
            }
        };
        Ok(match database {
            Some(database) => connection.with_database(database),
            None => connection,
        })
    }

    /// The login of pg_basebackup: that of `[postgres.replication]`, or else the usual one. The replication protocol knows
    /// no SET ROLE.
    pub(super) fn replication_connection(&self) -> Result<Connection, Failure> {
        let usual = self.connection(Verb::BaseBackup, None)?.with_role(None);
        let Some(login) = &self.loaded.config.postgres.replication else { return Ok(usual) };
        let password =
            login.secret().map(|secret| secrets::resolve(&secret, "the replication password")).transpose()?;
        Ok(usual.with_login(&login.user, password))
    }

    /// The same with the login that a secret of AWS Secrets Manager holds. While a rotation is under way the server may
    /// take only the version before: which one it takes is tried, here and by every opening anew.
    fn connection_of_aws_secret(&self, name: String, verb: Verb) -> Result<Connection, Failure> {
        let app = self.clone();
        secrets::alone(async move {
            let with = |login: StoredLogin| app.request(verb, login.user, Some(login.password)).resolve();
            let current = with(secrets::aws_secret(&name, Version::Current).await?)?;
            match current.connect().await {
                Err(error) if error.kind == PostgresErrorKind::Authentication => {}
                // Whatever else there is to say is said where the connection is used.
                _ => return Ok(current),
            }
            let previous = match secrets::aws_secret(&name, Version::Previous).await {
                Ok(login) => with(login)?,
                Err(failure) => {
                    tracing::debug!(error = failure.full_message(), "no version before the refused one");
                    return Ok(current);
                }
            };
            if previous.connect().await.is_err() {
                return Ok(current);
            }
            tracing::warn!(
                secret = name,
                "the server takes only the secret's previous version: its rotation has not ended"
            );
            Ok(previous)
        })?
    }

    fn request(&self, verb: Verb, user: Option<String>, password: Option<SecretString>) -> ConnectionRequest {
        let settings = &self.loaded.config.postgres;
        let path = |path: &Option<crate::config::FilePath>| path.as_ref().map(|path| path.to_path_buf());
        ConnectionRequest {
            url: settings.url.as_ref().map(|url| url.expose().to_string()),
            host: settings.host.clone().filter(|_| self.is_written("postgres.host")),
            port: settings.port.filter(|_| self.is_written("postgres.port")),
            user: settings.user.clone().filter(|_| self.is_written("postgres.user")).or(user),
            database: settings.database.clone().filter(|_| self.is_written("postgres.database")),
            sslmode: settings.sslmode.filter(|_| self.is_written("postgres.sslmode")).map(sslmode).map(str::to_owned),
            sslrootcert: path(&settings.sslrootcert).map(|path| path.to_string_lossy().into_owned()),
            password,
            service: settings.service.clone(),
            passfile: self.unless_absent("postgres.passfile", settings.passfile.as_deref()),
            service_file: self.unless_absent("postgres.service_file", settings.service_file.as_deref()),
            application_name: None,
            role: settings.roles.get(&verb).cloned(),
            connect_timeout: settings.connect_timeout.map(|span| span.to_duration()),
            environment: self.environment.0.clone(),
        }
    }

    /// Whether a key is ours. What libpq's variables filled in comes back through the request's environment, which a URL
    /// beats: a PGHOST left in somebody's shell must not lead elsewhere than the configuration says.
    fn is_written(&self, key: &str) -> bool {
        match self.loaded.origins.get(key) {
            Some(Origin::Environment(name)) => name.starts_with("DBAGENT_"),
            _ => true,
        }
    }

    /// A file that nobody wrote down, looked for below the home directory, need not be there.
    fn unless_absent(&self, key: &str, path: Option<&Path>) -> Option<PathBuf> {
        let assumed = matches!(self.loaded.origins.get(key), Some(Origin::Environment(_)));
        path.filter(|path| !assumed || path.exists()).map(Path::to_path_buf)
    }

    /// Client tools that fit the server of `connection`.
    pub async fn tools(&self, connection: &Connection) -> Result<ClientTools, Failure> {
        let major = connection.server_major().await?;
        let directory = self.loaded.config.postgres.bin_directory.clone();
        let found = tokio::task::spawn_blocking(move || ClientTools::find(directory.as_deref(), major));
        let found = found.await.map_err(|error| {
            Failure::new(FailureKind::Failed, "look for the PostgreSQL client programs").because(error)
        })?;
        Ok(found?)
    }
}

fn sslmode(mode: SslMode) -> &'static str {
    match mode {
        SslMode::Disable => "disable",
        SslMode::Allow => "allow",
        SslMode::Prefer => "prefer",
        SslMode::Require => "require",
        SslMode::VerifyCa => "verify-ca",
        SslMode::VerifyFull => "verify-full",
    }
}
