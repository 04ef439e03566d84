//! What the keys of dbagent.toml mean together. Collects everything; opens nothing.

use crate::config::audit;
use crate::config::base;
use crate::config::encryption::{Encryption, OpenPgp};
use crate::config::place::Place;
use crate::config::problems::Problems;
use crate::config::settings::{Config, Repository};
use crate::config::wal;
use crate::model::keep::RULE_NAMES;
use crate::model::size::ByteSize;

/// S3's limits of a part, but the last.
const PART_SIZES: std::ops::RangeInclusive<ByteSize> = ByteSize(5 << 20)..=ByteSize(5 << 30);
const SERVER_SIDE_ENCRYPTION: [&str; 2] = ["AES256", "aws:kms"];

/// Holds the whole configuration against its rules.
pub(in crate::config) fn validate(config: &Config, problems: &mut Problems<'_>) {
    problems.check_name("cluster", &config.cluster);
    validate_repositories(config, problems);
    validate_postgres(config, problems);
    match &config.encryption {
        None => {
            problems.warn("encryption", "nothing is stored until it has recipients, or is \"none\" in so many words")
        }
        Some(Encryption::None) => problems.warn("encryption", "artifacts are stored in the clear"),
        Some(Encryption::OpenPgp(settings)) => validate_openpgp(settings, problems),
    }
    let level = config.dump.compression_level;
    problems.error_if(!(1..=12).contains(&level), "dump.compression_level", "expected 1 to 12");
    problems.error_if(config.dump.threads == Some(0), "dump.threads", "expected at least 1");
    problems.error_if(config.restore.jobs == Some(0), "restore.jobs", "expected at least 1");
    problems.error_if(config.agent.concurrency == 0, "agent.concurrency", "expected at least 1");
    problems.check_length("dump.lock_timeout", Some(config.dump.lock_timeout));
    problems.check_length("agent.history", Some(config.agent.history));
    problems.check_length("goals.rpo", config.goals.rpo);
    problems.check_length("goals.rto", config.goals.rto);
    if let Some(cost) = &config.cost {
        crate::config::cost::validate(cost, problems);
    }
    wal::validate(config, problems);
    base::validate(config, problems);
    audit::validate(&config.audit, problems);
    validate_notify(config, problems);
}

/// Refuses a secret that is written in more than one of its `forms`, each a key with whether it is there.
pub(in crate::config) fn one_form(prefix: &str, forms: &[(&str, bool)], problems: &mut Problems<'_>) {
    let written: Vec<&str> = forms.iter().filter(|(_, written)| *written).map(|(name, _)| *name).collect();
    if let [first, .., last] = written[..] {
        let first = first.to_owned();
        problems.error(&format!("{prefix}{last}"), format!("{first} is there too; write one of them"));
    }
}

fn validate_repositories(config: &Config, problems: &mut Problems<'_>) {
    if config.repository.is_empty() {
        problems.warn("repository", "there is none, so nothing can be stored");
    }
    for (name, repository) in &config.repository {
        let key = format!("repository.{name}");
        problems.check_name(&key, name);
        let reserved = RULE_NAMES.contains(&name.as_str());
        problems.error_if(reserved, &key, "the name is a rule of keep; choose another");
        validate_repository(&key, repository, problems);
        let same = |other: &&String| **other < *name && config.repository[*other].url == repository.url;
        if let Some(other) = config.repository.keys().find(same) {
            problems.error(&format!("{key}.url"), format!("is the same place as repository.{other}"));
        }
    }
}

fn validate_repository(key: &str, repository: &Repository, problems: &mut Problems<'_>) {
    let at = |name: &str| format!("{key}.{name}");
    if matches!(repository.url, Place::Directory(_)) {
        for name in ["region", "endpoint", "path_style", "ca_bundle", "sse", "kms_key_id", "object_lock", "tags"] {
            problems.error_if(problems.is_written(&at(name)), &at(name), "only an s3:// repository takes it");
        }
    }
    if let Some(sse) = repository.sse.as_ref().filter(|sse| !SERVER_SIDE_ENCRYPTION.contains(&sse.as_str())) {
        let message = format!("unknown word {sse:?}, expected one of {}", SERVER_SIDE_ENCRYPTION.join(", "));
        problems.unknown(&at("sse"), message, sse, SERVER_SIDE_ENCRYPTION);
    }
    let by_kms = repository.sse.as_ref().is_some_and(|sse| sse.starts_with("aws:kms"));
    let stray_key = repository.kms_key_id.is_some() && !by_kms;
    problems.error_if(stray_key, &at("kms_key_id"), "it has no effect without sse = \"aws:kms\"");
    let part = repository.part_size.is_none_or(|size| PART_SIZES.contains(&size));
    problems.error_if(!part, &at("part_size"), "expected 5MB to 5GB");
    let no_lock = repository.object_lock.as_ref().is_some_and(|lock| lock.days == 0);
    problems.error_if(no_lock, &at("object_lock.days"), "expected at least 1");
    warn_unbuilt(&at("tags"), problems);
    if let Some(endpoint) = &repository.endpoint {
        let url = endpoint.expose();
        let fine = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
        problems.error_if(!fine, &at("endpoint"), "expected an http:// or https:// address without credentials");
    }
}

