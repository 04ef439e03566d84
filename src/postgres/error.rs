//! What goes wrong between us and PostgreSQL, sorted by what a caller can do about it.
//!
//! Holds no password and no connection string; the driver's own words stay behind as the source.

use std::error::Error;
use std::fmt;
use std::io;

use tokio_postgres::error::SqlState;

use crate::model::copy_binary::Malformed;
use crate::model::copy_text::NotARecord;
use crate::model::failure::with_causes;

/// What a caller decides on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostgresErrorKind {
    /// Nobody answers there, or the connection broke.
    Unreachable,
    /// The login was refused.
    Authentication,
    /// No trusted encrypted connection came about.
    Tls,
    /// The role may not do that.
    Permission,
    /// A lock was not had in time.
    LockTimeout,
    /// The statement was cancelled.
    Cancelled,
    /// A table, schema or database is not there.
    MissingObject,
    /// Another attempt may succeed.
    Transient,
    /// Anything else.
    Other,
}

/// A failure of PostgreSQL, of its client tools, or of reaching them.
#[derive(Debug)]
pub struct PostgresError {
    /// What a caller decides on.
    pub kind: PostgresErrorKind,
    /// What failed, on what: fits after "failed to".
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl PostgresError {
    /// A failure of `kind` with its message.
    pub fn new(kind: PostgresErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hint: None, source: None }
    }

    /// The same failure with what to do next.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same failure with what caused it.
    pub fn because(mut self, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The same failure, of a part of doing `what`.
    pub fn during(mut self, what: &str) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    /// A failure that the driver or the server told, sorted by its SQLSTATE (PostgreSQL manual, "Error Codes").
    pub fn from_driver(message: impl Into<String>, error: tokio_postgres::Error) -> Self {
        let failure = Self::new(kind_of(&error), message);
        let failure = match hint_of(&error) {
            Some(hint) => failure.hint(hint),
            None => failure,
        };
        failure.because(error)
    }

    /// Whether two rows would have had the same unique key.
    pub fn is_unique_violation(&self) -> bool {
        let driver = self.source.as_ref().and_then(|source| source.downcast_ref::<tokio_postgres::Error>());
        driver.and_then(tokio_postgres::Error::code) == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// The message followed by each cause, on one line.
    pub fn full_message(&self) -> String {
        with_causes(self)
    }
}

impl fmt::Display for PostgresError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for PostgresError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as &(dyn Error + 'static))
    }
}

fn kind_of(error: &tokio_postgres::Error) -> PostgresErrorKind {
    match error.code() {
        Some(state) => kind_of_state(state),
        None => kind_of_transport(error),
    }
}

fn kind_of_state(state: &SqlState) -> PostgresErrorKind {
    match state.code() {
        "42501" => PostgresErrorKind::Permission,
        "55P03" => PostgresErrorKind::LockTimeout,
        "42P01" | "3D000" | "3F000" | "42704" => PostgresErrorKind::MissingObject,
        "40001" | "40P01" | "57P01" | "57P02" | "57P03" => PostgresErrorKind::Transient,
        "57014" => PostgresErrorKind::Cancelled,
        code if code.starts_with("28") => PostgresErrorKind::Authentication,
        code if code.starts_with("53") => PostgresErrorKind::Transient,
        code if code.starts_with("08") => PostgresErrorKind::Unreachable,
        _ => PostgresErrorKind::Other,
    }
}

/// The driver does not publish the kinds of its own errors, but their texts are fixed.
fn kind_of_transport(error: &tokio_postgres::Error) -> PostgresErrorKind {
    match error.to_string().as_str() {
        _ if has_tls_cause(error) => PostgresErrorKind::Tls,
        "error performing TLS handshake" => PostgresErrorKind::Tls,
        "authentication error" | "invalid configuration" => PostgresErrorKind::Authentication,
        "error communicating with the server" | "error connecting to server" => PostgresErrorKind::Unreachable,
        "connection closed" | "timeout waiting for server" => PostgresErrorKind::Unreachable,
        _ => PostgresErrorKind::Other,
    }
}

/// The TLS library's error, which travels inside an I/O error.
fn tls_cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref::<rustls::Error>() {
        return Some(found);
    }
    let inside = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    let inside = inside.map(|error| error as &(dyn Error + 'static));
    inside.or_else(|| error.source()).and_then(tls_cause)
}

fn has_tls_cause(error: &tokio_postgres::Error) -> bool {
    tls_cause(error).is_some()
}

fn hint_of(error: &tokio_postgres::Error) -> Option<String> {
    use rustls::CertificateError as Certificate;
    if let Some(rustls::Error::InvalidCertificate(reason)) = tls_cause(error) {
        return Some(match reason {
            Certificate::Expired | Certificate::ExpiredContext { .. } => {
                "renew the server's certificate; it is never passed over".to_owned()
            }
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
                "connect by a name that the certificate holds, or give the server a certificate for this one".to_owned()
            }
            Certificate::UnknownIssuer => "set sslrootcert to the certificate of the authority that signed the \
                 server's; it is never passed over"
                .to_owned(),
            _ => "give the server a certificate that can be verified".to_owned(),
        });
    }
    hint_of_state(error)
}

fn hint_of_state(error: &tokio_postgres::Error) -> Option<String> {
    let said = error.as_db_error()?;
    if said.code() == &SqlState::T_R_SERIALIZATION_FAILURE && said.message().contains("recovery") {
        return Some(
            "a standby gave up the query for replay: set hot_standby_feedback = on there, or raise \
             max_standby_streaming_delay"
                .to_owned(),
        );
    }
    if said.code() == &SqlState::OUT_OF_MEMORY && said.message().contains("shared memory") {
        return Some("raise max_locks_per_transaction on the server: a dump locks every table it reads".to_owned());
    }
    said.hint().map(ToOwned::to_owned)
}

impl From<Malformed> for PostgresError {
    fn from(error: Malformed) -> Self {
        Self::new(PostgresErrorKind::Other, error.to_string())
    }
}

impl From<NotARecord> for PostgresError {
    fn from(error: NotARecord) -> Self {
        Self::new(PostgresErrorKind::Other, error.to_string())
    }
}
