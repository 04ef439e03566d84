//! Recipients and messages against real GnuPG: it reads what we write, we read what it writes, bad keys are refused.

use std::io::{Read, Write};
use std::time::SystemTime;

use chrono::{DateTime, Duration, TimeZone, Utc};
use dbagent::pipeline::openpgp::{
    DecryptionKeys, KeyPair, OpenPgpError, Profile, Recipients, Refusal, generate_encryption_pair, generate_signing_key,
};
use secrecy::SecretString;
use sequoia_openpgp::cert::CertBuilder;
use sequoia_openpgp::serialize::SerializeInto;

use super::stage::gpg::Gpg;

pub(crate) fn noon() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2025, 11, 3, 12, 0, 0).unwrap()
}

pub(crate) fn pairs(count: usize) -> Vec<KeyPair> {
    (0..count)
        .map(|n| {
            generate_encryption_pair(&format!("Holder {n} <holder{n}@example.com>"), Profile::Gnupg, noon()).unwrap()
        })
        .collect()
}

pub(crate) fn recipients(pairs: &[KeyPair], profile: Profile) -> Recipients {
    let files: Vec<&[u8]> = pairs.iter().map(|pair| pair.public.as_slice()).collect();
    let pins: Vec<&str> = pairs.iter().map(|pair| pair.fingerprint.as_str()).collect();
    Recipients::new(&files, &pins, profile, noon()).unwrap()
}

fn encrypt(recipients: &Recipients, plaintext: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut message = recipients.encrypt(&mut bytes).unwrap();
    message.write_all(plaintext).unwrap();
    message.finalize().unwrap();
    bytes
}

fn refusals(result: Result<Recipients, OpenPgpError>) -> Vec<Refusal> {
    let Err(error) = result else { return Vec::new() };
    let OpenPgpError::Refused(refused) = error else { unreachable!("{error}") };
    refused.into_iter().map(|refused| refused.why).collect()
}

fn plaintext() -> Vec<u8> {
    (0..3_000_000_u32).flat_map(|n| (n ^ n >> 7).to_le_bytes()).collect()
}

#[test]
fn each_recipient_alone_reads_the_message_with_gpg() {
    let (pairs, plaintext) = (pairs(3), plaintext());
    let message = encrypt(&recipients(&pairs, Profile::Gnupg), &plaintext);
    for pair in &pairs {
        let gpg = Gpg::new();
        gpg.import(&pair.secret);
        assert!(gpg.run(&["--decrypt"], &message) == plaintext, "{} reads something else", pair.fingerprint);
    }
    let stranger = Gpg::new();
    stranger.import(&generate_encryption_pair("Stranger", Profile::Gnupg, noon()).unwrap().secret);
    assert!(!stranger.try_run(&["--decrypt"], &message).status.success());
}

#[test]
fn messages_go_both_ways_between_us_and_gpg() {
    let (gpg, plaintext) = (Gpg::new(), plaintext());
    for (who, algorithm, subkey) in [("rsa", "rsa2048", "rsa3072"), ("curve", "ed25519", "cv25519")] {
        let fingerprint = gpg.make(who, algorithm, subkey, "0", &[]);
        let recipients = Recipients::new(&[gpg.public(who)], &[&fingerprint], Profile::Gnupg, Utc::now()).unwrap();
        let ours = encrypt(&recipients, &plaintext);
        assert!(gpg.run(&["--passphrase", "right", "--decrypt"], &ours) == plaintext);
        let theirs = gpg.run(&["--encrypt", "-z", "0", "--recipient", who], &plaintext);
        let keys = DecryptionKeys::read(&gpg.secret(who), Some(&SecretString::from("right"))).unwrap();
        let mut read = Vec::new();
        keys.decrypt(theirs.as_slice()).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == plaintext);
    }
}

#[test]
fn the_rfc9580_profile_needs_certificates_that_advertise_it() {
    let pairs = pairs(1);
    let refused = Recipients::new(&[&pairs[0].public], &[&pairs[0].fingerprint], Profile::Rfc9580, noon());
    assert_eq!(refusals(refused), [Refusal::NotRfc9580]);
    let (modern, _) =
        CertBuilder::general_purpose(Some("modern")).set_creation_time(SystemTime::from(noon())).generate().unwrap();
    let (public, secret) = (modern.to_vec().unwrap(), modern.as_tsk().to_vec().unwrap());
    let fingerprint = modern.fingerprint().to_hex();
    let mut read = Vec::new();
    for (profile, version) in [(Profile::Gnupg, 1), (Profile::Rfc9580, 2)] {
        let recipients = Recipients::new(&[&public], &[&fingerprint], profile, noon()).unwrap();
        let message = encrypt(&recipients, &plaintext());
        recipients.check(&message).unwrap();
        let body = 2 + usize::from(message[1]);
        assert_eq!((message[body], message[body + 2]), (0xd2, version), "tag, one byte of partial length, version");
        let keys = DecryptionKeys::read(&secret, None).unwrap();
        read.clear();
        keys.decrypt(message.as_slice()).unwrap().read_to_end(&mut read).unwrap();
        assert!(read == plaintext());
    }
}

