//! Recipients: certificates that were pinned by fingerprint and may be encrypted to at a given time.
//!
//! Refuses what would make a backup unreadable or readable by the wrong people: an expired, revoked, weak or unpinned
//! certificate, one without an encryption key, and a file that holds a secret key, which has no business on this host.
//! All refusals are told at once.

use std::fmt;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use sequoia_openpgp as openpgp;

use openpgp::cert::Preferences;
use openpgp::cert::amalgamation::key::ValidErasedKeyAmalgamation;
use openpgp::cert::amalgamation::{ValidAmalgamation, ValidateAmalgamation};
use openpgp::cert::prelude::{Cert, CertParser, ValidCert};
use openpgp::crypto::mpi;
use openpgp::packet::Key;
use openpgp::packet::key::{PublicParts, UnspecifiedRole};
use openpgp::parse::Parse;
use openpgp::policy::{AsymmetricAlgorithm, StandardPolicy};
use openpgp::types::{HashAlgorithm, RevocationStatus};

use super::{OpenPgpError, Profile};

/// Warnings are due when no more than this many days are left.
const WARNING_DAYS: [i64; 3] = [1, 7, 30];
const WEAKEST_RSA_BITS: usize = 2048;

/// One certificate that may be encrypted to.
#[derive(Clone, Debug)]
pub struct Recipient {
    /// Full fingerprint of the certificate, upper-case hexadecimal.
    pub fingerprint: String,
    /// Its first user id.
    pub user_id: String,
    /// When it was made.
    pub created: DateTime<Utc>,
    /// When it, or its encryption key, expires.
    pub expires: Option<DateTime<Utc>>,
    pub(super) key: Key<PublicParts, UnspecifiedRole>,
}

impl Recipient {
    /// The warning that is due: expires within 1, 7 or 30 days.
    pub fn warning(&self, now: DateTime<Utc>) -> Option<i64> {
        let left = self.expires?.signed_duration_since(now);
        WARNING_DAYS.into_iter().find(|days| left <= chrono::Duration::days(*days))
    }
}

/// Why a certificate is not encrypted to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its fingerprint is not among the pinned ones.
    NotPinned,
    /// A fingerprint is pinned, and no certificate with it was given.
    NoCertificate,
    /// A pin is not a full fingerprint of 40 or 64 hexadecimal digits.
    NotAFingerprint,
    /// It, or its encryption key, expired.
    Expired(DateTime<Utc>),
    /// It is not valid yet.
    NotYetValid,
    /// It, or its encryption key, was revoked.
    Revoked,
    /// It has no key for encryption.
    NotForEncryption,
    /// An RSA key of fewer than 2,048 bits.
    WeakRsa(usize),
    /// It rests on weak cryptography, such as SHA-1 binding signatures.
    Weak(String),
    /// The file holds the secret key too.
    HasSecretKey,
    /// It does not advertise what the rfc9580 profile needs.
    NotRfc9580,
    /// The file cannot be read as certificates.
    Unreadable(String),
    /// Nobody at all is pinned.
    NobodyPinned,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPinned => f.write_str("its fingerprint is not pinned"),
            Self::NoCertificate => f.write_str("no certificate with this fingerprint was given"),
            Self::NotAFingerprint => f.write_str("it is not a full fingerprint of 40 or 64 hexadecimal digits"),
            Self::Expired(at) => write!(f, "it expired on {}", at.format("%Y-%m-%d")),
            Self::NotYetValid => f.write_str("it is not valid yet"),
            Self::Revoked => f.write_str("it was revoked"),
            Self::NotForEncryption => f.write_str("it has no key for encryption"),
            Self::WeakRsa(bits) => write!(f, "its RSA key has {bits} bits, fewer than {WEAKEST_RSA_BITS}"),
            Self::Weak(why) => write!(f, "it rests on weak cryptography: {why}"),
            Self::HasSecretKey => f.write_str("the file holds its secret key; give the public certificate only"),
            Self::NotRfc9580 => f.write_str("it does not advertise what the rfc9580 profile needs"),
            Self::Unreadable(why) => write!(f, "it cannot be read: {why}"),
            Self::NobodyPinned => f.write_str("no fingerprint is pinned"),
        }
    }
}

