//! Making one artifact: its name, the repositories that take it, its objects on their way, its manifest, its outcome.
//!
//! What a full dump and an increment share. Objects are streamed to all repositories and held back uncommitted until
//! every source has ended well; only then are they committed, read back, and given their manifest. A repository that
//! fails is left behind without holding up the others.

mod advice;
mod draft;
mod findings;
mod object;
mod target;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::names::Leased;
use crate::catalog::{ArtifactName, Identity, Repository};
use crate::model::failure::Failure;
use crate::model::key::InvalidKey;
use crate::model::lsn::SystemId;
use crate::model::manifest::ParentRecord;
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::model::table::TableName;
use crate::pipeline::deflate::Level;
use crate::pipeline::openpgp::Recipients;
use crate::postgres::{ClientTools, Connection, Coordinator, DumpScope};
use crate::steps::Setting;
use crate::steps::hold::Hold;

pub use advice::advise;
pub use draft::Draft;
pub use findings::{encryption_findings, large_object_finding, large_objects};
pub use object::{Made, ObjectMaker, Supply, telling};
pub use target::{Target, require_one};

/// What to dump and how to store it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of the job, as retention groups by it.
    pub job: String,
    /// Name of the plan.
    pub plan: String,
    /// Name of the cluster.
    pub cluster: String,
    /// System identifiers that this cluster had before (pg_upgrade).
    pub former_systems: Vec<SystemId>,
    /// The tables; empty means every table of the database.
    pub tables: Vec<TableName>,
    /// Tables of which increments read only rows with a recent time, and the column that has it.
    pub changed_at: BTreeMap<TableName, String>,
    /// Folder below the repository's prefix.
    pub folder: String,
    /// What the artifact's name begins with.
    pub name_prefix: String,
    /// Storage class by repository.
    pub storage_class: BTreeMap<String, String>,
    /// Whether large objects are dumped.
    pub large_objects: bool,
    /// Longest wait for a table's lock.
    pub lock_timeout: Duration,
    /// Longest silence of whatever gives the rows.
    pub no_progress_timeout: Duration,
    /// Longest wait for one repository to take the next bytes.
    pub stall_timeout: Duration,
    /// Compression level.
    pub level: Level,
    /// Compressing threads.
    pub threads: NonZeroUsize,
}

impl Options {
    /// What the coordinator is to cover.
    pub fn scope(&self) -> DumpScope {
        DumpScope { tables: self.tables.clone(), large_objects: self.large_objects, lock_timeout: self.lock_timeout }
    }
}

/// What it is made with.
#[derive(Debug)]
pub struct Doors {
    /// The database.
    pub connection: Connection,
    /// pg_dump and its kin.
    pub tools: ClientTools,
    /// Where to store.
    pub repositories: Vec<Repository>,
    /// Repositories that should have it too and could not be opened, and why.
    pub unopened: Vec<(String, Failure)>,
    /// Whom to encrypt to; absent stores in the clear, which the operator wrote out.
    pub recipients: Option<Recipients>,
}

impl Doors {
    /// Errors when no repository at all could be opened.
    pub fn require_a_repository(&self) -> Result<(), Failure> {
        require_a_repository(&self.repositories, &self.unopened)
    }

    /// The first free name that `named` gives from `started` on.
    pub async fn free_name(
        &self,
        started: DateTime<Utc>,
        named: impl Fn(DateTime<Utc>) -> Result<ArtifactName, InvalidKey>,
    ) -> Result<ArtifactName, Failure> {
        free_name(&self.repositories, started, named).await
    }
}

/// Errors when there are repositories to store in and none of them could be opened.
pub fn require_a_repository(repositories: &[Repository], unopened: &[(String, Failure)]) -> Result<(), Failure> {
    match (repositories.is_empty(), unopened.first()) {
        (true, Some((_, failure))) => {
            let message = format!("store the backup: {}", failure.full_message());
            Err(Failure::new(failure.kind, message).hint(failure.hint.clone().unwrap_or_default()))
        }
        _ => Ok(()),
    }
}

