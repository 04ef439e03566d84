//! Decrypts a message while it streams, and fails on any change to it.
//!
//! The last megabyte is held back until the message's own integrity code has been checked, so that a message that
//! fits is verified whole before its first byte is given out; of a longer one the beginning is given out unverified,
//! and whoever reads it must not use it before the end. Legacy messages without an integrity code are refused.

use std::io::{self, Read};
use std::sync::{Arc, Mutex, PoisonError};

use secrecy::{ExposeSecret, SecretString};
use sequoia_openpgp as openpgp;

use openpgp::cert::prelude::{Cert, CertParser};
use openpgp::crypto::{Password, SessionKey};
use openpgp::packet::key::{SecretKeyMaterial, SecretParts, UnspecifiedRole};
use openpgp::packet::{Key, PKESK, SKESK};
use openpgp::parse::Parse;
use openpgp::parse::stream::{
    DecryptionHelper, Decryptor, DecryptorBuilder, MessageLayer, MessageStructure, VerificationHelper,
};
use openpgp::policy::StandardPolicy;
use openpgp::types::SymmetricAlgorithm;

use super::OpenPgpError;

/// Plaintext held back, in bytes. Several times as much is in memory while decrypting.
const HELD_BACK: usize = 1 << 20;

static POLICY: StandardPolicy<'static> = StandardPolicy::new();

type SecretKey = Key<SecretParts, UnspecifiedRole>;

/// Secret keys, unlocked, each with the fingerprint of its certificate. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DecryptionKeys(Arc<Vec<(String, SecretKey)>>);

impl DecryptionKeys {
    /// Reads a file of secret keys (armored or binary, as `gpg --export-secret-keys` writes it) and unlocks them.
    /// Expired and revoked keys are taken: old backups stay readable.
    pub fn read(file: &[u8], passphrase: Option<&SecretString>) -> Result<Self, OpenPgpError> {
        let unreadable = |cause| OpenPgpError::Unreadable { what: "the file as secret keys", cause };
        let certificates = CertParser::from_bytes(file)
            .and_then(Iterator::collect::<openpgp::Result<Vec<Cert>>>)
            .map_err(|error| unreadable(error.into()))?;
        let mut keys = Vec::new();
        for certificate in &certificates {
            let secret = certificate.keys().secret();
            for key in secret.filter(|key| key.key().pk_algo().for_encryption()) {
                let unlocked = unlock(key.key().clone(), passphrase)?;
                keys.extend(unlocked.map(|key| (certificate.fingerprint().to_hex(), key)));
            }
        }
        match keys.is_empty() {
            true => Err(unreadable("it holds no secret key".into())),
            false => Ok(Self(Arc::new(keys))),
        }
    }

    /// Only the keys of the certificate with this full fingerprint; nothing where none of them is of it.
    pub fn of(&self, fingerprint: &str) -> Option<Self> {
        let keys: Vec<_> = self.0.iter().filter(|(certificate, _)| certificate == fingerprint).cloned().collect();
        (!keys.is_empty()).then(|| Self(Arc::new(keys)))
    }

    /// Begins to decrypt `message`. Errors with `NoKey` when none of the keys fits, before anything is decrypted.
    pub fn decrypt<'a>(&self, message: impl Read + Send + Sync + 'a) -> Result<Plaintext<'a>, OpenPgpError> {
        let needed = Arc::new(Mutex::new(Vec::new()));
        let opener = Opener { keys: self.clone(), needed: needed.clone() };
        let decryptor = DecryptorBuilder::from_reader(message)
            .map(|builder| builder.buffer_size(HELD_BACK))
            .and_then(|builder| builder.with_policy(&POLICY, None, opener));
        match decryptor {
            Ok(decryptor) => Ok(Plaintext(decryptor)),
            Err(error) if error.is::<NotEncrypted>() => Err(OpenPgpError::NotEncrypted),
            Err(error) => match needed.lock().unwrap_or_else(PoisonError::into_inner).as_slice() {
                [] => Err(OpenPgpError::failed("decrypt the message", error)),
                needed => Err(OpenPgpError::NoKey { needed: needed.to_vec() }),
            },
        }
    }
}

/// The key, unlocked; nothing for a stub whose secret is elsewhere, such as on a card.
fn unlock(key: SecretKey, passphrase: Option<&SecretString>) -> Result<Option<SecretKey>, OpenPgpError> {
    let SecretKeyMaterial::Encrypted(encrypted) = key.secret() else { return Ok(Some(key)) };
    if !encrypted.s2k().is_supported() {
        return Ok(None);
    }
    let name = key.fingerprint().to_hex();
    let Some(passphrase) = passphrase else { return Err(OpenPgpError::Locked { key: name, given: false }) };
    match key.decrypt_secret(&Password::from(passphrase.expose_secret())) {
        Ok(key) => Ok(Some(key)),
        Err(_) => Err(OpenPgpError::Locked { key: name, given: true }),
    }
}

/// The plaintext of a message. Reading errors when the message was changed in any way.
pub struct Plaintext<'a>(Decryptor<'a, Opener>);

impl Read for Plaintext<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

/// What sequoia asks while it opens a message.
#[derive(Debug)]
struct Opener {
    keys: DecryptionKeys,
    /// Key ids of a message that no key fits.
    needed: Arc<Mutex<Vec<String>>>,
}

#[derive(Debug, thiserror::Error)]
#[error("the message is not encrypted")]
struct NotEncrypted;

#[derive(Debug, thiserror::Error)]
#[error("no secret key fits")]
struct NoKeyFits;

impl VerificationHelper for Opener {
    fn get_certs(&mut self, _ids: &[openpgp::KeyHandle]) -> openpgp::Result<Vec<Cert>> {
        Ok(Vec::new())
    }

    fn check(&mut self, structure: MessageStructure<'_>) -> openpgp::Result<()> {
        match structure.iter().next() {
            Some(MessageLayer::Encryption { .. }) => Ok(()),
            _ => Err(NotEncrypted.into()),
        }
    }
}

impl DecryptionHelper for Opener {
    fn decrypt(
        &mut self,
        packets: &[PKESK],
        _by_password: &[SKESK],
        algorithm: Option<SymmetricAlgorithm>,
        try_session_key: &mut dyn FnMut(Option<SymmetricAlgorithm>, &SessionKey) -> bool,
    ) -> openpgp::Result<Option<Cert>> {
        for packet in packets {
            let recipient = packet.recipient();
            let fits = |key: &&SecretKey| recipient.as_ref().is_none_or(|wanted| wanted.aliases(key.key_handle()));
            for key in self.keys.0.iter().map(|(_, key)| key).filter(fits) {
                let mut pair = key.clone().into_keypair()?;
                let opened = packet.decrypt(&mut pair, algorithm);
                if opened.is_some_and(|(algorithm, session_key)| try_session_key(algorithm, &session_key)) {
                    return Ok(None);
                }
            }
        }
        let names = packets.iter().map(|packet| match packet.recipient() {
            Some(handle) => handle.to_hex(),
            None => "an unnamed recipient".to_owned(),
        });
        *self.needed.lock().unwrap_or_else(PoisonError::into_inner) = names.collect();
        Err(NoKeyFits.into())
    }
}
