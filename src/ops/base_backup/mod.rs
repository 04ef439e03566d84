//! The verb `base-backup`: a physical copy of the whole cluster, part by part, into every repository at once.
//!
//! The server is told that a backup begins, the files are read in parallel as they are, the server is told that it ends,
//! and then the backup is complete only when every segment of the log from its start to its end was read back from the
//! repository. Nothing is copied anywhere in between: tar, compression, encryption and upload are one stream for each
//! part, several at once. The surprising thing: the control file is read after everything else, and goes, with the label,
//! into the last part.

mod basis;
mod cluster;
mod journal;
mod log;
mod manifest;
mod parent;
mod parts;
mod places;
mod plan;
mod reading;
mod remote;
mod resume;
mod second_look;
mod window;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::catalog::names::Leased;
use crate::catalog::{ArtifactName, Repository};
use crate::host::failpoint::{FailPoint, pass};
use crate::model::base::{BaseKind, DamagedPages};
use crate::model::failure::Failure;
use crate::model::id::ArtifactId;
use crate::model::lsn::SystemId;
use crate::model::manifest::Encoding;
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::model::side::Side;
use crate::model::size::ByteSize;
use crate::ops::Setting;
use crate::pipeline::openpgp::Recipients;
use crate::pipeline::pack::Codec;
use crate::postgres::{BackupSession, Connection, Stopped};
use crate::steps::artifact;
use crate::steps::blocks::BlockStore;
use crate::steps::hold::Hold;

pub use remote::Remote;

use basis::Basis;
use cluster::Cluster;
use journal::{Head, Journal, Terms};
use parent::Parent;
use parts::Parts;
use places::{Owner, Places};

/// How to make it.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much of the cluster it is to hold; all of it where that is all that can be.
    pub kind: BaseKind,
    /// The side of a replication that it is taken from.
    pub source: Side,
    /// Name of the job, as retention groups by it.
    pub job: String,
    /// Name of the plan.
    pub plan: String,
    /// Name of the cluster.
    pub cluster: String,
    /// System identifiers that this cluster had before (pg_upgrade).
    pub former_systems: Vec<SystemId>,
    /// Storage class by repository.
    pub storage_class: BTreeMap<String, String>,
    /// How parts are compressed.
    pub codec: Codec,
    /// Parts on their way at once.
    pub parallel: NonZeroUsize,
    /// Bytes of files in one part, about; less where there is little to copy.
    pub part_bytes: u64,
    /// Whether the server makes its checkpoint at once.
    pub fast_checkpoint: bool,
    /// Whether checksums of pages are verified.
    pub verify_pages: bool,
    /// Longest wait for one repository to take the next bytes.
    pub stall_timeout: Duration,
    /// Age from which an expiry takes what no manifest names and nobody leases: an interrupted run is gone on with in half
    /// of it, or as long as its lease holds.
    pub expire_grace: Duration,
    /// Longest wait for the log of the backup to arrive in a repository.
    pub wal_timeout: Duration,
}

/// What it is made with.
#[derive(Debug)]
pub struct Doors {
    /// The cluster.
    pub connection: Connection,
    /// Its data directory; asked from the server when absent.
    pub data_directory: Option<PathBuf>,
    /// How it is reached where the data directory is not here.
    pub remote: Remote,
    /// Where to store.
    pub repositories: Vec<Repository>,
    /// Repositories that should have it too and could not be opened, and why.
    pub unopened: Vec<(String, Failure)>,
    /// Whom to encrypt to; absent stores in the clear, which the operator wrote out.
    pub recipients: Option<Recipients>,
    /// Which blocks the log touched, where that is kept.
    pub blocks: Option<BlockStore>,
    /// Where it is noted what an interrupted run has stored; nothing is gone on with where it is not.
    pub journals: Option<PathBuf>,
}

