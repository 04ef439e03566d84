//! OpenPGP (RFC 4880, RFC 9580): who may read an artifact, encrypting to them, decrypting, making keys.
//!
//! Uses sequoia; nothing of it but its writer and reader leaves this folder. The default message form is the one that
//! GnuPG 2.2 reads (SEIPDv1), forced, because sequoia would pick a newer one by itself. Time is always a parameter.

use sequoia_openpgp::types::Features;

mod decrypt;
mod encrypt;
mod generate;
mod recipients;

pub use decrypt::{DecryptionKeys, Plaintext};
pub use generate::{KeyPair, generate_encryption_pair, generate_signing_key};
pub use recipients::{Recipient, Recipients, Refusal, Refused, fingerprints};

/// The form of encrypted messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// SEIPDv1, AES-256 in CFB mode with a modification detection code: GnuPG 2.2 and everything later reads it.
    #[default]
    Gnupg,
    /// SEIPDv2, AEAD (RFC 9580): several times faster; every recipient must advertise it.
    Rfc9580,
}

impl Profile {
    /// What a certificate advertises whose holder reads this form (RFC 9580, section 5.2.3.32).
    fn features(self) -> Features {
        let gnupg = Features::empty().set_seipdv1();
        match self {
            Self::Gnupg => gnupg,
            Self::Rfc9580 => gnupg.set_seipdv2(),
        }
    }
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong with keys or messages.
#[derive(Debug, thiserror::Error)]
pub enum OpenPgpError {
    /// Recipients that must not be encrypted to, each with its reason.
    #[error("use the recipients: {}", join(.0))]
    Refused(Vec<Refused>),
    /// The message is not encrypted to exactly the recipients that were asked for.
    #[error("encrypt to every recipient: the message is for {found:?}, not for {wanted:?}")]
    WrongRecipients {
        /// Key ids asked for.
        wanted: Vec<String>,
        /// Key ids in the message.
        found: Vec<String>,
    },
    /// A file holds no key of the kind needed.
    #[error("read {what}")]
    Unreadable {
        /// What was to be read.
        what: &'static str,
        /// Why not.
        #[source]
        cause: Cause,
    },
    /// None of the keys at hand fits.
    #[error("decrypt the message: it needs the secret key of {}", .needed.join(" or "))]
    NoKey {
        /// Key ids, or fingerprints, that the message is encrypted to.
        needed: Vec<String>,
    },
    /// A secret key is locked and no passphrase, or a wrong one, was given.
    #[error("unlock the secret key {key}: {}", if *.given { "the passphrase is wrong" } else { "it needs a passphrase" })]
    Locked {
        /// Its fingerprint.
        key: String,
        /// Whether a passphrase was given.
        given: bool,
    },
    /// The message is not encrypted.
    #[error("decrypt the message: it is not encrypted")]
    NotEncrypted,
    /// Anything else, most often damage.
    #[error("{doing}")]
    Failed {
        /// What was being done.
        doing: &'static str,
        /// Why it failed.
        #[source]
        cause: Cause,
    },
}

impl OpenPgpError {
    fn failed(doing: &'static str, cause: impl Into<Cause>) -> Self {
        Self::Failed { doing, cause: cause.into() }
    }
}

fn join(refused: &[Refused]) -> String {
    refused.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}
