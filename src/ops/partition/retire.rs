//! Takes partitions away whose time is over: evidence first, then the gate, then detach, one more proof, and drop.
//!
//! Every step can be the last one of a run that dies: an archive without a drop is found again, a detached partition is
//! recorded and taken up by the next run. Nobody is blocked while rows are summed: before the drop the table is detached,
//! and only then must its rows still be those of the archive.

use crate::host::failpoint::{FailPoint, pass};
use crate::model::failure::Failure;
use crate::model::outcome::{Finding, Severity};
use crate::model::partition::{Archive, Bound, Evidence, Partition, Refusal, Retire, gate};
use crate::ops::partition::{Done, Surveyed, Work};
use crate::postgres::partitions::{Left, Origin, references};

impl Work<'_> {
    pub(super) async fn retire(&self, before: &Surveyed, retire: &Retire, done: &mut Done) -> Result<(), Failure> {
        let Some((origin, parent)) = &before.found else { return Ok(()) };
        let partition = &retire.partition;
        let Some(archive) = self.passes(retire, done).await? else { return Ok(()) };
        // With a default partition PostgreSQL refuses CONCURRENTLY (src/backend/commands/tablecmds.c, ATExecDetachPartition).
        let concurrently = match parent.default_partition() {
            Some(_) => None,
            None => self.maintenance.may_act_as_owner(origin.oid).await?,
        };
        let detached =
            self.maintenance.detach(&origin.table, partition, concurrently.as_deref(), self.patience()).await;
        if self.told(detached, "partition-not-detached", done)?.is_none() {
            return Ok(());
        }
        pass(FailPoint::PartitionDetached)?;
        self.take_away(retire, archive, done).await
    }

    /// Partitions that an earlier run has detached.
    pub(super) async fn take_away_what_is_left(&self, origin: &Origin, done: &mut Done) -> Result<(), Failure> {
        for left in self.maintenance.left(&origin.table).await? {
            let retire = self.retired(&left);
            if let Some(archive) = self.passes(&retire, done).await? {
                self.take_away(&retire, archive, done).await?;
            }
        }
        Ok(())
    }

    /// Whether the gate opens; the archive is then recorded. An inner nothing means that the rule asks for none.
    async fn passes(&self, retire: &Retire, done: &mut Done) -> Result<Option<Option<Archive>>, Failure> {
        let evidence = Box::pin(self.evidence(retire, done)).await?;
        let refusals = gate(&self.rule.rule, &evidence);
        done.findings.extend(refusals.iter().map(|refusal| refusal.finding(retire)));
        if !refusals.is_empty() {
            return Ok(None);
        }
        if let Some(archive) = &evidence.archive {
            self.maintenance.record_archive(retire.partition.oid, archive.id, &archive.content).await?;
            pass(FailPoint::PartitionRecorded)?;
        }
        Ok(Some(evidence.archive))
    }

    async fn evidence(&self, retire: &Retire, done: &mut Done) -> Result<Evidence, Failure> {
        let Partition { table, oid, .. } = &retire.partition;
        let mut evidence = Evidence { references: references(self.reader, table).await?, ..Evidence::default() };
        let rule = &self.rule.rule;
        if !rule.archive && !rule.seal {
            return Ok(evidence);
        }
        let content = self.archives.content(table).await?;
        evidence.content = Some(content);
        let ready = match self.archives.ensure(table, *oid, content).await {
            Ok(ready) => ready,
            Err(failure) => {
                let message = format!("failed to {}", failure.full_message());
                done.find(Finding::new(Severity::Critical, "partition-archive-failed", message), failure.hint);
                return Ok(evidence);
            }
        };
        done.archived += u64::from(ready.made);
        evidence.archive = Some(ready.archive);
        pass(FailPoint::PartitionArchived)?;
        if ready.made {
            // Rows that came while the archive was being made are in neither sum.
            evidence.content = Some(self.archives.content(table).await?);
        }
        if rule.seal && evidence.content == Some(ready.archive.content) {
            evidence.seal = self.sealed(&retire.partition, ready, done).await?;
        }
        Ok(evidence)
    }

    /// Drops a detached partition, or leaves it where that is wanted.
    async fn take_away(&self, retire: &Retire, archive: Option<Archive>, done: &mut Done) -> Result<(), Failure> {
        let Partition { table, oid, .. } = &retire.partition;
        if self.rule.rule.keep_detached || self.options.keep_detached {
            self.maintenance.keep_detached(*oid).await?;
            done.detached += 1;
            self.setting.events.note(format!("detached {table}; it stays as a table"));
            return Ok(());
        }
        if let Some(archive) = archive
            && self.archives.content(table).await? != archive.content
        {
            done.findings.push(Refusal::OtherContent.finding(retire));
            return Ok(());
        }
        let dropped = self.maintenance.drop_detached(*oid, table, self.patience()).await;
        if let Some(rows) = self.told(dropped, "partition-not-dropped", done)? {
            done.dropped += 1;
            self.setting.events.note(format!("dropped {table} with {rows} rows"));
            pass(FailPoint::PartitionDropped)?;
        }
        Ok(())
    }

    /// A detached partition has no bounds any more; the record says where they were.
    fn retired(&self, left: &Left) -> Retire {
        let bound = Bound::Range { from: None, to: left.upper };
        let (table, oid) = (left.table.clone(), left.oid);
        Retire {
            partition: Partition { table, oid, bound, rows: 0, bytes: 0, detach_pending: false },
            upper: left.upper.unwrap_or_else(|| self.setting.clock.now()),
            retention: self.rule.rule.retention.unwrap_or_default(),
        }
    }
}
