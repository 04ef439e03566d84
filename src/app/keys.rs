//! Keys and certificates from the files that `[encryption]` and `[verification]` name.

use std::path::Path;
use std::sync::Arc;

use secrecy::{ExposeSecret as _, SecretString};

use crate::app::{App, secrets};
use crate::catalog::{Signer, Verifier};
use crate::config::{self, Encryption, OpenPgp};
use crate::host::durable;
use crate::model::failure::{Failure, FailureKind};
pub use crate::pipeline::openpgp::DecryptionKeys;
use crate::pipeline::openpgp::{Profile, Recipients};

/// Largest key or certificate file, in bytes.
const KEY_FILE_LIMIT: u64 = 4 << 20;

impl App {
    fn openpgp(&self) -> Option<&OpenPgp> {
        self.loaded.config.encryption.as_ref().and_then(Encryption::openpgp)
    }

    /// Whom to encrypt to. Nobody only where that is written out; a configuration that says nothing stores nothing.
    pub fn recipients(&self) -> Result<Option<Recipients>, Failure> {
        let settings = match &self.loaded.config.encryption {
            Some(Encryption::None) => return Ok(None),
            Some(Encryption::OpenPgp(settings)) => settings,
            None => {
                return Err(Failure::new(FailureKind::Usage, "encrypt: the configuration has no [encryption]").hint(
                    "`dbagent init` makes keys; or write encryption = \"none\" if backups are to lie in the clear.",
                ));
            }
        };
        let mut files = Vec::new();
        for path in &settings.recipients {
            files.push(read(path, "a recipient's certificate")?);
        }
        let pins: Vec<&str> = settings.fingerprints.iter().map(config::Fingerprint::as_str).collect();
        Ok(Some(Recipients::new(&files, &pins, profile(settings.profile), self.clock.now())?))
    }

    /// What signs manifests; absent where the configuration names no signing key.
    pub fn signer(&self) -> Result<Option<Arc<Signer>>, Failure> {
        let Some((key, passphrase)) = self.signing_key() else { return Ok(None) };
        let passphrase =
            passphrase.map(|secret| secrets::resolve(&secret, "the signing key's passphrase")).transpose()?;
        let bytes = read_secret(key, "the signing key")?;
        let passphrase = passphrase.as_ref().map(|text| text.expose_secret());
        let signer = Signer::from_secret_key(bytes.expose_secret().as_bytes(), passphrase, self.clock.now())?;
        Ok(Some(Arc::new(signer)))
    }

    fn signing_key(&self) -> Option<(&Path, Option<config::Secret>)> {
        match self.openpgp() {
            Some(settings) => Some((settings.signing_key.as_deref()?, settings.signing_passphrase())),
            None => Some((self.loaded.config.verification.signing_key.as_deref()?, None)),
        }
    }

    /// Whose signatures are believed: the signing key's own and every certificate of `[verification]`.
    pub fn verifier(&self, signer: Option<&Signer>) -> Result<Verifier, Failure> {
        let mut verifier = Verifier::new();
        if let Some(signer) = signer {
            verifier.trust(signer.certificate());
        }
        for path in &self.loaded.config.verification.certificates {
            verifier.trust_bytes(&read(path, "a verification certificate")?)?;
        }
        Ok(verifier)
    }

    /// What decrypts; absent where no key is configured, which is as it should be where backups are made.
    pub fn decryption_keys(&self) -> Result<Option<DecryptionKeys>, Failure> {
        let Some(settings) = self.openpgp() else { return Ok(None) };
        let Some(path) = &settings.decryption_key else { return Ok(None) };
        let passphrase = settings.decryption_passphrase();
        let passphrase =
            passphrase.map(|secret| secrets::resolve(&secret, "the decryption key's passphrase")).transpose()?;
        let bytes = read_secret(path, "the decryption key")?;
        Ok(Some(DecryptionKeys::read(bytes.expose_secret().as_bytes(), passphrase.as_ref())?))
    }
}

fn read(path: &Path, what: &str) -> Result<Vec<u8>, Failure> {
    durable::read_bounded(path, KEY_FILE_LIMIT).map_err(|error| unreadable(what, error))
}

/// Secret keys are read armored, so that they are text.
fn read_secret(path: &Path, what: &str) -> Result<SecretString, Failure> {
    durable::read_secret_file(path).map_err(|error| unreadable(what, error))
}

fn unreadable(what: &str, error: crate::host::FileError) -> Failure {
    Failure::new(FailureKind::Authentication, format!("read {what}"))
        .because(error)
        .hint("Check [encryption] in dbagent.toml; secret keys must be readable by this user alone (chmod 600).")
}

/// The form of messages that the configuration names.
pub(super) fn profile(named: config::Profile) -> Profile {
    match named {
        config::Profile::GnuPg => Profile::Gnupg,
        config::Profile::Rfc9580 => Profile::Rfc9580,
    }
}
