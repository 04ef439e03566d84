//! Makes key pairs for `init`, the demo and tests: version 4 certificates on Curve25519, which GnuPG 2.2 reads.
//!
//! Secret keys are made without a passphrase; who keeps them protects them.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use sequoia_openpgp as openpgp;

use openpgp::Profile as Standard;
use openpgp::cert::prelude::{CertBuilder, CipherSuite};
use openpgp::serialize::SerializeInto;
use openpgp::types::KeyFlags;

use super::{OpenPgpError, Profile};

/// A fresh certificate and its secret key, both armored.
pub struct KeyPair {
    /// Full fingerprint, upper-case hexadecimal.
    pub fingerprint: String,
    /// The certificate, for everybody.
    pub public: Vec<u8>,
    /// The secret key, for its holder only.
    pub secret: Vec<u8>,
}

/// A certificate to encrypt backups to, in the form that `profile` needs: its holder can read them. Does not expire.
pub fn generate_encryption_pair(user_id: &str, profile: Profile, now: DateTime<Utc>) -> Result<KeyPair, OpenPgpError> {
    let flags = KeyFlags::empty().set_transport_encryption().set_storage_encryption();
    pair(CertBuilder::new().add_userid(user_id).add_subkey(flags, None, None), profile, now)
}

/// A certificate that signs manifests. Its one key certifies and signs, so that gpg verifies without any choice.
pub fn generate_signing_key(user_id: &str, now: DateTime<Utc>) -> Result<KeyPair, OpenPgpError> {
    let flags = KeyFlags::empty().set_certification().set_signing();
    pair(CertBuilder::new().add_userid(user_id).set_primary_key_flags(flags), Profile::Gnupg, now)
}

fn pair(builder: CertBuilder<'_>, profile: Profile, now: DateTime<Utc>) -> Result<KeyPair, OpenPgpError> {
    let failed = |error| OpenPgpError::failed("make a key pair", error);
    let (certificate, _revocation) = builder
        .set_profile(Standard::RFC4880)
        .and_then(|builder| builder.set_features(profile.features()))
        .and_then(|builder| {
            builder.set_cipher_suite(CipherSuite::Cv25519).set_creation_time(SystemTime::from(now)).generate()
        })
        .map_err(failed)?;
    Ok(KeyPair {
        fingerprint: certificate.fingerprint().to_hex(),
        public: certificate.armored().to_vec().map_err(failed)?,
        secret: certificate.as_tsk().armored().to_vec().map_err(failed)?,
    })
}
