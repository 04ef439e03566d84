//! What an operator can do about a failed pipeline.

use super::PipelineError;
use super::archive::ArchiveError;
use super::openpgp::OpenPgpError;
use crate::model::failure::{Failure, FailureKind};
use crate::storage::StorageError;

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
            PipelineError::NoDestination(errors) => nobody_took_it(errors, message),
            other => Self::new(FailureKind::Failed, message).because(other),
        }
    }
}

/// Kind and remedy are the first one's; the reasons are everybody's.
fn nobody_took_it(errors: Vec<(String, StorageError)>, message: String) -> Failure {
    let failures: Vec<(String, Failure)> = errors.into_iter().map(|(name, error)| (name, error.into())).collect();
    let Some((_, first)) = failures.first() else { return Failure::new(FailureKind::Failed, message) };
    let reasons = failures.iter().map(|(name, failure)| format!("{name}: {}", failure.full_message()));
    let message = format!("store it anywhere: {}", reasons.collect::<Vec<_>>().join("; "));
    let failure = Failure::new(first.kind, message);
    match &first.hint {
        Some(hint) => failure.hint(hint),
        None => failure,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::StorageErrorKind;

    #[test]
    fn f17_when_nobody_takes_it_every_reason_is_told_and_the_first_ones_remedy() {
        let full =
            StorageError::new(StorageErrorKind::Full, "write 8192 bytes to /x").because("No space left on device");
        let denied = StorageError::new(StorageErrorKind::Denied, "write to s3://b");
        let failure = Failure::from(PipelineError::NoDestination(vec![("local".into(), full), ("s3".into(), denied)]));
        assert_eq!(
            failure.full_message(),
            "store it anywhere: local: write 8192 bytes to /x: No space left on device; s3: write to s3://b"
        );
        assert!(failure.kind == FailureKind::Failed && failure.hint.unwrap().contains("room"));
    }
}
