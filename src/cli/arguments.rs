//! The command line as people type it. Parsing only: what the words mean is decided where they are used.
//!
//! Global flags stand before or after the verb. Commands whose verbs are not built yet are not listed.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::model::wal::SegmentName;

/// Exit codes, as `--help` shows them below the commands.
pub const AFTER_HELP: &str = "\
Exit codes:
  0 ok   1 failed   2 usage or configuration   3 done, with findings   10 nothing matches   11 lock held
  12 authentication or decryption   13 integrity broken   14 target outside the recovery window
  15 refused for safety

First steps: `dbagent demo` shows everything on a throw-away PostgreSQL; `dbagent init` sets up your own.";

/// Keeps a PostgreSQL cluster recoverable, tidy and honest.
#[derive(Debug, Parser)]
#[command(name = "dbagent", version, about, after_help = AFTER_HELP, max_term_width = 110, propagate_version = true)]
pub struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes.
#[derive(Clone, Debug, Args)]
pub struct Global {
    /// Configuration file [default: $DBAGENT_CONFIG, ./dbagent.toml, /etc/dbagent/dbagent.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Write one JSON object to standard output
    #[arg(long, global = true)]
    pub json: bool,
    /// Say less: only results and errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    /// When to use colour (NO_COLOR is respected)
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto, value_name = "WHEN")]
    pub color: Color,
}

/// When to use colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// A guided tour on a throw-away PostgreSQL and a local repository, for real, in about a minute
    Demo(Demo),
    /// Write dbagent.toml, make the keys, print the next steps; with --install-sql, install what the agent owns in a database
    Init(Init),
    /// Run the agent: the scheduler, until it is told to stop
    Run,
    /// What is protected now
    Status,
    /// Is everything in place: one line per check, with the remedy
    Check(Check),
    /// The jobs of the plan and their next times
    Plan,
    /// Jobs: list them, run one now, see what ran
    #[command(subcommand)]
    Job(Job),
    /// What is stored: list, show, verify, keep, delete
    #[command(subcommand)]
    Backup(Backup),
    /// Restore a database, a table, or the whole cluster; a table and the cluster also as of a moment
    Restore(Box<Restore>),
    /// Apply retention; with --plan, show what would go and why
    Expire(Expire),
    /// Archived WAL: push and fetch for PostgreSQL; list, sync, verify
    #[command(subcommand)]
    Wal(Wal),
    /// Monthly partitions: the calendar, what would be done, doing it
    #[command(subcommand)]
    Partition(Partition),
    /// The audit log's hash chain: install it, verify it, sign its head
    #[command(subcommand)]
    Audit(Audit),
    /// Alerts about the audit log: list them, acknowledge them, try them out
    #[command(subcommand)]
    Alert(Alert),
    /// The configuration: show it merged, check it, print an example or its schema
    #[command(subcommand)]
    Config(Config),
    /// Exit 0 if a running agent answers (for containers)
    Healthcheck,
    /// Print the completion script of a shell
    Completions {
        /// The shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
    /// Write the manual pages into a directory
    Man {
        /// Where to write them
        directory: PathBuf,
    },
}

#[derive(Debug, Args)]
pub struct Demo {
    /// Leave the stage standing in this directory: the server, the repository, the keys
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Init {
    /// Where to put dbagent.toml and the keys
    #[arg(long, value_name = "DIR", default_value = ".")]
    pub directory: PathBuf,
    /// Certificate to encrypt to; may be given several times. Without one, a pair is made
    #[arg(long, value_name = "FILE")]
    pub recipient: Vec<PathBuf>,
    /// The form of encrypted messages; every recipient's certificate must advertise it
    #[arg(long, value_enum, default_value = "gnupg")]
    pub profile: KeyProfile,
    /// Install the agent's functions and roles in the configured database; asks first
    #[arg(long, conflicts_with_all = ["directory", "recipient"])]
    pub install_sql: bool,
    /// Who installs them: the URL of an administrator's login (PG* variables and the passfile count) [default: the agent's]
    #[arg(long, value_name = "URL", requires = "install_sql")]
    pub admin_url: Option<String>,
    /// The database to install them in [default: that of the connection]
    #[arg(long, value_name = "NAME", requires = "install_sql")]
    pub database: Option<String>,
    /// Show what would be installed and do nothing
    #[arg(long, requires = "install_sql")]
    pub plan: bool,
    /// Do not ask; without --install-sql, take the defaults
    #[arg(long)]
    pub yes: bool,
}

/// What the readers of encrypted messages must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum KeyProfile {
    /// GnuPG 2.2 and later read it
    Gnupg,
    /// Several times faster; sequoia's sq and other readers of RFC 9580 read it, GnuPG does not
    Rfc9580,
}

