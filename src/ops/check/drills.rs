//! Decrypt drills: whether the holder of each private key has shown lately that it opens what is stored. Read off the status.

use crate::model::drill::{DrillState, DrillStatus};
use crate::model::failure::Failure;
use crate::model::status::StatusModel;
use crate::ops::check::{CheckLine, Encryption};

const DRILL: &str = "key-drill";

pub(super) fn check(encryption: &Result<Encryption, Failure>, status: &Result<StatusModel, Failure>) -> Vec<CheckLine> {
    match (encryption, status) {
        (Ok(Encryption::None), _) => vec![CheckLine::ok(DRILL, "nothing is encrypted, so there is nothing to decrypt")],
        (Err(failure), _) => vec![CheckLine::failed(DRILL, "the recipients", failure)],
        (_, Err(failure)) => vec![CheckLine::failed(DRILL, "the status", failure)],
        (Ok(Encryption::To(_)), Ok(status)) => status.drills.iter().map(line).collect(),
    }
}

fn line(drill: &DrillStatus) -> CheckLine {
    let remedy = "where the private key is: dbagent backup verify latest --deep";
    match drill.state {
        DrillState::Current => CheckLine::ok(DRILL, drill.line()),
        DrillState::Due => CheckLine::warn(DRILL, drill.line(), remedy),
        DrillState::Overdue => CheckLine::fail(DRILL, drill.line(), remedy),
        DrillState::Unknown => CheckLine::fail(DRILL, drill.line(), "see the lines on the repositories"),
    }
}
