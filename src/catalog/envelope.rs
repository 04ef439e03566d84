//! A text and a signature over exactly that text in one object: for documents that one write must make complete.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::signature::{Signer, Verifier};

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    entry: String,
    signature: String,
}

/// The bytes to store for `text`, signed at `now`.
pub(in crate::catalog) fn seal(text: String, signer: &Signer, now: DateTime<Utc>) -> Result<Vec<u8>, CatalogError> {
    let signature = STANDARD.encode(signer.sign(text.as_bytes(), now)?);
    serde_json::to_vec_pretty(&Envelope { entry: text, signature }).map_err(malformed)
}

/// The text of stored bytes, its signature checked.
pub(in crate::catalog) fn unseal(
    stored: &[u8],
    verifier: &Verifier,
    now: DateTime<Utc>,
) -> Result<String, CatalogError> {
    let envelope: Envelope = serde_json::from_slice(stored).map_err(malformed)?;
    let signature = STANDARD.decode(&envelope.signature).map_err(malformed)?;
    verifier.verify(envelope.entry.as_bytes(), &signature, now)?;
    Ok(envelope.entry)
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> CatalogError {
    CatalogError::new(CatalogErrorKind::Malformed, "read a signed document").because(error)
}
