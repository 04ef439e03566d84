//! Many signed objects at once, in the order of their keys.

use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};

use crate::catalog::error::{CatalogError, CatalogErrorKind};
use crate::model::failure::with_causes;
use crate::model::key::ObjectKey;

/// Objects fetched at once.
const FETCHES_AT_ONCE: usize = 16;

/// Fetches each of `keys`. One that is gone or cannot be believed becomes a fault in words; a store that cannot be read is
/// an error.
pub(super) async fn fetch_each<T, F>(
    keys: Vec<ObjectKey>,
    fetch: impl Fn(ObjectKey) -> F,
) -> Result<Vec<Result<T, String>>, CatalogError>
where
    F: Future<Output = Result<T, CatalogError>>,
{
    let fetch = &fetch;
    stream::iter(keys)
        .map(|key| async move {
            match fetch(key.clone()).await {
                Err(error) if matches!(error.kind, CatalogErrorKind::Storage(_)) && !error.is_missing() => Err(error),
                Err(error) => Ok(Err(format!("{key}: {}", with_causes(&error)))),
                Ok(fetched) => Ok(Ok(fetched)),
            }
        })
        .buffered(FETCHES_AT_ONCE)
        .try_collect()
        .await
}
