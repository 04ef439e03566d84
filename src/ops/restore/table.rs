//! One table from a dump: beside the one that is there, merged into it, or made equal to the backup.
//!
//! Beside touches nothing else. Merge and replace load the rows into a temporary table and apply exactly the difference
//! in one transaction under the table's lock, proven before it commits. Nothing is ever cascaded.

use std::collections::BTreeSet;

use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lineage::inexact;
use crate::model::manifest::{ObjectRole, TableRecord};
use crate::model::table::{QualifiedTable, TableName};
use crate::ops::Setting;
use crate::ops::restore::assemble::assemble;
use crate::ops::restore::source::Choice;
use crate::ops::restore::{Doors, Restored, form, leaves};
use crate::postgres::difference::{Counts, Difference, Referenced, STAGING};
use crate::postgres::{Session, copy, databases, tables};
use crate::steps::load_dump::{self, Routing};
use crate::steps::prove::{self, Proof};

/// What becomes of rows that are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TableMode {
    /// Nothing: the rows go into a new table of this name, or of `NAME_restored`.
    Beside(Option<TableName>),
    /// Missing rows are inserted and differing ones updated; none is deleted.
    Merge,
    /// Missing rows are inserted, differing ones updated, others deleted.
    Replace,
}

/// Which table and how.
#[derive(Clone, Debug)]
pub struct TableOptions {
    /// The table, as it was named when it was dumped.
    pub table: TableName,
    /// What becomes of rows that are there.
    pub mode: TableMode,
    /// Count only; change nothing.
    pub plan_only: bool,
    /// Longest wait for the table's lock.
    pub lock_timeout: std::time::Duration,
    /// Rebuild the indexes afterwards.
    pub reindex: bool,
}

/// What a merge or a replacement would do.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The table.
    pub table: QualifiedTable,
    /// Rows to insert, update and (replace only) delete.
    pub counts: Counts,
}

/// What came of it: counts alone, or a proven restore.
pub type TableResult = (Option<TablePlan>, Option<Restored>);

/// Restores one table of `choice` into the database `connection` points at.
pub async fn restore_table(
    options: &TableOptions,
    choice: &Choice,
    doors: &Doors,
    setting: &Setting,
) -> Result<TableResult, Failure> {
    let records = &choice.manifest().tables;
    let table = find(&options.table, records)?;
    let work = Work { options, choice, doors, setting, records: leaves(records, &table), table };
    let result = match &options.mode {
        TableMode::Beside(name) => work.beside(name.as_ref()).await.map(|restored| (None, Some(restored))),
        TableMode::Merge | TableMode::Replace => setting.unless_stopped("restore the table", work.difference()).await,
    };
    choice.release(setting).await;
    result
}

fn find(name: &TableName, records: &[TableRecord]) -> Result<QualifiedTable, Failure> {
    let fits = |record: &&TableRecord| {
        record.table.name == name.name && name.schema.as_ref().is_none_or(|schema| record.table.schema == *schema)
    };
    let found: Vec<_> = records.iter().filter(fits).map(|record| record.table.clone()).collect();
    match found.as_slice() {
        [table] => Ok(table.clone()),
        [] => Err(Failure::new(FailureKind::NothingMatches, format!("find the table {name} in the backup"))
            .hint("`dbagent backup show` lists its tables.")),
        _ => Err(Failure::new(FailureKind::Usage, format!("choose a table: several schemas have a {name}"))
            .hint("Write SCHEMA.TABLE.")),
    }
}

struct Work<'a> {
    options: &'a TableOptions,
    choice: &'a Choice,
    doors: &'a Doors,
    setting: &'a Setting,
    table: QualifiedTable,
    records: Vec<&'a TableRecord>,
}

