//! What everything stored costs in a month, against its limit. Read off the status.

use crate::model::cost::CostState;
use crate::model::failure::Failure;
use crate::model::status::StatusModel;
use crate::ops::check::CheckLine;

const COST: &str = "storage-cost";

pub(super) fn check(status: &Result<StatusModel, Failure>) -> Option<CheckLine> {
    // A status that is not known has lines of its own.
    let cost = status.as_ref().ok()?.cost.as_ref()?;
    let line = cost.line();
    Some(match cost.state() {
        CostState::Within => CheckLine::ok(COST, line),
        CostState::OverLimit => {
            CheckLine::warn(COST, line, "keep less (`keep` in the plan), or use a cheaper storage_class")
        }
        CostState::Unpriced => CheckLine::warn(COST, line, "add its price to per_gib in [cost]"),
        CostState::Unknown => CheckLine::fail(COST, line, "see the lines on the repositories"),
    })
}
