//! The verb `dump`: one consistent logical dump of named tables into every repository at once.
//!
//! Three objects (the tables' rows, the whole schema, the roles) are streamed to all repositories under one snapshot and
//! held back uncommitted until all three sources have ended well. Only then are they committed, read back, and given
//! their manifest. A repository that fails is left behind without holding up the others.

mod advice;
mod draft;
mod object;
mod target;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use crate::catalog::{ArtifactName, Identity, Repository};
use crate::host::failpoint::{self, FailPoint};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;
use crate::model::lsn::SystemId;
use crate::model::manifest::{LargeObjects, ObjectRole};
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::model::table::TableName;
use crate::ops::Setting;
use crate::pipeline::gzip::Level;
use crate::pipeline::openpgp::{Recipient, Recipients};
use crate::postgres::{ClientTools, Connection, Coordinator, DumpScope};

use draft::Draft;
use object::ObjectMaker;
use target::Target;

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
    /// Longest silence of pg_dump.
    pub no_progress_timeout: Duration,
    /// Longest wait for one repository to take the next bytes.
    pub stall_timeout: Duration,
    /// Compression level.
    pub level: Level,
    /// Compressing threads.
    pub threads: NonZeroUsize,
}

/// What the verb works with.
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

/// Makes one artifact.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Outcome, Failure> {
    let started = setting.clock.now();
    let name = setting.unless_stopped("find a name for the dump", free_name(options, doors, started)).await?;
    if let (true, Some((_, failure))) = (doors.repositories.is_empty(), doors.unopened.first()) {
        let message = format!("store the dump: {}", failure.full_message());
        return Err(Failure::new(failure.kind, message).hint(failure.hint.clone().unwrap_or_default()));
    }
    let mut findings = encryption_findings(doors, started);
    setting.events.step("taking the snapshot");
    let scope = DumpScope {
        tables: options.tables.clone(),
        large_objects: options.large_objects,
        lock_timeout: options.lock_timeout,
    };
    let beginning = async { Ok(Coordinator::begin(&doors.connection, &scope, setting.clock.as_ref()).await?) };
    let coordinator = setting.unless_stopped("take the dump's snapshot", beginning).await?;
    pass(FailPoint::DumpSnapshot)?;
    findings.extend(large_object_finding(&coordinator, options));
    let opening = open_targets(options, doors, &coordinator, started);
    let mut targets = setting.unless_stopped("open the repositories", opening).await?;

    let maker = ObjectMaker { options, doors, setting, coordinator: &coordinator, name: &name };
    let content = match maker.make_all(&mut targets).await {
        Ok(content) => content,
        Err(failure) => return Err(advice::advise(failure, &coordinator).await),
    };
    coordinator.require_alive().await?;
    setting.require_going_on("commit the dump")?;

    setting.events.step("committing and reading back");
    let draft = Draft {
        options,
        doors,
        setting,
        coordinator: &coordinator,
        content: &content,
        started,
        id: ArtifactId::new(started),
    };
    futures_util::future::join_all(targets.iter_mut().map(|target| target.commit(&name, &draft))).await;
    let outcome = conclude(&draft, &name, targets, findings)?;
    if let Err(error) = coordinator.release().await {
        // The artifact is there; whoever ended the session has given the locks back.
        tracing::warn!(error = error.full_message(), "the dump's session ended before it was given back");
    }
    Ok(outcome)
}

/// The name for an artifact begun at `started`; names count seconds, so one just taken is passed over for the next.
async fn free_name(options: &Options, doors: &Doors, started: DateTime<Utc>) -> Result<ArtifactName, Failure> {
    let mut at = started;
    loop {
        let name = ArtifactName::new(&options.folder, &options.name_prefix, at)?;
        let manifest = name.manifest()?;
        let mut taken = false;
        for repository in &doors.repositories {
            // A repository that does not answer is no reason to wait here; it is left behind later, with its error.
            taken |= repository.storage.head(&manifest).await.is_ok();
        }
        if !taken {
            return Ok(name);
        }
        at += TimeDelta::seconds(1);
    }
}

/// Claims every repository; those that cannot be used are left behind, unless none is left.
async fn open_targets(
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

fn encryption_findings(doors: &Doors, now: DateTime<Utc>) -> Vec<Finding> {
    match &doors.recipients {
        Some(recipients) => recipients.list().iter().filter_map(|recipient| expiry_finding(recipient, now)).collect(),
        None => vec![
            Finding::new(
                Severity::Warning,
                "not-encrypted",
                "artifacts are stored in the clear: encryption is \"none\"",
            )
            .remedy("give [encryption] recipients in dbagent.toml"),
        ],
    }
}

fn expiry_finding(recipient: &Recipient, now: DateTime<Utc>) -> Option<Finding> {
    let days = recipient.warning(now)?;
    let message =
        format!("the recipient {} expires in {days} days, and then nothing can be dumped", recipient.fingerprint);
    Some(
        Finding::new(Severity::Warning, "recipient-expires", message)
            .remedy("extend it, or name a new one in [encryption]"),
    )
}

fn large_object_finding(coordinator: &Coordinator, options: &Options) -> Option<Finding> {
    let count = coordinator.large_object_count();
    (count > 0 && !options.large_objects).then(|| {
        let message = format!("{count} large objects of the database are not in this dump");
        Finding::new(Severity::Warning, "large-objects-excluded", message)
            .remedy("set large_objects = true in the job if they are needed")
    })
}

/// What a dump says about large objects.
fn large_objects(coordinator: &Coordinator, options: &Options) -> LargeObjects {
    match (coordinator.large_object_count(), options.large_objects) {
        (0, _) => LargeObjects::None,
        (_, true) => LargeObjects::Included,
        (_, false) => LargeObjects::Excluded,
    }
}

fn conclude(
    draft: &Draft<'_>,
    name: &ArtifactName,
    targets: Vec<Target>,
    mut findings: Vec<Finding>,
) -> Result<Outcome, Failure> {
    let mut targets = targets;
    target::require_one(&mut targets)?;
    let unopened = draft.doors.unopened.iter().map(|(name, failure)| RepositoryOutcome {
        repository: name.clone(),
        error: Some(failure.full_message()),
        stored_bytes: 0,
    });
    let repositories: Vec<RepositoryOutcome> = targets.iter().map(Target::outcome).chain(unopened).collect();
    let failed = repositories.iter().filter(|repository| repository.error.is_some()).count();
    for repository in repositories.iter().filter(|repository| repository.error.is_some()) {
        let message = format!("repository {} does not have this dump", repository.repository);
        findings.push(Finding::new(Severity::Critical, "repository-left-behind", message));
    }
    let data = draft.content.iter().find(|object| object.role == ObjectRole::Data);
    let rows: u64 = data.map(|object| object.tables.values().map(|sum| sum.rows).sum()).unwrap_or_default();
    Ok(Outcome {
        verdict: if failed > 0 { Verdict::Incomplete } else { Verdict::Ok },
        summary: format!("{name}: {rows} rows of {} tables", draft.coordinator.tables().len()),
        artifact: Some(draft.id),
        repositories,
        findings,
    })
}

fn pass(point: FailPoint) -> Result<(), Failure> {
    failpoint::reach(point).map_err(|error| Failure::new(FailureKind::Failed, "pass a fail point").because(error))
}
