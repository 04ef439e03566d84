//! The archive of one partition: found in every repository and read back, or made.
//!
//! An archive counts only when it is of this very relation of this very database, was made by this job, holds exactly the
//! rows that the partition has now, and its stored bytes were read back in every repository that must have it. Anything
//! less is no archive.

use crate::catalog::{Artifact, Inventory, Repository, Unsigned};
use crate::model::audit::seal::Copy;
use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::id::ArtifactId;
use crate::model::lsn::SystemId;
use crate::model::manifest::{ObjectRecord, ObjectRole, TableRecord};
use crate::model::outcome::Verdict;
use crate::model::partition::Archive;
use crate::model::table::{QualifiedTable, TableName};
use crate::model::verb::Verb;
use crate::ops::Setting;
use crate::ops::partition::Doors;
use crate::postgres::{ServerFacts, copy};
use crate::steps::{artifact, full_dump, read_back};

/// An archive that may be relied on, and whether it was made just now.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The archive.
    pub archive: Archive,
    /// Where its rows lie, in every repository.
    pub copies: Vec<Copy>,
    /// Whether this run made it.
    pub made: bool,
}

/// Finds and makes archives of single partitions.
pub struct Archives<'a> {
    options: &'a artifact::Options,
    doors: &'a Doors,
    system: Option<SystemId>,
    database: u32,
    encoding: String,
    setting: &'a Setting,
}

impl<'a> Archives<'a> {
    /// Archives of partitions of the database that `facts` are of.
    pub fn new(options: &'a artifact::Options, doors: &'a Doors, facts: &ServerFacts, setting: &'a Setting) -> Self {
        let (system, database, encoding) = (facts.system_identifier, facts.database_oid, facts.encoding.clone());
        Self { options, doors, system, database, encoding, setting }
    }