/// A key that is read and has no effect yet says so, where it is written.
fn warn_unbuilt(key: &str, problems: &mut Problems<'_>) {
    if problems.is_written(key) {
        problems.warn(key, "is not built yet and has no effect");
    }
}

fn validate_postgres(config: &Config, problems: &mut Problems<'_>) {
    for key in ["postgres.sslcert", "postgres.sslkey", "agent.history"] {
        warn_unbuilt(key, problems);
    }
    let postgres = &config.postgres;
    let forms = [
        ("password", postgres.password.is_some()),
        ("password_file", postgres.password_file.is_some()),
        ("password_command", postgres.password_command.is_some()),
        ("password_aws_secret", postgres.password_aws_secret.is_some()),
    ];
    one_form("postgres.", &forms, problems);
    if let Some(login) = &postgres.replication {
        let forms = [
            ("password", login.password.is_some()),
            ("password_file", login.password_file.is_some()),
            ("password_command", login.password_command.is_some()),
            ("password_aws_secret", login.password_aws_secret.is_some()),
        ];
        one_form("postgres.replication.", &forms, problems);
    }
    let scheme = postgres.url.as_ref().map(|url| url.expose().scheme().to_owned());
    let foreign = scheme.is_some_and(|scheme| scheme != "postgres" && scheme != "postgresql");
    problems.error_if(foreign, "postgres.url", "the URL of a server begins with postgres://");
    problems.error_if(postgres.port == Some(0), "postgres.port", "expected 1 to 65535");
    problems.check_length("postgres.connect_timeout", postgres.connect_timeout);
    for (verb, role) in &postgres.roles {
        problems.error_if(role.is_empty(), &format!("postgres.roles.{verb}"), "the name of a role is empty");
    }
}

fn validate_openpgp(settings: &OpenPgp, problems: &mut Problems<'_>) {
    let signing = [
        ("signing_key_passphrase", settings.signing_key_passphrase.is_some()),
        ("signing_key_passphrase_file", settings.signing_key_passphrase_file.is_some()),
        ("signing_key_passphrase_command", settings.signing_key_passphrase_command.is_some()),
    ];
    let decryption = [
        ("decryption_key_passphrase", settings.decryption_key_passphrase.is_some()),
        ("decryption_key_passphrase_file", settings.decryption_key_passphrase_file.is_some()),
        ("decryption_key_passphrase_command", settings.decryption_key_passphrase_command.is_some()),
    ];
    one_form("encryption.", &signing, problems);
    one_form("encryption.", &decryption, problems);
    let restores_only = settings.decryption_key.is_some();
    if settings.recipients.is_empty() && !restores_only {
        problems.error("encryption", "there are no recipients; write recipients, or encryption = \"none\"");
    }
    if settings.fingerprints.is_empty() && !settings.recipients.is_empty() {
        let message = "without it a recipient's certificate could be exchanged unnoticed; pin each by its full \
                       fingerprint (`gpg --show-keys FILE` prints it)";
        problems.error("encryption.fingerprints", message);
    }
    let unequal = !settings.fingerprints.is_empty() && settings.fingerprints.len() != settings.recipients.len();
    problems.error_if(unequal, "encryption.fingerprints", "expected one fingerprint for each recipient");
    problems.check_length("encryption.rotate_after", settings.rotate_after);
    problems.check_length("encryption.drill_every", settings.drill_every);
}

fn validate_notify(config: &Config, problems: &mut Problems<'_>) {
    let notify = &config.notify;
    if let Some(smtp) = &notify.smtp {
        problems.error_if(smtp.to.is_empty(), "notify.smtp.to", "there is nobody to write to");
        let forms = [
            ("password", smtp.password.is_some()),
            ("password_file", smtp.password_file.is_some()),
            ("password_command", smtp.password_command.is_some()),
        ];
        one_form("notify.smtp.", &forms, problems);
    }
    for (name, webhook) in &notify.webhook {
        let forms = [("secret", webhook.secret.is_some()), ("secret_file", webhook.secret_file.is_some())];
        one_form(&format!("notify.webhook.{name}."), &forms, problems);
    }
    let silent = notify.smtp.is_none() && notify.webhook.is_empty() && notify.ping.is_empty() && notify.exec.is_none();
    if !silent {
        problems.warn("notify", "notifications are not built yet; nobody is told");
    }
}