#[derive(Debug, Args)]
pub struct Check {
    /// One line and exit code as Nagios plugins have them
    #[arg(long)]
    pub nagios: bool,
    /// End the WAL segment being written, and see that very segment come back from the repositories
    #[arg(long)]
    pub switch_wal: bool,
}

#[derive(Debug, Subcommand)]
pub enum Job {
    /// The jobs of the plan
    List,
    /// Run one job now, through the running agent if there is one
    Run {
        /// Name of the job
        name: String,
    },
    /// What ran, newest first
    History {
        /// Only this job
        name: Option<String>,
        /// At most this many runs
        #[arg(long, default_value_t = 20)]
        last: usize,
    },
}

#[derive(Debug, Subcommand)]
pub enum Backup {
    /// What is stored and can be restored
    List {
        /// Only of this job
        #[arg(long)]
        job: Option<String>,
        /// Only in this repository
        #[arg(long)]
        repository: Option<String>,
    },
    /// One backup in full
    Show {
        /// Full id, unique prefix, latest or oldest
        backup: String,
    },
    /// Read every stored byte back and check it against the signed manifest
    Verify {
        /// Full id, unique prefix, latest or oldest; all of them when absent
        backup: Option<String>,
        /// Also decrypt and decompress, and compare contents: the decrypt drill (needs the private key)
        #[arg(long)]
        deep: bool,
        /// Only in this repository
        #[arg(long)]
        repository: Option<String>,
    },
    /// Keep a backup whatever retention says
    Keep {
        /// Full id, unique prefix, latest or oldest
        backup: String,
        /// Why, for those who find it later
        #[arg(long, default_value = "kept by hand")]
        reason: String,
        /// Put it under retention again
        #[arg(long)]
        release: bool,
    },
    /// Delete a backup
    Delete {
        /// Full id, unique prefix, latest or oldest
        backup: String,
        /// Only in this repository
        #[arg(long)]
        repository: Option<String>,
        #[command(flatten)]
        consent: Consent,
    },
}

/// How a destructive command is shown, asked for and confirmed.
#[derive(Clone, Debug, Args)]
pub struct Consent {
    /// Show what would be done and do nothing
    #[arg(long)]
    pub plan: bool,
    /// Do not ask; never overrides a safety refusal
    #[arg(long)]
    pub yes: bool,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true).args(["database", "table", "to"])))]
#[command(group(clap::ArgGroup::new("then").args(["table", "to"])))]
pub struct Restore {
    /// Restore this database, into a new one
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// Restore this table (schema optional), beside the one that is there unless --mode says otherwise
    #[arg(long, value_name = "NAME")]
    pub table: Option<String>,
    /// Restore the whole cluster as it was at a moment into this directory, from a base backup and the archived log
    #[arg(long, value_name = "DIRECTORY")]
    pub to: Option<PathBuf>,
    /// The moment: 2026-03-01T14:30:00Z, "2026-03-01 14:30 Europe/Amsterdam", "2 hours ago", latest. With --table, the table
    /// as it was then: recovered in the scratch directory from a base backup and the archived log, and taken from there
    #[arg(long, value_name = "TIME", requires = "then", group = "target")]
    pub target_time: Option<String>,
    /// The zone of a --target-time without one [default: restore.timezone of the configuration; without that it is refused]
    #[arg(long, value_name = "ZONE", requires = "target_time")]
    pub timezone: Option<String>,
    /// The position in the log
    #[arg(long, value_name = "LSN", requires = "then", group = "target")]
    pub target_lsn: Option<String>,
    /// The transaction
    #[arg(long, value_name = "XID", requires = "then", group = "target")]
    pub target_xid: Option<u32>,
    /// The restore point
    #[arg(long, value_name = "NAME", requires = "then", group = "target")]
    pub target_name: Option<String>,
    /// The first consistent state of the base backup
    #[arg(long, requires = "to", group = "target")]
    pub immediate: bool,
    /// Everything that is archived (what is done with --to when nothing else is said)
    #[arg(long, requires = "then", group = "target")]
    pub latest: bool,
    /// Leave out what is exactly at the target
    #[arg(long, requires = "target")]
    pub exclusive: bool,
    /// Follow this timeline instead of the newest
    #[arg(long, value_name = "N", requires = "then")]
    pub timeline: Option<u32>,
    /// What the server does at the target
    #[arg(long, value_enum, default_value_t = RestoreAction::Pause, requires = "to")]
    pub action: RestoreAction,
    /// Do nothing where there is a data directory already
    #[arg(long, requires = "to")]
    pub if_empty: bool,
    /// Bring a stopped copy of this cluster there, fetching only what differs
    #[arg(long, requires = "to")]
    pub delta: bool,
    /// Put a tablespace elsewhere: its old path or oid, and the new path
    #[arg(long, value_name = "OLD=NEW", requires = "to")]
    pub tablespace_map: Vec<String>,
    /// The copy takes the primary's place: it goes on archiving
    #[arg(long, requires = "to")]
    pub takeover: bool,
    /// Start the copy and follow it to the target
    #[arg(long, requires = "to")]
    pub start: bool,
    /// Which backup: full id, unique prefix, latest or oldest; with a target, the base backup to begin with
    #[arg(long, value_name = "ID", default_value = "latest")]
    pub backup: String,
    /// The last backup at or before this instant (2026-03-01T14:30:00Z; an offset is required)
    #[arg(long, value_name = "TIME", conflicts_with_all = ["backup", "target"])]
    pub until: Option<String>,
    /// Read from this repository
    #[arg(long, value_name = "NAME")]
    pub repository: Option<String>,
    /// Name of the database to make [default: the one that was dumped, if it is gone]
    #[arg(long, value_name = "NAME", conflicts_with = "table")]
    pub to_database: Option<String>,
    /// Replace an existing database (its name must be typed)
    #[arg(long, conflicts_with = "table")]
    pub replace: bool,
    /// Name of the new table [default: NAME_restored]; its own name where it is gone, and all that was its own comes back
    #[arg(long, value_name = "SCHEMA.NAME", requires = "table")]
    pub r#as: Option<String>,
    /// Bring the rows into the existing table
    #[arg(long, value_enum, requires = "table", conflicts_with = "as")]
    pub mode: Option<TableMode>,
    /// Leave owners and privileges out
    #[arg(long)]
    pub no_owner: bool,
    /// Connections that load and index at once
    #[arg(long, value_name = "N")]
    pub jobs: Option<usize>,
    /// Rebuild the table's indexes afterwards
    #[arg(long, requires = "table")]
    pub reindex: bool,
    /// Take manifests that no trusted key signed
    #[arg(long)]
    pub accept_unsigned: bool,
    #[command(flatten)]
    pub consent: Consent,
}

