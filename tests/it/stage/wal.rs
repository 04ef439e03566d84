//! A server with small WAL segments, keys, and repositories in memory to archive them into.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use dbagent::catalog::{Identity, Repository, Signer, Verifier};
use dbagent::host::{Clock as _, SystemClock};
use dbagent::model::failure::Failure;
use dbagent::model::lsn::SystemId;
use dbagent::model::wal::{Asked, SegmentName, SegmentSize, WalFile};
use dbagent::pipeline::openpgp::{DecryptionKeys, KeyPair, Recipients};
use dbagent::pipeline::openpgp::{Profile, generate_encryption_pair, generate_signing_key};
use dbagent::postgres::control::DataDirectory;
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};
use dbagent::steps::wal::{Fetched, Owner, StoreOptions, WalDoors, WalInput, fetch_file};
use dbagent::storage::Storage;
use tempfile::TempDir;

pub const CLUSTER: &str = "shop";

/// A cluster with segments of 1 MiB, and what archiving needs.
pub struct WalSite {
    pub server: ScratchServer,
    pub files: TempDir,
    pub pair: KeyPair,
    signer: Signer,
}

pub fn now() -> DateTime<Utc> {
    SystemClock::new().now()
}

impl WalSite {
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A site whose server has these settings.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let initdb = vec!["--wal-segsize=1".to_owned()];
        let server = ScratchServer::start(ScratchOptions { settings, initdb, ..ScratchOptions::default() }).unwrap();
        let signing = generate_signing_key("test signing", now()).unwrap();
        Self {
            server,
            files: tempfile::tempdir().unwrap(),
            pair: generate_encryption_pair("test backup", Profile::Gnupg, now()).unwrap(),
            signer: Signer::from_secret_key(&signing.secret, None, now()).unwrap(),
        }
    }

    /// A repository called `name` that this cluster has claimed.
    pub async fn repository(&self, name: &str, storage: Arc<dyn Storage>) -> Repository {
        let repository = self.unclaimed(name, storage);
        let mine = Identity::new(CLUSTER, Some(self.directory().system_identifier), now());
        repository.claim(&mine, &[]).await.unwrap();
        repository
    }

    pub fn unclaimed(&self, name: &str, storage: Arc<dyn Storage>) -> Repository {
        let mut verifier = Verifier::new();
        verifier.trust(self.signer.certificate());
        Repository {
            name: name.to_owned(),
            storage,
            verifier: Arc::new(verifier),
            signer: Some(Arc::new(self.signer.clone())),
            memory: None,
            term: Arc::default(),
        }
    }

    pub fn options(&self) -> StoreOptions {
        let recipients =
            Recipients::new(&[&self.pair.public], &[&self.pair.fingerprint], Profile::default(), now()).unwrap();
        StoreOptions { level: 1, helpers: 0, recipients: Some(recipients), owner: Owner::new(CLUSTER, &[]) }
    }

    pub fn doors(&self, repositories: &[Repository]) -> WalDoors {
        WalDoors {
            repositories: repositories.to_vec(),
            unopened: Vec::new(),
            keys: Some(DecryptionKeys::read(&self.pair.secret, None).unwrap()),
            cluster: CLUSTER.to_owned(),
            former: Vec::new(),
            asked: Asked::All,
        }
    }

    pub fn directory(&self) -> DataDirectory {
        DataDirectory::read(&self.server.data_directory()).unwrap()
    }

    pub fn size(&self) -> SegmentSize {
        self.directory().segment_size
    }

    pub fn pg_wal(&self) -> PathBuf {
        self.server.data_directory().join("pg_wal")
    }

    /// Fills segments and gives the first `count` of those that are whole.
    pub fn segments(&self, count: usize) -> Vec<SegmentName> {
        self.server.sql("CREATE TABLE IF NOT EXISTS filler (line text)").unwrap();
        let first: SegmentName = self.current();
        for _ in 0..count {
            self.server.sql("INSERT INTO filler SELECT md5(n::text) FROM generate_series(1, 200) n").unwrap();
            self.server.sql("SELECT pg_switch_wal()").unwrap();
        }
        let mut segments = vec![first];
        while segments.len() < count {
            segments.push(segments.last().unwrap().next(self.size()).unwrap());
        }
        segments
    }

    /// The segment that is being written.
    pub fn current(&self) -> SegmentName {
        // A position at the very end of a segment counts to that segment.
        let query = "SELECT pg_walfile_name(pg_current_wal_insert_lsn() + 1)";
        self.server.sql(query).unwrap().parse().unwrap()
    }

    pub fn path(&self, file: impl ToString) -> PathBuf {
        self.pg_wal().join(file.to_string())
    }

    pub fn input(&self, segment: SegmentName) -> WalInput {
        WalInput::check(&self.path(segment), None).unwrap()
    }

    /// A copy of a WAL file under another name, changed by `change`; it belongs to this cluster's data directory.
    pub fn copy(&self, segment: SegmentName, name: impl ToString, change: impl FnOnce(&mut Vec<u8>)) -> PathBuf {
        let mut bytes = std::fs::read(self.path(segment)).unwrap();
        change(&mut bytes);
        let path = self.files.path().join(name.to_string());
        std::fs::write(&path, bytes).unwrap();
        path
    }

    pub fn check(&self, path: &Path) -> Result<WalInput, Failure> {
        WalInput::check(path, Some(&self.server.data_directory()))
    }
}

/// Fetches `file`, and tells its bytes as they come to their place.
pub async fn fetched(file: WalFile, system: Option<SystemId>, doors: &WalDoors) -> Result<Fetched<Vec<u8>>, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let place = folder.path().join("RECOVERYXLOG");
    Ok(match fetch_file(file, &place, system, doors, now()).await? {
        Fetched::There(arrived) => {
            arrived.put()?;
            Fetched::There(std::fs::read(place).unwrap())
        }
        Fetched::NotThere => Fetched::NotThere,
    })
}

/// A segment as a file.
pub fn file(segment: SegmentName) -> WalFile {
    WalFile::Segment(segment)
}
