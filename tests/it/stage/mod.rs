//! What the tests stand on: real servers on temporary directories, and data.

pub mod agent;
pub mod archive;
pub(crate) mod gpg;
pub mod moto;
pub mod objects;
pub mod radosgw;
pub mod s3;
pub mod s3_fault;
mod s3_shelf;
pub mod s3_storage;
pub mod server;
pub mod site;
pub mod standby;
pub mod tls;
pub(crate) mod uploads;
pub mod wal;
pub mod yard;

/// Where files cost least: in memory where there is room, else where temporary files go.
pub fn quick_place() -> std::path::PathBuf {
    let memory = std::path::Path::new("/dev/shm");
    let room = rustix::fs::statvfs(memory).is_ok_and(|facts| facts.f_bavail * facts.f_frsize > 1 << 30);
    if room { memory.to_owned() } else { std::env::temp_dir() }
}
