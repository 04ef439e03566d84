//! A hold on what a run makes and builds upon, in every repository: expiry leaves it alone for as long as the run lives.
//!
//! Leases that are renewed while the work goes on. A run that dies holds nothing for longer than its last lease; neither
//! does one that fails, so that the next one can go on with what is stored. A repository that takes no lease does not hold
//! up the work: what is lost by that is seen before the commit.

use std::convert::Infallible;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::catalog::Repository;
use crate::catalog::names::Leased;
use crate::model::key::ObjectKey;
use crate::steps::Setting;

/// How often leases are renewed: several times within the term of one.
const RENEWED_EVERY: Duration = Duration::from_secs(30 * 60);

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
    key: Option<ObjectKey>,
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

    /// Leases everything anew.
    pub async fn renew(&self) {
        futures_util::future::join_all(self.leases.iter().map(|lease| lease.renew(&self.setting))).await;
    }

    /// Gives everything back; leases that dead runs had on the same names go too.
    pub async fn end(self) {
        for Lease { repository, on, turns } in self.leases {
            let ended = match &on {
                Leased::Name(_) => repository.end_leases(&on).await,
                Leased::Artifact(_) => match turns.into_inner().unwrap_or_else(PoisonError::into_inner).key {
                    Some(key) => repository.end_lease(&key).await,
                    None => Ok(()),
                },
            };
            if let Err(error) = ended {
                self.setting.events.note(format!("the lease on {on} stays until it ends by itself: {error}"));
            }
        }
    }
}

impl Lease {
    async fn renew(&self, setting: &Setting) {
        let turn = {
            let mut turns = self.turns();
            turns.count += 1;
            turns.count
        };
        match self.repository.lease_for_a_turn(&self.on, setting.run, turn, setting.clock.now()).await {
            Ok(key) => {
                let before = self.turns().key.replace(key);
                if let Some(before) = before
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

    fn turns(&self) -> std::sync::MutexGuard<'_, Turns> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
