//! What a failed request means: the SDK's error and the store's code become one [`StorageError`].
//!
//! Codes differ between stores; where a code is unknown the HTTP status decides. HEAD has no body, so there only the
//! status is known: a 404 is the object or the bucket, a 403 the right or the login.

use std::error::Error;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::storage::{StorageError, StorageErrorKind};

/// The error of doing `what`, as S3 tells it.
pub(super) fn error_of<E>(what: &str, error: &SdkError<E, HttpResponse>) -> StorageError
where
    E: ProvideErrorMetadata + Error + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(context) => answered(what, context.err(), context.raw()),
        SdkError::TimeoutError(_) => new(StorageErrorKind::Transient, what, "no connection in time"),
        // Cut or garbled on the way: what became of the request is unknown.
        SdkError::ResponseError(_) => new(StorageErrorKind::Transient, what, causes(error)),
        SdkError::DispatchFailure(_) | SdkError::ConstructionFailure(_) => {
            let (kind, why) = undelivered(error);
            new(kind, what, why)
        }
        _ => new(StorageErrorKind::Other, what, causes(error)),
    }
}

/// Whether the store thinks that our clock is wrong; the SDK has then learned the difference from `Date`.
pub(super) fn is_skew<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>) -> bool {
    matches!(error, SdkError::ServiceError(context) if context.err().code() == Some("RequestTimeTooSkewed"))
}

fn answered(what: &str, error: &impl ProvideErrorMetadata, raw: &HttpResponse) -> StorageError {
    let status = raw.status().as_u16();
    let code = error.code().unwrap_or_default();
    let kind = kind_of(status, code);
    let why = match (code, error.message()) {
        ("NoSuchBucket", _) => "there is no such bucket".to_owned(),
        ("InvalidObjectState", _) => "it is archived and has to be thawed before it can be read".to_owned(),
        ("RequestTimeTooSkewed", _) => "the clock of this machine differs too much from the store's".to_owned(),
        _ if is_elsewhere(status, code) => elsewhere(raw),
        ("", _) => format!("the store answers {status}"),
        (code, Some(message)) => format!("{code}: {message}"),
        (code, None) => format!("{code} ({status})"),
    };
    let mut told = new(kind, what, why);
    told.retry_after = retry_after(raw);
    told
}

fn kind_of(status: u16, code: &str) -> StorageErrorKind {
    match code {
        "NoSuchKey" | "NotFound" | "NoSuchVersion" | "NoSuchBucket" | "NoSuchUpload" => StorageErrorKind::Missing,
        "PreconditionFailed" => StorageErrorKind::Exists,
        "InvalidObjectState" => StorageErrorKind::Archived,
        "AccessDenied" => StorageErrorKind::Denied,
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => StorageErrorKind::Expired,
        "QuotaExceeded" | "XMinioStorageFull" | "InsufficientStorage" => StorageErrorKind::Full,
        "RequestTimeTooSkewed" | "NotImplemented" => StorageErrorKind::Other,
        "SlowDown"
        | "RequestTimeout"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "InternalError"
        | "ServiceUnavailable"
        | "OperationAborted"
        | "ConditionalRequestConflict"
        | "BadDigest"
        | "XAmzContentSHA256Mismatch"
        | "IncompleteBody" => StorageErrorKind::Transient,
        _ => kind_of_status(status),
    }
}

fn kind_of_status(status: u16) -> StorageErrorKind {
    match status {
        404 => StorageErrorKind::Missing,
        412 => StorageErrorKind::Exists,
        401 | 403 => StorageErrorKind::Denied,
        507 => StorageErrorKind::Full,
        408 | 429 | 500 | 502..=506 | 508.. => StorageErrorKind::Transient,
        _ => StorageErrorKind::Other,
    }
}

fn is_elsewhere(status: u16, code: &str) -> bool {
    matches!(code, "PermanentRedirect" | "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException")
        || matches!(status, 301 | 307)
}

fn elsewhere(raw: &HttpResponse) -> String {
    let body = raw.body().bytes().and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let in_body = body.split_once("<Region>").and_then(|(_, rest)| rest.split_once("</Region>")).map(|(name, _)| name);
    match raw.headers().get("x-amz-bucket-region").or(in_body) {
        Some(region) => format!("the bucket is in the region {region}, which is not the configured one"),
        None => "the bucket is in another region or at another endpoint".to_owned(),
    }
}

fn retry_after(raw: &HttpResponse) -> Option<Duration> {
    // Seconds only: stores do not send the date form.
    raw.headers().get("retry-after")?.parse().ok().map(Duration::from_secs)
}

/// A request that got no answer: what in the chain of causes says whether it is worth another try.
fn undelivered(error: &(dyn Error + 'static)) -> (StorageErrorKind, String) {
    if let Some(error) = chain(error).find_map(|cause| cause.downcast_ref::<CredentialsError>()) {
        let kind = match error {
            CredentialsError::CredentialsNotLoaded(_) | CredentialsError::InvalidConfiguration(_) => {
                StorageErrorKind::Denied
            }
            // The metadata service or the token service is down.
            _ => StorageErrorKind::Transient,
        };
        return (kind, format!("no credentials: {}", causes(error)));
    }
    match tls_error(error) {
        Some(rustls::Error::InvalidCertificate(why)) => {
            (StorageErrorKind::Denied, format!("the store's certificate is not to be trusted: {why}"))
        }
        _ => (StorageErrorKind::Transient, causes(error)),
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (**error).source())
}

/// The TLS error among the causes. I/O errors hide it: their `source` is what comes after the error they hold.
fn tls_error<'a>(cause: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = cause.downcast_ref() {
        return Some(error);
    }
    match cause.downcast_ref::<std::io::Error>() {
        Some(error) => tls_error(error.get_ref()?),
        None => tls_error(cause.source()?),
    }
}

/// The chain of causes on one line, each once.
fn causes(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    for cause in chain(error) {
        let next = cause.to_string();
        if !text.contains(&next) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&next);
        }
    }
    text
}

fn new(kind: StorageErrorKind, what: &str, why: impl AsRef<str>) -> StorageError {
    StorageError::new(kind, format!("{what}: {}", why.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use StorageErrorKind::*;

    #[test]
    fn codes_and_statuses_mean_what_a_caller_decides_on() {
        let table = [
            (404, "NoSuchKey", Missing),
            (404, "", Missing),
            (412, "PreconditionFailed", Exists),
            (412, "", Exists),
            (409, "ConditionalRequestConflict", Transient),
            (403, "AccessDenied", Denied),
            (403, "", Denied),
            (400, "ExpiredToken", Expired),
            (403, "InvalidObjectState", Archived),
            (503, "SlowDown", Transient),
            (500, "InternalError", Transient),
            (502, "", Transient),
            (429, "", Transient),
            (400, "RequestTimeout", Transient),
            (501, "NotImplemented", Other),
            (507, "", Full),
            (403, "QuotaExceeded", Full),
            (301, "PermanentRedirect", Other),
            (403, "RequestTimeTooSkewed", Other),
            (403, "SignatureDoesNotMatch", Denied),
            (200, "InternalError", Transient),
            (200, "AccessDenied", Denied),
            (200, "", Other),
            (400, "EntityTooSmall", Other),
        ];
        for (status, code, kind) in table {
            assert_eq!(kind_of(status, code), kind, "{status} {code}");
        }
    }
}
