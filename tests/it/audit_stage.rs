//! A BC-003 database whose audit log is chained, and what the tests of the chain do to it.

use std::ops::Deref;
use std::sync::Arc;

use dbagent::catalog::{Reading, Repository, Signer, Verifier};
use dbagent::host::{Clock as _, Spool, SystemClock};
use dbagent::model::audit::finding::ChainFinding;
use dbagent::model::digest::Digest;
use dbagent::model::event::Events;
use dbagent::model::failure::Failure;
use dbagent::model::id::RunId;
use dbagent::model::outcome::Outcome;
use dbagent::ops::audit_verify::{Options, Scope, Signed};
use dbagent::ops::{Setting, audit_checkpoint, audit_install, audit_verify};
use dbagent::pipeline::openpgp::generate_signing_key;
use dbagent::postgres::{Connection, Session};
use dbagent::steps::alert::AlertDoors;
use dbagent::steps::checkpoint::Terms;
use dbagent::storage::DirectoryStorage;
use tempfile::TempDir;

use crate::bc003_server::{self, Database};
use crate::cli::Desk;

/// Whether the log is one chain and both side tables say so, asked of SQL alone; the text names what is not. Links are counted,
/// because EXISTS lets PostgreSQL plan for the first hit, which is never there: a nested loop over a million rows.
pub const INTEGRITY: &str = "
    WITH places AS (SELECT seq, id, recorded_at, hash, lag(hash) OVER (ORDER BY seq) AS before FROM audit.chain_seq)
    SELECT CASE
        WHEN (SELECT count(*) FROM audit_logs) <> (SELECT count(*) FROM places) THEN 'rows and places differ in number'
        WHEN (SELECT coalesce(max(seq), 0) FROM places) <> (SELECT count(*) FROM places) THEN 'holes'
        WHEN (SELECT (seq, coalesce(hash, '')) FROM audit.chain_head)
          <> (SELECT (coalesce(max(seq), 0), coalesce((array_agg(hash ORDER BY seq DESC))[1], '')) FROM places) THEN 'head'
        WHEN (SELECT count(*) FROM audit_logs a LEFT JOIN places p USING (id, recorded_at)
              WHERE p.hash IS DISTINCT FROM a.hash OR p.before IS DISTINCT FROM a.previous_hash) > 0 THEN 'links'
        WHEN EXISTS (SELECT FROM audit_logs WHERE hash <> audit.row_hash(id, user_id, session_id, action, resource, resource_id,
                     details, ip_address, user_agent, success, error_code, error_message, recorded_at, previous_hash)) THEN 'hashes'
        WHEN EXISTS (SELECT FROM audit_logs GROUP BY previous_hash HAVING count(*) > 1) THEN 'forks'
        ELSE 'whole' END";

/// A server with one database whose log is chained; derefs to the database.
pub struct Chained {
    database: Database,
}

impl Chained {
    pub async fn new() -> Self {
        Self::on(Database::new().await).await
    }

    /// Chains the log of a database that is there.
    pub async fn on(database: Database) -> Self {
        let this = Self { database };
        let installed = audit_install::run(&this.connection(), &setting()).await.unwrap();
        assert!(installed.chained && installed.enabled_now);
        this
    }

    pub fn connection(&self) -> Connection {
        self.database.server.connection().unwrap().with_database("consulting_tool")
    }

    pub async fn session(&self) -> Session {
        self.connection().connect().await.unwrap()
    }

    /// A session of the application.
    pub async fn application(&self) -> Session {
        self.connection().with_role(Some("bc003_app")).connect().await.unwrap()
    }

    /// Adds `rows` rows as the application does, in one statement.
    pub async fn add(&self, rows: u32) {
        self.run(&insert(rows)).await;
    }

    pub async fn integrity(&self) -> String {
        self.text(&format!("({INTEGRITY})")).await
    }
}

