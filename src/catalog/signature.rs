//! Detached OpenPGP signatures over manifests and catalog entries: making them and checking them.
//!
//! Exactly one form is written and exactly that form is read: one binary version-4 signature packet whose subpackets are
//! all hashed. Anything else (armor, text mode, unhashed subpackets, a second packet, another encoding of the same
//! numbers) is refused, so that no byte of a signature can be altered unnoticed. Checking needs certificates only.

use std::fmt;
use std::io::Write as _;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use sequoia_openpgp as openpgp;

use openpgp::cert::prelude::*;
use openpgp::crypto::{KeyPair, Password};
use openpgp::packet::{Packet, Signature};
use openpgp::parse::stream::{DetachedVerifierBuilder, MessageLayer, MessageStructure, VerificationHelper};
use openpgp::parse::{PacketParser, PacketParserResult, Parse as _};
use openpgp::policy::StandardPolicy;
use openpgp::serialize::MarshalInto as _;
use openpgp::serialize::stream::{Message, Signer as MessageSigner};
use openpgp::types::SignatureType;

use crate::catalog::error::{CatalogError, CatalogErrorKind};

/// How far ahead of ours a signer's clock may be, in hours: hosts that check need not keep time as well as those that
/// sign, and a date says nothing that the catalog's order does not say better.
const CLOCK_TOLERANCE_HOURS: i64 = 24;

fn refused(message: impl Into<String>) -> CatalogError {
    CatalogError::new(CatalogErrorKind::Signature, message)
}

fn unusable(message: impl Into<String>) -> CatalogError {
    CatalogError::new(CatalogErrorKind::Key, message)
}

/// A key that signs.
#[derive(Clone)]
pub struct Signer {
    certificate: Cert,
    pair: KeyPair,
}

impl Signer {
    /// Reads a secret key, armored or binary, with its passphrase if it has one. `now` decides which of its keys is
    /// alive.
    pub fn from_secret_key(bytes: &[u8], passphrase: Option<&str>, now: DateTime<Utc>) -> Result<Self, CatalogError> {
        let certificate = Cert::from_bytes(bytes)
            .map_err(|error| unusable("read the signing key: it is no OpenPGP key").because(error))?;
        let policy = StandardPolicy::new();
        let keys = certificate.keys().secret().with_policy(&policy, SystemTime::from(now)).supported();
        let signing = keys.alive().revoked(false).for_signing().next();
        let Some(key) = signing.map(|key| key.key().clone()) else {
            let fingerprint = certificate.fingerprint();
            return Err(unusable(format!("use the signing key {fingerprint}: no valid secret signing key in it")));
        };
        let key = match passphrase {
            Some(passphrase) if !key.has_unencrypted_secret() => key
                .decrypt_secret(&Password::from(passphrase))
                .map_err(|error| unusable("unlock the signing key: wrong passphrase").because(error))?,
            _ => key,
        };
        let pair = key
            .into_keypair()
            .map_err(|error| unusable("use the signing key: it is locked by a passphrase").because(error))?;
        Ok(Self { certificate, pair })
    }

    /// The certificate others check our signatures with.
    pub fn certificate(&self) -> Cert {
        self.certificate.clone().strip_secret_key_material()
    }

    /// The full fingerprint of the certificate.
    pub fn fingerprint(&self) -> String {
        self.certificate.fingerprint().to_hex()
    }

    /// When the certificate was made.
    pub fn created(&self) -> DateTime<Utc> {
        self.certificate.primary_key().key().creation_time().into()
    }

    /// When the certificate, or its key that signs, expires; absent when neither does.
    pub fn expires(&self) -> Option<DateTime<Utc>> {
        let policy = StandardPolicy::new();
        let keys = self.certificate.keys().with_policy(&policy, None);
        let needed = keys.filter(|key| key.primary() || key.key().fingerprint() == self.pair.public().fingerprint());
        needed.filter_map(|key| key.key_expiration_time()).min().map(DateTime::from)
    }

