//! First use: keys, a configuration that loads, and the sheet for the day on which everything else is gone.
//!
//! Never overwrites a file. The private key that decrypts is made here once and named nowhere: a host that only makes
//! backups must not be able to read them. All keys are proved to work before the first file is written.

use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use secrecy::SecretString;
use serde::Serialize;

use crate::app::{keys, sheet};
use crate::config::{self, Environment, LoadRequest, Place};
use crate::host::durable::{self, FileError, FileErrorKind};
use crate::host::{Clock as _, SystemClock};
use crate::model::failure::{Failure, FailureKind};
use crate::pipeline::openpgp::{self, DecryptionKeys, KeyPair, Recipients};
use crate::storage::DirectoryStorage;

/// The configuration's name in its directory.
pub const CONFIGURATION: &str = "dbagent.toml";
/// The secret key that signs.
const SIGNING_KEY: &str = "signing.asc";
/// Its certificate.
const SIGNING_CERTIFICATE: &str = "signing-certificate.asc";
/// The certificate that backups are encrypted to, where `init` makes one.
const BACKUP_CERTIFICATE: &str = "backup.asc";
/// Its secret key.
const RESTORE_KEY: &str = "restore-key.asc";
/// What to do when everything else is gone.
const BREAK_GLASS: &str = "break-glass.txt";
/// Folder of the agent's own state, beside the configuration.
pub(in crate::app) const STATE: &str = "state";

const CERTIFICATE_LIMIT: u64 = 4 << 20;
const TEST_MESSAGE: &[u8] = b"dbagent init: what is encrypted to the recipients can be decrypted again\n";

/// What to set up.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where the configuration and the keys go; made if it is missing.
    pub directory: PathBuf,
    /// Certificates to encrypt to; without any, a pair is made.
    pub recipients: Vec<PathBuf>,
    /// The form of messages: what the recipients' readers must know.
    pub profile: config::Profile,
    /// What differs from site to site.
    pub answers: Answers,
    /// Name the private key in the configuration: only where restores run.
    pub name_decryption_key: bool,
}

/// What differs from site to site.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Name of the cluster.
    pub cluster: String,
    /// `postgres://user@host:port/database`.
    pub postgres_url: String,
    /// `file:///absolute/path`, an absolute path, or `s3://bucket/prefix`.
    pub repository: String,
}

impl Answers {
    /// What fits the BC-003 database on this host, with the repository below `directory`.
    pub fn defaults(directory: &Path) -> Result<Self, Failure> {
        Ok(Self {
            cluster: "consulting-tool".to_owned(),
            postgres_url: "postgres://dbagent@127.0.0.1:5432/consulting_tool".to_owned(),
            repository: absolute(directory)?.join("repository").to_string_lossy().into_owned(),
        })
    }

    /// The repository's address, a path made into one.
    fn place(&self) -> Result<(String, Place), Failure> {
        let text = match url::Url::from_file_path(&self.repository) {
            Ok(url) => url.to_string(),
            Err(()) => self.repository.clone(),
        };
        let place: Result<Place, &str> = text.parse();
        let place = place.map_err(|reason| {
            Failure::new(FailureKind::Usage, format!("use {} as a repository: {reason}", self.repository))
        })?;
        Ok((text, place))
    }
}

/// What was set up.
#[derive(Clone, Debug, Serialize)]
pub struct Initialized {
    /// The configuration's file.
    pub configuration: PathBuf,
    /// Full fingerprint of the signing key.
    pub signing_key: String,
    /// Full fingerprints of everybody who can read the backups.
    pub recipients: Vec<String>,
    /// The private key that decrypts, where a pair was made: to be taken away from here.
    pub restore_key: Option<PathBuf>,
    /// The break-glass sheet, where a pair was made.
    pub break_glass: Option<PathBuf>,
    /// The repository's address.
    pub repository: String,
}

/// [`run`] by this machine's clock.
pub fn run_now(options: &Options) -> Result<Initialized, Failure> {
    run(options, SystemClock::new().now())
}

