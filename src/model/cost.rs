//! What storage costs in a month: every byte that is stored, by class and repository, times its price.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::size::ByteSize;

/// Prices, and how much is too much.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prices {
    /// The currency.
    pub currency: String,
    /// Most that a month may cost.
    pub monthly_limit: Option<f64>,
    /// Price of a GiB for a month, by storage class or repository.
    pub per_gib: BTreeMap<String, f64>,
}

/// What a repository holds of one storage class.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldStatus {
    /// The repository.
    pub repository: String,
    /// The class, as the store calls it.
    pub class: String,
    /// Bytes.
    pub bytes: u64,
    /// What they cost in a month; absent where they have no price.
    pub monthly: Option<f64>,
    /// Whether it is a directory, whose disk nobody bills by the byte.
    pub own_disk: bool,
}

/// What all that is stored costs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CostStatus {
    /// The currency.
    pub currency: String,
    /// Everything with a price, in a month.
    pub monthly: f64,
    /// Most that it may be.
    pub monthly_limit: Option<f64>,
    /// By repository and class.
    pub held: Vec<HeldStatus>,
    /// Repositories that could not be listed: what failed.
    pub unread: Vec<String>,
}

/// How a cost stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CostState {
    /// Everything is known and within the limit.
    Within,
    /// It is more than the limit.
    OverLimit,
    /// Something has no price.
    Unpriced,
    /// Something could not be listed.
    Unknown,
}

impl Prices {
    /// Prices `held`, whose own costs are not known yet.
    pub fn cost(&self, mut held: Vec<HeldStatus>, unread: Vec<String>) -> CostStatus {
        held.retain(|each| each.bytes > 0);
        for each in &mut held {
            let price = self.per_gib.get(&each.repository).or_else(|| self.per_gib.get(&each.class));
            each.monthly = price.map(|price| gibibytes(each.bytes) * price);
        }
        let monthly = held.iter().filter_map(|each| each.monthly).sum();
        CostStatus { currency: self.currency.clone(), monthly, monthly_limit: self.monthly_limit, held, unread }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a price is no exact figure")]
fn gibibytes(bytes: u64) -> f64 {
    bytes as f64 / (1_u64 << 30) as f64
}

impl CostStatus {
    /// How it stands.
    pub fn state(&self) -> CostState {
        match self.monthly_limit {
            _ if !self.unread.is_empty() => CostState::Unknown,
            _ if self.unpriced().next().is_some() => CostState::Unpriced,
            Some(limit) if self.monthly > limit => CostState::OverLimit,
            _ => CostState::Within,
        }
    }

    /// What it is, and what is wrong with it.
    pub fn line(&self) -> String {
        let priced: Vec<String> = self.held.iter().filter(|each| each.monthly.is_some()).map(named).collect();
        let of = if priced.is_empty() { String::new() } else { format!(" ({})", priced.join(", ")) };
        let line = format!("what is stored costs {:.2} {} a month{of}", self.monthly, self.currency);
        match self.state() {
            CostState::Within => line,
            CostState::OverLimit => {
                format!("{line}, and {:.2} is the limit", self.monthly_limit.unwrap_or_default())
            }
            CostState::Unpriced => {
                let unpriced: Vec<String> = self.unpriced().map(named).collect();
                format!("{line}, and what has no price: {}", unpriced.join(", "))
            }
            CostState::Unknown => {
                format!("{line}, and what is not known: failed to {}", self.unread.join("; failed to "))
            }
        }
    }

    fn unpriced(&self) -> impl Iterator<Item = &HeldStatus> {
        self.held.iter().filter(|each| each.monthly.is_none() && !each.own_disk)
    }
}

fn named(held: &HeldStatus) -> String {
    format!("{} {} {}", held.repository, held.class, ByteSize(held.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(repository: &str, own_disk: bool, class: &str, gib: u64) -> HeldStatus {
        HeldStatus { repository: repository.into(), class: class.into(), bytes: gib << 30, monthly: None, own_disk }
    }

    #[test]
    fn bytes_are_priced_by_repository_or_class_and_held_against_the_limit() {
        let mut prices = Prices { currency: "EUR".into(), ..Prices::default() };
        prices.per_gib = [("STANDARD".to_owned(), 0.5), ("cold".to_owned(), 0.1)].into();
        let all = || {
            vec![
                held("s3", false, "STANDARD", 10),
                held("cold", false, "STANDARD", 10),
                held("local", true, "other", 99),
            ]
        };
        let cost = prices.cost(all(), Vec::new());
        assert_eq!((cost.state(), cost.held.len()), (CostState::Within, 3));
        assert!(cost.line().starts_with("what is stored costs 6.00 EUR a month (s3 STANDARD "), "{}", cost.line());
        prices.monthly_limit = Some(6.0);
        assert_eq!(prices.cost(all(), Vec::new()).state(), CostState::Within);
        prices.monthly_limit = Some(5.99);
        let cost = prices.cost(all(), Vec::new());
        assert!(
            cost.state() == CostState::OverLimit && cost.line().ends_with("and 5.99 is the limit"),
            "{}",
            cost.line()
        );
        let unread = prices.cost(all(), vec!["list s3://b".into()]);
        assert!(unread.state() == CostState::Unknown && unread.line().contains("list s3://b"), "{}", unread.line());
    }

    #[test]
    fn what_has_no_price_is_told_a_directory_aside() {
        let prices = Prices { monthly_limit: Some(1e9), ..Prices::default() };
        let disk = vec![held("local", true, "STANDARD", 5), held("s3", false, "GLACIER", 0)];
        assert_eq!(prices.cost(disk, Vec::new()).state(), CostState::Within);
        let cost = prices.cost(vec![held("s3", false, "GLACIER", 1)], Vec::new());
        assert!(cost.state() == CostState::Unpriced && cost.line().contains("no price: s3 GLACIER"), "{}", cost.line());
    }
}