/// A certificate, pin or file that is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Fingerprint, pin, or place in the list of files.
    pub who: String,
    /// Why.
    pub why: Refusal,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.who, self.why)
    }
}

/// Everybody an artifact is encrypted to.
#[derive(Clone, Debug)]
pub struct Recipients {
    pub(super) list: Vec<Recipient>,
    pub(super) profile: Profile,
}

impl Recipients {
    /// Reads `files` (certificates, armored or binary) and holds them against the `pinned` full fingerprints: each must
    /// have its certificate, each certificate its pin, and all must be fit for encryption at `now`.
    pub fn new(
        files: &[impl AsRef<[u8]>],
        pinned: &[impl AsRef<str>],
        profile: Profile,
        now: DateTime<Utc>,
    ) -> Result<Self, OpenPgpError> {
        let mut refused = Vec::new();
        let pins = pins(pinned, &mut refused);
        let certificates = certificates(files, &mut refused);
        let mut list: Vec<Recipient> = Vec::new();
        for certificate in &certificates {
            match assess(certificate, &pins, profile, now) {
                Ok(recipient) if list.iter().any(|known| known.fingerprint == recipient.fingerprint) => {}
                Ok(recipient) => list.push(recipient),
                Err(why) => refused.push(Refused { who: certificate.fingerprint().to_hex(), why }),
            }
        }
        let given: Vec<String> = certificates.iter().map(|certificate| certificate.fingerprint().to_hex()).collect();
        let missing = pins.into_iter().filter(|pin| !given.contains(pin));
        refused.extend(missing.map(|who| Refused { who, why: Refusal::NoCertificate }));
        match refused.is_empty() {
            true => Ok(Self { list, profile }),
            false => Err(OpenPgpError::Refused(refused)),
        }
    }

    /// The recipients, in the order of their files.
    pub fn list(&self) -> &[Recipient] {
        &self.list
    }

    /// Their full fingerprints, for the manifest.
    pub fn fingerprints(&self) -> Vec<String> {
        self.list.iter().map(|recipient| recipient.fingerprint.clone()).collect()
    }
}

/// The full fingerprints of the certificates in `file`, for a person to compare and to pin. Judges nothing.
pub fn fingerprints(file: &[u8]) -> Result<Vec<String>, OpenPgpError> {
    let mut refused = Vec::new();
    let found = certificates(&[file], &mut refused);
    match refused.is_empty() {
        true => Ok(found.iter().map(|certificate| certificate.fingerprint().to_hex()).collect()),
        false => Err(OpenPgpError::Refused(refused)),
    }
}

/// Pins as `to_hex` writes fingerprints; gpg prints them in groups.
fn pins(pinned: &[impl AsRef<str>], refused: &mut Vec<Refused>) -> Vec<String> {
    let mut pins = Vec::new();
    for text in pinned.iter().map(AsRef::as_ref) {
        let pin: String = text.chars().filter(|c| !c.is_whitespace()).collect::<String>().to_ascii_uppercase();
        match matches!(pin.len(), 40 | 64) && pin.chars().all(|c| c.is_ascii_hexdigit()) {
            true => pins.push(pin),
            false => refused.push(Refused { who: text.to_owned(), why: Refusal::NotAFingerprint }),
        }
    }
    if pinned.is_empty() {
        refused.push(Refused { who: "encryption".into(), why: Refusal::NobodyPinned });
    }
    pins
}

fn certificates(files: &[impl AsRef<[u8]>], refused: &mut Vec<Refused>) -> Vec<Cert> {
    let mut certificates = Vec::new();
    for (index, file) in files.iter().enumerate() {
        let read = CertParser::from_bytes(file.as_ref()).and_then(Iterator::collect::<openpgp::Result<Vec<Cert>>>);
        let why = match read {
            Ok(read) if read.is_empty() => "it holds no certificate".to_owned(),
            Ok(read) => {
                certificates.extend(read);
                continue;
            }
            Err(error) => format!("{error:#}"),
        };
        refused.push(Refused { who: format!("certificate file {}", index + 1), why: Refusal::Unreadable(why) });
    }
    certificates
}

