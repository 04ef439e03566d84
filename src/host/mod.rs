//! The door to this machine: clock, child processes, durable files, locks, resource readings, fail points.
//!
//! Imports nothing of the house but `model`. Elsewhere spawning, file access and the clock are lint errors.

pub mod amazon_rds;
pub mod checked;
pub mod child;
pub mod clock;
pub mod complete;
pub mod durable;
pub mod failpoint;
pub mod fed;
pub mod file_source;
pub mod files;
pub mod incoming;
pub mod load;
pub mod lock;
pub mod secrets_manager;
pub mod services;
pub mod space;
pub mod spool;
pub mod throwaway;

pub use checked::CheckedSource;
pub use child::{
    Child, ChildError, ChildInput, ChildSpec, Ending, Finished, Messages, StopSignal, Stopper, run_to_end,
};
pub use clock::{Clock, ManualClock, SystemClock};
pub use complete::{AssembledSource, Assembly, BytesSource, Complete, Source, SourceError};
pub use durable::{FileError, FileErrorKind};
pub use failpoint::{FailPoint, reach};
pub use fed::{FedSource, SourceFeeder, feed};
pub use file_source::{FileIdentity, FileSource};
pub use files::{NewFile, OpenFile, PatchedFile};
pub use incoming::Incoming;
pub use lock::{FileLock, LockError};
pub use space::Space;
pub use spool::Spool;
pub use throwaway::Throwaway;
