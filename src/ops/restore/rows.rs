//! Where one table's rows come from: a dump with its increments, or a server that has the cluster as it was.
//!
//! Both say what the table is called, its columns and key, bring its rows into a table of the live database, and know
//! what these rows add up to; what is then done with them is the same.

use std::collections::BTreeSet;

use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lineage::{Lineage, inexact};
use crate::model::manifest::{ObjectRole, SequenceRecord, TableRecord};
use crate::model::table::{QualifiedTable, TableName};
use crate::ops::Setting;
use crate::ops::restore::assemble::{Assembled, assemble};
use crate::ops::restore::past::PastTable;
use crate::ops::restore::source::Choice;
use crate::ops::restore::{Doors, leaves};
use crate::postgres::Session;
use crate::steps::load_dump::{self, Routing};

/// What is restored, as it was then.
#[derive(Clone, Debug)]
pub(super) struct Subject {
    pub(super) table: QualifiedTable,
    /// Columns that COPY lists, in order.
    pub(super) columns: Vec<String>,
    /// Columns of the primary key; empty where there was none.
    pub(super) key: Vec<String>,
}

/// Where its rows come from.
pub(super) enum Rows<'a> {
    Backup(BackupTable<'a>),
    Past(PastTable<'a>),
}

impl Rows<'_> {
    /// The encoding in which its rows are text.
    pub(super) fn encoding(&self) -> &str {
        match self {
            Self::Backup(table) => &table.choice.manifest().source.encoding,
            Self::Past(table) => &table.encoding,
        }
    }

    /// The archive that has the statement which makes the table.
    pub(super) async fn schema(&self, subject: &Subject, doors: &Doors) -> Result<Vec<u8>, Failure> {
        match self {
            Self::Backup(table) => table.choice.read(ObjectRole::Schema, doors).await,
            Self::Past(table) => table.schema(subject, doors).await,
        }
    }

    /// Whether the live table of the same name, which `session` sees, has other columns than the rows.
    pub(super) async fn differs_from_live(&self, subject: &Subject, session: &Session) -> Result<bool, Failure> {
        match self {
            Self::Backup(_) => Ok(false),
            Self::Past(table) => table.differs_from_live(subject, session).await,
        }
    }

    /// How many rows there are, as far as that is known without bringing them.
    pub(super) fn known(&self) -> Result<u64, Failure> {
        match self {
            Self::Backup(table) => table.rows(),
            Self::Past(table) => Ok(table.rows),
        }
    }

    /// Tables whose increments were not exact.
    pub(super) fn inexact(&self) -> Result<Vec<QualifiedTable>, Failure> {
        match self {
            Self::Backup(table) => table.inexact(),
            Self::Past(_) => Ok(Vec::new()),
        }
    }

    /// The table and every partition below it, as they were called.
    pub(super) async fn tree(&self, subject: &Subject) -> Result<Vec<QualifiedTable>, Failure> {
        match self {
            Self::Backup(table) => Ok(below(&table.choice.manifest().tables, &subject.table)),
            Self::Past(table) => table.tree(subject).await,
        }
    }

    /// What sequences had as values; of others than the table's too.
    pub(super) async fn sequences(&self, subject: &Subject) -> Result<Vec<SequenceRecord>, Failure> {
        match self {
            Self::Backup(table) => Ok(table.choice.manifest().sequences.clone()),
            Self::Past(table) => table.sequences(subject).await,
        }
    }

    /// Does what commits by itself, before the transaction of the rows: increments are put onto their full dump in
    /// temporary tables. `like` (quoted SQL) is a table with their columns.
    pub(super) async fn prepare(
        &self,
        subject: &Subject,
        session: Session,
        like: &str,
        doors: &Doors,
        setting: &Setting,
    ) -> Result<(Session, Option<Assembled>), Failure> {
        match self {
            Self::Backup(table) if table.choice.increments().next().is_some() => {
                setting.events.step(format!("putting {} together", subject.table));
                let lineages = table.lineages()?;
                let (session, assembled) = assemble(table.choice, &lineages, like, session, doors, setting).await?;
                Ok((session, Some(assembled)))
            }
            Self::Backup(_) | Self::Past(_) => Ok((session, None)),
        }
    }

    /// Brings the rows into `target` (quoted SQL), whose COPY is `statement`, out of what was prepared where something was.
    /// Gives the session back, and what the rows must add up to.
    pub(super) async fn bring(
        &self,
        subject: &Subject,
        (session, prepared): (Session, Option<Assembled>),
        (target, statement): (&str, String),
        doors: &Doors,
        setting: &Setting,
    ) -> Result<(Session, TableSum), Failure> {
        match (self, prepared) {
            (_, Some(assembled)) => {
                assembled.insert_into(&session, target, &subject.columns).await?;
                Ok((session, assembled.sum))
            }
            (Self::Backup(table), None) => table.load(subject, session, statement, doors, setting).await,
            (Self::Past(table), None) => table.bring(subject, session, &statement, setting).await,
        }
    }
}