    /// The repositories that archives go to.
    pub fn repositories(&self) -> Result<&'a [Repository], Failure> {
        let refused = |failure: &Failure| Failure::new(failure.kind, failure.full_message());
        self.doors.archive.as_ref().map(|doors| doors.repositories.as_slice()).map_err(refused)
    }

    /// What the rows of `table` add up to now.
    pub async fn content(&self, table: &QualifiedTable) -> Result<TableSum, Failure> {
        let session = copy::connect(&self.doors.reader, &self.encoding).await?;
        let rows = session.client().query(include_str!("../../../sql/table/columns.sql"), &[&table.quoted()]).await;
        let rows = rows.map_err(|error| session.failed(&format!("ask for the columns of {table}"), error))?;
        let columns: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        Ok(copy::sum_table(&session, table, &columns).await?)
    }

    /// An archive of the relation `oid`, whose rows add up to `content`, in every repository; made when there is none.
    pub async fn ensure(&self, table: &QualifiedTable, oid: u32, content: TableSum) -> Result<Ready, Failure> {
        let doors = self.doors.archive.as_ref().map_err(|failure| {
            let message = format!("archive {table}: {}", failure.full_message());
            Failure::new(failure.kind, message).hint(failure.hint.clone().unwrap_or_default())
        })?;
        if let Some((name, failure)) = doors.unopened.first() {
            let message = format!("archive {table}: repository {name} must have it: {}", failure.full_message());
            return Err(Failure::new(failure.kind, message));
        }
        doors.require_a_repository()?;
        if let Some((archive, copies)) = self.find(doors, table, oid, content).await? {
            return Ok(Ready { archive, copies, made: false });
        }
        self.setting.events.step(format!("archiving {table}: {} rows", content.rows));
        let id = self.make(doors, table).await?;
        // The content is read from the stored, signed manifest, not from what we meant to write.
        match self.common(doors, table, oid).await?.into_iter().find(|found| found[0].manifest.id == id) {
            Some(found) => {
                let content = content_of(&found[0], table, oid).unwrap_or_default();
                Ok(Ready { archive: Archive { id, content }, copies: copies_of(doors, &found), made: true })
            }
            None => {
                let message = format!("find the archive of {table} that was just made in every repository");
                Err(Failure::new(FailureKind::Integrity, message))
            }
        }
    }

    /// The newest archive that is in every repository, has these rows, and whose bytes can be read back everywhere.
    async fn find(
        &self,
        doors: &artifact::Doors,
        table: &QualifiedTable,
        oid: u32,
        content: TableSum,
    ) -> Result<Option<(Archive, Vec<Copy>)>, Failure> {
        for found in self.common(doors, table, oid).await? {
            if content_of(&found[0], table, oid) != Some(content) {
                continue;
            }
            match self.read_back(doors, &found).await {
                Ok(()) => {
                    let archive = Archive { id: found[0].manifest.id, content };
                    return Ok(Some((archive, copies_of(doors, &found))));
                }
                Err(failure) => {
                    self.setting.events.note(format!("archive {}: {}", found[0].name, with_causes(&failure)));
                }
            }
        }
        Ok(None)
    }

    async fn read_back(&self, doors: &artifact::Doors, found: &[Artifact]) -> Result<(), Failure> {
        for (repository, artifact) in doors.repositories.iter().zip(found) {
            read_back::read_back(repository, &artifact.manifest.objects, &self.setting.events).await?;
        }
        Ok(())
    }

    /// Archives of the relation, newest first, each as it is in every repository, in the order of the repositories.
    async fn common(
        &self,
        doors: &artifact::Doors,
        table: &QualifiedTable,
        oid: u32,
    ) -> Result<Vec<Vec<Artifact>>, Failure> {
        let mut common: Option<Vec<Vec<Artifact>>> = None;
        for repository in &doors.repositories {
            let held = self.held(repository, table, oid).await?;
            common = Some(match common {
                None => held.into_iter().map(|artifact| vec![artifact]).collect(),
                Some(common) => common
                    .into_iter()
                    .filter_map(|mut found| {
                        let same = held.iter().find(|other| other.manifest.id == found[0].manifest.id)?;
                        found.push(same.clone());
                        Some(found)
                    })
                    .collect(),
            });
        }
        Ok(common.unwrap_or_default())
    }

    async fn held(&self, repository: &Repository, table: &QualifiedTable, oid: u32) -> Result<Vec<Artifact>, Failure> {
        let inventory = Inventory::read(repository, Unsigned::Refuse, self.setting.clock.now()).await?;
        if let Some(reason) = inventory.broken_log {
            let message = format!("look for archives in repository {}: {reason}", repository.name);
            return Err(Failure::new(FailureKind::Integrity, message));
        }
        let good = |artifact: &Artifact| {
            let manifest = &artifact.manifest;
            let (source, made_by) = (&manifest.source, (manifest.verb, manifest.job.as_str()));
            artifact.verified.is_some()
                && artifact.damaged.is_none()
                && made_by == (Verb::Dump, self.options.job.as_str())
                && (source.system_identifier, source.database_oid) == (self.system, self.database)
                && content_of(artifact, table, oid).is_some()
        };
        Ok(inventory.artifacts.into_iter().rev().filter(good).collect())
    }

    async fn make(&self, doors: &artifact::Doors, table: &QualifiedTable) -> Result<ArtifactId, Failure> {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
        let options = artifact::Options {
            tables: vec![TableName { schema: Some(table.schema.clone()), name: table.name.clone() }],
            name_prefix: table.name.chars().map(plain).collect(),
            ..self.options.clone()
        };
        let outcome = full_dump::run(&options, doors, self.setting).await?;
        match (outcome.verdict, outcome.artifact) {
            (Verdict::Ok | Verdict::Findings, Some(id)) => Ok(id),
            _ => {
                let without = outcome.repositories.iter().filter(|repository| repository.error.is_some());
                let names: Vec<&str> = without.map(|repository| repository.repository.as_str()).collect();
                let message = format!("archive {table} in every repository: {} does not have it", names.join(", "));
                Err(Failure::new(FailureKind::Failed, message))
            }
        }
    }
}

/// The object that holds the rows, in every repository.
fn copies_of(doors: &artifact::Doors, found: &[Artifact]) -> Vec<Copy> {
    let data =
        |artifact: &Artifact| artifact.manifest.objects.iter().find(|each| each.role == ObjectRole::Data).cloned();
    let each = doors.repositories.iter().zip(found).filter_map(|(repository, artifact)| {
        let ObjectRecord { key, version, stored_digest, content_digest, .. } = data(artifact)?;
        Some(Copy { repository: repository.name.clone(), key, version, stored_digest, content_digest })
    });
    each.collect()
}

/// What the rows of the relation add up to, as the manifest says, if it is of this relation alone.
fn content_of(artifact: &Artifact, table: &QualifiedTable, oid: u32) -> Option<TableSum> {
    match artifact.manifest.tables.as_slice() {
        [TableRecord { table: of, oid: number, content, .. }] if of == table && *number == oid => *content,
        _ => None,
    }
}
