//! From a reference in the configuration to a secret in memory, for as long as a door is open.

use std::time::Duration;

use secrecy::SecretString;

use crate::config::Secret;
use crate::host::secrets_manager::{self, StoredLogin, Version};
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
            let name = name.clone();
            alone(async move { aws_secret(&name, Version::Current).await.map(|login| login.password) })?
        }
    }
}

/// One version of a secret of AWS Secrets Manager.
pub(super) async fn aws_secret(name: &str, version: Version) -> Result<StoredLogin, Failure> {
    secrets_manager::read(name, version).await.map_err(|why| {
        Failure::new(FailureKind::Authentication, format!("read the AWS secret {name}: {why}"))
            .hint("Check its name, the region, and that the AWS login here may do secretsmanager:GetSecretValue on it.")
    })
}

/// Runs `work` to its end on a thread and a runtime of its own: secrets are had while doors are opened, which waits.
pub(super) fn alone<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, Failure> {
    let failed = |why: String| Failure::new(FailureKind::Failed, format!("ask for a secret: {why}"));
    let asking = std::thread::Builder::new().name("secret".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map(|runtime| runtime.block_on(work))
    });
    let asked = asking.map_err(|error| failed(error.to_string()))?.join();
    asked.map_err(|_| failed("its thread ended badly".to_owned()))?.map_err(|error| failed(error.to_string()))
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