/// A table of a dump and its increments.
pub(super) struct BackupTable<'a> {
    choice: &'a Choice,
    records: Vec<&'a TableRecord>,
    sum: TableSum,
}

impl<'a> BackupTable<'a> {
    /// The table that `name` means in `choice`.
    pub(super) fn find(name: &TableName, choice: &'a Choice) -> Result<(Self, Subject), Failure> {
        let records = &choice.manifest().tables;
        let table = find(name, records)?;
        let records = leaves(records, &table);
        let (columns, sum) = expected(&table, &records)?;
        let key = records.first().and_then(|record| record.key.as_ref()).map(|key| key.columns.clone());
        Ok((Self { choice, records, sum }, Subject { table, columns, key: key.unwrap_or_default() }))
    }

    fn rows(&self) -> Result<u64, Failure> {
        Ok(self.lineages()?.iter().map(|lineage| lineage.rows).sum())
    }

    /// What the chain makes of its relations.
    fn lineages(&self) -> Result<Vec<Lineage>, Failure> {
        let mut lineages = self.choice.lineages()?;
        lineages.retain(|lineage| self.records.iter().any(|record| record.oid == lineage.oid));
        Ok(lineages)
    }

    fn inexact(&self) -> Result<Vec<QualifiedTable>, Failure> {
        Ok(inexact(&self.lineages()?))
    }

    /// By COPY, straight out of the full dump.
    async fn load(
        &self,
        subject: &Subject,
        session: Session,
        statement: String,
        doors: &Doors,
        setting: &Setting,
    ) -> Result<(Session, TableSum), Failure> {
        setting.events.step(format!("loading {}", subject.table));
        let source = self.choice.open(self.choice.full(), ObjectRole::Data, doors).await?;
        let wanted = self.records.iter().map(|record| record.table.clone()).collect();
        let routing = Box::new(Into { statement, wanted });
        let sessions = load_dump::load(source, vec![session], routing, setting.events.clone()).await?;
        let lost = || Failure::new(FailureKind::Failed, "keep the session that holds the rows");
        Ok((sessions.into_iter().next().ok_or_else(lost)?, self.sum))
    }
}

/// `table` and every partition below it, of those in `records`.
fn below(records: &[TableRecord], table: &QualifiedTable) -> Vec<QualifiedTable> {
    let mut tree = vec![table.clone()];
    let mut at = 0;
    while let Some(parent) = tree.get(at).cloned() {
        let children = records.iter().filter(|record| record.partition_of.as_ref() == Some(&parent));
        tree.extend(children.map(|record| record.table.clone()));
        at += 1;
    }
    tree
}

fn find(name: &TableName, records: &[TableRecord]) -> Result<QualifiedTable, Failure> {
    let found: Vec<_> =
        records.iter().filter(|record| name.may_mean(&record.table)).map(|record| record.table.clone()).collect();
    match found.as_slice() {
        [table] => Ok(table.clone()),
        [] => Err(Failure::new(FailureKind::NothingMatches, format!("find the table {name} in the backup"))
            .hint("`dbagent backup show` lists its tables.")),
        _ => Err(several(name)),
    }
}

/// More than one table has the name.
pub(super) fn several(name: &TableName) -> Failure {
    Failure::new(FailureKind::Usage, format!("choose a table: several schemas have a {name}"))
        .hint("Write SCHEMA.TABLE.")
}

/// Columns of the rows and, of a full dump, what they add up to, over all leaves.
fn expected(table: &QualifiedTable, records: &[&TableRecord]) -> Result<(Vec<String>, TableSum), Failure> {
    let mut sum = TableSum::default();
    let mut columns: Option<&Vec<String>> = None;
    for record in records {
        if columns.is_some_and(|columns| *columns != record.columns) {
            let message = format!("restore {table} alone: its partitions have their columns in different orders");
            return Err(Failure::new(FailureKind::Failed, message)
                .hint("Restore its partitions one by one, or the whole database."));
        }
        columns = Some(&record.columns);
        sum.merge(&record.content.unwrap_or_default());
    }
    Ok((columns.cloned().unwrap_or_default(), sum))
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