/// Makes one base backup.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let started = setting.clock.now();
    artifact::require_a_repository(&doors.repositories, &doors.unopened)?;
    let findings = artifact::encryption_findings(doors.recipients.as_ref(), started);
    let asking = async { Ok(BackupSession::connect(&doors.connection).await?) };
    let (session, facts) = setting.unless_stopped("ask the server what a base backup needs", asking).await?;
    let cluster = Cluster::look(facts, doors.data_directory.as_deref(), options.source)?;
    let owning = cluster.with_own(&session, doors.data_directory.is_some());
    let cluster = setting.unless_stopped("look at the data directory", owning).await?;
    let system = cluster.facts.server.system_identifier;
    let owner = Owner { cluster: &options.cluster, system, former: &options.former_systems };
    let opening = Places::open(&doors.repositories, &options.storage_class, &owner, started);
    let places = setting.unless_stopped("open the repositories", opening).await?;
    let journal = Journal::of(doors.journals.as_deref(), &options.job);
    let naming = async {
        match cluster.is_remote() {
            true => Ok((artifact::free_name(&doors.repositories, started, ArtifactName::of_base).await?, false)),
            false => name(options, doors, &places, &journal, system, started).await,
        }
    };
    let (name, resumes) = setting.unless_stopped("find a name for the base backup", naming).await?;
    let parent = match options.kind {
        BaseKind::Full => None,
        BaseKind::Incremental if cluster.is_remote() => Some(Err("pg_basebackup copies everything".to_owned())),
        BaseKind::Incremental => {
            let finding = async { Parent::find(&places, &cluster, started).await };
            Some(setting.unless_stopped("find what to build upon", finding).await?)
        }
    };
    let leasing = async { Ok(Hold::take(holds(&places, &name, parent.as_ref()), setting).await) };
    let hold = setting.unless_stopped("lease the name of the base backup", leasing).await?;
    let work = Work {
        options,
        doors,
        setting,
        session,
        cluster,
        places,
        name,
        journal,
        resumes,
        parent,
        hold: &hold,
        started,
    };
    let outcome = hold.during(work.make(findings)).await?;
    hold.end().await;
    Ok(outcome)
}

/// What no expiry may take while the backup is made, and where: its parts, and what it builds upon.
fn holds(places: &Places, name: &ArtifactName, parent: Option<&Result<Parent, String>>) -> Vec<(Repository, Leased)> {
    let parent = parent.and_then(|parent| parent.as_ref().ok());
    let of = |place: &places::Place| {
        let record = parent.and_then(|parent| parent.record(&place.repository.name));
        let names = [Some(Leased::Name(name.clone())), record.map(|record| Leased::Artifact(record.id))];
        names.into_iter().flatten().map(|on| (place.repository.clone(), on)).collect::<Vec<_>>()
    };
    places.going().into_iter().flat_map(of).collect()
}

/// The name of the backup, and whether it is one that an interrupted run has begun.
async fn name(
    options: &Options,
    doors: &Doors,
    places: &Places,
    journal: &Journal,
    system: Option<SystemId>,
    started: DateTime<Utc>,
) -> Result<(ArtifactName, bool), Failure> {
    let terms = Terms {
        kind: options.kind,
        system,
        encoding: options.encoding(doors.recipients.as_ref(), Encoding::Tar),
        recipients: doors.recipients.as_ref().map(|all| all.fingerprints()).unwrap_or_default(),
        places: places.going().iter().map(|place| place.described()).collect(),
    };
    if let Some((name, _)) = resume::find(journal, places, &terms, options.expire_grace / 2, started).await
        && resume::can_clear(places, &name).await
    {
        return Ok((name, true));
    }
    let name = artifact::free_name(&doors.repositories, started, ArtifactName::of_base).await?;
    journal.begin(&Head { manifest: name.manifest()?, began: started, terms });
    Ok((name, false))
}

impl Options {
    /// How an object of the form `form` is encoded.
    fn encoding(&self, recipients: Option<&Recipients>, form: Encoding) -> Vec<Encoding> {
        let encrypted = recipients.is_some().then_some(Encoding::OpenPgp);
        [form, self.codec.encoding()].into_iter().chain(encrypted).collect()
    }
}

/// A base backup on its way.
struct Work<'a> {
    options: &'a Options,
    doors: &'a Doors,
    setting: &'a Setting,
    session: BackupSession,
    cluster: Cluster,
    places: Places,
    name: ArtifactName,
    journal: Journal,
    /// Whether an interrupted run has begun it.
    resumes: bool,
    /// What an incremental one may build upon, or why there is nothing; nothing is asked of a full one.
    parent: Option<Result<Parent, String>>,
    /// What keeps expiry from its parts.
    hold: &'a Hold,
    started: DateTime<Utc>,
}