#[test]
fn a_signing_key_works_in_gpg_and_encrypts_nothing() {
    let (gpg, pair) = (Gpg::new(), generate_signing_key("Agent", noon()).unwrap());
    gpg.import(&pair.secret);
    let signed = gpg.run(&["--local-user", &pair.fingerprint, "--sign"], b"statement");
    assert_eq!(gpg.run(&["--decrypt"], &signed), b"statement");
    let refused = Recipients::new(&[&pair.public], &[&pair.fingerprint], Profile::Gnupg, noon());
    assert_eq!(refusals(refused), [Refusal::NotForEncryption]);
}

#[test]
fn f48_a_wrong_key_names_the_keys_that_are_needed() {
    let pairs = pairs(3);
    let message = encrypt(&recipients(&pairs[..2], Profile::Gnupg), b"rows");
    let keys = DecryptionKeys::read(&pairs[2].secret, None).unwrap();
    let Err(OpenPgpError::NoKey { needed }) = keys.decrypt(message.as_slice()) else { panic!("it was opened") };
    assert_eq!(needed.len(), 2);
    for (pair, id) in pairs.iter().zip(&needed) {
        let gpg = Gpg::new();
        gpg.import(&pair.public);
        let listing = String::from_utf8(gpg.run(&["--with-colons", "--list-keys"], b"")).unwrap();
        assert!(
            listing.lines().any(|line| line.starts_with("sub:") && line.contains(id.as_str())),
            "{id} in {listing}"
        );
    }
}

#[test]
fn f48_a_locked_key_opens_with_its_passphrase_only() {
    let gpg = Gpg::new();
    let fingerprint = gpg.make("locked", "ed25519", "cv25519", "0", &[]);
    let secret = gpg.secret("locked");
    let read = |passphrase: Option<&str>| DecryptionKeys::read(&secret, passphrase.map(SecretString::from).as_ref());
    assert!(matches!(read(None), Err(OpenPgpError::Locked { given: false, .. })));
    assert!(matches!(read(Some("wrong")), Err(OpenPgpError::Locked { given: true, .. })));
    let recipients = Recipients::new(&[gpg.public("locked")], &[fingerprint], Profile::Gnupg, Utc::now()).unwrap();
    let mut text = String::new();
    let message = encrypt(&recipients, b"rows");
    read(Some("right")).unwrap().decrypt(message.as_slice()).unwrap().read_to_string(&mut text).unwrap();
    assert_eq!(text, "rows");
    assert!(matches!(DecryptionKeys::read(&gpg.public("locked"), None), Err(OpenPgpError::Unreadable { .. })));
}

#[test]
fn f49_certificates_that_are_not_fit_are_refused_with_the_reason() {
    let (gpg, now) = (Gpg::new(), Utc::now() + Duration::minutes(1));
    let take = |who: &str, fingerprint: &str, now| {
        refusals(Recipients::new(&[gpg.public(who)], &[fingerprint], Profile::Gnupg, now))
    };
    let fit = gpg.make("fit", "ed25519", "cv25519", "10d", &[]);
    assert_eq!(take("fit", &fit, now), []);
    assert!(matches!(take("fit", &fit, now + Duration::days(11))[..], [Refusal::Expired(_)]));
    assert_eq!(take("fit", &fit, now - Duration::days(11)).len(), 1, "before it was made");
    let signer = gpg.make("signer", "ed25519", "", "0", &[]);
    assert_eq!(take("signer", &signer, now), [Refusal::NotForEncryption]);
    let weak = gpg.make("weak", "rsa1024", "rsa1024", "0", &[]);
    assert_eq!(take("weak", &weak, now), [Refusal::WeakRsa(1024)]);
    let sha1 =
        gpg.make("sha1", "rsa2048", "rsa2048", "0", &["--cert-digest-algo", "SHA1", "--allow-weak-digest-algos"]);
    let refused = take("sha1", &sha1, now);
    assert!(matches!(&refused[..], [Refusal::Weak(why)] if why.contains("SHA1")), "{refused:?}");
    let revoked = gpg.make("revoked", "ed25519", "cv25519", "0", &[]);
    let certificate = gpg.home().join("openpgp-revocs.d").join(format!("{revoked}.rev"));
    let text = std::fs::read_to_string(certificate).unwrap().replace(":-----BEGIN", "-----BEGIN");
    gpg.import(text.as_bytes());
    assert_eq!(take("revoked", &revoked, now), [Refusal::Revoked]);
}

