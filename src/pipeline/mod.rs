//! The belt: bytes on their way into repositories and back.
//!
//! [`store`] runs source -> content digest and row sums -> gzip on several threads -> OpenPGP -> stored digest -> every
//! repository at once; [`fetch`] is the mirror. Stages do no I/O and know neither PostgreSQL nor the catalog. Nothing is
//! ever written to a disk here, and memory is bounded whatever the size.

pub mod archive;
pub mod deflate;
mod error;
mod failure;
pub mod fetch;
mod gunzip;
pub mod gzip;
mod member;
pub mod openpgp;
pub mod pack;
mod relay;
pub mod segment;
pub mod store;
pub mod tar;
mod thread;
pub mod ustar;

pub use error::PipelineError;
