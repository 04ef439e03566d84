//! A whole site: a PostgreSQL of its own with a small shop in it, keys, and repositories to dump into.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use dbagent::catalog::{Artifact, Inventory, Repository, Selector, Signer, Unsigned, Verifier};
use dbagent::host::{Clock as _, SystemClock};
use dbagent::model::event::Events;
use dbagent::model::failure::Failure;
use dbagent::model::id::RunId;
use dbagent::model::outcome::Outcome;
use dbagent::model::table::TableName;
use dbagent::ops::{Setting, dump, increment, restore};
use dbagent::pipeline::deflate::Level;
use dbagent::pipeline::openpgp::{DecryptionKeys, KeyPair, Recipients};
use dbagent::pipeline::openpgp::{Profile, generate_encryption_pair, generate_signing_key};
use dbagent::postgres::{ClientTools, Connection};
use dbagent::steps::blocks::BlockStore;
use dbagent::steps::scratch::{ScratchOptions, ScratchServer};
use dbagent::storage::{DirectoryStorage, Storage};
use tempfile::TempDir;

/// Tables with what is awkward in tables: partitions, generated and identity columns, foreign keys, triggers, odd names.
pub const SHOP: &str = include_str!("shop.sql");

/// The tables of the shop that jobs name.
pub const TABLES: [&str; 4] = ["customers", "orders", "events", "\"Odd \"\"name\"\"\""];

pub struct Site {
    pub server: ScratchServer,
    pub files: TempDir,
    pub signer: Signer,
    pub signing_secret: Vec<u8>,
    pub pair: KeyPair,
    pub repositories: Vec<Repository>,
}

impl Site {
    /// A site with one directory repository.
    pub fn new() -> Self {
        Self::with(&[])
    }

    /// A site whose server has these settings.
    pub fn with(settings: &[(&str, &str)]) -> Self {
        Self::made_with(settings, &[])
    }

    /// A site whose server has these settings and was made by initdb with these arguments.
    pub fn made_with(settings: &[(&str, &str)], initdb: &[&str]) -> Self {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let initdb = initdb.iter().map(|argument| (*argument).to_owned()).collect();
        Self::of(ScratchOptions { settings, initdb, ..ScratchOptions::default() })
    }

    /// A site whose server also takes logins with passwords, on a port of 127.0.0.1.
    pub fn with_passwords() -> Self {
        let password = Some(secrecy::SecretString::from("the superuser's"));
        Self::of(ScratchOptions { password, ..ScratchOptions::default() })
    }

    fn of(options: ScratchOptions) -> Self {
        let server = ScratchServer::start(options).unwrap();
        server.sql("CREATE DATABASE shop").unwrap();
        server.sql_in("shop", SHOP).unwrap();
        let now = SystemClock::new().now();
        let signing = generate_signing_key("test signing", now).unwrap();
        let mut site = Self {
            server,
            files: tempfile::tempdir().unwrap(),
            signer: Signer::from_secret_key(&signing.secret, None, now).unwrap(),
            signing_secret: signing.secret,
            pair: generate_encryption_pair("test backup", Profile::Gnupg, now).unwrap(),
            repositories: Vec::new(),
        };
        let directory = site.directory("local");
        site.add_repository("local", Arc::new(DirectoryStorage::open(&directory).unwrap()));
        site
    }

    /// A fresh directory below the site's files.
    pub fn directory(&self, name: &str) -> std::path::PathBuf {
        let path = self.files.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        std::fs::set_permissions(&path, private).unwrap();
        path
    }

    pub fn add_repository(&mut self, name: &str, storage: Arc<dyn Storage>) {
        let mut verifier = Verifier::new();
        verifier.trust(self.signer.certificate());
        self.repositories.push(Repository {
            name: name.to_owned(),
            storage,
            verifier: Arc::new(verifier),
            signer: Some(Arc::new(self.signer.clone())),
            memory: None,
            term: Arc::default(),
        });
    }

    /// A secret key that decrypts nothing of any site.
    pub fn other_secret() -> Vec<u8> {
        generate_encryption_pair("somebody else", Profile::Gnupg, SystemClock::new().now()).unwrap().secret
    }

    pub fn root(&self) -> &Path {
        self.files.path()
    }

