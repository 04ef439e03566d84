//! The one connection type: where PostgreSQL is, who we are there, and how it is proved to be the right one.
//!
//! Feeds the driver ([`Connection::connect`]) and the client tools (`Connection::child_environment`) from the same values.
//! Every session begins with an empty search path, so that no name is looked up where an attacker may create things.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::task::JoinHandle;
use tokio_postgres::config::{ChannelBinding, SslMode as DriverSslMode};
use tokio_postgres::tls::{MakeTlsConnect, NoTls, TlsConnect};
use tokio_postgres::{Client, Config, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::error::{PostgresError, PostgresErrorKind};
use super::tls;
use crate::host::Clock;
use crate::model::table::quote_identifier;

/// Where the server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Host {
    /// A host name or address.
    Tcp(String),
    /// The directory of its Unix socket.
    Socket(PathBuf),
}

impl Host {
    pub(super) fn from_text(text: &str) -> Result<Self, String> {
        if text.contains(',') {
            return Err(format!("use {text:?} as a host: several hosts are not supported"));
        }
        Ok(if text.starts_with('/') { Self::Socket(text.into()) } else { Self::Tcp(text.to_owned()) })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(name) => f.write_str(name),
            Self::Socket(directory) => directory.display().fmt(f),
        }
    }
}

/// libpq's `sslmode` (PostgreSQL manual, "SSL Support"). Means nothing on a Unix socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum SslMode {
    /// Never encrypted.
    Disable,
    /// Encrypted if the server can; we ask as for `prefer`.
    Allow,
    /// Encrypted if the server can; anybody may be the server.
    #[default]
    Prefer,
    /// Encrypted; verified like `verify-ca` where trusted certificates are named, as libpq does.
    Require,
    /// Encrypted, and the certificate comes from an authority we trust.
    VerifyCa,
    /// As before, and the certificate is for the host's name.
    VerifyFull,
}

impl SslMode {
    const ALL: [Self; 6] = [Self::Disable, Self::Allow, Self::Prefer, Self::Require, Self::VerifyCa, Self::VerifyFull];

    /// libpq's word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Allow => "allow",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }
}

impl FromStr for SslMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name).join(", ");
        let found = Self::ALL.into_iter().find(|mode| mode.name() == text);
        found.ok_or_else(|| format!("read sslmode {text:?}: expected one of {names}"))
    }
}

/// Whose certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RootCertificates {
    /// Nothing was said: the system's, where a mode verifies.
    Default,
    /// The system's.
    System,
    /// Those in this PEM file.
    File(PathBuf),
}

impl RootCertificates {
    pub(super) fn from_text(text: &str) -> Self {
        if text == "system" { Self::System } else { Self::File(text.into()) }
    }
}

/// A resolved connection. Printing it shows no secret.
#[derive(Clone, Debug)]
pub struct Connection {
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) sslmode: SslMode,
    pub(super) roots: RootCertificates,
    pub(super) require_channel_binding: bool,
    pub(super) password: Option<SecretString>,
    pub(super) application_name: String,
    pub(super) role: Option<String>,
    pub(super) connect_timeout: Duration,
}

impl Connection {
    /// Where the server listens.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The login role.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The role that is acted as, if not the login.
    pub fn role(&self) -> Option<&str> {
        self.role.as_deref()
    }

    /// How the server is verified.
    pub fn sslmode(&self) -> SslMode {
        self.sslmode
    }

    /// Whether there is a password, from wherever.
    pub fn has_password(&self) -> bool {
        self.password.is_some()
    }

    /// The same login to another database.
    pub fn with_database(&self, database: &str) -> Self {
        Self { database: database.to_owned(), ..self.clone() }
    }

    /// The same login, acting as `role`.
    pub fn with_role(&self, role: Option<&str>) -> Self {
        Self { role: role.map(ToOwned::to_owned), ..self.clone() }
    }

    /// The same place with another login.
    pub fn with_login(&self, user: &str, password: Option<SecretString>) -> Self {
        Self { user: user.to_owned(), password, ..self.clone() }
    }

    /// Connects, verifies the server as `sslmode` says, and sets the session up.
    pub async fn connect(&self) -> Result<Session, PostgresError> {
        let config = self.config();
        let (client, driver) = match self.tls()? {
            None => self.start(&config, NoTls).await?,
            Some(tls) => self.start(&config, tls).await?,
        };
        let session = Session { client, driver, place: self.to_string() };
        session.batch("SELECT pg_catalog.set_config('search_path', '', false)").await?;
        if let Some(role) = &self.role {
            session.batch(&format!("SET ROLE {}", quote_identifier(role))).await?;
        }
        Ok(session)
    }

    pub(super) fn config(&self) -> Config {
        let mut config = Config::new();
        match &self.host {
            Host::Tcp(name) => config.host(name.as_str()),
            Host::Socket(directory) => config.host_path(directory),
        };
        config.port(self.port).user(&self.user).dbname(&self.database).application_name(&self.application_name);
        config.connect_timeout(self.connect_timeout).ssl_mode(self.driver_sslmode());
        if self.require_channel_binding {
            config.channel_binding(ChannelBinding::Require);
        }
        if let Some(password) = &self.password {
            config.password(password.expose_secret());
        }
        config
    }

