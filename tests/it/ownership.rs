//! Commands typed by root must not lock the agent's own user out of its repository and state.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::sync::Arc;

use dbagent::catalog::Head;
use dbagent::host::durable;
use dbagent::storage::DirectoryStorage;

use crate::catalog::{commit, now, repository, signer};

/// A user and a group that are not root's.
const AGENT: u32 = 4711;

#[tokio::test]
async fn what_root_writes_into_the_agents_directories_belongs_to_the_agent() {
    let (place, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if chown(place.path(), Some(AGENT), Some(AGENT)).is_err() {
        return; // Only root can lock anybody out.
    }
    chown(state.path(), Some(AGENT), Some(AGENT)).unwrap();
    let mut repository = repository(Arc::new(DirectoryStorage::open(place.path()).unwrap()), &signer());
    repository.memory = Some(state.path().join("head.json"));
    commit(&repository, 0).await;
    durable::write_new(&state.path().join("other"), b"x").unwrap();
    let folders = ["catalog", "full"].map(|folder| place.path().join(folder));
    let files = folders.iter().flat_map(|folder| std::fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let mut all: Vec<_> = files.chain(folders.iter().cloned()).collect();
    all.extend([state.path().join("head.json"), state.path().join("other")]);
    assert!(all.len() > 6, "{all:?}");
    for path in all {
        let owner = std::fs::metadata(&path).unwrap();
        assert_eq!((owner.uid(), owner.gid()), (AGENT, AGENT), "{}", path.display());
    }
}

#[tokio::test]
async fn a_memory_that_cannot_be_read_is_rebuilt_and_stops_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut repository = crate::catalog::empty_repository();
    let memory = state.path().join("head.json");
    repository.memory = Some(memory.clone());
    commit(&repository, 0).await;
    std::fs::write(&memory, "{ torn").unwrap();
    assert_eq!(repository.head(now()).await.unwrap().sequence, 2);
    let rebuilt: Head = serde_json::from_slice(&std::fs::read(memory).unwrap()).unwrap();
    assert_eq!(rebuilt.sequence, 2);
}