    pub fn connection(&self) -> Connection {
        self.server.connection().unwrap().with_database("shop")
    }

    pub fn tools(&self) -> ClientTools {
        ClientTools::find(None, 14).unwrap()
    }

    pub fn setting(&self) -> Setting {
        let clock = Arc::new(SystemClock::new());
        Setting { run: RunId::new(clock.now()), clock, events: Events::nowhere(), stop: Default::default() }
    }

    pub fn dump_options(&self) -> dump::Options {
        dump::Options {
            job: "full".into(),
            plan: "test".into(),
            cluster: "shop".into(),
            former_systems: Vec::new(),
            tables: TABLES.iter().map(|table| table.parse().unwrap()).collect(),
            changed_at: Default::default(),
            folder: "full".into(),
            name_prefix: "shop_full".into(),
            storage_class: Default::default(),
            large_objects: false,
            lock_timeout: Duration::from_secs(1),
            no_progress_timeout: Duration::from_secs(30),
            stall_timeout: Duration::from_secs(10),
            level: Level::default(),
            threads: NonZeroUsize::new(2).unwrap(),
        }
    }

    pub fn dump_doors(&self) -> dump::Doors {
        let now = SystemClock::new().now();
        let recipients =
            Recipients::new(&[&self.pair.public], &[&self.pair.fingerprint], Profile::default(), now).unwrap();
        dump::Doors {
            connection: self.connection(),
            tools: self.tools(),
            repositories: self.repositories.clone(),
            unopened: Vec::new(),
            recipients: Some(recipients),
        }
    }

    pub async fn dump(&self) -> Result<Outcome, Failure> {
        dump::run(&self.dump_options(), &self.dump_doors(), &self.setting()).await
    }

    /// Options of an hourly increment of the same tables.
    pub fn increment_options(&self) -> dump::Options {
        dump::Options {
            job: "incremental".into(),
            folder: "incremental".into(),
            name_prefix: "rows".into(),
            ..self.dump_options()
        }
    }

    /// An increment of these tables that asks the server's log which of them were touched.
    pub async fn increment(&self) -> Result<Outcome, Failure> {
        let log = Some(self.log());
        increment::run(&self.increment_options(), &self.dump_doors(), log.as_ref(), &self.setting()).await
    }

    /// Where it is known which blocks this server's log touches.
    pub fn log(&self) -> increment::Log {
        let blocks = BlockStore::below(&self.root().join("state"));
        increment::Log { blocks, data_directory: self.server.data_directory(), prune: true }
    }

    pub fn restore_doors(&self) -> restore::Doors {
        restore::Doors {
            connection: self.connection(),
            tools: self.tools(),
            repositories: self.repositories.clone(),
            keys: Some(DecryptionKeys::read(&self.pair.secret, None).unwrap()),
            scratch_directory: self.root().to_owned(),
            jobs: 2,
        }
    }

    pub fn wanted(&self, table: Option<&str>) -> restore::Wanted {
        restore::Wanted {
            selector: Selector::Latest,
            until: None,
            database: None,
            table: table.map(|table| table.parse::<TableName>().unwrap()),
            accept_unsigned: false,
            plan_only: false,
        }
    }

    /// Restores the latest dump into the database `name`.
    pub async fn restore_database(&self, name: &str) -> Result<restore::Restored, Failure> {
        self.restore(&self.wanted(None), name).await
    }

    /// Restores what is wanted into the database `name`.
    pub async fn restore(&self, wanted: &restore::Wanted, name: &str) -> Result<restore::Restored, Failure> {
        let (doors, setting) = (self.restore_doors(), self.setting());
        let choice = restore::choose(wanted, &doors, &setting).await?;
        let options = restore::DatabaseOptions { to_database: Some(name.into()), replace: false, no_owner: false };
        restore::restore_database(&options, &choice, &doors, &setting).await
    }

    pub async fn artifacts(&self, repository: &str) -> Vec<Artifact> {
        let repository = self.repositories.iter().find(|each| each.name == repository).unwrap();
        Inventory::read(repository, Unsigned::Refuse, SystemClock::new().now()).await.unwrap().artifacts
    }

    /// A query's answer in the shop.
    pub fn ask(&self, query: &str) -> String {
        self.server.sql_in("shop", query).unwrap().trim().to_owned()
    }
}
