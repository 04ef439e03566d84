//! What everything stored costs in a month, by the prices of the configuration, against its limit.
//!
//! Every object is counted as the stores list them, whatever it belongs to; old versions are not listed, and so are not in
//! the figure. What has no price is a warning, a directory's own disk aside.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::catalog::Repository;
use crate::model::failure::{Failure, FailureKind};
use crate::model::size::ByteSize;
use crate::ops::check::{CheckLine, Door, again};

const COST: &str = "storage-cost";

/// Longest a repository may take to be listed: a thousand objects come at a time.
const LISTING_TIME: Duration = Duration::from_secs(10 * 60);

/// The class of what a store tells no class of.
const STANDARD: &str = "STANDARD";

/// Prices, and how much is too much.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Cost {
    /// The currency.
    pub currency: String,
    /// Most that a month may cost.
    pub monthly_limit: Option<f64>,
    /// Price of a GiB for a month, by storage class or repository.
    pub per_gib: BTreeMap<String, f64>,
}

/// What a repository holds, in bytes by storage class.
struct Held<'a> {
    repository: &'a str,
    is_directory: bool,
    bytes: BTreeMap<String, u64>,
}

pub(super) async fn check(cost: Option<&Cost>, doors: &[Door]) -> Option<CheckLine> {
    let cost = cost?;
    let mut all = Vec::new();
    for door in doors {
        let listed = match &door.opened {
            Ok(repository) => in_time(repository).await,
            Err(failure) => Err(again(failure)),
        };
        match listed {
            Ok(bytes) => all.push(Held { repository: &door.name, is_directory: door.directory.is_some(), bytes }),
            Err(failure) => return Some(CheckLine::failed(COST, &door.name, &failure)),
        }
    }
    Some(judge(cost, &all))
}

async fn in_time(repository: &Repository) -> Result<BTreeMap<String, u64>, Failure> {
    match tokio::time::timeout(LISTING_TIME, bytes_by_class(repository)).await {
        Ok(listed) => listed,
        Err(_) => {
            let message = format!("list {} within {} minutes", repository.storage.place(), LISTING_TIME.as_secs() / 60);
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

fn judge(cost: &Cost, all: &[Held<'_>]) -> CheckLine {
    let (mut total, mut unpriced, mut parts) = (0.0, Vec::new(), Vec::new());
    for held in all {
        for (class, bytes) in &held.bytes {
            let what = format!("{} {class} {}", held.repository, ByteSize(*bytes));
            match cost.per_gib.get(held.repository).or_else(|| cost.per_gib.get(class)) {
                _ if *bytes == 0 => {}
                None if held.is_directory => {}
                None => unpriced.push(what),
                Some(price) => {
                    total += gibibytes(*bytes) * price;
                    parts.push(what);
                }
            }
        }
    }
    let of = if parts.is_empty() { String::new() } else { format!(" ({})", parts.join(", ")) };
    let message = format!("what is stored costs {total:.2} {} a month{of}", cost.currency);
    if !unpriced.is_empty() {
        let message = format!("{message}, and what has no price: {}", unpriced.join(", "));
        return CheckLine::warn(COST, message, "add its price to per_gib in [cost]");
    }
    match cost.monthly_limit {
        Some(limit) if total > limit => {
            let message = format!("{message}, and {limit:.2} is the limit");
            CheckLine::warn(COST, message, "keep less (`keep` in the plan), or use a cheaper storage_class")
        }
        _ => CheckLine::ok(COST, message),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a price is no exact figure")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::check::Status;

    fn held<'a>(repository: &'a str, is_directory: bool, class: &str, gib: u64) -> Held<'a> {
        Held { repository, is_directory, bytes: [(class.to_owned(), gib << 30)].into() }
    }

    #[test]
    fn bytes_are_priced_by_repository_or_class_and_held_against_the_limit() {
        let mut cost = Cost { currency: "EUR".into(), ..Cost::default() };
        cost.per_gib = [("STANDARD".to_owned(), 0.5), ("cold".to_owned(), 0.1)].into();
        let all =
            [held("s3", false, "STANDARD", 10), held("cold", false, "STANDARD", 10), held("local", true, "other", 99)];
        let line = judge(&cost, &all);
        assert_eq!(line.status, Status::Ok);
        assert!(line.message.starts_with("what is stored costs 6.00 EUR a month (s3 STANDARD "), "{}", line.message);
        cost.monthly_limit = Some(6.0);
        assert_eq!(judge(&cost, &all).status, Status::Ok);
        cost.monthly_limit = Some(5.99);
        assert_eq!(judge(&cost, &all).status, Status::Warn);
        let unknown = judge(&cost, &[held("s3", false, "GLACIER", 1)]);
        assert!(unknown.status == Status::Warn && unknown.message.contains("no price: s3 GLACIER"), "{unknown:?}");
    }
}
