//! The login of a client tool: variables and files for pg_dump and pg_restore, from the same [`Connection`].
//!
//! The password goes through a private password file, in memory where the machine has a memory file system; never into
//! arguments or the environment, which other users or a crash report could show. The tool's home is that directory too,
//! so that no `~/.pgpass` or `~/.postgresql` of whoever runs us changes what it does.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use secrecy::{ExposeSecret as _, SecretString};
use tempfile::TempDir;

use super::connection::{Connection, Host, RootCertificates};
use super::error::{PostgresError, PostgresErrorKind};
use super::passfile;
use super::tls::{self, Checks};
use crate::host::FileError;
use crate::host::durable::{temporary_directory, write_new};

const MEMORY: &str = "/dev/shm";
/// Settings that the text of a row depends on and pg_dump does not set itself; a database or role may set them otherwise.
/// And no compiled expressions: a COPY or a check of a foreign key runs once, so that compiling costs more than it gains.
const OPTIONS: &str = "-c bytea_output=hex -c TimeZone=UTC -c lc_monetary=C -c jit=off";

/// A login for child processes. Its files are removed when it is dropped: keep it for as long as the child runs.
#[derive(Debug)]
pub struct ChildEnvironment {
    directory: TempDir,
    variables: BTreeMap<OsString, OsString>,
    role: Option<String>,
}

impl ChildEnvironment {
    /// The variables to give to the child.
    pub fn variables(&self) -> &BTreeMap<OsString, OsString> {
        &self.variables
    }

    /// The argument that makes a tool act as our role: a login that inherits nothing can do nothing else.
    pub(super) fn role_argument(&self) -> Option<OsString> {
        self.role.as_ref().map(|role| format!("--role={role}").into())
    }

    /// The private directory of its files.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn set(&mut self, name: &str, value: impl Into<OsString>) {
        self.variables.insert(name.into(), value.into());
    }

    fn write(&self, name: &str, content: &str) -> Result<PathBuf, PostgresError> {
        let path = self.directory.path().join(name);
        write_new(&path, content.as_bytes()).map_err(unmade)?;
        Ok(path)
    }
}

impl Connection {
    /// Makes the environment in which the client tools log in as we do.
    pub fn child_environment(&self) -> Result<ChildEnvironment, PostgresError> {
        let memory = Some(PathBuf::from(MEMORY)).filter(|place| place.is_dir());
        let made = memory.and_then(|place| temporary_directory("dbagent-login-", &place, None).ok());
        let directory = match made {
            Some(directory) => directory,
            None => temporary_directory("dbagent-login-", &std::env::temp_dir(), None).map_err(unmade)?,
        };
        let mut login = ChildEnvironment { directory, variables: BTreeMap::new(), role: self.role.clone() };
        self.set_place(&mut login);
        self.set_password(&mut login)?;
        self.set_roots(&mut login)?;
        Ok(login)
    }

    fn set_place(&self, login: &mut ChildEnvironment) {
        login.set("HOME", login.directory().to_owned());
        match &self.host {
            Host::Tcp(name) => login.set("PGHOST", name),
            Host::Socket(directory) => login.set("PGHOST", directory),
        }
        login.set("PGPORT", self.port.to_string());
        login.set("PGUSER", &self.user);
        login.set("PGDATABASE", &self.database);
        login.set("PGAPPNAME", &self.application_name);
        login.set("PGOPTIONS", OPTIONS);
        login.set("PGSSLMODE", self.sslmode.name());
        login.set("PGCONNECT_TIMEOUT", self.connect_timeout.as_secs().max(1).to_string());
        if self.require_channel_binding {
            login.set("PGCHANNELBINDING", "require");
        }
    }

    fn set_password(&self, login: &mut ChildEnvironment) -> Result<(), PostgresError> {
        let content = match &self.password {
            None => SecretString::default(),
            Some(password) => passfile::file_for(password).ok_or_else(|| {
                PostgresError::new(PostgresErrorKind::Authentication, "write a password file for the client tools")
                    .hint("the password has a line end in it, which PostgreSQL's password file cannot hold")
            })?,
        };
        let path = login.write("pgpass", content.expose_secret())?;
        login.set("PGPASSFILE", path);
        Ok(())
    }

    /// What we trust is what the tools trust: libpq before 16 does not know the system's certificates.
    fn set_roots(&self, login: &mut ChildEnvironment) -> Result<(), PostgresError> {
        if tls::checks(self.sslmode, &self.roots) == Checks::Nothing {
            return Ok(());
        }
        let path = match &self.roots {
            RootCertificates::File(path) => std::path::absolute(path).unwrap_or_else(|_| path.clone()),
            _ => login.write("roots.pem", &pem(&tls::certificates(&self.roots)?))?,
        };
        login.set("PGSSLROOTCERT", path);
        Ok(())
    }
}

/// Certificates as PEM text (RFC 7468).
fn pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        for start in (0..encoded.len()).step_by(64) {
            text.push_str(&encoded[start..encoded.len().min(start + 64)]);
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

fn unmade(error: FileError) -> PostgresError {
    PostgresError::new(PostgresErrorKind::Other, "make a login for the client tools").because(error)
}
