//! Completes a backup that some repositories have and others lack: a retry copies it instead of making another one.
//!
//! A copy is the same artifact: same id, same bytes, same instant. Where none can be made for good (the bytes are gone or
//! wrong, the parent of an increment is not there), it says so, and whoever asked makes a new backup.

use std::collections::BTreeMap;

use crate::catalog::{Artifact, Inventory, Repository, Unsigned};
use crate::model::failure::{Failure, FailureKind};
use crate::model::id::ArtifactId;
use crate::model::lsn::SystemId;
use crate::model::manifest::ParentRecord;
use crate::model::outcome::{Finding, Outcome, RepositoryOutcome, Severity, Verdict};
use crate::ops::Setting;
use crate::steps::copy_artifact::{Destination, Hindrance, copy_artifact};
use crate::steps::holdings::holdings;

/// What to complete.
#[derive(Clone, Debug)]
pub struct Options {
    /// The artifact.
    pub artifact: ArtifactId,
    /// Storage class by repository.
    pub storage_class: BTreeMap<String, String>,
    /// System identifiers that the cluster had before.
    pub former_systems: Vec<SystemId>,
}

/// What it is completed with.
#[derive(Debug)]
pub struct Doors {
    /// Repositories that may have it.
    pub sources: Vec<Repository>,
    /// Repositories that are to have it.
    pub destinations: Vec<Repository>,
    /// Those of the latter that could not be opened, and why.
    pub unopened: Vec<(String, Failure)>,
}

/// What came of it.
#[derive(Debug)]
pub enum Completion {
    /// Every destination has it now, or may have it after another try.
    Told(Outcome),
    /// It cannot be copied to at least one of them, for this reason: a new backup is needed.
    Impossible(String),
}

/// Copies the artifact to every destination that lacks it.
pub async fn run(options: &Options, doors: &Doors, setting: &Setting) -> Result<Completion, Failure> {
    setting.unless_stopped("copy the backup", complete(options, doors, setting)).await
}

async fn complete(options: &Options, doors: &Doors, setting: &Setting) -> Result<Completion, Failure> {
    let sources = sources(options.artifact, doors, setting).await;
    let Some((first, _)) = sources.first() else {
        return Ok(Completion::Impossible(format!("no repository has a good copy of {}", options.artifact)));
    };
    let name = first.name.clone();
    let mut outcomes = Vec::new();
    for repository in &doors.destinations {
        match (Completing { options, setting, repository }).fill(&sources).await {
            Ok(stored_bytes) => outcomes.push(told(&repository.name, None, stored_bytes)),
            Err(Hindrance::Destination(failure)) => outcomes.push(told(&repository.name, Some(&failure), 0)),
            Err(Hindrance::Artifact(failure)) => return Ok(Completion::Impossible(failure.full_message())),
        }
    }
    outcomes.extend(doors.unopened.iter().map(|(name, failure)| told(name, Some(failure), 0)));
    Ok(Completion::Told(outcome(options.artifact, name.to_string(), outcomes)))
}

fn outcome(artifact: ArtifactId, name: String, repositories: Vec<RepositoryOutcome>) -> Outcome {
    let mut findings = Vec::new();
    for repository in repositories.iter().filter(|repository| repository.error.is_some()) {
        let message = format!("repository {} does not have {name} yet", repository.repository);
        findings.push(Finding::new(Severity::Critical, "repository-left-behind", message));
    }
    let verdict = if findings.is_empty() { Verdict::Ok } else { Verdict::Incomplete };
    let copied = repositories.iter().filter(|repository| repository.error.is_none());
    let copied: Vec<&str> = copied.map(|repository| repository.repository.as_str()).collect();
    let summary = match copied.is_empty() {
        true => format!("{name}: not copied anywhere"),
        false => format!("{name}: copied to {}", copied.join(", ")),
    };
    Outcome { verdict, summary, artifact: Some(artifact), repositories, findings }
}

fn told(repository: &str, error: Option<&Failure>, stored_bytes: u64) -> RepositoryOutcome {
    RepositoryOutcome { repository: repository.to_owned(), error: error.map(Failure::full_message), stored_bytes }
}

/// The good copies of the artifact, those whose bytes are read soonest first.
async fn sources<'a>(id: ArtifactId, doors: &'a Doors, setting: &Setting) -> Vec<(Artifact, &'a Repository)> {
    let mut found = Vec::new();
    let lacks = |name: &str| doors.destinations.iter().any(|destination| destination.name == name);
    for repository in doors.sources.iter().filter(|repository| !lacks(&repository.name)) {
        match Inventory::read(repository, Unsigned::Refuse, setting.clock.now()).await {
            Ok(inventory) => {
                let good = |artifact: &Artifact| artifact.manifest.id == id && artifact.verified.is_some();
                found.extend(inventory.artifacts.into_iter().find(good).map(|artifact| (artifact, repository)));
            }
            Err(error) => tracing::warn!(repository = repository.name, %error, "cannot be looked at for the backup"),
        }
    }
    found.sort_by_key(|(_, repository)| repository.storage.features().storage_classes);
    found
}

/// One destination on its way.
struct Completing<'a> {
    options: &'a Options,
    setting: &'a Setting,
    repository: &'a Repository,
}

impl Completing<'_> {
    /// The bytes stored here, 0 when it was there already. Errors with the last source's reason.
    async fn fill(&self, sources: &[(Artifact, &Repository)]) -> Result<u64, Hindrance> {
        let held = holdings(self.repository, self.setting.clock.now()).await.map_err(Hindrance::Destination)?;
        if held.iter().any(|artifact| artifact.manifest.id == self.options.artifact) {
            return Ok(0);
        }
        let mut hindrance = None;
        for (artifact, from) in sources {
            let destination = self.destination(artifact, &held)?;
            let (name, place) = (&artifact.name, self.repository.storage.place());
            self.setting.events.step(format!("copying {name} from repository {} to {place}", from.name));
            match copy_artifact(artifact, from, &destination, self.setting).await {
                Ok(manifest) => return Ok(manifest.stored_size()),
                Err(Hindrance::Destination(failure)) => return Err(Hindrance::Destination(failure)),
                Err(other) => hindrance = Some(other),
            }
        }
        Err(hindrance.unwrap_or_else(|| Hindrance::Artifact(self.refusal("no repository has it"))))
    }

    fn destination(&self, artifact: &Artifact, held: &[Artifact]) -> Result<Destination<'_>, Hindrance> {
        let parent = match &artifact.manifest.parent {
            None => None,
            Some(parent) => {
                let here = held.iter().find(|each| each.manifest.id == parent.id && each.verified.is_some());
                let Some(here) = here else {
                    return Err(Hindrance::Artifact(self.refusal("what it builds upon is not there")));
                };
                Some(ParentRecord { id: parent.id, manifest_digest: here.manifest_digest })
            }
        };
        Ok(Destination {
            repository: self.repository,
            storage_class: self.options.storage_class.get(&self.repository.name).map(String::as_str),
            former_systems: &self.options.former_systems,
            parent,
        })
    }

    fn refusal(&self, why: &str) -> Failure {
        let message = format!("copy {} to repository {}: {why}", self.options.artifact, self.repository.name);
        Failure::new(FailureKind::Failed, message)
    }
}
