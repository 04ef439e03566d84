//! Whose repository it is: `repository.json`, written once by the first run, and checked by every later one.
//!
//! A second cluster pointed at the same prefix would mix two histories; it is refused unless the system
//! identifier found there is declared as a former one of this cluster (pg_upgrade makes a new one).

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::lsn::SystemId;

const FORMAT: u32 = 1;

/// Whose repository it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format number of the repository's layout.
    pub format: u32,
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's system identifier; absent where the server does not tell it.
    pub system_identifier: Option<SystemId>,
    /// When the repository was begun.
    pub created: DateTime<Utc>,
}

impl Identity {
    /// The identity of a repository begun now for `cluster`.
    pub fn new(cluster: &str, system_identifier: Option<SystemId>, now: DateTime<Utc>) -> Self {
        Self { format: FORMAT, cluster: cluster.to_owned(), system_identifier, created: now }
    }
}

impl Repository {
    /// Writes `mine` into an empty repository, or checks that the repository is already ours: same cluster, and the same
    /// system or one of the `former` ones.
    pub async fn claim(&self, mine: &Identity, former: &[SystemId]) -> Result<(), CatalogError> {
        let theirs = match self.identity().await? {
            Some(theirs) => theirs,
            None => match self.write_identity(mine).await? {
                None => return Ok(()),
                Some(theirs) => theirs,
            },
        };
        if theirs.cluster != mine.cluster {
            let message = format!(
                "use repository {} ({}): it belongs to the cluster {}, not to {}",
                self.name,
                self.storage.place(),
                theirs.cluster,
                mine.cluster
            );
            return Err(CatalogError::new(CatalogErrorKind::OtherCluster, message));
        }
        match (theirs.system_identifier, mine.system_identifier) {
            (Some(first), Some(ours)) if first != ours && !former.contains(&first) => {
                let message = format!(
                    "use repository {}: it was begun by the system {first} and this server is the system {ours}; \
                     another cluster's backups are in it, or the cluster was upgraded",
                    self.name
                );
                Err(CatalogError::new(CatalogErrorKind::OtherCluster, message))
            }
            _ => Ok(()),
        }
    }

    /// Whose repository it is; nothing when it is new.
    pub async fn identity(&self) -> Result<Option<Identity>, CatalogError> {
        let key = names::identity()?;
        let bytes = match self.read(&key).await {
            Err(error) if error.is_missing() => return Ok(None),
            other => other?,
        };
        let malformed = |message: String| CatalogError::new(CatalogErrorKind::Malformed, message);
        let identity: Identity = serde_json::from_slice(&bytes)
            .map_err(|error| malformed(format!("read {key} in {}", self.storage.place())).because(error))?;
        if identity.format != FORMAT {
            let message = format!("use a repository of format {}: this version reads {FORMAT}", identity.format);
            return Err(CatalogError::new(CatalogErrorKind::NewerFormat, message));
        }
        Ok(Some(identity))
    }

    /// Writes it; gives that of somebody who was first.
    async fn write_identity(&self, mine: &Identity) -> Result<Option<Identity>, CatalogError> {
        let bytes = serde_json::to_vec_pretty(mine).map_err(|error| {
            CatalogError::new(CatalogErrorKind::Malformed, "write the repository's identity").because(error)
        })?;
        match self.write(&names::identity()?, bytes).await {
            Err(error) if error.is_exists() => match self.identity().await? {
                Some(theirs) => Ok(Some(theirs)),
                None => Err(error.into()),
            },
            other => Ok(other.map(|()| None)?),
        }
    }
}
