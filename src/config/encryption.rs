//! The `[encryption]` and `[verification]` sections: certificates, keys, passphrases.
//!
//! Backups need certificates only. No encryption at all must be written out: `encryption = "none"`.

use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::config::postgres::one_secret;
use crate::config::secret::{CommandLine, FilePath, Secret, SecretText};
use crate::model::span::Span;

/// Whether and to whom artifacts are encrypted.
#[derive(Clone, Debug)]
pub enum Encryption {
    /// Not at all, as somebody has written out.
    None,
    /// With OpenPGP.
    OpenPgp(Box<OpenPgp>),
}

impl Encryption {
    /// The OpenPGP settings, where there is encryption.
    pub fn openpgp(&self) -> Option<&OpenPgp> {
        match self {
            Self::None => None,
            Self::OpenPgp(settings) => Some(settings),
        }
    }
}

/// OpenPGP keys and recipients.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OpenPgp {
    /// Certificates to encrypt to.
    pub recipients: Vec<FilePath>,
    /// Their full fingerprints; another certificate in their place is refused.
    pub fingerprints: Vec<Fingerprint>,
    /// Form of messages.
    pub profile: Profile,
    /// The key that signs manifests and reports.
    pub signing_key: Option<FilePath>,
    /// Its passphrase, written out.
    pub signing_key_passphrase: Option<SecretText>,
    /// A file that holds it.
    pub signing_key_passphrase_file: Option<FilePath>,
    /// A command that prints it.
    pub signing_key_passphrase_command: Option<CommandLine>,
    /// The key that opens artifacts; only where restores run.
    pub decryption_key: Option<FilePath>,
    /// Its passphrase, written out.
    pub decryption_key_passphrase: Option<SecretText>,
    /// A file that holds it.
    pub decryption_key_passphrase_file: Option<FilePath>,
    /// A command that prints it.
    pub decryption_key_passphrase_command: Option<CommandLine>,
    /// Age at which `check` asks for new keys.
    pub rotate_after: Option<Span>,
    /// How often the holder of each private key has to show that it opens what is stored; a month when not set.
    pub drill_every: Option<Span>,
}

impl OpenPgp {
    /// The signing key's passphrase, where a key says.
    pub fn signing_passphrase(&self) -> Option<Secret> {
        let file = self.signing_key_passphrase_file.as_ref();
        one_secret(self.signing_key_passphrase.as_ref(), file, self.signing_key_passphrase_command.as_ref(), None)
    }

    /// The decryption key's passphrase, where a key says.
    pub fn decryption_passphrase(&self) -> Option<Secret> {
        let file = self.decryption_key_passphrase_file.as_ref();
        one_secret(self.decryption_key_passphrase.as_ref(), file, self.decryption_key_passphrase_command.as_ref(), None)
    }
}

/// Form of messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// What GnuPG 2.2 and later reads (RFC 4880, SEIPDv1).
    #[default]
    GnuPg,
    /// Faster, for newer readers (RFC 9580, SEIPDv2).
    Rfc9580,
}

/// The full fingerprint of a certificate: 40 (version 4) or 64 (version 6) upper-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(String);

impl Fingerprint {
    /// The digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        let text = text.strip_prefix("0x").unwrap_or(&text);
        let digits: String = text.chars().filter(|c| *c != ' ' && *c != ':').collect();
        let whole = matches!(digits.len(), 40 | 64) && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
        if whole {
            Ok(Self(digits.to_ascii_uppercase()))
        } else {
            Err("expected a full fingerprint of 40 or 64 hexadecimal digits")
        }
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.0
    }
}

/// Whose signatures are trusted.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Verification {
    /// Certificates of signing keys, old ones too; the signing key's own is always among them.
    pub certificates: Vec<FilePath>,
    /// The key that signs manifests where encryption is "none"; otherwise it stands in [encryption].
    pub signing_key: Option<FilePath>,
}

impl Serialize for Encryption {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::None => serializer.serialize_str("none"),
            Self::OpenPgp(settings) => settings.serialize(serializer),
        }
    }
}

struct EncryptionVisitor;

impl<'de> de::Visitor<'de> for EncryptionVisitor {
    type Value = Encryption;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"none\" or a table with recipients")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Encryption, E> {
        if text == "none" { Ok(Encryption::None) } else { Err(E::unknown_variant(text, &["none"])) }
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Encryption, A::Error> {
        let settings = OpenPgp::deserialize(de::value::MapAccessDeserializer::new(map))?;
        Ok(Encryption::OpenPgp(Box::new(settings)))
    }
}

impl<'de> Deserialize<'de> for Encryption {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(EncryptionVisitor)
    }
}

impl JsonSchema for Encryption {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Encryption".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "none" }, generator.subschema_for::<OpenPgp>()] })
    }
}
