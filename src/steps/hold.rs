//! A hold on what a run makes and builds upon, in every repository: expiry leaves it alone for as long as the run lives.
//!
//! Leases that are renewed while the work goes on. A run that dies holds nothing for longer than its last lease. Where the
//! next run goes on with what a failed one has stored, neither does one that fails; elsewhere it gives its leases back. A
//! repository that takes no lease does not hold up the work: what is lost by that is seen before the commit.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::names::Leased;
use crate::catalog::{ArtifactName, CatalogError, Repository};
use crate::model::failure::{Failure, FailureKind};
use crate::model::key::ObjectKey;
use crate::steps::Setting;
use crate::storage::StorageErrorKind;

/// How often leases are renewed: several times within the term of one.
const RENEWED_EVERY: Duration = Duration::from_secs(30 * 60);

/// Age below which a lease is not worth renewing.
const FRESH: TimeDelta = TimeDelta::minutes(15);

/// Leases of one run.
#[derive(Debug)]
pub struct Hold {
    leases: Vec<Lease>,
    setting: Setting,
}

#[derive(Debug)]
struct Lease {
    repository: Repository,
    on: Leased,
    turns: Mutex<Turns>,
}

/// The lease as it was renewed last.
#[derive(Debug, Default)]
struct Turns {
    count: u32,
    /// Its key, and when it was written.
    last: Option<(ObjectKey, DateTime<Utc>)>,
}

impl Hold {
    /// Leases each of `wanted` in its repository.
    pub async fn take(wanted: Vec<(Repository, Leased)>, setting: &Setting) -> Self {
        let lease = |(repository, on)| Lease { repository, on, turns: Mutex::default() };
        let hold = Self { leases: wanted.into_iter().map(lease).collect(), setting: setting.clone() };
        hold.renew().await;
        hold
    }

    /// Does `work`, and renews the leases all the while.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            done = work => done,
            never = self.keep_renewing() => match never {},
        }
    }

    async fn keep_renewing(&self) -> Infallible {
        loop {
            self.setting.clock.sleep(RENEWED_EVERY).await;
            self.renew().await;
        }
    }

    /// Leases anew what was not leased just now: a machine that slept may have lost its leases.
    pub async fn renew(&self) {
        futures_util::future::join_all(self.leases.iter().map(|lease| lease.renew(&self.setting))).await;
    }

    /// Does `work` under the leases, and gives them back however it ends: nobody goes on with what it leaves. Large work is
    /// to be boxed: it would be moved about on the stack.
    pub async fn around<T>(&self, work: impl Future<Output = T>) -> T {
        let done = self.during(work).await;
        for lease in &self.leases {
            lease.note_end(lease.give_back().await, &self.setting);
        }
        done
    }

    /// Gives everything back; leases that dead runs had on the same names go too.
    pub async fn end(self) {
        for lease in &self.leases {
            let ended = match &lease.on {
                Leased::Name(_) => lease.repository.end_leases(&lease.on).await,
                Leased::Artifact(_) => lease.give_back().await,
            };
            lease.note_end(ended, &self.setting);
        }
    }
}

impl Lease {
    async fn renew(&self, setting: &Setting) {
        let now = setting.clock.now();
        let turn = {
            let mut turns = self.turns();
            if turns.last.as_ref().is_some_and(|(_, at)| *at <= now && now - *at < FRESH) {
                return;
            }
            turns.count += 1;
            turns.count
        };
        match self.repository.lease_for_a_turn(&self.on, setting.run, turn, now).await {
            Ok(key) => {
                let before = self.turns().last.replace((key, now));
                if let Some((before, _)) = before
                    && let Err(error) = self.repository.end_lease(&before).await
                {
                    tracing::debug!(%before, %error, "stays until it ends by itself");
                }
            }
            Err(error) => {
                let name = &self.repository.name;
                let message = format!("no lease on {} in {name}, so that an expiry could delete it: {error}", self.on);
                setting.events.note(message);
            }
        }
    }

    /// Ends it as it was renewed last.
    async fn give_back(&self) -> Result<(), CatalogError> {
        let last = self.turns().last.take();
        match last {
            Some((key, _)) => self.repository.end_lease(&key).await,
            None => Ok(()),
        }
    }

    fn note_end(&self, ended: Result<(), CatalogError>, setting: &Setting) {
        if let Err(error) = ended {
            setting.events.note(format!("the lease on {} stays until it ends by itself: {error}", self.on));
        }
    }

    fn turns(&self) -> std::sync::MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Errors where the artifact `name` was deleted from `repository` while something that builds upon it was made: before it
/// was leased, or although it was.
pub async fn require_standing(name: &ArtifactName, repository: &Repository) -> Result<(), Failure> {
    match repository.storage.head(&name.manifest()?).await {
        Err(error) if error.kind == StorageErrorKind::Missing => {
            let at = &repository.name;
            let message = format!("commit in {at}: {name}, which the backup builds upon, was deleted meanwhile");
            Err(Failure::new(FailureKind::Failed, message).hint("Run the job again: it builds upon what is there."))
        }
        found => Ok(found.map(drop)?),
    }
}
