//! Where a repository lies: `file:///absolute/path` or `s3://bucket/prefix`.
//!
//! Credentials in the address are refused, and the refusal does not repeat them: S3 logins come from the SDK's chain.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::model::key::ObjectKey;

/// A repository's address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Place {
    /// A directory, absolute.
    Directory(PathBuf),
    /// A prefix of a bucket.
    S3 {
        /// The bucket.
        bucket: String,
        /// The prefix without slashes at its ends; empty for the whole bucket.
        prefix: String,
    },
}

impl Place {
    /// Whether it is a directory of this machine.
    pub fn is_directory(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let url: url::Url = text
            .parse()
            .map_err(|_| "expected file:///absolute/path or s3://bucket/prefix, such as \"s3://backups/main\"")?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err("credentials do not belong into a repository's URL; the AWS chain finds them");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err("a repository's URL takes no ? or #");
        }
        match url.scheme() {
            "file" => directory(&url),
            "s3" => bucket(&url),
            _ => Err("the URL of a repository begins with file:/// or s3://"),
        }
    }
}

fn directory(url: &url::Url) -> Result<Place, &'static str> {
    let path = url.to_file_path().map_err(|()| "write three slashes and an absolute path: file:///var/backups")?;
    if path.parent().is_none() {
        return Err("the root directory is no place for a repository");
    }
    Ok(Place::Directory(path))
}

fn bucket(url: &url::Url) -> Result<Place, &'static str> {
    let bucket = url.host_str().unwrap_or_default();
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.' || c == '_';
    if !(3..=255).contains(&bucket.len()) || !bucket.chars().all(allowed) || url.port().is_some() {
        return Err("the name of the bucket is 3 to 63 lower-case letters, digits, dots and hyphens");
    }
    let prefix = url.path().trim_matches('/');
    if !prefix.is_empty() && prefix.parse::<ObjectKey>().is_err() {
        return Err("the prefix has an empty or hidden component");
    }
    Ok(Place::S3 { bucket: bucket.to_owned(), prefix: prefix.to_owned() })
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::S3 { bucket, prefix } if prefix.is_empty() => write!(f, "s3://{bucket}"),
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{prefix}"),
        }
    }
}

impl TryFrom<String> for Place {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, &'static str> {
        text.parse()
    }
}

impl From<Place> for String {
    fn from(place: Place) -> Self {
        place.to_string()
    }
}

impl JsonSchema for Place {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Place".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "pattern": "^(file:///|s3://).+" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_and_buckets_are_read() {
        assert_eq!("file:///var/b%20c".parse(), Ok(Place::Directory("/var/b c".into())));
        let s3 = |bucket: &str, prefix: &str| Place::S3 { bucket: bucket.into(), prefix: prefix.into() };
        assert_eq!("s3://consulting-tool-backups/bc-003".parse(), Ok(s3("consulting-tool-backups", "bc-003")));
        assert_eq!("s3://bucket/a/b/".parse(), Ok(s3("bucket", "a/b")));
        assert_eq!("s3://bucket".parse(), Ok(s3("bucket", "")));
    }

    #[test]
    fn other_addresses_are_refused_without_repeating_credentials() {
        for text in [
            "",
            "/var/backups",
            "file://var/backups",
            "file:///",
            "http://x/y",
            "s3://",
            "s3://ab",
            "s3://Bucket_/x//y",
            "s3://bucket/../x?y",
            "s3://AKIA:hunter2@bucket/x",
        ] {
            let error = text.parse::<Place>().unwrap_err();
            assert!(!error.contains("hunter2") && !error.contains("AKIA"), "{error}");
        }
    }
}
