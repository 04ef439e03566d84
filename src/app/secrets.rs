//! From a reference in the configuration to a secret in memory, for as long as a door is open.

use std::time::Duration;

use secrecy::SecretString;

use crate::config::Secret;
use crate::host::{ChildSpec, durable, run_to_end};
use crate::model::failure::{Failure, FailureKind};

/// Longest a command may take to print a secret.
const COMMAND_TIME: Duration = Duration::from_secs(30);

/// The secret that `reference` leads to; `what` names it in messages.
pub(super) fn resolve(reference: &Secret, what: &str) -> Result<SecretString, Failure> {
    match reference {
        Secret::Value(text) => Ok(SecretString::from(text.expose())),
        Secret::File(path) => durable::read_secret_file(path).map_err(|error| {
            Failure::new(FailureKind::Authentication, format!("read {what}"))
                .because(error)
                .hint("The file must be there and readable by this user alone.")
        }),
        Secret::Command(words) => of_command(words, what),
        Secret::AwsSecret(name) => {
            Err(Failure::new(FailureKind::Usage, format!("read {what} from the AWS secret {name}: not built yet"))
                .hint("Use the _file or _command form for now."))
        }
    }
}

fn of_command(words: &[String], what: &str) -> Result<SecretString, Failure> {
    let Some((program, arguments)) = words.split_first() else {
        return Err(Failure::new(FailureKind::Usage, format!("read {what}: its command is empty")));
    };
    let mut spec = ChildSpec::new(program, arguments);
    spec.label = format!("the command for {what}");
    spec.inherits_all = true;
    let said = run_to_end(&spec, COMMAND_TIME)
        .map_err(|error| Failure::new(FailureKind::Authentication, format!("read {what}")).because(error))?;
    let text = String::from_utf8(said.stdout).map_err(|_| {
        Failure::new(FailureKind::Authentication, format!("read {what}: its command did not print text"))
    })?;
    Ok(SecretString::from(text.trim_end_matches(['\r', '\n'])))
}
