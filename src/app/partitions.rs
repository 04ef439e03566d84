//! From the plan's partition rules to what the verb `partition` works with.

use std::time::Duration;

use crate::app::App;
use crate::config::{Job, PartitionRule};
use crate::model::failure::{Failure, FailureKind};
use crate::model::partition::Rule;
use crate::model::table::TableName;
use crate::model::verb::Verb;
use crate::ops::partition::{self, TableRule};
use crate::steps::artifact;
use crate::steps::seal::Sealing;

/// Longest wait for a lock unless the rule says otherwise: whoever comes after us waits behind us.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

impl App {
    /// The job of the plan that maintains partitions, by which archives of single partitions are made and kept.
    pub fn partition_job(&self) -> Result<(&str, &Job), Failure> {
        let mut jobs = self.plan()?.job.iter().filter(|(_, job)| job.verb == Verb::Partition);
        match (jobs.next(), jobs.next()) {
            (Some((name, job)), None) => Ok((name, job)),
            (None, _) => Err(Failure::new(FailureKind::Usage, "maintain partitions: the plan has no job for it")
                .hint("Add [job.partitions] with verb = \"partition\" to the plan.")),
            (Some((first, _)), Some((second, _))) => {
                let message = format!("maintain partitions: the plan has two jobs for it, {first} and {second}");
                Err(Failure::new(FailureKind::Usage, message)
                    .hint("One is enough: it maintains every rule of the plan."))
            }
        }
    }

    /// The plan's rules.
    pub fn partition_rules(&self) -> Result<Vec<TableRule>, Failure> {
        Ok(self.plan()?.partition.iter().map(|(name, rule)| rule_of(name, rule)).collect())
    }

    /// What the job `name` maintains.
    pub fn partition_options(&self, name: &str, job: &Job, keep_detached: bool) -> Result<partition::Options, Failure> {
        let archive = self.dump_options(name, job)?;
        Ok(partition::Options { rules: self.partition_rules()?, archive, keep_detached })
    }

    /// What it is maintained with. Archives have doors of their own, and partitions are made also when those stay shut.
    pub async fn partition_doors(&self, job: &Job) -> Result<partition::Doors, Failure> {
        let database = job.database.as_deref();
        let reader = self.connection(Verb::Dump, database)?;
        Ok(partition::Doors {
            connection: self.connection(Verb::Partition, database)?,
            reader: reader.clone(),
            archive: self.archive_doors(job, reader).await,
            sealing: self.sealing(database)?,
        })
    }

    /// What the audit log's partitions are sealed with, where a rule asks for seals.
    fn sealing(&self, database: Option<&str>) -> Result<Option<Sealing>, Failure> {
        if !self.plan()?.partition.values().any(|rule| rule.seal) {
            return Ok(None);
        }
        let connection = self.connection(Verb::AuditVerify, database)?;
        Ok(Some(Sealing { connection, terms: self.checkpoint_terms(None)? }))
    }

    async fn archive_doors(
        &self,
        job: &Job,
        connection: crate::postgres::Connection,
    ) -> Result<artifact::Doors, Failure> {
        let tools = self.tools(&connection).await?;
        let (mut repositories, mut unopened) = self.try_repositories(None).await?;
        repositories.retain(|repository| job.writes_to(&repository.name));
        unopened.retain(|(name, _)| job.writes_to(name));
        Ok(artifact::Doors { connection, tools, repositories, unopened, recipients: self.recipients()? })
    }
}

fn rule_of(name: &TableName, rule: &PartitionRule) -> TableRule {
    let PartitionRule { key, retention, premake, seal, archive, keep_detached, lock_timeout } = rule.clone();
    TableRule {
        name: name.clone(),
        rule: Rule { key, retention, premake, seal, archive, keep_detached },
        lock_timeout: lock_timeout.map_or(LOCK_TIMEOUT, |span| span.to_duration()),
    }
}
