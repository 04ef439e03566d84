//! Pieces of work over several doors that more than one verb needs.
//!
//! A step knows nothing of jobs, plans or people: it takes opened doors and values and gives values back.

pub mod alert;
pub mod artifact;
pub mod bc003;
pub mod blocks;
pub mod bury;
pub mod chain_facts;
pub mod checkpoint;
pub mod copy_artifact;
pub mod full_dump;
pub mod hold;
pub mod holdings;
pub mod load_dump;
pub mod partitions;
pub mod profiles;
pub mod protection;
pub mod prove;
pub mod read_back;
pub mod replay;
pub mod scratch;
pub mod seal;
mod setting;
pub mod signed;
pub mod thaw;
pub mod unlock;
pub mod wal;

pub use setting::Setting;
