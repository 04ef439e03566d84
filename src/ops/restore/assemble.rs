//! One table's rows out of a full dump and its increments, put together in temporary tables of one session.
//!
//! Each relation of a partitioned table is put together by itself, because increments speak of relations. Nothing of the
//! live table is touched; what comes out is proven only after it has been brought there.

use std::collections::BTreeMap;

use crate::model::digest::TableSum;
use crate::model::failure::{Failure, FailureKind};
use crate::model::lineage::Lineage;
use crate::model::manifest::ObjectRole;
use crate::model::table::QualifiedTable;
use crate::ops::Setting;
use crate::ops::restore::Doors;
use crate::ops::restore::source::Choice;
use crate::postgres::tables::column_list;
use crate::postgres::{PostgresError, Session};
use crate::steps::load_dump::{self, Routing};
use crate::steps::replay::{Place, Replay};

/// Rows put together, in temporary tables of a session.
pub(super) struct Assembled {
    /// What they add up to.
    pub(super) sum: TableSum,
    tables: Vec<String>,
}

impl Assembled {
    /// Puts all rows into `target`, quoted SQL, over the session that has them.
    pub(super) async fn insert_into(
        &self,
        session: &Session,
        target: &str,
        columns: &[String],
    ) -> Result<(), PostgresError> {
        let columns = column_list(columns);
        for table in &self.tables {
            let statement =
                format!("INSERT INTO {target} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {table}");
            session.batch(&statement).await?;
        }
        Ok(())
    }
}

/// Puts the relations of `lineages` together, which commits several times; `like` (quoted SQL) is a table with their columns.
pub(super) async fn assemble(
    choice: &Choice,
    lineages: &[Lineage],
    like: &str,
    session: Session,
    doors: &Doors,
    setting: &Setting,
) -> Result<(Session, Assembled), Failure> {
    let mut places = BTreeMap::new();
    for lineage in lineages {
        let table = format!("pg_temp.dbagent_relation_{}", lineage.oid);
        let columns = column_list(&lineage.record.columns);
        session
            .batch(&format!("CREATE TEMPORARY TABLE {table} AS SELECT {columns} FROM ONLY {like} WITH NO DATA"))
            .await?;
        places.insert(lineage.oid, Place { table, origin: lineage.origin, sum: lineage.origin_sum });
    }
    let tables = places.values().map(|place| place.table.clone()).collect();
    let source = choice.open(choice.full(), ObjectRole::Data, doors).await?;
    let routing = Box::new(Apart::new(lineages, &places));
    let session = load_dump::load(source, vec![session], routing, setting.events.clone()).await?.into_iter().next();
    let session = session.ok_or_else(|| Failure::new(FailureKind::Failed, "keep the session that holds the rows"))?;
    let mut replay = Replay::new(&session, places);
    for (at, link) in choice.increments() {
        setting.require_going_on("go on with the restore")?;
        setting.events.step(format!("putting {} onto it", link.name));
        replay.apply(at, &link.manifest, choice.open(link, ObjectRole::Data, doors).await?).await?;
    }
    let mut sum = TableSum::default();
    replay.sums().values().for_each(|part| sum.merge(part));
    Ok((session, Assembled { sum, tables }))
}

/// Each relation's rows into its own temporary table.
struct Apart(BTreeMap<QualifiedTable, String>);

impl Apart {
    fn new(lineages: &[Lineage], places: &BTreeMap<u32, Place>) -> Self {
        let statement = |lineage: &Lineage| {
            let place = places.get(&lineage.oid).filter(|place| place.origin == 0)?;
            let columns = column_list(&lineage.record.columns);
            Some((lineage.origin_table.clone(), format!("COPY {} ({columns}) FROM STDIN", place.table)))
        };
        Self(lineages.iter().filter_map(statement).collect())
    }
}

impl Routing for Apart {
    fn copy_statement(&self, table: &QualifiedTable, _: &str) -> Option<String> {
        self.0.get(table).cloned()
    }
}
