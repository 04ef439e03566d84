//! One table: beside the one that is there, merged into it, or made equal to what it was.
//!
//! Beside touches nothing else; a table that is gone comes back under its own name with everything that was its own. Merge
//! and replace load the rows into a temporary table and apply exactly the difference. All of it is one transaction (under
//! the table's lock where there is one), proven before it commits. Nothing is ever cascaded.

use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::table::{QualifiedTable, TableName};
use crate::ops::Setting;
use crate::ops::restore::assemble::Assembled;
use crate::ops::restore::belongings::Belongings;
use crate::ops::restore::past::{Past, PastTable};
use crate::ops::restore::rows::{BackupTable, Rows, Subject};
use crate::ops::restore::source::Choice;
use crate::ops::restore::{Doors, Restored, Unrestored, form};
use crate::postgres::audit::settle::{Settled, settle};
use crate::postgres::difference::{Counts, Difference, Referenced, STAGING};
use crate::postgres::{Session, copy, tables};
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

/// Restores one table of `choice` into the database that the doors lead to.
pub async fn restore_table(
    options: &TableOptions,
    choice: &Choice,
    doors: &Doors,
    setting: &Setting,
) -> Result<TableResult, Failure> {
    let restoring = async {
        let (table, subject) = BackupTable::find(&options.table, choice)?;
        Work { options, rows: Rows::Backup(table), subject, doors, setting }.run().await
    };
    let result = restoring.await;
    choice.release(setting).await;
    result
}

/// Restores one table as the server of `past` has it, into the database that the doors lead to.
pub async fn restore_past_table(
    options: &TableOptions,
    past: &Past,
    doors: &Doors,
    setting: &Setting,
) -> Result<TableResult, Failure> {
    let (table, subject) = PastTable::find(&options.table, past).await?;
    Work { options, rows: Rows::Past(table), subject, doors, setting }.run().await
}

/// Refuses at once what the live database would refuse in the end, before hours of work for the rows.
pub async fn require_possible(options: &TableOptions, doors: &Doors) -> Result<(), Failure> {
    let session = doors.connection.connect().await?;
    let live = tables::find(session.client(), &options.table).await?;
    match (&options.mode, live.as_slice()) {
        (TableMode::Merge | TableMode::Replace, []) => Err(gone(&options.table)),
        (TableMode::Merge | TableMode::Replace, [(table, _)]) => {
            match tables::primary_key(session.client(), table).await?.is_empty() {
                true => Err(Difference::without_key(table).into()),
                false => Ok(()),
            }
        }
        (TableMode::Beside(name), live) => {
            let schema = options.table.schema.clone().or_else(|| Some(live.first()?.0.schema.clone()));
            let Some(schema) = schema else { return Ok(()) };
            let table = QualifiedTable::new(schema, options.table.name.clone());
            require_free(&session, &new_name(&table, name.as_ref())).await
        }
        _ => Ok(()),
    }
}

fn gone(table: &dyn std::fmt::Display) -> Failure {
    Failure::new(FailureKind::NothingMatches, format!("change the table {table}: it is gone"))
        .hint(format!("Bring it back as it was: leave --mode out and add --as {table}."))
}

async fn require_free(session: &Session, target: &QualifiedTable) -> Result<(), Failure> {
    if tables::exists(session.client(), target).await? {
        let message = format!("restore into the table {target}: there is one already");
        return Err(Failure::new(FailureKind::RefusedForSafety, message).hint("Name another with --as."));
    }
    Ok(())
}

fn new_name(table: &QualifiedTable, name: Option<&TableName>) -> QualifiedTable {
    match name {
        None => QualifiedTable::new(table.schema.clone(), format!("{}_restored", table.name)),
        Some(name) => {
            let schema = name.schema.clone().unwrap_or_else(|| table.schema.clone());
            QualifiedTable::new(schema, name.name.clone())
        }
    }
}

/// How a table beside comes to its form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Making {
    /// As the live table has it.
    Like,
    /// As the backup has its columns.
    Form,
    /// It is gone, and comes back as itself, with everything that was its own.
    Whole,
}

struct Work<'a> {
    options: &'a TableOptions,
    rows: Rows<'a>,
    subject: Subject,
    doors: &'a Doors,
    setting: &'a Setting,
}