    /// A detached binary signature over `document`, dated `now`.
    pub fn sign(&self, document: &[u8], now: DateTime<Utc>) -> Result<Vec<u8>, CatalogError> {
        let mut signature = Vec::new();
        let mut write = || -> openpgp::Result<()> {
            let signer = MessageSigner::new(Message::new(&mut signature), self.pair.clone())?;
            let mut signer = signer.detached().creation_time(SystemTime::from(now)).build()?;
            signer.write_all(document)?;
            signer.finalize()
        };
        write().map_err(|error| unusable("sign with the signing key").because(error))?;
        Ok(signature)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.fingerprint())
    }
}

/// Certificates whose signatures are trusted.
#[derive(Clone, Debug, Default)]
pub struct Verifier {
    certificates: Vec<Cert>,
}

impl Verifier {
    /// Trusts nobody yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Trusts `certificate` too.
    pub fn trust(&mut self, certificate: Cert) {
        self.certificates.push(certificate);
    }

    /// Trusts every certificate in `bytes`, armored or binary.
    pub fn trust_bytes(&mut self, bytes: &[u8]) -> Result<(), CatalogError> {
        let parser = CertParser::from_bytes(bytes)
            .map_err(|error| unusable("read a verification certificate").because(error))?;
        for certificate in parser {
            let certificate =
                certificate.map_err(|error| unusable("read a verification certificate").because(error))?;
            self.trust(certificate);
        }
        Ok(())
    }

    /// Checks `signature` over `document` as of `now` and gives the signer's fingerprint.
    pub fn verify(&self, document: &[u8], signature: &[u8], now: DateTime<Utc>) -> Result<String, CatalogError> {
        require_our_form(signature)?;
        let policy = StandardPolicy::new();
        let helper = Trust { certificates: &self.certificates, signer: None };
        let bad = |error| refused("check a signature").because(error);
        let latest = SystemTime::from(now + chrono::Duration::hours(CLOCK_TOLERANCE_HOURS));
        let mut verifier = DetachedVerifierBuilder::from_bytes(signature)
            .and_then(|builder| builder.with_policy(&policy, latest, helper))
            .map_err(bad)?;
        verifier.verify_bytes(document).map_err(bad)?;
        verifier.into_helper().signer.ok_or_else(|| refused("check a signature: nobody signed"))
    }
}

/// One binary version-4 packet, nothing unhashed, encoded as we encode it.
fn require_our_form(bytes: &[u8]) -> Result<(), CatalogError> {
    let other_form = || refused("accept a signature: it is not of the form that dbagent writes");
    let Ok(PacketParserResult::Some(parser)) = PacketParser::from_bytes(bytes) else { return Err(other_form()) };
    let Ok((Packet::Signature(signature), PacketParserResult::EOF(_))) = parser.next() else {
        return Err(other_form());
    };
    let plain = signature.version() == 4
        && signature.typ() == SignatureType::Binary
        && signature.unhashed_area().iter().next().is_none();
    let same = Packet::from(signature).to_vec().is_ok_and(|encoded| encoded == bytes);
    if plain && same { Ok(()) } else { Err(other_form()) }
}

struct Trust<'a> {
    certificates: &'a [Cert],
    signer: Option<String>,
}

impl VerificationHelper for Trust<'_> {
    fn get_certs(&mut self, _: &[openpgp::KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(self.certificates.to_vec())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        let refuse = |reason: &str| openpgp::Error::InvalidOperation(reason.to_owned());
        for layer in structure {
            let MessageLayer::SignatureGroup { results } = layer else {
                return Err(refuse("not a detached signature").into());
            };
            for result in results {
                let good = result.map_err(|error| refuse(&error.to_string()))?;
                if !prefix_is_honest(good.sig) {
                    return Err(refuse("the digest prefix was altered").into());
                }
                self.signer = Some(good.ka.cert().fingerprint().to_hex());
            }
        }
        Ok(())
    }
}

