//! What the operator asked to connect to, and its one resolution into a [`Connection`].
//!
//! Precedence: explicit keys, then the URL, the service, the environment, the defaults; libpq's own order. The
//! environment is given, never read here. Files that hold a password are refused when others may read them.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};

use super::connection::{Connection, Host, RootCertificates, SslMode};
use super::error::{PostgresError, PostgresErrorKind};
use super::parameters::{Parameters, from_service_file, from_url};
use super::passfile::{Login, find_password};
use crate::host::durable::{read_bounded, read_secret_file};
use crate::host::{FileError, FileErrorKind};

/// Where Debian's and the official image's libpq look for the socket.
const DEFAULT_SOCKET_DIRECTORY: &str = "/var/run/postgresql";
const DEFAULT_PORT: u16 = 5432;
const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const LARGEST_SERVICE_FILE: u64 = 1 << 20;

/// Variables by keyword, the first that is set counts; those of the official image come last.
const VARIABLES: [(&str, &[&str]); 13] = [
    ("host", &["PGHOST"]),
    ("port", &["PGPORT"]),
    ("user", &["PGUSER", "POSTGRES_USER"]),
    ("dbname", &["PGDATABASE", "POSTGRES_DB"]),
    ("password", &["PGPASSWORD", "POSTGRES_PASSWORD"]),
    ("sslmode", &["PGSSLMODE"]),
    ("sslrootcert", &["PGSSLROOTCERT"]),
    ("application_name", &["PGAPPNAME"]),
    ("connect_timeout", &["PGCONNECT_TIMEOUT"]),
    ("passfile", &["PGPASSFILE"]),
    ("service", &["PGSERVICE"]),
    ("servicefile", &["PGSERVICEFILE"]),
    ("channel_binding", &["PGCHANNELBINDING"]),
];

/// What is known of a connection before anything is looked up. Absent fields are searched for further down.
#[derive(Clone, Default)]
pub struct ConnectionRequest {
    /// `postgres://user:password@host:port/database?sslmode=…`.
    pub url: Option<String>,
    /// Host name, address, or directory of the socket.
    pub host: Option<String>,
    /// Port, also part of a socket's name.
    pub port: Option<u16>,
    /// Login role.
    pub user: Option<String>,
    /// Database.
    pub database: Option<String>,
    /// libpq's `sslmode`.
    pub sslmode: Option<String>,
    /// File of trusted certificates, or `system`.
    pub sslrootcert: Option<String>,
    /// Password.
    pub password: Option<SecretString>,
    /// Section of the service file.
    pub service: Option<String>,
    /// Password file.
    pub passfile: Option<PathBuf>,
    /// Service file.
    pub service_file: Option<PathBuf>,
    /// Name shown in `pg_stat_activity`; `dbagent` when nothing says otherwise.
    pub application_name: Option<String>,
    /// Role to act as, by SET ROLE.
    pub role: Option<String>,
    /// Longest wait for a connection.
    pub connect_timeout: Option<Duration>,
    /// The environment to look into.
    pub environment: BTreeMap<String, String>,
}

impl fmt::Debug for ConnectionRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("ConnectionRequest");
        shown.field("host", &self.host).field("port", &self.port).field("user", &self.user);
        shown.field("database", &self.database).field("service", &self.service).finish_non_exhaustive()
    }
}

impl ConnectionRequest {
    /// Looks up what is missing. Reads the service file, the password file and `*_FILE` secrets, and nothing else.
    pub fn resolve(&self) -> Result<Connection, PostgresError> {
        let explicit = self.explicit();
        let url = match &self.url {
            Some(url) => from_url(url).map_err(|fault| refused(format!("read the connection URL: {fault}")))?,
            None => Parameters::new(),
        };
        let mut found = from_environment(&self.environment)?;
        let mut above = url;
        above.extend(explicit);
        let service = above.get("service").or_else(|| found.get("service")).cloned();
        if let Some(service) = service {
            let file = above.get("servicefile").or_else(|| found.get("servicefile")).cloned();
            found.extend(self.service_parameters(&service, file.as_deref())?);
        }
        found.extend(above);
        self.connection(&found)
    }

    fn explicit(&self) -> Parameters {
        let text = |path: &Option<PathBuf>| path.as_ref().map(|path| path.to_string_lossy().into_owned());
        let fields = [
            ("host", self.host.clone()),
            ("port", self.port.map(|port| port.to_string())),
            ("user", self.user.clone()),
            ("dbname", self.database.clone()),
            ("password", self.password.as_ref().map(|password| password.expose_secret().to_owned())),
            ("sslmode", self.sslmode.clone()),
            ("sslrootcert", self.sslrootcert.clone()),
            ("service", self.service.clone()),
            ("passfile", text(&self.passfile)),
            ("servicefile", text(&self.service_file)),
            ("application_name", self.application_name.clone()),
            ("connect_timeout", self.connect_timeout.map(|timeout| timeout.as_secs().max(1).to_string())),
        ];
        let given = fields.into_iter().filter_map(|(keyword, value)| Some((keyword.to_owned(), value?)));
        given.filter(|(_, value)| !value.is_empty()).collect()
    }

    fn home(&self) -> Option<&Path> {
        self.environment.get("HOME").filter(|home| !home.is_empty()).map(Path::new)
    }

