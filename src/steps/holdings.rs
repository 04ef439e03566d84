//! What a repository holds, for those who build upon it: only where its log can be believed.

use chrono::{DateTime, Utc};

use crate::catalog::{Artifact, Inventory, Repository, Unsigned};
use crate::model::failure::{Failure, FailureKind};

/// Every artifact of `repository`. Errors where its log is broken: what it says of verified and deleted may be wrong.
pub async fn holdings(repository: &Repository, now: DateTime<Utc>) -> Result<Vec<Artifact>, Failure> {
    let inventory = Inventory::read(repository, Unsigned::Refuse, now).await?;
    match inventory.broken_log {
        None => Ok(inventory.artifacts),
        Some(reason) => {
            let message = format!("trust repository {}: {reason}", repository.name);
            Err(Failure::new(FailureKind::Integrity, message))
        }
    }
}