fn assess(certificate: &Cert, pins: &[String], profile: Profile, now: DateTime<Utc>) -> Result<Recipient, Refusal> {
    let fingerprint = certificate.fingerprint().to_hex();
    if !pins.contains(&fingerprint) {
        return Err(Refusal::NotPinned);
    }
    if certificate.is_tsk() {
        return Err(Refusal::HasSecretKey);
    }
    strong_enough(certificate.primary_key().key().role_as_unspecified())?;
    let now = SystemTime::from(now);
    let policy = StandardPolicy::at(now);
    let valid = certificate.with_policy(&policy, now).map_err(|error| Refusal::Weak(format!("{error:#}")))?;
    if matches!(valid.revocation_status(), RevocationStatus::Revoked(_)) {
        return Err(Refusal::Revoked);
    }
    let expiry = valid.primary_key().key_expiration_time();
    alive(valid.alive().is_ok(), expiry, now)?;
    let key = encryption_key(&valid, now)?;
    if profile == Profile::Rfc9580 && !valid.features().is_some_and(|features| features.supports_seipdv2()) {
        return Err(Refusal::NotRfc9580);
    }
    let user_id = certificate.userids().next().map(|id| String::from_utf8_lossy(id.userid().value()).into_owned());
    Ok(Recipient {
        fingerprint,
        user_id: user_id.unwrap_or_default(),
        created: certificate.primary_key().key().creation_time().into(),
        expires: expiry.into_iter().chain(key.key_expiration_time()).min().map(DateTime::from),
        key: key.key().clone(),
    })
}

/// The newest key that may be encrypted to, as gpg would pick it.
fn encryption_key<'a>(
    valid: &ValidCert<'a>,
    now: SystemTime,
) -> Result<ValidErasedKeyAmalgamation<'a, PublicParts>, Refusal> {
    let mut refusal = without_encryption_key(valid, now);
    let mut best: Option<ValidErasedKeyAmalgamation<'a, PublicParts>> = None;
    for key in valid.keys().supported().for_transport_encryption().for_storage_encryption() {
        let fit = match key.revocation_status() {
            RevocationStatus::Revoked(_) => Err(Refusal::Revoked),
            _ => alive(key.alive().is_ok(), key.key_expiration_time(), now).and(strong_enough(key.key())),
        };
        match fit {
            Err(why) => refusal = why,
            Ok(()) if best.as_ref().is_some_and(|best| best.key().creation_time() > key.key().creation_time()) => {}
            Ok(()) => best = Some(key),
        }
    }
    best.ok_or(refusal)
}

fn alive(alive: bool, expiry: Option<SystemTime>, now: SystemTime) -> Result<(), Refusal> {
    match (alive, expiry) {
        (true, _) => Ok(()),
        (false, Some(expiry)) if expiry <= now => Err(Refusal::Expired(expiry.into())),
        (false, _) => Err(Refusal::NotYetValid),
    }
}

/// Why no key for encryption passes the policy: there is none, or one that is too weak to count.
fn without_encryption_key(valid: &ValidCert<'_>, now: SystemTime) -> Refusal {
    let mut lax = StandardPolicy::new();
    lax.accept_hash(HashAlgorithm::SHA1);
    lax.accept_hash(HashAlgorithm::MD5);
    lax.accept_asymmetric_algo(AsymmetricAlgorithm::RSA1024);
    for key in valid.cert().keys().with_policy(&lax, now).for_transport_encryption().for_storage_encryption() {
        if let Err(why) = strong_enough(key.key()) {
            return why;
        }
        let strict = key.amalgamation().clone().with_policy(valid.policy(), now);
        if let Err(error) = strict {
            return Refusal::Weak(format!("{error:#}"));
        }
    }
    Refusal::NotForEncryption
}

fn strong_enough(key: &Key<PublicParts, UnspecifiedRole>) -> Result<(), Refusal> {
    match (key.mpis(), key.mpis().bits()) {
        (mpi::PublicKey::RSA { .. }, Some(bits)) if bits < WEAKEST_RSA_BITS => Err(Refusal::WeakRsa(bits)),
        _ => Ok(()),
    }
}