    fn service_parameters(&self, service: &str, file: Option<&str>) -> Result<Parameters, PostgresError> {
        let system = self.environment.get("PGSYSCONFDIR").map_or("/etc/postgresql-common", String::as_str);
        let own = self.home().map(|home| home.join(".pg_service.conf"));
        let own = file.map(PathBuf::from).or(own);
        for path in own.into_iter().chain([Path::new(system).join("pg_service.conf")]) {
            let bytes = match read_bounded(&path, LARGEST_SERVICE_FILE) {
                Err(error) if error.kind == FileErrorKind::Missing => continue,
                read => read.map_err(|error| unreadable("read the service file", error))?,
            };
            let fault = |fault| refused(format!("read the service file {}: {fault}", path.display()));
            let text = String::from_utf8(bytes).map_err(|_| fault("it is not UTF-8".to_owned()))?;
            if let Some(found) = from_service_file(&text, service).map_err(fault)? {
                return Ok(found);
            }
        }
        let hint = "add the section to ~/.pg_service.conf, or name the file by service_file or PGSERVICEFILE";
        Err(refused(format!("find the connection service {service}")).hint(hint))
    }

    fn connection(&self, found: &Parameters) -> Result<Connection, PostgresError> {
        let get = |keyword: &str| found.get(keyword).map(String::as_str);
        let host = get("host").unwrap_or(DEFAULT_SOCKET_DIRECTORY);
        let port = get("port").map_or(Ok(DEFAULT_PORT), |port| number(port, "port"))?;
        let user = match get("user").or_else(|| self.system_user()) {
            Some(user) => user.to_owned(),
            None => return Err(refused("find the user to log in as").hint("set postgres.user, or PGUSER")),
        };
        let database = get("dbname").unwrap_or(&user).to_owned();
        let timeout = get("connect_timeout").map_or(Ok(None), |text| number(text, "connect_timeout").map(Some))?;
        let password = match get("password") {
            Some(password) => Some(SecretString::from(password)),
            None => self.password_from_file(get("passfile"), host, port, &database, &user)?,
        };
        let sslmode = get("sslmode").map_or(Ok(SslMode::default()), |text| text.parse().map_err(refused))?;
        let require_binding = match get("channel_binding") {
            None | Some("prefer" | "disable") => false,
            Some("require") => true,
            Some(_) => return Err(refused("read channel_binding: expected require, prefer or disable")),
        };
        Ok(Connection {
            host: Host::from_text(host).map_err(refused)?,
            port,
            user,
            database,
            sslmode,
            roots: get("sslrootcert").map_or(RootCertificates::Default, RootCertificates::from_text),
            require_channel_binding: require_binding,
            password,
            application_name: get("application_name").unwrap_or("dbagent").to_owned(),
            role: self.role.clone().filter(|role| !role.is_empty()),
            connect_timeout: timeout.map_or(DEFAULT_CONNECT_TIMEOUT, Duration::from_secs),
        })
    }

    fn system_user(&self) -> Option<&str> {
        let named = ["USER", "LOGNAME"].iter().find_map(|name| self.environment.get(*name));
        named.map(String::as_str).filter(|user| !user.is_empty())
    }

    fn password_from_file(
        &self,
        named: Option<&str>,
        host: &str,
        port: u16,
        database: &str,
        user: &str,
    ) -> Result<Option<SecretString>, PostgresError> {
        let own = self.home().map(|home| home.join(".pgpass"));
        let Some(path) = named.map(PathBuf::from).or(own) else { return Ok(None) };
        let text = match read_secret_file(&path) {
            Err(error) if error.kind == FileErrorKind::Missing && named.is_none() => return Ok(None),
            read => read.map_err(|error| unreadable("read the password file", error))?,
        };
        let host =
            if [DEFAULT_SOCKET_DIRECTORY, "/run/postgresql", "/tmp"].contains(&host) { "localhost" } else { host };
        Ok(find_password(text.expose_secret(), &Login { host, port, database, user }))
    }
}

fn from_environment(environment: &BTreeMap<String, String>) -> Result<Parameters, PostgresError> {
    let mut found = Parameters::new();
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    for (keyword, names) in VARIABLES {
        if let Some(value) = names.iter().find_map(|name| set(name)) {
            found.insert(keyword.to_owned(), value.clone());
        } else if let Some((name, file)) = names.iter().find_map(|name| Some((name, set(&format!("{name}_FILE"))?))) {
            let secret = read_secret_or_plain(name, Path::new(file))?;
            found.insert(keyword.to_owned(), secret);
        }
    }
    Ok(found)
}

/// `POSTGRES_PASSWORD_FILE` and its like; only a password's file has to be private.
fn read_secret_or_plain(variable: &str, path: &Path) -> Result<String, PostgresError> {
    let failed = |error| unreadable(&format!("follow {variable}_FILE"), error);
    if variable.ends_with("PASSWORD") {
        return Ok(read_secret_file(path).map_err(failed)?.expose_secret().to_owned());
    }
    let bytes = read_bounded(path, LARGEST_SERVICE_FILE).map_err(failed)?;
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

fn number<T: std::str::FromStr>(text: &str, keyword: &str) -> Result<T, PostgresError> {
    text.parse().map_err(|_| refused(format!("read {keyword} = {text:?} as a number")))
}

fn refused(message: impl Into<String>) -> PostgresError {
    PostgresError::new(PostgresErrorKind::Other, message)
}

fn unreadable(what: &str, error: FileError) -> PostgresError {
    refused(format!("{what}: {error}")).because(error)
}
