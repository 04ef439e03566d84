//! What storage costs, as its operator is billed.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::problems::Problems;

/// Prices of storage, and how much of it is too much.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cost {
    /// The currency of all figures here.
    pub currency: Option<String>,
    /// Most that all repositories together may cost in a month.
    pub monthly_limit: Option<f64>,
    /// Price of a GiB for a month, by storage class or by a repository's name, which wins.
    pub per_gib: BTreeMap<String, f64>,
}

pub(in crate::config) fn validate(cost: &Cost, problems: &mut Problems<'_>) {
    let bad = |figure: f64| !figure.is_finite() || figure < 0.0;
    problems.error_if(cost.monthly_limit.is_some_and(bad), "cost.monthly_limit", "expected 0 or more");
    let prices = cost.per_gib.values().any(|price| bad(*price));
    problems.error_if(prices, "cost.per_gib", "expected prices of 0 or more");
    let idle = cost.monthly_limit.is_some() && cost.per_gib.is_empty();
    problems.error_if(idle, "cost.monthly_limit", "without prices (per_gib) nothing is ever over it");
}
