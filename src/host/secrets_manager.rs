//! Secrets of AWS Secrets Manager: the present version of one, and the one before it, which a rotation leaves valid for a
//! while (AWS Secrets Manager User Guide, "Staging labels").
//!
//! Region, endpoint and login come from the SDK's own chain. What is read is told to nobody, not even in errors.

use std::fmt;
use std::time::Duration;

use aws_config::BehaviorVersion;
use aws_config::timeout::TimeoutConfig;
use aws_sdk_secretsmanager::Client;
use aws_sdk_secretsmanager::error::DisplayErrorContext;
use secrecy::SecretString;
use serde::Deserialize;

/// Longest wait for one answer, its retries included.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Which version of a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// The one in force.
    Current,
    /// The one before it.
    Previous,
}

impl Version {
    fn label(self) -> &'static str {
        match self {
            Self::Current => "AWSCURRENT",
            Self::Previous => "AWSPREVIOUS",
        }
    }
}

/// A login as a secret holds it: `{"username": …, "password": …}` as AWS's own rotations write it, or a password alone.
#[derive(Clone)]
pub struct StoredLogin {
    /// The user, where it is in the secret.
    pub user: Option<String>,
    /// The password.
    pub password: SecretString,
}

impl fmt::Debug for StoredLogin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredLogin").field("user", &self.user).finish_non_exhaustive()
    }
}

#[derive(Deserialize)]
struct Document {
    username: Option<String>,
    password: String,
}

/// The `version` of the secret `name` (a name or an ARN). Errors with what the service says, in one line.
pub async fn read(name: &str, version: Version) -> Result<StoredLogin, String> {
    let timeouts = TimeoutConfig::builder().operation_timeout(ANSWER_TIME).build();
    let config = aws_config::defaults(BehaviorVersion::latest()).timeout_config(timeouts).load().await;
    let answer = Client::new(&config).get_secret_value().secret_id(name).version_stage(version.label()).send().await;
    let answer = answer.map_err(|error| format!("{}", DisplayErrorContext(&error)))?;
    match answer.secret_string() {
        Some(text) => parse(text),
        None => Err("it holds bytes, not text".to_owned()),
    }
}

fn parse(text: &str) -> Result<StoredLogin, String> {
    let text = text.trim_end_matches(['\r', '\n']);
    if !text.trim_start().starts_with('{') {
        return Ok(StoredLogin { user: None, password: SecretString::from(text) });
    }
    // The parser's own words would quote the secret.
    let document: Document =
        serde_json::from_str(text).map_err(|_| "it is JSON without a \"password\", or no sound JSON".to_owned())?;
    Ok(StoredLogin { user: document.username, password: SecretString::from(document.password) })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::*;

    #[test]
    fn a_secret_is_a_login_or_a_password_alone() {
        let login = parse("{\"username\": \"app\", \"password\": \"a\\\"b\", \"engine\": \"postgres\"}").unwrap();
        assert_eq!((login.user.as_deref(), login.password.expose_secret()), (Some("app"), "a\"b"));
        let plain = parse("hunter2\n").unwrap();
        assert_eq!((plain.user, plain.password.expose_secret()), (None, "hunter2"));
    }

    #[test]
    fn g15_neither_errors_nor_debug_tell_a_secret() {
        let error = parse("{\"password\": \"hunter2\", ").unwrap_err();
        assert!(!error.contains("hunter2"), "{error}");
        assert!(parse("{\"user\": \"x\"}").is_err());
        assert!(!format!("{:?}", parse("hunter2").unwrap()).contains("hunter2"));
    }
}
