//! What the tests stand on: real servers on temporary directories, and data.

pub mod objects;
pub mod s3;
pub mod s3_fault;
mod s3_shelf;
pub mod site;
pub(crate) mod uploads;
