//! The verb `dump`: one consistent logical dump of named tables into every repository at once.
//!
//! The work itself is a step, because an increment that has nothing to build upon makes the same dump.

use crate::model::failure::Failure;
use crate::model::outcome::Outcome;
use crate::ops::Setting;
use crate::steps::full_dump;

pub use crate::steps::artifact::{Doors, Options};

/// Makes one artifact.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    full_dump::run(options, doors, setting).await
}
