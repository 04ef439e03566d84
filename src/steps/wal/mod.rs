//! WAL on its way into repositories and back: check a file, store it, fetch one.
//!
//! Storing is idempotent by content and never overwrites: the record is a create-only write, made last, and the file whose
//! record stands is the file, whatever objects lie beside it. Writes nothing to the catalog's numbered log.

mod archive;
mod archiving;
mod copy;
mod fetch;
mod former;
mod guard;
mod input;
mod records;
mod store;
mod survey;

pub use archive::{Archive, Reach};
pub use archiving::{Thresholds, findings as archiving_findings};
pub use copy::copy;
pub use fetch::{Arrived, Back, Fetched, WalDoors, fetch_file, read_back};
pub use guard::require_within;
pub use input::WalInput;
pub use store::{Owner, Standing, StoreOptions, Verdicts, store};
pub use survey::{GapState, Local, Missing, Survey, TimelineSurvey, survey, survey_findings};