#[test]
fn f49_an_encryption_subkey_that_expires_first_counts() {
    let gpg = Gpg::new();
    let fingerprint = gpg.make("early", "ed25519", "", "0", &[]);
    gpg.run(&["--passphrase", "right", "--quick-add-key", &fingerprint, "cv25519", "encr", "20d"], b"");
    let now = Utc::now();
    let at = |now| Recipients::new(&[gpg.public("early")], &[&fingerprint], Profile::Gnupg, now);
    let recipients = at(now).unwrap();
    let warning = |days| recipients.list()[0].warning(now + Duration::days(days));
    assert_eq!(
        [-20, 0, 12, 14, 18, 19, 20].map(warning),
        [None, Some(30), Some(30), Some(7), Some(7), Some(1), Some(1)]
    );
    assert!(matches!(refusals(at(now + Duration::days(21)))[..], [Refusal::Expired(_)]));
}

#[test]
fn f50_only_what_is_pinned_by_its_full_fingerprint_is_encrypted_to() {
    let pairs = pairs(2);
    let take = |files: &[&KeyPair], pins: &[&str]| {
        let files: Vec<&[u8]> = files.iter().map(|pair| pair.public.as_slice()).collect();
        refusals(Recipients::new(&files, pins, Profile::Gnupg, noon()))
    };
    let (first, second) = (&pairs[0], &pairs[1]);
    assert_eq!(take(&[first, second], &[&first.fingerprint]), [Refusal::NotPinned]);
    assert_eq!(take(&[first], &[&first.fingerprint, &second.fingerprint]), [Refusal::NoCertificate]);
    assert_eq!(take(&[first], &[&second.fingerprint]), [Refusal::NotPinned, Refusal::NoCertificate]);
    assert_eq!(take(&[first], &[&first.fingerprint[24..]]), [Refusal::NotAFingerprint, Refusal::NotPinned]);
    assert_eq!(take(&[], &[]), [Refusal::NobodyPinned]);
    let grouped: Vec<String> = first
        .fingerprint
        .to_lowercase()
        .as_bytes()
        .chunks(4)
        .map(|group| String::from_utf8_lossy(group).into_owned())
        .collect();
    assert_eq!(take(&[first], &[&grouped.join(" ")]), []);
    let secret = Recipients::new(&[&first.secret], &[&first.fingerprint], Profile::Gnupg, noon());
    assert_eq!(refusals(secret), [Refusal::HasSecretKey]);
    let garbage = Recipients::new(&[b"no key"], &[&first.fingerprint], Profile::Gnupg, noon());
    assert!(matches!(refusals(garbage)[..], [Refusal::Unreadable(_), Refusal::NoCertificate]));
}

#[test]
fn f51_a_message_to_fewer_or_other_recipients_is_found() {
    let pairs = pairs(3);
    let two = recipients(&pairs[..2], Profile::Gnupg);
    let message = encrypt(&two, &plaintext());
    two.check(&message).unwrap();
    two.check(&message[..64 << 10]).unwrap();
    for others in [&pairs[..1], &pairs[..], &pairs[1..]] {
        let error = recipients(others, Profile::Gnupg).check(&message).unwrap_err();
        assert!(matches!(error, OpenPgpError::WrongRecipients { .. }), "{error}");
    }
    let without_first = &message[2 + usize::from(message[1])..];
    assert!(matches!(two.check(without_first), Err(OpenPgpError::WrongRecipients { .. })));
    let first_twice = [&message[..2 + usize::from(message[1])], &message].concat();
    assert!(matches!(two.check(&first_twice), Err(OpenPgpError::WrongRecipients { .. })));
}

#[test]
fn what_has_no_integrity_code_or_no_encryption_is_refused() {
    let pairs = pairs(1);
    let keys = DecryptionKeys::read(&pairs[0].secret, None).unwrap();
    let message = encrypt(&recipients(&pairs, Profile::Gnupg), b"rows");
    let packet = &message[..2 + usize::from(message[1])];
    let legacy = [packet, &[0xc9, 40], &[7; 40]].concat();
    let error = keys.decrypt(legacy.as_slice()).err().unwrap();
    assert!(matches!(error, OpenPgpError::Failed { .. }), "{error:?}");
    let literal = Gpg::new().run(&["--store", "-z", "0"], b"rows");
    let error = keys.decrypt(literal.as_slice()).err().unwrap();
    assert!(matches!(error, OpenPgpError::NotEncrypted), "{error:?}");
    assert!(keys.decrypt(&b"garbage"[..]).is_err());
}

/// Every byte, the integrity code of the message alone: no digest of ours takes part.
#[test]
fn f45_the_message_alone_shows_every_change_to_its_encrypted_part() {
    let pairs = pairs(1);
    let keys = DecryptionKeys::read(&pairs[0].secret, None).unwrap();
    let mut message = encrypt(&recipients(&pairs, Profile::Gnupg), &[42; 600]);
    let (body, mut found) = (2 + usize::from(message[1]), 0);
    for at in body..message.len() {
        message[at] ^= 1;
        let read = keys.decrypt(message.as_slice()).map(|mut text| text.read_to_end(&mut Vec::new()));
        found += usize::from(!matches!(read, Ok(Ok(_))));
        message[at] ^= 1;
    }
    assert_eq!(found, message.len() - body);
}