impl Work<'_> {
    async fn beside(&self, name: Option<&TableName>) -> Result<Restored, Failure> {
        let target = self.new_name(name);
        let session = self.session().await?;
        if tables::exists(session.client(), &target).await? {
            let message = format!("restore into the table {target}: there is one already");
            return Err(Failure::new(FailureKind::RefusedForSafety, message).hint("Name another with --as."));
        }
        let gone = !tables::exists(session.client(), &self.table).await?;
        // Under its own name, it is not seen before it is whole.
        let landing = match target == self.table {
            true => {
                QualifiedTable::new(target.schema.clone(), format!("{}{}", databases::INCOMPLETE, self.setting.run))
            }
            false => target.clone(),
        };
        match gone {
            true => form::create(&session, &landing, &self.table, self.choice, self.doors).await?,
            false => tables::create_like(session.client(), &landing, &self.table).await?,
        }
        let filling = async {
            let proofs = self.fill_beside(&landing, session).await?;
            if gone {
                let key = self.records.first().and_then(|record| record.key.as_ref());
                let key = key.map(|key| key.columns.as_slice()).unwrap_or_default();
                form::finish(&self.session().await?, &landing, &target, key).await?;
            }
            Ok(proofs)
        };
        let proofs = match self.setting.unless_stopped("restore the table", filling).await {
            Ok(proofs) => proofs,
            Err(failure) => {
                let session = self.session().await?;
                tables::drop(session.client(), &landing).await?;
                return Err(failure);
            }
        };
        self.restored(&target, proofs)
    }

    fn restored(&self, target: &QualifiedTable, proofs: Vec<Proof>) -> Result<Restored, Failure> {
        let mut lineages = self.choice.lineages()?;
        lineages.retain(|lineage| self.records.iter().any(|record| record.oid == lineage.oid));
        Ok(Restored { target: target.to_string(), proofs, inexact: inexact(&lineages), phases: Vec::new() })
    }

    fn new_name(&self, name: Option<&TableName>) -> QualifiedTable {
        match name {
            None => QualifiedTable::new(self.table.schema.clone(), format!("{}_restored", self.table.name)),
            Some(name) => {
                let schema = name.schema.clone().unwrap_or_else(|| self.table.schema.clone());
                QualifiedTable::new(schema, name.name.clone())
            }
        }
    }

    async fn fill_beside(&self, target: &QualifiedTable, session: Session) -> Result<Vec<Proof>, Failure> {
        let (columns, _) = self.expected()?;
        let statement = format!("COPY {} ({}) FROM STDIN", target.quoted(), tables::column_list(&columns));
        let (_, expected) = self.bring(session, &target.quoted(), statement).await?;
        let session = self.session().await?;
        tables::analyze(session.client(), target, self.options.reindex).await?;
        let found = copy::sum_tree(&session, target, &columns).await?;
        let proofs = vec![Proof { table: self.table.clone(), expected, found, keys_equal: None }];
        prove::require_equal(&proofs)?;
        Ok(proofs)
    }

    /// Columns of the rows and, of a full dump, what they add up to, over all leaves.
    fn expected(&self) -> Result<(Vec<String>, TableSum), Failure> {
        let mut sum = TableSum::default();
        let mut columns: Option<&Vec<String>> = None;
        for record in &self.records {
            if columns.is_some_and(|columns| *columns != record.columns) {
                let message =
                    format!("restore {} alone: its partitions have their columns in different orders", self.table);
                return Err(Failure::new(FailureKind::Failed, message)
                    .hint("Restore its partitions one by one, or the whole database."));
            }
            columns = Some(&record.columns);
            sum.merge(&record.content.unwrap_or_default());
        }
        Ok((columns.cloned().unwrap_or_default(), sum))
    }

    /// Brings the rows into `target` (quoted SQL), by the COPY `statement` or out of what full and increments make. Gives
    /// the session back, and what the rows must add up to.
    async fn bring(&self, session: Session, target: &str, statement: String) -> Result<(Session, TableSum), Failure> {
        let (columns, expected) = self.expected()?;
        if self.choice.increments().next().is_none() {
            let session = self.load(vec![session], statement).await?.into_iter().next();
            let lost = || Failure::new(FailureKind::Failed, "keep the session that holds the rows");
            return Ok((session.ok_or_else(lost)?, expected));
        }
        self.setting.events.step(format!("putting {} together", self.table));
        let mut lineages = self.choice.lineages()?;
        lineages.retain(|lineage| self.records.iter().any(|record| record.oid == lineage.oid));
        let assembled = assemble(self.choice, &lineages, target, session, self.doors, self.setting).await?;
        assembled.insert_into(target, &columns).await?;
        Ok((assembled.session, assembled.sum))
    }

    async fn load(&self, sessions: Vec<Session>, statement: String) -> Result<Vec<Session>, Failure> {
        self.setting.events.step(format!("loading {}", self.table));
        let source = self.choice.open(self.choice.full(), ObjectRole::Data, self.doors).await?;
        let wanted = self.records.iter().map(|record| record.table.clone()).collect();
        let routing = Box::new(Into { statement, wanted });
        load_dump::load(source, sessions, routing, self.setting.events.clone()).await
    }

    async fn session(&self) -> Result<Session, Failure> {
        Ok(copy::connect(&self.doors.connection, &self.choice.manifest().source.encoding).await?)
    }

    /// Merge and replace.
    async fn difference(&self) -> Result<TableResult, Failure> {
        let (columns, _) = self.expected()?;
        let session = self.session().await?;
        let client = session.client();
        if !tables::exists(client, &self.table).await? {
            let message = format!("change the table {}: it is gone", self.table);
            return Err(Failure::new(FailureKind::NothingMatches, message)
                .hint(format!("Bring it back as it was: leave --mode out and add --as {}.", self.table)));
        }
        tables::require_columns(client, &self.table, &columns).await?;
        let difference = Difference::begin(client, &self.table, &columns).await?;
        let (session, expected) = self.bring(session, STAGING, Difference::copy_statement(&columns)).await?;
        difference.index(session.client()).await?;
        let begin = format!(
            "BEGIN; SET LOCAL lock_timeout = {}; LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE",
            self.options.lock_timeout.as_millis(),
            self.table.quoted()
        );
        session.batch(&begin).await?;
        let counts = difference.count(session.client()).await?;
        let plan = TablePlan { table: self.table.clone(), counts };
        if self.options.plan_only {
            session.batch("ROLLBACK").await?;
            return Ok((Some(plan), None));
        }
        let proof = self.apply(&difference, &session, &columns, expected, counts).await?;
        self.setting.require_going_on("commit the restored table")?;
        session.batch("COMMIT").await?;
        tables::analyze(session.client(), &self.table, self.options.reindex).await?;
        Ok((Some(plan), Some(self.restored(&self.table, vec![proof])?)))
    }

    /// Applies the difference and proves the result, all before the commit.
    async fn apply(
        &self,
        difference: &Difference,
        session: &Session,
        columns: &[String],
        expected: TableSum,
        counts: Counts,
    ) -> Result<Proof, Failure> {
        let client = session.client();
        let replace = self.options.mode == TableMode::Replace;
        self.setting.events.step(format!("applying the difference to {}", self.table));
        if replace && counts.extra > 0 {
            refuse_referenced(&self.table, &difference.referenced(client).await?)?;
        }
        let triggers = difference.silence_triggers(client).await?;
        if replace {
            difference.delete_extra(client).await?;
        }
        difference.update_differing(client).await?;
        difference.insert_missing(client).await?;
        triggers.wake(client).await?;
        let left = difference.count(client).await?;
        if left.missing + left.differing > 0 || (replace && left.extra > 0) {
            let message = format!("make {} equal to the backup: {left:?} is left; nothing was changed", self.table);
            return Err(Failure::new(FailureKind::Integrity, message));
        }
        let found = match tables::is_partitioned(client, &self.table).await? {
            true => copy::sum_tree(session, &self.table, columns).await?,
            false => copy::sum_table(session, &self.table, columns).await?,
        };
        let proof = Proof { table: self.table.clone(), expected, found, keys_equal: None };
        if replace {
            prove::require_equal(std::slice::from_ref(&proof))?;
        }
        Ok(proof)
    }
}

/// All rows go through one statement, wherever they were.
struct Into {
    statement: String,
    wanted: BTreeSet<QualifiedTable>,
}

impl Routing for Into {
    fn copy_statement(&self, table: &QualifiedTable, _: &str) -> Option<String> {
        self.wanted.contains(table).then(|| self.statement.clone())
    }
}

fn refuse_referenced(table: &QualifiedTable, referenced: &[Referenced]) -> Result<(), Failure> {
    if referenced.is_empty() {
        return Ok(());
    }
    let list = referenced
        .iter()
        .map(|each| format!("{} refers to {} rows: {}", each.constraint, each.rows, each.keys.join(" ")));
    let list: Vec<String> = list.collect();
    let message = format!("make {table} equal to the backup: rows that must go are referred to ({})", list.join("; "));
    Err(Failure::new(FailureKind::RefusedForSafety, message)
        .hint("Nothing was changed. Restore or remove the referring rows first, or use --mode merge."))
}
