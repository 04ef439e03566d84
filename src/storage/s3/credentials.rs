//! Credentials that can be asked for anew.
//!
//! The SDK caches an identity until the expiry it was told, and reads profile files once. A token that the store calls
//! expired earlier (revoked, rotated on disk) would then fail for ever. So the cache is here, and [`Renewable::forget`]
//! empties it and starts the whole chain again.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_s3::config::Region;

/// Renewed this long before they expire.
const AHEAD: Duration = Duration::from_secs(5 * 60);

/// Clones share what is cached.
#[derive(Clone, Debug)]
pub(super) struct Renewable {
    region: Region,
    /// Given by the caller instead of the chain.
    given: Option<SharedCredentialsProvider>,
    cached: Arc<Mutex<Option<Credentials>>>,
}

impl Renewable {
    pub(super) fn new(region: Region, given: Option<SharedCredentialsProvider>) -> Self {
        Self { region, given, cached: Arc::default() }
    }

    /// The present credentials, fresh ones where they are about to expire.
    pub(super) async fn current(&self) -> provider::Result {
        let usable = self.cached().clone().filter(|cached| cached.expiry().is_none_or(|at| now() + AHEAD < at));
        if let Some(credentials) = usable {
            return Ok(credentials);
        }
        let fresh = match &self.given {
            Some(given) => given.provide_credentials().await?,
            None => {
                let chain = DefaultCredentialsChain::builder().region(self.region.clone()).build().await;
                chain.provide_credentials().await?
            }
        };
        *self.cached() = Some(fresh.clone());
        Ok(fresh)
    }

    /// Drops what is cached: the store does not take it any more.
    pub(super) fn forget(&self) {
        *self.cached() = None;
    }

    fn cached(&self) -> MutexGuard<'_, Option<Credentials>> {
        self.cached.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ProvideCredentials for Renewable {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}

/// This machine's clock.
#[expect(clippy::disallowed_methods, reason = "expiry is compared with the clock that the SDK signs by")]
pub(super) fn now() -> SystemTime {
    SystemTime::now()
}
