//! What an operator can do about a failed pipeline.

use super::PipelineError;
use super::archive::ArchiveError;
use super::openpgp::OpenPgpError;
use crate::model::failure::{Failure, FailureKind};

impl From<PipelineError> for Failure {
    fn from(error: PipelineError) -> Self {
        let message = error.to_string();
        match error {
            PipelineError::Storage(error) => error.into(),
            PipelineError::OpenPgp(error) => error.into(),
            PipelineError::Archive(error) => error.into(),
            PipelineError::Corrupt { .. } | PipelineError::UnknownEncoding(_) => {
                Self::new(FailureKind::Integrity, message)
                    .hint("Use another copy or another backup: `dbagent backup list` shows them.")
            }
            PipelineError::NoKeys(_) => Self::new(FailureKind::Authentication, message)
                .hint("Set encryption.decryption_key in dbagent.toml to the private key's file."),
            PipelineError::Stopped => {
                Self::new(FailureKind::Failed, message).hint("Nothing was committed; run it again.")
            }
            PipelineError::NoDestination(errors) => match errors.into_iter().next() {
                Some((_, first)) => Self::new(Self::from(first).kind, message),
                None => Self::new(FailureKind::Failed, message),
            },
            other => Self::new(FailureKind::Failed, message).because(other),
        }
    }
}

impl From<ArchiveError> for Failure {
    fn from(error: ArchiveError) -> Self {
        Self::new(FailureKind::Integrity, error.to_string()).because(error)
    }
}

impl From<OpenPgpError> for Failure {
    fn from(error: OpenPgpError) -> Self {
        Self::new(FailureKind::Authentication, error.to_string())
            .hint("`dbagent check` looks at every key; [encryption] in dbagent.toml names them.")
            .because(error)
    }
}