/// What was read and where it ended.
struct Taken {
    stopped: Stopped,
    files: u64,
    bytes: u64,
    damaged: DamagedPages,
    skipped: Vec<String>,
    basis: Basis,
    /// What else there is to say.
    told: Vec<Finding>,
}

impl Work<'_> {
    async fn make(self, mut findings: Vec<Finding>) -> Result<Outcome, Failure> {
        let taken = match self.cluster.is_remote() {
            true => Parts::new(&self).make_remotely(&self.doors.remote).await?,
            false => Parts::new(&self).make().await?,
        };
        findings.extend(self.findings(&taken));
        self.setting.events.step("waiting for the log of the backup");
        let record = self.base_record(&taken)?;
        self.await_log(&record).await?;
        self.setting.require_going_on("commit the base backup")?;
        pass(FailPoint::BaseBeforeManifest)?;
        self.journal.end()?;
        self.setting.events.step("committing");
        // A machine that slept may have lost its leases: from here on nothing that is found whole may go.
        self.hold.renew().await;
        let id = ArtifactId::new(self.started);
        for place in self.places.going() {
            if let Err(error) = self.commit(place, id, &record, taken.basis.parent()).await {
                place.give_up(error);
            }
        }
        self.places.require_one()?;
        self.forget_old_blocks(&record, &taken.basis);
        Ok(self.outcome(id, &taken, findings))
    }

    fn outcome(&self, id: ArtifactId, taken: &Taken, mut findings: Vec<Finding>) -> Outcome {
        let unopened = self.doors.unopened.iter().map(|(name, failure)| RepositoryOutcome {
            repository: name.clone(),
            error: Some(failure.full_message()),
            stored_bytes: 0,
        });
        let repositories: Vec<_> = self.places.0.iter().map(places::Place::outcome).chain(unopened).collect();
        let failed = repositories.iter().filter(|repository| repository.error.is_some());
        let left: Vec<Finding> = failed
            .map(|repository| {
                let message = format!("repository {} does not have this base backup", repository.repository);
                Finding::new(Severity::Critical, "repository-left-behind", message)
            })
            .collect();
        let verdict = match (left.is_empty(), taken.damaged.is_none()) {
            (false, _) => Verdict::Incomplete,
            (true, false) => Verdict::Findings,
            (true, true) => Verdict::Ok,
        };
        findings.extend(left);
        let summary = format!(
            "{}: {}{} in {} files, consistent from {}",
            self.name,
            taken.basis.prefix(),
            ByteSize(taken.bytes),
            taken.files,
            taken.stopped.lsn
        );
        Outcome { verdict, summary, artifact: Some(id), repositories, findings }
    }

    fn findings(&self, taken: &Taken) -> Vec<Finding> {
        let mut findings = Vec::new();
        findings.extend(taken.basis.finding());
        findings.extend(taken.told.iter().cloned());
        if self.cluster.is_remote() {
            let message = "the data directory is not here: the backup came through pg_basebackup";
            findings.push(Finding::new(Severity::Info, "through-pg-basebackup", message));
        }
        if !taken.damaged.is_none() {
            findings.push(damage(&taken.damaged));
        }
        if !taken.skipped.is_empty() {
            let first = taken.skipped.iter().take(5).cloned().collect::<Vec<_>>().join(", ");
            let message =
                format!("{} things in the data directory are no files and were skipped: {first}", taken.skipped.len());
            findings.push(Finding::new(Severity::Warning, "files-skipped", message));
        }
        if !self.cluster.verifies_pages() {
            let message = "the cluster has no data checksums: damaged pages cannot be told from good ones";
            findings.push(
                Finding::new(Severity::Info, "no-data-checksums", message)
                    .remedy("pg_checksums --enable, while the server is down"),
            );
        }
        findings
    }
}

fn damage(damaged: &DamagedPages) -> Finding {
    let named = damaged.first.iter().take(5).map(|page| format!("{} block {}", page.path, page.block));
    let message = format!(
        "{} pages of the cluster are damaged, this backup does not count as good: {}",
        damaged.count,
        named.collect::<Vec<_>>().join(", ")
    );
    Finding::new(Severity::Critical, "pages-damaged", message)
        .remedy("find the relation with pg_filenode_relation; restore it from the last good backup")
}