impl Deref for Chained {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

/// A statement that inserts `rows` rows.
pub fn insert(rows: u32) -> String {
    format!(
        "INSERT INTO public.audit_logs (action, resource, resource_id, details, success)
         SELECT 'invoice.view', 'invoice', n::text, jsonb_build_object('n', n, 'amount', n * 1.10), n % 7 > 0
         FROM generate_series(1, {rows}) n"
    )
}

pub fn terms() -> Terms {
    Terms {
        cluster: "test".into(),
        configuration: Digest::of(b"test"),
        locked_until: None,
        profiles: Default::default(),
    }
}

pub fn options(scope: Scope) -> Options {
    Options { scope, workers: 2, lock_timeout: std::time::Duration::from_secs(2), terms: terms() }
}

pub fn setting() -> Setting {
    let clock = Arc::new(SystemClock::new());
    Setting { run: RunId::new(clock.now()), clock, events: Events::nowhere(), stop: Default::default() }
}

/// Chained rows as years of the trigger's work would have left them: `fill` is PL/pgSQL that sets fields of `entry`, with
/// `APPEND` where a row is whole, and `declared` are its variables.
pub fn by_hand(declared: &str, fill: &str) -> String {
    let append = "entry.previous_hash := head.hash;
         entry.hash := audit.row_hash(entry.id, entry.user_id, entry.session_id, entry.action, entry.resource,
             entry.resource_id, entry.details, entry.ip_address, entry.user_agent, entry.success, entry.error_code,
             entry.error_message, entry.recorded_at, entry.previous_hash);
         head.seq := head.seq + 1;
         head.hash := entry.hash;
         INSERT INTO audit_logs SELECT entry.*;
         INSERT INTO audit.chain_seq VALUES (head.seq, entry.id, entry.recorded_at, entry.hash);
         entry := NULL";
    format!(
        "SET timezone = 'UTC'; ALTER TABLE audit_logs DISABLE TRIGGER zz_audit_chain;
         DO $$
         DECLARE
             head audit.chain_head;
             entry audit_logs;
             {declared}
         BEGIN
             SELECT * INTO head FROM audit.chain_head;
             {};
             UPDATE audit.chain_head SET seq = head.seq, hash = head.hash;
         END $$;
         ALTER TABLE audit_logs ENABLE ALWAYS TRIGGER zz_audit_chain;",
        fill.replace("APPEND", append)
    )
}

/// Fills the log with `rows` chained rows of last month and this one.
pub fn history(rows: u32) -> String {
    let fill = format!(
        "FOR n IN 1 .. {rows} LOOP
             entry.id := md5('row ' || n)::uuid;
             entry.action := 'invoice.' || CASE n % 3 WHEN 0 THEN 'view' ELSE 'update' END;
             entry.resource_id := n::text;
             entry.details := jsonb_build_object('n', n, 'text', md5(n::text));
             entry.success := n % 5 > 0;
             -- The second half in this month, however young it is.
             entry.recorded_at := CASE WHEN n <= {rows} / 2 THEN this_month - interval '20 days' ELSE this_month END
                 + n * interval '1 millisecond';
             APPEND;
         END LOOP"
    );
    by_hand("this_month CONSTANT timestamp := date_trunc('month', timezone('UTC', now()));", &fill)
}

/// Chained rows of `back` months before this one, 40 in each; around midnight of each first, a row of the old month comes
/// after the first of the new one.
pub fn months(back: u32) -> String {
    let fill = format!(
        "FOR back IN REVERSE {back}..1 LOOP
             month := date_trunc('month', timezone('UTC', now())) - make_interval(months => back);
             EXECUTE format('CREATE TABLE IF NOT EXISTS public.audit_logs_%s PARTITION OF public.audit_logs FOR VALUES FROM (%L) TO (%L)',
                 to_char(month, 'YYYY_MM'), month, month + interval '1 month');
             FOR k IN 1..40 LOOP
                 n := n + 1;
                 entry.id := md5('row ' || n)::uuid;
                 entry.action := 'invoice.view';
                 entry.resource := E'tab\\t, newline\\n, back\\\\slash, ' || chr(252);
                 entry.details := jsonb_build_object('n', n, 'amount', n * 1.10);
                 entry.success := n % 5 > 0;
                 -- The second row of a month is the last of the month before.
                 entry.recorded_at := CASE WHEN k = 2 AND back < {back} THEN month - interval '1 second'
                                           ELSE month + k * interval '1 hour' END;
                 APPEND;
             END LOOP;
         END LOOP"
    );
    by_hand("month timestamp; n int := 0;", &fill)
}

/// What somebody with every right does to hide a change: hashes everything from place `from` on again, side tables too.
pub fn rewrite(from: u32) -> String {
    format!(
        "ALTER TABLE audit.chain_head DISABLE TRIGGER chain_head_close;
         DO $$ DECLARE p record; before text := (SELECT hash FROM audit.chain_seq WHERE seq = {from} - 1); BEGIN
         FOR p IN SELECT * FROM audit.chain_seq WHERE seq >= {from} ORDER BY seq LOOP
             UPDATE audit_logs SET previous_hash = before, hash = audit.row_hash(id, user_id, session_id, action, resource, resource_id,
                 details, ip_address, user_agent, success, error_code, error_message, recorded_at, before)
             WHERE id = p.id AND recorded_at = p.recorded_at RETURNING hash INTO before;
             UPDATE audit.chain_seq SET hash = before WHERE seq = p.seq;
         END LOOP;
         UPDATE audit.chain_head SET hash = before; END $$;
         ALTER TABLE audit.chain_head ENABLE ALWAYS TRIGGER chain_head_close"
    )
}

/// A desk over a log with rows of `back` months and ten of the present one, maintained and verified by the agent's roles as
/// `plan` says.
pub fn desk(back: u32, plan: &str) -> Desk {
    let desk = bc003_server::desk(Some(plan));
    desk.configure("[postgres.roles]\npartition = 'dbagent_part'\naudit-verify = 'dbagent_verify'\naudit-checkpoint = 'dbagent_verify'\n");
    desk.json(0, &["audit", "install", "--yes"]);
    desk.site.ask(&months(back));
    desk.site.ask(&insert(10));
    desk.json(0, &["init", "--install-sql", "--yes"]);
    desk
}

/// Name of the log's month so many months ago.
pub fn month(desk: &Desk, back: u32) -> String {
    desk.site.ask(&format!(
        "SELECT to_char(timezone('UTC', now()) - interval '{back} months', '\"audit_logs_\"YYYY\"_\"MM')"
    ))
}

/// A chained log with somebody who watches it: a repository for checkpoints, a spool and a key for alerts.
pub struct Watched {
    pub chained: Arc<Chained>,
    pub files: TempDir,
    pub repository: Repository,
}

pub const KEY: &[u8] = b"key of the tests";

impl Watched {
    pub fn new(chained: impl Into<Arc<Chained>>) -> Self {
        let chained = chained.into();
        let files = tempfile::tempdir().unwrap();
        let now = SystemClock::new().now();
        let secret = generate_signing_key("test signing", now).unwrap().secret;
        let signer = Signer::from_secret_key(&secret, None, now).unwrap();
        let mut verifier = Verifier::new();
        verifier.trust(signer.certificate());
        let folder = files.path().join("repository");
        std::fs::create_dir(&folder).unwrap();
        let repository = Repository {
            name: "local".into(),
            storage: Arc::new(DirectoryStorage::open(&folder).unwrap()),
            verifier: Arc::new(verifier),
            signer: Some(Arc::new(signer)),
            memory: None,
            term: Arc::default(),
        };
        Self { chained, files, repository }
    }

