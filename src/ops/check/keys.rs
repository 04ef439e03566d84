//! Keys: whom artifacts are encrypted to, what signs them, how long both last, and what should not lie here.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::catalog::Signer;
use crate::model::failure::Failure;
use crate::model::span::Span;
use crate::ops::check::CheckLine;
use crate::pipeline::openpgp::Recipients;

/// Days before the end from which on somebody should look.
const WARNING_DAYS: i64 = 30;

/// Days before the end at which it is no longer a warning.
const LAST_DAYS: i64 = 1;

const RECIPIENTS: &str = "key-recipients";
const EXPIRY: &str = "key-expiry";
const AGE: &str = "key-age";
const SIGNING: &str = "key-signing";
const DECRYPTION: &str = "key-decryption";

/// Whether and to whom artifacts are encrypted.
#[derive(Debug)]
pub enum Encryption {
    /// Not at all, as somebody has written out.
    None,
    /// To these.
    To(Recipients),
}

/// The configured keys, each as it could be read.
#[derive(Debug)]
pub struct Keys {
    /// Whom artifacts are encrypted to.
    pub encryption: Result<Encryption, Failure>,
    /// What signs; absent where none is configured.
    pub signer: Result<Option<Arc<Signer>>, Failure>,
    /// Whether a key that decrypts lies here and can be used.
    pub decryption: Result<bool, Failure>,
    /// Age at which new keys are wanted.
    pub rotate_after: Option<Span>,
}

/// A key and its dates.
struct Dated {
    name: String,
    created: DateTime<Utc>,
    expires: Option<DateTime<Utc>>,
}

pub(super) fn check(keys: &Keys, now: DateTime<Utc>) -> Vec<CheckLine> {
    let mut lines = vec![recipients(keys), signing(keys), decryption(keys)];
    let dated = dated(keys);
    if dated.is_empty() {
        let none =
            |check| CheckLine::fail(check, "not carried out: no key could be read", "see the other lines on keys");
        lines.extend([none(EXPIRY), none(AGE)]);
    }
    lines.extend(dated.iter().map(|key| expiry(key, now)));
    lines.extend(dated.iter().map(|key| age(key, keys.rotate_after.as_ref(), now)));
    lines
}

fn dated(keys: &Keys) -> Vec<Dated> {
    let mut dated = Vec::new();
    if let Ok(Encryption::To(recipients)) = &keys.encryption {
        dated.extend(recipients.list().iter().map(|recipient| Dated {
            name: format!("recipient {}", recipient.fingerprint),
            created: recipient.created,
            expires: recipient.expires,
        }));
    }
    if let Ok(Some(signer)) = &keys.signer {
        let name = format!("signing key {}", signer.fingerprint());
        dated.push(Dated { name, created: signer.created(), expires: signer.expires() });
    }
    dated
}

fn recipients(keys: &Keys) -> CheckLine {
    match &keys.encryption {
        Ok(Encryption::To(recipients)) => {
            let who = recipients.list().iter().map(|each| format!("{} ({})", each.user_id, each.fingerprint));
            let message = format!("artifacts are encrypted to {}", who.collect::<Vec<_>>().join(", "));
            CheckLine::ok(RECIPIENTS, message)
        }
        Ok(Encryption::None) => CheckLine::warn(
            RECIPIENTS,
            "artifacts are stored in the clear: encryption is \"none\"",
            "give [encryption] recipients in dbagent.toml",
        ),
        Err(failure) => CheckLine::failed(RECIPIENTS, "the recipients", failure),
    }
}

fn signing(keys: &Keys) -> CheckLine {
    match &keys.signer {
        Ok(Some(signer)) => CheckLine::ok(SIGNING, format!("manifests are signed by {}", signer.fingerprint())),
        Ok(None) => {
            let remedy = "name signing_key in [encryption]; `dbagent init` makes one";
            CheckLine::fail(SIGNING, "no signing key is configured: nothing can be stored", remedy)
        }
        Err(failure) => CheckLine::failed(SIGNING, "the signing key", failure),
    }
}

fn decryption(keys: &Keys) -> CheckLine {
    match &keys.decryption {
        Ok(false) => CheckLine::ok(DECRYPTION, "no key that decrypts is configured here"),
        Ok(true) => CheckLine::warn(
            DECRYPTION,
            "this host can read its backups: a key that decrypts is configured here",
            "keep it where restores run, and only there",
        ),
        Err(failure) => CheckLine::failed(DECRYPTION, "the decryption key", failure),
    }
}