    fn driver_sslmode(&self) -> DriverSslMode {
        match (&self.host, self.sslmode) {
            (Host::Socket(_), _) | (_, SslMode::Disable) => DriverSslMode::Disable,
            (_, SslMode::Allow | SslMode::Prefer) => DriverSslMode::Prefer,
            _ => DriverSslMode::Require,
        }
    }

    pub(super) fn tls(&self) -> Result<Option<MakeRustlsConnect>, PostgresError> {
        if self.driver_sslmode() == DriverSslMode::Disable {
            return Ok(None);
        }
        let config = tls::client_config(self.sslmode, &self.roots);
        let config = config.map_err(|error| error.during(&format!("connect to {self}")))?;
        Ok(Some(MakeRustlsConnect::new(config)))
    }

    async fn start<T>(&self, config: &Config, tls: T) -> Result<(Client, Driver), PostgresError>
    where
        T: MakeTlsConnect<Socket>,
        T::Stream: Send + 'static,
        T::TlsConnect: Send,
        <T::TlsConnect as TlsConnect<Socket>>::Future: Send,
    {
        // Each address of a name has the timeout to itself; the handshake and the login come on top.
        let connected = tokio::time::timeout(self.connect_timeout * 3, config.connect(tls)).await;
        let Ok(connected) = connected else {
            let message = format!("connect to {self}: no answer within {:?}", self.connect_timeout * 3);
            return Err(PostgresError::new(PostgresErrorKind::Unreachable, message).hint(self.hint_unreachable()));
        };
        let (client, driver) = connected.map_err(|error| self.refused(error))?;
        Ok((client, tokio::spawn(driver)))
    }

    fn refused(&self, error: tokio_postgres::Error) -> PostgresError {
        let failure = PostgresError::from_driver(format!("connect to {self}"), error);
        match (failure.kind, &failure.hint) {
            (PostgresErrorKind::Unreachable, None) => failure.hint(self.hint_unreachable()),
            (PostgresErrorKind::Authentication, None) => {
                let secret = if self.has_password() { "its password" } else { "a password (none was found)" };
                failure.hint(format!("check user {}, {secret}, and what pg_hba.conf lets in", self.user))
            }
            (PostgresErrorKind::Tls, None) => {
                let mode = self.sslmode.name();
                failure.hint(format!("sslmode={mode} never falls back to plain text: turn ssl on at the server"))
            }
            _ => failure,
        }
    }

    fn hint_unreachable(&self) -> String {
        format!("check that PostgreSQL runs and listens at {} port {}", self.host, self.port)
    }
}

impl fmt::Display for Connection {
    /// `user@host:port/database`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}:{}/{}", self.user, self.host, self.port, self.database)
    }
}

type Driver = JoinHandle<Result<(), tokio_postgres::Error>>;

/// An open connection. Dropping it closes it as soon as the runtime comes by, and with it every transaction and lock.
#[derive(Debug)]
pub struct Session {
    client: Client,
    driver: Driver,
    place: String,
}

impl Session {
    /// The driver's client, for queries.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// `user@host:port/database`, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Whether the connection is known to be gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Returns when the connection has ended, with the reason: at once when it is closed, and when it does not answer
    /// within `patience` to a question asked every so often. The same once `unless`, a query, answers true. Not to be
    /// called again.
    pub async fn ended(
        &mut self,
        every: Duration,
        patience: Duration,
        unless: (&str, &str),
        clock: &dyn Clock,
    ) -> String {
        let (query, reason) = unless;
        let Self { client, driver, .. } = self;
        let silent = async {
            loop {
                clock.sleep(every).await;
                match tokio::time::timeout(patience, client.query_one(query, &[])).await {
                    Ok(Ok(row)) if row.try_get(0).unwrap_or(false) => return reason.to_owned(),
                    Ok(Ok(_)) => {}
                    Ok(Err(error)) => return PostgresError::from(error).full_message(),
                    Err(_) => return format!("no answer within {patience:?}"),
                }
            }
        };
        tokio::select! {
            ended = driver => match ended {
                Ok(Err(error)) => PostgresError::from(error).full_message(),
                _ => "the connection was closed".to_owned(),
            },
            why = silent => why,
        }
    }

    /// Runs statements without parameters and drops their results.
    pub async fn batch(&self, statements: &str) -> Result<(), PostgresError> {
        self.client.batch_execute(statements).await.map_err(|error| self.failed("run a statement", error))
    }

    /// Ends the transaction that `done` came of: COMMIT where it is well, ROLLBACK where not. Of a rollback that cannot be
    /// said nothing is told: the server does it when the session ends, and the failure before it is the cause.
    pub async fn settle<T, E: From<PostgresError>>(&self, done: Result<T, E>) -> Result<T, E> {
        match &done {
            Ok(_) => self.batch("COMMIT").await?,
            Err(_) => {
                if let Err(error) = self.batch("ROLLBACK").await {
                    tracing::debug!(%error, "the transaction ends with its session");
                }
            }
        }
        done
    }

    /// The failure `error` of doing `what` here.
    pub fn failed(&self, what: &str, error: tokio_postgres::Error) -> PostgresError {
        PostgresError::from_driver(format!("{what} at {}", self.place), error)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}