/// The name that `named` gives at `started`; names count seconds, so one just taken is passed over for the next: by an
/// artifact, or by the objects of a run that died before its manifest.
pub async fn free_name(
    repositories: &[Repository],
    started: DateTime<Utc>,
    named: impl Fn(DateTime<Utc>) -> Result<ArtifactName, InvalidKey>,
) -> Result<ArtifactName, Failure> {
    let mut at = started;
    loop {
        let name = named(at)?;
        let mut taken = false;
        for repository in repositories {
            // A repository that does not answer is no reason to wait here; it is left behind later, with its error.
            taken |= repository.storage.list(&name.begins(), None).await.is_ok_and(|page| !page.objects.is_empty());
        }
        if !taken {
            return Ok(name);
        }
        at += TimeDelta::seconds(1);
    }
}

/// Claims every repository; those that cannot be used are left behind, unless none is left.
pub async fn open_targets(
    options: &Options,
    doors: &Doors,
    coordinator: &Coordinator,
    now: DateTime<Utc>,
) -> Result<Vec<Target>, Failure> {
    let identity = Identity::new(&options.cluster, coordinator.source_record().system_identifier, now);
    let mut targets = Vec::new();
    for repository in &doors.repositories {
        let claimed = async {
            repository.claim(&identity, &options.former_systems).await?;
            repository.term(now).await
        };
        let storage_class = options.storage_class.get(&repository.name).cloned();
        let mut target = Target::new(repository.clone(), storage_class);
        if let Err(error) = claimed.await {
            target.give_up(Failure::from(error));
        }
        targets.push(target);
    }
    target::require_one(&mut targets)?;
    Ok(targets)
}

/// Leases, in every repository that is still going, the name of what is made there and what it builds upon (`parents`, by
/// repository): no expiry takes either meanwhile.
pub fn hold(
    name: &ArtifactName,
    targets: &[Target],
    parents: &BTreeMap<String, ParentRecord>,
    setting: &Setting,
) -> impl Future<Output = Result<Hold, Failure>> {
    let of = |target: &Target| {
        let parent = parents.get(&target.repository.name).map(|parent| Leased::Artifact(parent.id));
        let wanted = [Some(Leased::Name(name.clone())), parent].into_iter().flatten();
        wanted.map(|on| (target.repository.clone(), on)).collect::<Vec<_>>()
    };
    let wanted = targets.iter().filter(|target| target.is_going()).flat_map(of).collect();
    let leasing = async { Ok(Hold::take(wanted, setting).await) };
    setting.unless_stopped("lease the name of the backup", leasing)
}

/// Commits in every repository and says what came of it; `summary` is for when at least one has it.
pub async fn commit(
    draft: &Draft<'_>,
    name: &ArtifactName,
    mut targets: Vec<Target>,
    mut findings: Vec<Finding>,
    summary: String,
) -> Result<Outcome, Failure> {
    draft.hold.renew().await;
    futures_util::future::join_all(targets.iter_mut().map(|target| target.commit(name, draft))).await;
    target::require_one(&mut targets)?;
    let unopened = draft.doors.unopened.iter().map(|(name, failure)| RepositoryOutcome {
        repository: name.clone(),
        error: Some(failure.full_message()),
        stored_bytes: 0,
    });
    let repositories: Vec<RepositoryOutcome> = targets.iter().map(Target::outcome).chain(unopened).collect();
    let failed = repositories.iter().filter(|repository| repository.error.is_some()).count();
    for repository in repositories.iter().filter(|repository| repository.error.is_some()) {
        let message = format!("repository {} does not have this {}", repository.repository, draft.verb);
        findings.push(Finding::new(Severity::Critical, "repository-left-behind", message));
    }
    let verdict = if failed > 0 { Verdict::Incomplete } else { Verdict::Ok };
    Ok(Outcome { verdict, summary, artifact: Some(draft.id), repositories, findings })
}

/// Gives locks and snapshot back. The artifact is there: whoever ended the session before has given them back.
pub async fn release(coordinator: Coordinator) {
    if let Err(error) = coordinator.release().await {
        tracing::warn!(error = error.full_message(), "the session of the snapshot ended before it was given back");
    }
}