fn expiry(key: &Dated, now: DateTime<Utc>) -> CheckLine {
    let Some(expires) = key.expires else {
        return CheckLine::ok(EXPIRY, format!("{}: it does not expire", key.name));
    };
    let left = expires - now;
    let message = format!("{}: it expires on {}, in {} days", key.name, expires.format("%Y-%m-%d"), left.num_days());
    let remedy = "extend it, or name a new one in [encryption]; without it nothing is stored";
    match left {
        _ if left <= chrono::TimeDelta::days(LAST_DAYS) => CheckLine::fail(EXPIRY, message, remedy),
        _ if left <= chrono::TimeDelta::days(WARNING_DAYS) => CheckLine::warn(EXPIRY, message, remedy),
        _ => CheckLine::ok(EXPIRY, message),
    }
}

fn age(key: &Dated, rotate_after: Option<&Span>, now: DateTime<Utc>) -> CheckLine {
    let days = (now - key.created).num_days();
    let message = format!("{}: it is {days} days old", key.name);
    match rotate_after {
        Some(limit) if limit.after(key.created) <= now => {
            let message = format!("{message}, and rotate_after is {limit}");
            CheckLine::warn(AGE, message, "make a new one, and keep the old one for what was stored with it")
        }
        _ => CheckLine::ok(AGE, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::failure::FailureKind;
    use crate::ops::check::Status;
    use crate::pipeline::openpgp::{Profile, generate_encryption_pair, generate_signing_key};

    fn now() -> DateTime<Utc> {
        "2026-03-01T00:00:00Z".parse().unwrap()
    }

    fn keys() -> Keys {
        let made = now() - chrono::TimeDelta::days(400);
        let pair = generate_encryption_pair("backup", Profile::default(), made).unwrap();
        let signing = generate_signing_key("signing", made).unwrap();
        let recipients = Recipients::new(&[&pair.public], &[&pair.fingerprint], Profile::default(), now()).unwrap();
        Keys {
            encryption: Ok(Encryption::To(recipients)),
            signer: Ok(Some(Arc::new(Signer::from_secret_key(&signing.secret, None, now()).unwrap()))),
            decryption: Ok(false),
            rotate_after: None,
        }
    }

    fn status(keys: &Keys, check: &str) -> Status {
        let lines = super::check(keys, now());
        lines.iter().filter(|line| line.check == check).map(|line| line.status).max().unwrap()
    }

    #[test]
    fn good_keys_are_good_until_they_are_older_than_the_rotation_allows() {
        let mut keys = keys();
        assert!(super::check(&keys, now()).iter().all(|line| line.status == Status::Ok));
        keys.rotate_after = Some(Span::days(401));
        assert_eq!(status(&keys, AGE), Status::Ok);
        keys.rotate_after = Some(Span::days(400));
        assert_eq!(status(&keys, AGE), Status::Warn);
    }

    #[test]
    fn f49_an_end_that_comes_near_is_told_30_days_ahead_and_fails_on_the_last() {
        let status = |days| {
            let expires = Some(now() + chrono::TimeDelta::days(days));
            expiry(&Dated { name: "k".into(), created: now(), expires }, now()).status
        };
        assert_eq!([status(31), status(30), status(7)], [Status::Ok, Status::Warn, Status::Warn]);
        assert_eq!([status(1), status(-3)], [Status::Fail, Status::Fail]);
    }

    #[test]
    fn promise_3_a_host_that_can_read_its_backups_or_stores_them_in_the_clear_is_warned() {
        let keys = Keys { decryption: Ok(true), encryption: Ok(Encryption::None), ..keys() };
        assert_eq!([status(&keys, DECRYPTION), status(&keys, RECIPIENTS)], [Status::Warn; 2]);
    }

    #[test]
    fn what_cannot_be_read_fails_and_hides_no_other_line() {
        let failure = || Failure::new(FailureKind::Authentication, "read the key");
        let none =
            Keys { encryption: Err(failure()), signer: Err(failure()), decryption: Err(failure()), rotate_after: None };
        for check in [RECIPIENTS, SIGNING, DECRYPTION, EXPIRY, AGE] {
            assert_eq!(status(&none, check), Status::Fail, "{check}");
        }
        assert_eq!(status(&Keys { signer: Ok(None), ..keys() }, SIGNING), Status::Fail);
    }
}