impl Work<'_> {
    async fn run(&self) -> Result<TableResult, Failure> {
        match &self.options.mode {
            TableMode::Beside(name) => self.beside(name.as_ref()).await,
            TableMode::Merge | TableMode::Replace => {
                self.setting.unless_stopped("restore the table", self.difference()).await
            }
        }
    }

    async fn beside(&self, name: Option<&TableName>) -> Result<TableResult, Failure> {
        let table = &self.subject.table;
        let target = new_name(table, name);
        let session = self.session().await?;
        require_free(&session, &target).await?;
        if self.options.plan_only {
            let counts = Counts { missing: self.rows.known()?, ..Counts::default() };
            return Ok((Some(TablePlan { table: target, counts }), None));
        }
        let making = match tables::exists(session.client(), table).await? {
            false if target == *table => Making::Whole,
            false => Making::Form,
            true if self.rows.differs_from_live(&self.subject, &session).await? => Making::Form,
            true => Making::Like,
        };
        let filling = self.fill(session, &target, making);
        let (proofs, unrestored) = self.setting.unless_stopped("restore the table", filling).await?;
        Ok((None, Some(Restored { unrestored, ..self.restored(&target, proofs, None)? })))
    }

    fn restored(
        &self,
        target: &QualifiedTable,
        proofs: Vec<Proof>,
        places_cut: Option<u64>,
    ) -> Result<Restored, Failure> {
        let (inexact, unrestored) = (self.rows.inexact()?, Unrestored::default());
        Ok(Restored { target: target.to_string(), proofs, inexact, unrestored, phases: Vec::new(), places_cut })
    }

    /// Makes, fills and proves the new table in one transaction: nobody sees it before.
    async fn fill(
        &self,
        session: Session,
        target: &QualifiedTable,
        making: Making,
    ) -> Result<(Vec<Proof>, Unrestored), Failure> {
        let Subject { table, columns, key } = &self.subject;
        let mut belongings = None;
        let like = match making {
            Making::Like => table.clone(),
            Making::Form | Making::Whole => {
                let schema = self.rows.schema(&self.subject, self.doors).await?;
                form::make(&session, table, &schema, self.doors).await?;
                if making == Making::Whole {
                    let tree = self.rows.tree(&self.subject).await?;
                    belongings = Some(Belongings::read(&schema, table, &tree, self.doors).await?);
                }
                form::form()
            }
        };
        let (session, prepared) =
            self.rows.prepare(&self.subject, session, &like.quoted(), self.doors, self.setting).await?;
        self.begin(&session).await?;
        match &mut belongings {
            Some(belongings) => belongings.make(&session, table).await?,
            None => tables::create_like(session.client(), target, &like).await?,
        }
        let statement = format!("COPY {} ({}) FROM STDIN", target.quoted(), tables::column_list(columns));
        let (session, expected) = self.bring((session, prepared), &target.quoted(), statement).await?;
        let found = copy::sum_tree(&session, target, columns).await?;
        let proofs = vec![Proof { table: table.clone(), expected, found, keys_equal: None }];
        prove::require_equal(&proofs)?;
        let unrestored = self.finish(&session, target, (belongings, making), key).await?;
        // Indexes that were made over the rows are as good as rebuilt.
        let reindex = self.options.reindex && making == Making::Like;
        tables::analyze(session.client(), target, reindex).await?;
        self.setting.require_going_on("commit the restored table")?;
        session.batch("COMMIT").await?;
        Ok((proofs, unrestored))
    }

    /// Gives the filled table what must not be there while it is filled.
    async fn finish(
        &self,
        session: &Session,
        target: &QualifiedTable,
        (belongings, making): (Option<Belongings>, Making),
        key: &[String],
    ) -> Result<Unrestored, Failure> {
        match (belongings, making) {
            (Some(belongings), _) => {
                self.setting.events.step(format!("giving {target} its indexes, constraints and all that was its own"));
                belongings.finish(session, target, &self.rows.sequences(&self.subject).await?).await
            }
            (None, Making::Form) => {
                form::finish(session, target, key).await?;
                let table = &self.subject.table;
                self.setting.events.note(format!(
                    "{target} has the columns, checks and primary key that {table} had; with --as {table}, where that is gone, \
                     comes all that was its own"
                ));
                Ok(Unrestored::default())
            }
            (None, _) => Ok(Unrestored::default()),
        }
    }

    async fn begin(&self, session: &Session) -> Result<(), Failure> {
        let patience = self.options.lock_timeout.as_millis();
        let begin = format!("BEGIN; SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = {patience}");
        Ok(session.batch(&begin).await?)
    }

    async fn bring(
        &self,
        from: (Session, Option<Assembled>),
        target: &str,
        statement: String,
    ) -> Result<(Session, TableSum), Failure> {
        self.rows.bring(&self.subject, from, (target, statement), self.doors, self.setting).await
    }

    async fn session(&self) -> Result<Session, Failure> {
        Ok(copy::connect(&self.doors.connection, self.rows.encoding()).await?)
    }

    /// Merge and replace.
    async fn difference(&self) -> Result<TableResult, Failure> {
        let (table, columns) = (&self.subject.table, &self.subject.columns);
        let session = self.session().await?;
        let client = session.client();
        if !tables::exists(client, table).await? {
            return Err(gone(table));
        }
        tables::require_columns(client, table, columns).await?;
        let difference = Difference::begin(client, table, columns).await?;
        let from = self.rows.prepare(&self.subject, session, STAGING, self.doors, self.setting).await?;
        let (session, expected) = self.bring(from, STAGING, Difference::copy_statement(columns)).await?;
        difference.index(session.client()).await?;
        self.begin(&session).await?;
        session.batch(&format!("LOCK TABLE {} IN SHARE ROW EXCLUSIVE MODE", table.quoted())).await?;
        let counts = difference.count(session.client()).await?;
        let plan = TablePlan { table: self.subject.table.clone(), counts };
        if self.options.plan_only {
            session.batch("ROLLBACK").await?;
            return Ok((Some(plan), None));
        }
        let proof = self.apply(&difference, &session, expected, counts).await?;
        let places_cut = self.settle_chain(&session).await?;
        self.setting.require_going_on("commit the restored table")?;
        session.batch("COMMIT").await?;
        tables::analyze(session.client(), table, self.options.reindex).await?;
        Ok((Some(plan), Some(self.restored(table, vec![proof], places_cut)?)))
    }

    /// Rows of the chained audit log are brought back with their hashes as they were: each must have its place. Where the log
    /// becomes an earlier state of itself, places after its last row go with those rows.
    async fn settle_chain(&self, session: &Session) -> Result<Option<u64>, Failure> {
        let table = &self.subject.table;
        match settle(session, table, self.options.mode == TableMode::Replace).await? {
            Settled::NotChained => Ok(None),
            Settled::Cut(places) => Ok(Some(places)),
            Settled::Strange(rows) => {
                let message = format!(
                    "bring rows back into {table}: {rows} rows of the log have no place in the audit chain, or another hash there"
                );
                Err(Failure::new(FailureKind::Integrity, message).hint(
                    "Nothing was changed. They came past the trigger, or belong to another chain: restore them beside and compare \
                     (deploy/runbooks/tampering-detected.md).",
                ))
            }
        }
    }

    /// Applies the difference and proves the result, all before the commit.
    async fn apply(
        &self,
        difference: &Difference,
        session: &Session,
        expected: TableSum,
        counts: Counts,
    ) -> Result<Proof, Failure> {
        let (client, table, columns) = (session.client(), &self.subject.table, &self.subject.columns);
        let replace = self.options.mode == TableMode::Replace;
        self.setting.events.step(format!("applying the difference to {}", table));
        if replace && counts.extra > 0 {
            refuse_referenced(table, &difference.referenced(client).await?)?;
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
            let message = format!("make {} equal to the backup: {left:?} is left; nothing was changed", table);
            return Err(Failure::new(FailureKind::Integrity, message));
        }
        let found = match tables::is_partitioned(client, table).await? {
            true => copy::sum_tree(session, table, columns).await?,
            false => copy::sum_table(session, table, columns).await?,
        };
        let proof = Proof { table: self.subject.table.clone(), expected, found, keys_equal: None };
        if replace {
            prove::require_equal(std::slice::from_ref(&proof))?;
        }
        Ok(proof)
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
