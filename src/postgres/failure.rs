//! What an operator can do about a failure of PostgreSQL.

use super::error::{PostgresError, PostgresErrorKind};
use crate::host::ChildError;
use crate::model::failure::{Failure, FailureKind};

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> Self {
        let said = error.as_db_error().map(|said| format!("run a statement: {}", said.message()));
        Self::from_driver(said.unwrap_or_else(|| "run a statement".to_owned()), error)
    }
}

impl From<PostgresError> for Failure {
    fn from(error: PostgresError) -> Self {
        let kind = match error.kind {
            PostgresErrorKind::Authentication | PostgresErrorKind::Tls => FailureKind::Authentication,
            PostgresErrorKind::MissingObject => FailureKind::NothingMatches,
            _ => FailureKind::Failed,
        };
        let hint = error.hint.clone();
        let failure = Self::new(kind, error.message.clone()).because(error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }
}

impl From<ChildError> for Failure {
    fn from(error: ChildError) -> Self {
        Self::new(FailureKind::Failed, error.to_string())
    }
}
