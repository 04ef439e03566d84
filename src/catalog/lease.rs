//! Leases: small objects that say "a restore is reading this artifact", so that an expiry beside it leaves it alone.
//!
//! A lease ends by itself at an instant written in it; a restore that dies holds nothing up for longer than that.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::log::list_all;
use crate::catalog::names;
use crate::catalog::repository::Repository;
use crate::model::id::{ArtifactId, RunId};
use crate::model::key::ObjectKey;

/// How long a lease holds at most: longer than a thaw from the deepest archive class (two days) and a large restore.
const TERM: Duration = Duration::days(7);

#[derive(Serialize, Deserialize)]
struct Lease {
    until: DateTime<Utc>,
}

/// The leases in a repository.
#[derive(Debug, Default)]
pub struct Leases {
    /// Artifacts that are in use.
    pub holding: BTreeSet<ArtifactId>,
    /// Leases that ended by themselves, of restores that died.
    pub over: Vec<ObjectKey>,
}

impl Repository {
    /// Leases `artifact` for the run `holder`. Give the key to [`Repository::end_lease`].
    pub async fn lease(
        &self,
        artifact: ArtifactId,
        holder: RunId,
        now: DateTime<Utc>,
    ) -> Result<ObjectKey, CatalogError> {
        let key = names::lease(artifact, &holder.to_string())?;
        let bytes = serde_json::to_vec(&Lease { until: now + TERM })
            .map_err(|error| CatalogError::new(CatalogErrorKind::Malformed, "write a lease").because(error))?;
        self.write(&key, bytes).await?;
        Ok(key)
    }

    /// Ends a lease.
    pub async fn end_lease(&self, key: &ObjectKey) -> Result<(), CatalogError> {
        Ok(self.storage.delete(key, None).await?)
    }

    /// Artifacts under a lease that holds at `now`. A lease that cannot be read holds: better kept too long.
    pub async fn leased(&self, now: DateTime<Utc>) -> Result<BTreeSet<ArtifactId>, CatalogError> {
        Ok(self.leases(now).await?.holding)
    }

    /// Every lease there is, as of `now`.
    pub async fn leases(&self, now: DateTime<Utc>) -> Result<Leases, CatalogError> {
        let mut leases = Leases::default();
        for key in list_all(self.storage.as_ref(), &names::leases()).await? {
            let Some(artifact) = names::leased_artifact(&key) else { continue };
            match self.read(&key).await {
                Ok(bytes) if serde_json::from_slice::<Lease>(&bytes).is_ok_and(|lease| lease.until <= now) => {
                    leases.over.push(key);
                }
                Ok(_) => drop(leases.holding.insert(artifact)),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(leases)
    }
}
