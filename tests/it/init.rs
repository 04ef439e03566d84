//! `dbagent init`: what it writes loads, its keys are GnuPG's too, and it never writes over anything.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use dbagent::app::App;
use dbagent::app::init::{self, Answers, Initialized, Options};
use dbagent::config::{self, Encryption, Environment, LoadRequest, load};
use dbagent::host::{Clock as _, SystemClock};
use dbagent::model::failure::{Failure, FailureKind};
use dbagent::pipeline::openpgp::{Profile, generate_encryption_pair};

use crate::stage::gpg::Gpg;

fn options(directory: &Path, recipients: Vec<PathBuf>) -> Options {
    let answers = Answers::defaults(directory).unwrap();
    Options {
        directory: directory.to_owned(),
        recipients,
        profile: config::Profile::GnuPg,
        answers,
        name_decryption_key: false,
    }
}

fn set_up(options: &Options) -> Result<Initialized, Failure> {
    init::run(options, SystemClock::new().now())
}

fn open(directory: &Path) -> App {
    let request = LoadRequest { path: Some(directory.join("dbagent.toml")), search: Vec::new() };
    let app = App::load(request).unwrap();
    let warnings = &app.loaded.warnings;
    // The built-in plan also speaks of a second repository, off this host.
    assert!(warnings.iter().all(|warning| warning.starts_with("bc-003:")), "{warnings:?}");
    app
}

