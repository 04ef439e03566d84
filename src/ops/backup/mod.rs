//! What is stored: verifying, keeping and deleting backups that exist.

mod delete;
mod verify;

pub use delete::{delete, delete_refusal};
pub use verify::{Verified, verify};

use crate::catalog::{Artifact, Inventory, Record, Repository, Unsigned};
use crate::model::failure::Failure;
use crate::model::outcome::Finding;
use crate::ops::Setting;

/// What several repositories hold, and what is wrong with them.
#[derive(Debug, Default)]
pub struct Holdings {
    /// Every copy of every artifact, oldest first.
    pub artifacts: Vec<Artifact>,
    /// Findings of all repositories.
    pub findings: Vec<Finding>,
    /// Repositories that could not be read, and why.
    pub unread: Vec<(String, Failure)>,
}

/// Reads all `repositories`; one that cannot be read does not hide the others.
pub async fn holdings(repositories: &[Repository], setting: &Setting) -> Holdings {
    let mut holdings = Holdings::default();
    for repository in repositories {
        match Inventory::read(repository, Unsigned::Refuse, setting.clock.now()).await {
            Ok(inventory) => {
                holdings.artifacts.extend(inventory.artifacts);
                holdings.findings.extend(inventory.findings);
            }
            Err(error) => holdings.unread.push((repository.name.clone(), error.into())),
        }
    }
    holdings.artifacts.sort_by_key(|artifact| artifact.manifest.finished);
    holdings
}

/// Keeps `artifact` in `repository` whatever retention says, or puts it under retention again.
pub async fn keep(
    repository: &Repository,
    artifact: &Artifact,
    reason: Option<&str>,
    setting: &Setting,
) -> Result<(), Failure> {
    let artifact = artifact.manifest.id;
    let record = match reason {
        Some(reason) => Record::Pin { artifact, reason: reason.to_owned() },
        None => Record::Unpin { artifact },
    };
    Ok(repository.record(record, setting.clock.now()).await?)
}
