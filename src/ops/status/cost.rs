//! What everything stored costs in a month. Every object is counted as the stores list them, whatever it belongs to; old
//! versions are not listed, and so are not in the figure.

use std::collections::BTreeMap;

use crate::catalog::Repository;
use crate::model::cost::{CostStatus, HeldStatus, Prices};
use crate::model::failure::{Failure, FailureKind};

use super::READING_TIME;

/// The class of what a store tells no class of.
const STANDARD: &str = "STANDARD";

/// Lists `repositories`, each with whether it lies in a directory, and prices what they hold. `unopened` are those that
/// could not even be opened.
pub async fn storage_cost(
    prices: &Prices,
    repositories: &[(Repository, bool)],
    unopened: &[(String, Failure)],
) -> CostStatus {
    let mut unread: Vec<String> = unopened.iter().map(|(_, failure)| failure.full_message()).collect();
    let mut held = Vec::new();
    for (repository, own_disk) in repositories {
        match in_time(repository).await {
            Ok(classes) => held.extend(classes.into_iter().map(|(class, bytes)| HeldStatus {
                repository: repository.name.clone(),
                class,
                bytes,
                monthly: None,
                own_disk: *own_disk,
            })),
            Err(failure) => unread.push(failure.full_message()),
        }
    }
    prices.cost(held, unread)
}

async fn in_time(repository: &Repository) -> Result<BTreeMap<String, u64>, Failure> {
    match tokio::time::timeout(READING_TIME, bytes_by_class(repository)).await {
        Ok(listed) => listed,
        Err(_) => {
            let message = format!("list {} within {} minutes", repository.storage.place(), READING_TIME.as_secs() / 60);
            Err(Failure::new(FailureKind::Failed, message))
        }
    }
}

async fn bytes_by_class(repository: &Repository) -> Result<BTreeMap<String, u64>, Failure> {
    let (mut bytes, mut from) = (BTreeMap::new(), None);
    loop {
        let page = repository.storage.list("", from.as_ref()).await?;
        for object in page.objects {
            let class = object.storage_class.unwrap_or_else(|| STANDARD.to_owned());
            *bytes.entry(class).or_default() += object.size;
        }
        from = page.next;
        if from.is_none() {
            return Ok(bytes);
        }
    }
}