/// The two bytes of the digest that a signature repeats in the clear are covered by nothing else.
fn prefix_is_honest(signature: &Signature) -> bool {
    signature.computed_digest().is_some_and(|digest| digest.starts_with(signature.digest_prefix()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Duration;

    fn now() -> DateTime<Utc> {
        "2026-01-05T03:00:00Z".parse().unwrap()
    }

    fn key(valid_for: Option<Duration>) -> Vec<u8> {
        let mut builder = CertBuilder::new()
            .add_userid("dbagent signing")
            .add_signing_subkey()
            .set_creation_time(SystemTime::from(now()));
        if let Some(length) = valid_for {
            builder = builder.set_validity_period(length.to_std().unwrap());
        }
        let (certificate, _) = builder.generate().unwrap();
        certificate.as_tsk().to_vec().unwrap()
    }

    fn signer_and_verifier() -> (Signer, Verifier) {
        let signer = Signer::from_secret_key(&key(None), None, now()).unwrap();
        let mut verifier = Verifier::new();
        verifier.trust(signer.certificate());
        (signer, verifier)
    }

    #[test]
    fn what_was_signed_verifies_and_names_its_signer() {
        let (signer, verifier) = signer_and_verifier();
        let signature = signer.sign(b"document", now()).unwrap();
        assert_eq!(verifier.verify(b"document", &signature, now()).unwrap(), signer.fingerprint());
        assert!(verifier.verify(b"documenT", &signature, now()).is_err());
    }

    #[test]
    fn f45_every_flipped_bit_of_a_signature_is_found() {
        let (signer, verifier) = signer_and_verifier();
        let signature = signer.sign(b"document", now()).unwrap();
        for at in 0..signature.len() {
            for bit in 0..8 {
                let mut altered = signature.clone();
                altered[at] ^= 1 << bit;
                assert!(verifier.verify(b"document", &altered, now()).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn f46_a_shortened_or_lengthened_signature_is_refused() {
        let (signer, verifier) = signer_and_verifier();
        let mut signature = signer.sign(b"document", now()).unwrap();
        for length in 0..signature.len() {
            assert!(verifier.verify(b"document", &signature[..length], now()).is_err());
        }
        let once = signature.clone();
        signature.extend_from_slice(&once);
        assert!(verifier.verify(b"document", &signature, now()).is_err(), "two packets");
    }

    #[test]
    fn f52_a_signature_by_an_unknown_key_is_refused() {
        let (signer, _) = signer_and_verifier();
        let (_, stranger) = signer_and_verifier();
        let signature = signer.sign(b"document", now()).unwrap();
        assert!(stranger.verify(b"document", &signature, now()).is_err());
    }

    #[test]
    fn f52_a_signature_made_after_the_key_expired_is_refused() {
        let secret = key(Some(Duration::days(30)));
        let signer = Signer::from_secret_key(&secret, None, now()).unwrap();
        let mut verifier = Verifier::new();
        verifier.trust(signer.certificate());
        let late = now() + Duration::days(31);
        let in_time = signer.sign(b"document", now()).unwrap();
        assert!(verifier.verify(b"document", &in_time, late).is_ok(), "an old signature outlives its key");
        if let Ok(signature) = signer.sign(b"document", late) {
            assert!(verifier.verify(b"document", &signature, late).is_err());
        }
        assert!(Signer::from_secret_key(&secret, None, late).is_err());
    }

    #[test]
    fn a_certificate_without_secrets_cannot_sign() {
        let (signer, _) = signer_and_verifier();
        let public = signer.certificate().to_vec().unwrap();
        assert!(Signer::from_secret_key(&public, None, now()).is_err());
        assert!(Signer::from_secret_key(b"junk", None, now()).is_err());
    }
}