impl Restore {
    /// Whether a table is wanted as it was at a moment, by a recovery.
    pub fn is_past_table(&self) -> bool {
        let named = [&self.target_time, &self.target_lsn, &self.target_name].iter().any(|target| target.is_some());
        self.table.is_some() && (named || self.target_xid.is_some() || self.latest)
    }
}

/// What the server does at the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum RestoreAction {
    /// Wait, readable, for a person to say what next
    Pause,
    /// Become a primary on a timeline of its own
    Promote,
    /// Shut down
    Shutdown,
}

/// What becomes of rows that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableMode {
    /// Insert what is missing, update what differs, delete nothing
    Merge,
    /// Make the table equal to the backup: insert, update and delete exactly the rows that differ
    Replace,
}

#[derive(Debug, Args)]
pub struct Expire {
    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Debug, Subcommand)]
pub enum Wal {
    /// Archive one file: archive_command = 'dbagent wal push "%p"'
    ///
    /// Exits 0 only when the file is durable in every repository that takes WAL, and 1 on every failure.
    Push {
        /// The file, as %p gives it
        path: PathBuf,
    },
    /// Fetch one file: restore_command = 'dbagent wal fetch "%f" "%p"'
    ///
    /// Exits 0 with the file in place, 1 when it is proven not to be archived, and 126 when that cannot be known.
    Fetch {
        /// Its name, as %f gives it
        name: String,
        /// Where to put it, as %p gives it
        destination: PathBuf,
        /// Ask this repository and no other: whatever the others hold is lost, or is not wanted
        #[arg(long, value_name = "NAME", conflicts_with = "believe")]
        repository: Option<String>,
        /// Ask all, this repository first; its word that a file is not archived is enough where others cannot be asked
        #[arg(long, value_name = "NAME")]
        believe: Option<String>,
        /// For a copy beside the live server: refuse a segment that makes a tablespace in a directory that is in use
        #[arg(long)]
        within: bool,
        /// Up to this segment the log was stored when the restore was planned: one of them that is gone is not its end
        #[arg(long, value_name = "SEGMENT")]
        through: Option<SegmentName>,
    },
    /// Carry to each repository what another one has, push again what pg_wal still has, and tell what is missing
    Sync,
    /// What is stored of each timeline, in each repository
    List,
    /// Carry, then read every stored byte back and check it against its signed record
    Verify,
}