/// Sets up `options.directory`. Refuses when any of the files is there already.
pub fn run(options: &Options, now: DateTime<Utc>) -> Result<Initialized, Failure> {
    let directory = absolute(&options.directory)?;
    let keys = Keys::make(options, now)?;
    require_free(&directory, &keys)?;
    if !directory.is_dir() {
        durable::private_directory(&directory).map_err(|error| failed("make the directory", error))?;
    }
    let (repository, place) = options.answers.place()?;
    let text = configuration(options, &keys)?;
    write_configuration(&directory, &text, || {
        durable::private_directory(&directory.join(STATE))
            .map_err(|error| failed("make the state directory", error))?;
        make_repository(&place)
    })?;
    keys.write(&directory)?;
    let beside = |name: &str| keys.pair.is_some().then(|| directory.join(name));
    if let (Some(path), Some(pair)) = (beside(BREAK_GLASS), &keys.pair) {
        let sheet =
            sheet::break_glass(&options.answers.cluster, &repository, options.profile, pair, &keys.signing, now);
        durable::write_new(&path, sheet.as_bytes()).map_err(|error| failed("write the break-glass sheet", error))?;
    }
    Ok(Initialized {
        configuration: directory.join(CONFIGURATION),
        signing_key: keys.signing.fingerprint.clone(),
        recipients: keys.fingerprints.clone(),
        restore_key: beside(RESTORE_KEY),
        break_glass: beside(BREAK_GLASS),
        repository,
    })
}

/// Keys and certificates, proved to work.
struct Keys {
    signing: KeyPair,
    pair: Option<KeyPair>,
    /// The recipients' files as the configuration names them.
    files: Vec<PathBuf>,
    fingerprints: Vec<String>,
}

impl Keys {
    fn make(options: &Options, now: DateTime<Utc>) -> Result<Self, Failure> {
        let cluster = &options.answers.cluster;
        let profile = keys::profile(options.profile);
        let signing = openpgp::generate_signing_key(&format!("dbagent signing ({cluster})"), now)?;
        let mut keys = Self { signing, pair: None, files: Vec::new(), fingerprints: Vec::new() };
        let mut certificates = Vec::new();
        for path in &options.recipients {
            let bytes = durable::read_bounded(path, CERTIFICATE_LIMIT)
                .map_err(|error| failed("read a recipient's certificate", error))?;
            keys.fingerprints.extend(openpgp::fingerprints(&bytes).map_err(|error| refused(path, error))?);
            keys.files.push(absolute(path)?);
            certificates.push(bytes);
        }
        if certificates.is_empty() {
            let pair = openpgp::generate_encryption_pair(&format!("dbagent backup ({cluster})"), profile, now)?;
            keys.fingerprints.push(pair.fingerprint.clone());
            keys.files.push(BACKUP_CERTIFICATE.into());
            certificates.push(pair.public.clone());
            keys.pair = Some(pair);
        }
        let recipients = Recipients::new(&certificates, &keys.fingerprints, profile, now)?;
        prove(&recipients, keys.pair.as_ref())?;
        Ok(keys)
    }

    /// Names and bytes of the files to write.
    fn files(&self) -> Vec<(&'static str, &[u8])> {
        let mut files = vec![(SIGNING_KEY, &*self.signing.secret), (SIGNING_CERTIFICATE, &*self.signing.public)];
        if let Some(pair) = &self.pair {
            files.extend([(RESTORE_KEY, &*pair.secret), (BACKUP_CERTIFICATE, &*pair.public)]);
        }
        files
    }

    fn write(&self, directory: &Path) -> Result<(), Failure> {
        for (name, bytes) in self.files() {
            durable::write_new(&directory.join(name), bytes).map_err(|error| failed("write a key", error))?;
        }
        Ok(())
    }
}

