//! Leases: small objects that say "a restore is reading this artifact" or "a run is making this one", so that an expiry
//! beside it, whoever's it is, leaves it alone.
//!
//! A lease ends by itself at an instant written in it; whoever dies holds nothing up for longer than that. Keys are written
//! once, as all are, so that to lease for longer is to write another key.

use std::collections::BTreeSet;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::catalog::log::list_all;
use crate::catalog::names::{self, ArtifactName, Leased};
use crate::catalog::repository::Repository;
use crate::model::id::{ArtifactId, RunId};
use crate::model::key::ObjectKey;

/// How long a restore's lease holds at most: longer than a thaw from the deepest archive class (two days) and a large
/// restore.
const TERM: Duration = Duration::days(7);

/// How long a lease holds that its run renews: longer than a store or a machine is away now and then.
const RENEWED_TERM: Duration = Duration::hours(6);

#[derive(Serialize, Deserialize)]
struct Lease {
    until: DateTime<Utc>,
}

/// The leases in a repository.
#[derive(Debug, Default)]
pub struct Leases {
    /// Artifacts that are in use.
    pub holding: BTreeSet<ArtifactId>,
    /// Names of artifacts that are being made.
    pub making: BTreeSet<ArtifactName>,
    /// Leases that ended by themselves, of runs that died.
    pub over: Vec<ObjectKey>,
}

impl Repository {
    /// Leases `artifact` for the run `holder`, which does not renew it. Give the key to [`Repository::end_lease`].
    pub async fn lease(
        &self,
        artifact: ArtifactId,
        holder: RunId,
        now: DateTime<Utc>,
    ) -> Result<ObjectKey, CatalogError> {
        let key = Leased::Artifact(artifact).lease(&holder.to_string())?;
        self.write_lease(&key, now + TERM).await?;
        Ok(key)
    }

    /// Leases `on` for the run `holder` for the `turn`th time, for as long as six hours: one that goes on renews it.
    pub async fn lease_for_a_turn(
        &self,
        on: &Leased,
        holder: RunId,
        turn: u32,
        now: DateTime<Utc>,
    ) -> Result<ObjectKey, CatalogError> {
        let key = on.lease(&format!("{holder}-{turn}"))?;
        self.write_lease(&key, now + RENEWED_TERM).await?;
        Ok(key)
    }

    async fn write_lease(&self, key: &ObjectKey, until: DateTime<Utc>) -> Result<(), CatalogError> {
        let bytes = serde_json::to_vec(&Lease { until })
            .map_err(|error| CatalogError::new(CatalogErrorKind::Malformed, "write a lease").because(error))?;
        Ok(self.write(key, bytes).await?)
    }

    /// Ends a lease.
    pub async fn end_lease(&self, key: &ObjectKey) -> Result<(), CatalogError> {
        Ok(self.storage.delete(key, None).await?)
    }

    /// Ends every lease on `on`, whosever it is.
    pub async fn end_leases(&self, on: &Leased) -> Result<(), CatalogError> {
        for key in list_all(self.storage.as_ref(), &on.leases()).await? {
            self.end_lease(&key).await?;
        }
        Ok(())
    }

    /// Until when somebody leases `on`, if anybody does.
    pub async fn leased_until(&self, on: &Leased) -> Result<Option<DateTime<Utc>>, CatalogError> {
        let mut last = None;
        for key in list_all(self.storage.as_ref(), &on.leases()).await? {
            match self.read(&key).await {
                Ok(bytes) => last = last.max(serde_json::from_slice::<Lease>(&bytes).ok().map(|lease| lease.until)),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(last)
    }

    /// Artifacts under a lease that holds at `now`. A lease that cannot be read holds: better kept too long.
    pub async fn leased(&self, now: DateTime<Utc>) -> Result<BTreeSet<ArtifactId>, CatalogError> {
        Ok(self.leases(now).await?.holding)
    }

    /// Every lease there is, as of `now`.
    pub async fn leases(&self, now: DateTime<Utc>) -> Result<Leases, CatalogError> {
        let mut leases = Leases::default();
        for key in list_all(self.storage.as_ref(), &names::leases()).await? {
            let Some(on) = Leased::of(&key) else { continue };
            match self.read(&key).await {
                Ok(bytes) if serde_json::from_slice::<Lease>(&bytes).is_ok_and(|lease| lease.until <= now) => {
                    leases.over.push(key);
                }
                Ok(_) => leases.add(on),
                Err(error) if error.is_missing() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(leases)
    }
}

impl Leases {
    fn add(&mut self, on: Leased) {
        match on {
            Leased::Artifact(artifact) => drop(self.holding.insert(artifact)),
            Leased::Name(name) => drop(self.making.insert(name)),
        }
    }
}