#[tokio::test]
async fn what_init_writes_loads_and_every_door_but_the_private_key_opens() {
    let place = tempfile::tempdir().unwrap();
    let directory = place.path().join("it's new");
    let made = set_up(&options(&directory, Vec::new())).unwrap();
    let app = open(&directory);
    assert_eq!(app.recipients().unwrap().unwrap().fingerprints(), made.recipients);
    assert_eq!(app.signer().unwrap().unwrap().fingerprint(), made.signing_key);
    assert_eq!(app.repositories(None).await.unwrap().len(), 1);
    assert!(app.decryption_keys().unwrap().is_none(), "the private key is named nowhere");
    assert!(app.job("full").is_ok());
    let written = app.loaded.config.encryption.as_ref().and_then(Encryption::openpgp).unwrap();
    assert_eq!(written.fingerprints[0].as_str(), made.recipients[0]);
    for name in ["dbagent.toml", "signing.asc", "restore-key.asc", "break-glass.txt"] {
        let mode = directory.join(name).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    assert_eq!(directory.join("repository").metadata().unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_pair_for_the_newer_profile_is_made_named_and_used() {
    let place = tempfile::tempdir().unwrap();
    let newer = Options { profile: config::Profile::Rfc9580, ..options(place.path(), Vec::new()) };
    set_up(&newer).unwrap();
    let recipients = open(place.path()).recipients().unwrap().unwrap();
    let mut message = Vec::new();
    recipients.encrypt(&mut message).unwrap().finalize().unwrap();
    recipients.check(&message).unwrap();
    let body = 2 + usize::from(message[1]);
    assert_eq!((message[body], message[body + 2]), (0xd2, 2), "the encrypted data's tag, its version");
    let text = std::fs::read_to_string(place.path().join("dbagent.toml")).unwrap();
    assert!(text.contains("\nprofile = \"rfc9580\""), "{text}");
}

#[test]
fn every_key_that_is_written_has_a_word_of_explanation() {
    let place = tempfile::tempdir().unwrap();
    let made = set_up(&options(place.path(), Vec::new())).unwrap();
    let text = std::fs::read_to_string(made.configuration).unwrap();
    let keys = text.lines().filter(|line| !line.starts_with('#') && line.contains(" = "));
    let bare: Vec<_> = keys.filter(|line| !line.contains("   # ")).collect();
    assert!(bare.is_empty(), "{bare:?}");
    assert!(text.contains("# decryption_key = \"restore-key.asc\""), "{text}");
}

#[test]
fn the_commented_line_and_the_variable_of_the_sheet_open_what_was_encrypted() {
    let place = tempfile::tempdir().unwrap();
    let made = set_up(&options(place.path(), Vec::new())).unwrap();
    let key = made.restore_key.unwrap();
    let named = [("DBAGENT_ENCRYPTION__DECRYPTION_KEY".to_owned(), key.to_str().unwrap().to_owned())];
    let environment = Environment(named.into());
    let request = LoadRequest { path: Some(made.configuration.clone()), search: Vec::new() };
    let loaded = load(&request, &environment).unwrap();
    let encryption = loaded.config.encryption.as_ref().and_then(Encryption::openpgp).unwrap();
    assert_eq!(encryption.decryption_key.as_deref(), Some(key.as_path()));
    let text = std::fs::read_to_string(&made.configuration).unwrap();
    std::fs::write(&made.configuration, text.replace("# decryption_key", "decryption_key")).unwrap();
    assert!(open(place.path()).decryption_keys().unwrap().is_some());
}

#[test]
fn a_repository_that_others_may_write_to_is_refused_and_init_can_be_run_again() {
    let place = tempfile::tempdir().unwrap();
    let repository = place.path().join("repository");
    std::fs::create_dir(&repository).unwrap();
    std::fs::set_permissions(&repository, std::fs::Permissions::from_mode(0o777)).unwrap();
    let refused = set_up(&options(place.path(), Vec::new())).unwrap_err();
    assert!(refused.full_message().contains("0777"), "{}", refused.full_message());
    std::fs::set_permissions(&repository, std::fs::Permissions::from_mode(0o700)).unwrap();
    set_up(&options(place.path(), Vec::new())).unwrap();
}

#[test]
fn gnupg_imports_the_keys_and_decrypts_with_them() {
    let place = tempfile::tempdir().unwrap();
    let made = set_up(&options(place.path(), Vec::new())).unwrap();
    let gpg = Gpg::new();
    for name in ["restore-key.asc", "signing.asc", "signing-certificate.asc", "backup.asc"] {
        gpg.import(&std::fs::read(place.path().join(name)).unwrap());
    }
    assert_eq!(gpg.fingerprint(&made.recipients[0]), made.recipients[0]);
    assert_eq!(gpg.fingerprint(&made.signing_key), made.signing_key);
    let message = gpg.run(&["--encrypt", "--recipient", &made.recipients[0]], b"rows");
    assert_eq!(gpg.run(&["--decrypt"], &message), b"rows");
    let sheet = std::fs::read_to_string(made.break_glass.unwrap()).unwrap();
    assert!(sheet.contains(&made.recipients[0]) && sheet.contains(&made.signing_key));
    assert!(!sheet.contains("PRIVATE KEY BLOCK"));
}

#[test]
fn init_writes_over_nothing() {
    let place = tempfile::tempdir().unwrap();
    set_up(&options(place.path(), Vec::new())).unwrap();
    let before: Vec<_> = ["dbagent.toml", "restore-key.asc", "signing.asc"]
        .map(|name| std::fs::read(place.path().join(name)).unwrap())
        .into();
    let refused = set_up(&options(place.path(), Vec::new())).unwrap_err();
    assert_eq!(refused.kind, FailureKind::RefusedForSafety);
    assert!(refused.message.contains("dbagent.toml"), "{}", refused.message);
    std::fs::remove_file(place.path().join("dbagent.toml")).unwrap();
    let refused = set_up(&options(place.path(), Vec::new())).unwrap_err();
    assert!(refused.message.contains("signing.asc"), "a lone key counts too: {}", refused.message);
    assert!(!place.path().join("dbagent.toml").exists());
    assert_eq!(std::fs::read(place.path().join("restore-key.asc")).unwrap(), before[1]);
}

#[test]
fn given_recipients_are_pinned_and_no_pair_is_made() {
    let place = tempfile::tempdir().unwrap();
    let pair = generate_encryption_pair("somebody", Profile::Gnupg, SystemClock::new().now()).unwrap();
    let certificate = place.path().join("somebody.asc");
    std::fs::write(&certificate, &pair.public).unwrap();
    let directory = place.path().join("site");
    let made = set_up(&options(&directory, vec![certificate])).unwrap();
    assert_eq!(made.recipients, [pair.fingerprint]);
    assert!(made.restore_key.is_none() && made.break_glass.is_none());
    assert!(!directory.join("restore-key.asc").exists() && !directory.join("break-glass.txt").exists());
    assert!(open(&directory).recipients().unwrap().is_some());
}

#[test]
fn a_file_that_is_no_certificate_and_one_with_a_secret_key_are_refused_and_nothing_is_written() {
    let place = tempfile::tempdir().unwrap();
    let pair = generate_encryption_pair("somebody", Profile::Gnupg, SystemClock::new().now()).unwrap();
    let given = place.path().join("given.asc");
    for bytes in [b"junk".as_slice(), b"", &pair.secret] {
        std::fs::write(&given, bytes).unwrap();
        let directory = place.path().join("site");
        let refused = set_up(&options(&directory, vec![given.clone()])).unwrap_err();
        let told = refused.full_message();
        assert!(told.contains(if bytes.len() > 10 { "secret key" } else { "certificate" }), "{told}");
        assert!(!directory.exists(), "nothing was made");
    }
}

#[test]
fn answers_that_make_no_configuration_leave_no_file() {
    let place = tempfile::tempdir().unwrap();
    for (answer, value) in [("cluster", "a b/c"), ("postgres", "mysql://x"), ("repository", "backups")] {
        let mut wrong = options(place.path(), Vec::new());
        match answer {
            "cluster" => wrong.answers.cluster = value.into(),
            "postgres" => wrong.answers.postgres_url = value.into(),
            _ => wrong.answers.repository = value.into(),
        }
        let refused = set_up(&wrong).unwrap_err();
        assert_eq!(refused.kind, FailureKind::Usage, "{answer}: {}", refused.full_message());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 0, "{answer}");
    }
}