    /// The agent's login, as the role it verifies by.
    pub fn agent(&self) -> Connection {
        self.chained.connection().with_role(Some("dbagent_verify"))
    }

    pub fn spool(&self) -> Spool {
        Spool::new(self.files.path().join("alerts"))
    }

    pub fn alerts(&self) -> AlertDoors {
        AlertDoors {
            connection: self.agent(),
            spool: self.spool(),
            key: KEY.to_vec(),
            repositories: vec![self.repository.clone()],
        }
    }

    /// The verb `audit-verify`.
    pub async fn verify(&self, scope: Scope) -> Result<Outcome, Failure> {
        let doors = audit_verify::Doors {
            connection: self.agent(),
            repositories: vec![self.repository.clone()],
            unopened: Vec::new(),
            alerts: self.alerts(),
        };
        audit_verify::run(&options(scope), &doors, &setting()).await
    }

    /// The verb `audit-checkpoint`.
    pub async fn checkpoint(&self, restored: Option<&str>) -> Result<Outcome, Failure> {
        self.checkpoint_expecting(None, restored).await
    }

    /// The same where the last verification may lie back no longer than this.
    pub async fn checkpoint_expecting(
        &self,
        longest_unverified: Option<chrono::TimeDelta>,
        restored: Option<&str>,
    ) -> Result<Outcome, Failure> {
        let doors = audit_checkpoint::Doors {
            connection: self.agent(),
            repositories: vec![self.repository.clone()],
            unopened: Vec::new(),
            alerts: self.alerts(),
        };
        let options = audit_checkpoint::Options {
            terms: terms(),
            restored: restored.map(str::to_owned),
            longest_unverified,
            lock_timeout: std::time::Duration::from_secs(2),
        };
        audit_checkpoint::run(&options, &doors, &setting()).await
    }

    pub async fn signed(&self) -> Signed {
        Signed::read(std::slice::from_ref(&self.repository), &[], Reading::Thorough, SystemClock::new().now()).await
    }

    /// What a verification of everything finds, against all checkpoints.
    pub async fn findings(&self) -> Vec<ChainFinding> {
        let signed = self.signed().await;
        audit_verify::verify(&options(Scope::Full), &self.agent(), &signed, &setting()).await.unwrap().findings
    }
}

impl Chained {
    /// Shuts the server down. Sessions of the stage end with it.
    pub fn stop_server(&mut self) {
        self.database.server.stop();
    }

    pub fn resume_server(&mut self) {
        self.database.server.resume().unwrap();
    }
}

/// Says a figure of the long tier, for whoever runs it with --nocapture.
#[expect(clippy::print_stdout, reason = "figures are what the long tier is run for")]
pub fn figure(text: &str) {
    println!("{text}");
}