#[derive(Debug, Subcommand)]
pub enum Partition {
    /// The calendar: months by table
    List,
    /// What would be made, archived and dropped, and why
    Plan,
    /// Make the months ahead; archive and drop those past retention
    Maintain {
        /// Leave detached partitions as tables
        #[arg(long)]
        keep_detached: bool,
        #[command(flatten)]
        consent: Consent,
    },
    /// Turn a plain table into a partitioned one while it is in use; goes on where an earlier run stopped
    Convert {
        /// The table; the plan must have a partition rule for it
        table: String,
        /// Go back to the plain table, with every change made since; possible until --finish
        #[arg(long, conflicts_with = "finish")]
        undo: bool,
        /// Drop the plain table, once more proven equal
        #[arg(long)]
        finish: bool,
        #[command(flatten)]
        consent: Consent,
    },
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Chain public.audit_logs: side tables, functions, roles and the trigger; asks first
    Install(AuditInstall),
    /// Chain a log that has rows already, then put the trigger on it; may be run again after a crash
    Backfill(AuditBackfill),
    /// Put the chain's trigger and functions back as they were installed, where somebody has changed them; asks first
    Repair(AuditInstall),
    /// After a restore of the log without its side tables: rebuild them by following the log's own hashes
    Rebuild(AuditInstall),
    /// Verify that the log is the one chain its trigger made, against every signed checkpoint
    Verify(AuditVerify),
    /// Sign the head of the chain into every repository
    Checkpoint(AuditCheckpoint),
    /// Archive and seal months of the log, so that they may be dropped later without cutting the chain
    Seal(AuditSeal),
    /// Prove that one row lay in a sealed month, from its archive, or check a proof that was made before
    Prove(AuditProve),
    /// Watch the checkpoints from another host, also without the database: signed, linked, never shorter, never silent
    Witness {
        /// Longest time without a checkpoint
        #[arg(long, value_name = "SPAN", default_value = "15 minutes")]
        silence: String,
        /// Ask the database too: compute the rows between so many neighbouring checkpoints, drawn anew each time
        #[arg(long, value_name = "N", default_value_t = 0)]
        sample: usize,
    },
}

#[derive(Debug, Args)]
pub struct AuditBackfill {
    #[command(flatten)]
    pub install: AuditInstall,
    /// Rows in one transaction
    #[arg(long, value_name = "N", default_value_t = 5000)]
    pub batch: u32,
}

#[derive(Debug, Args)]
pub struct AuditVerify {
    /// Only what came after the last verified checkpoint
    #[arg(long, conflicts_with = "partition")]
    pub incremental: bool,
    /// Only this partition
    #[arg(long, value_name = "NAME")]
    pub partition: Option<String>,
    /// The database [default: that of the connection]
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
}

#[derive(Debug, Args)]
pub struct AuditSeal {
    /// Partitions, by name [default: those past their retention]
    #[arg(value_name = "PARTITION")]
    pub partitions: Vec<String>,
    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Debug, Args)]
pub struct AuditProve {
    /// The row's id
    #[arg(value_name = "ID")]
    pub id: uuid::Uuid,
    /// The partition it lay in, which saves reading other archives
    #[arg(long, value_name = "NAME", conflicts_with = "from")]
    pub partition: Option<String>,
    /// Check this proof (what `audit prove ID --json` has printed); needs no archive and no key
    #[arg(long, value_name = "FILE")]
    pub from: Option<PathBuf>,
    /// The row's canonical bytes in hexadecimal digits, instead of those in the proof
    #[arg(long, value_name = "FILE", requires = "from")]
    pub row: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct AuditCheckpoint {
    /// The chain was put back on purpose, say why: earlier checkpoints of places beyond it no longer count
    #[arg(long, value_name = "REASON")]
    pub restored: Option<String>,
    /// Do not ask
    #[arg(long, requires = "restored")]
    pub yes: bool,
}

#[derive(Debug, Subcommand)]
pub enum Alert {
    /// Alerts that nobody has acknowledged
    List {
        /// Acknowledged ones too
        #[arg(long)]
        all: bool,
    },
    /// Acknowledge an alert: it is not repeated any more
    Ack {
        /// Its id; absent with --all
        #[arg(required_unless_present = "all")]
        alert: Option<String>,
        /// Every open alert
        #[arg(long, conflicts_with = "alert")]
        all: bool,
        /// Who acknowledges it
        #[arg(long, value_name = "NAME", env = "USER")]
        by: String,
        /// What was found out, for those who read it later
        #[arg(long, value_name = "TEXT")]
        note: Option<String>,
    },
    /// Raise an alert that says that it is a test
    Test,
}

#[derive(Debug, Args)]
pub struct AuditInstall {
    /// Who installs it: the URL of an administrator's login (PG* variables and the passfile count) [default: the agent's]
    #[arg(long, value_name = "URL")]
    pub admin_url: Option<String>,
    /// The database [default: that of the connection]
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    #[command(flatten)]
    pub consent: Consent,
}

#[derive(Debug, Subcommand)]
pub enum Config {
    /// The merged configuration, where each value comes from, secrets masked
    Show,
    /// Is the configuration sound
    Check,
    /// An example to start from
    Example,
    /// The JSON schema of dbagent.toml
    Schema,
}