/// Encrypts a message to all recipients; where their private key is at hand, decrypts it again.
fn prove(recipients: &Recipients, pair: Option<&KeyPair>) -> Result<(), Failure> {
    let broken = |what: &str, cause: Box<dyn std::error::Error + Send + Sync>| {
        Failure::new(FailureKind::Authentication, what).because(cause)
    };
    let mut encrypted = Vec::new();
    let mut message = recipients.encrypt(&mut encrypted)?;
    message.write_all(TEST_MESSAGE).map_err(|error| broken("encrypt a test message", error.into()))?;
    message.finalize().map_err(|error| broken("encrypt a test message", error.into()))?;
    recipients.check(&encrypted)?;
    let Some(pair) = pair else { return Ok(()) };
    let mut decrypted = Vec::new();
    let keys = DecryptionKeys::read(&pair.secret, None::<&SecretString>)?;
    keys.decrypt(&*encrypted)?
        .read_to_end(&mut decrypted)
        .map_err(|error| broken("decrypt the test message", error.into()))?;
    if decrypted == TEST_MESSAGE {
        return Ok(());
    }
    Err(Failure::new(FailureKind::Authentication, "decrypt the test message: it is another one"))
}

/// Any file of ours that is there already means that this directory is in use.
fn require_free(directory: &Path, keys: &Keys) -> Result<(), Failure> {
    let mut names: Vec<&str> = vec![CONFIGURATION];
    names.extend(keys.files().iter().map(|(name, _)| *name));
    names.extend(keys.pair.is_some().then_some(BREAK_GLASS));
    let there = names.into_iter().find(|name| directory.join(name).symlink_metadata().is_ok());
    there.map_or(Ok(()), |name| Err(exists(&directory.join(name))))
}

fn exists(path: &Path) -> Failure {
    Failure::new(FailureKind::RefusedForSafety, format!("write {}: it is there already", path.display())).hint(
        "Nothing was changed. A key that is lost makes backups unreadable, so none is ever overwritten: choose another \
         --directory, or move the old files away yourself.",
    )
}

/// The text of dbagent.toml.
fn configuration(options: &Options, keys: &Keys) -> Result<String, Failure> {
    let answers = &options.answers;
    let (repository, place) = answers.place()?;
    let list = |items: Vec<String>| items.iter().map(|item| quoted(item)).collect::<Vec<_>>().join(", ");
    Ok(sheet::configuration(&sheet::Values {
        cluster: quoted(&answers.cluster),
        postgres_url: quoted(&answers.postgres_url),
        repository_name: if matches!(place, Place::S3 { .. }) { "s3" } else { "local" },
        repository: quoted(&repository),
        recipients: list(keys.files.iter().map(|path| path.to_string_lossy().into_owned()).collect()),
        fingerprints: list(keys.fingerprints.clone()),
        profile: options.profile,
        decryption_key_is_named: options.name_decryption_key,
    }))
}

/// `text` as a TOML string.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// Writes the configuration, loads it and does `what_it_names`; if it does not hold, takes it away again.
fn write_configuration(
    directory: &Path,
    text: &str,
    what_it_names: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let path = directory.join(CONFIGURATION);
    durable::write_new(&path, text.as_bytes()).map_err(|error| match error.kind {
        FileErrorKind::Exists => exists(&path),
        _ => failed("write the configuration", error),
    })?;
    let request = LoadRequest { path: Some(path.clone()), search: Vec::new() };
    let loaded = config::load(&request, &Environment::default());
    let done = loaded
        .map_err(|errors| Failure::new(FailureKind::Usage, "write a configuration that loads").because(errors))
        .and_then(|_| what_it_names());
    if done.is_err() {
        durable::remove(&path).map_err(|error| failed("take away a configuration that does not hold", error))?;
    }
    done
}

fn make_repository(place: &Place) -> Result<(), Failure> {
    let Place::Directory(path) = place else { return Ok(()) };
    if !path.is_dir() {
        durable::private_directory(path).map_err(|error| failed("make the repository's directory", error))?;
    }
    DirectoryStorage::open(path)?;
    Ok(())
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path)
        .map_err(|error| Failure::new(FailureKind::Usage, format!("find {}", path.display())).because(error))
}

fn refused(path: &Path, error: openpgp::OpenPgpError) -> Failure {
    Failure::new(FailureKind::Usage, format!("take {} for a recipient's certificate", path.display()))
        .because(error)
        .hint("Ask its owner for `gpg --armor --export FINGERPRINT > backup.asc`, the public part only.")
}

fn failed(what: &str, error: FileError) -> Failure {
    Failure::new(FailureKind::Failed, what).because(error)
}
