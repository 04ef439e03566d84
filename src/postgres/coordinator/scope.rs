//! From the names an operator wrote to the relations of the catalog, partitions included.

use tokio_postgres::Client;

use crate::model::table::{QualifiedTable, TableName};
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// One relation to be covered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Covered {
    pub(super) oid: u32,
    pub(super) table: QualifiedTable,
    pub(super) is_partitioned: bool,
}

/// What the names expand to at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expansion {
    pub(super) tables: Vec<Covered>,
    /// For each place in the list of names, the tables found under it.
    found: Vec<Vec<QualifiedTable>>,
}

impl Expansion {
    pub(super) async fn read(client: &Client, names: &[TableName]) -> Result<Self, PostgresError> {
        let schemas: Vec<Option<&str>> = names.iter().map(|name| name.schema.as_deref()).collect();
        let bare: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
        let rows = client.query(include_str!("../../../sql/dump/expand_tables.sql"), &[&schemas, &bare]).await?;
        let mut expansion = Self { tables: Vec::new(), found: vec![Vec::new(); names.len()] };
        for row in rows {
            let place: Option<i64> = row.get(0);
            let table = QualifiedTable { schema: row.get(2), name: row.get(3) };
            let (relkind, is_root): (String, bool) = (row.get(4), row.get(5));
            let place = place.and_then(|place| usize::try_from(place - 1).ok());
            if let Some(found) = place.filter(|_| is_root).and_then(|place| expansion.found.get_mut(place)) {
                found.push(table.clone());
            }
            let covered = Covered { oid: row.get(1), table, is_partitioned: relkind == "p" };
            if !expansion.tables.contains(&covered) {
                expansion.tables.push(covered);
            }
        }
        Ok(expansion)
    }

    /// Errors with every name that is no table, or more than one.
    pub(super) fn require_all_found(&self, names: &[TableName]) -> Result<(), PostgresError> {
        let mut faults = Vec::new();
        for (name, found) in names.iter().zip(&self.found) {
            match found.as_slice() {
                [_] => {}
                [] => faults.push(format!("there is no table {name}")),
                several => {
                    let all: Vec<String> = several.iter().map(ToString::to_string).collect();
                    faults.push(format!("{name} could be {}", all.join(" or ")));
                }
            }
        }
        if faults.is_empty() && !self.tables.is_empty() {
            return Ok(());
        }
        if faults.is_empty() {
            faults.push("the database has no user tables".to_owned());
        }
        let message = format!("find the tables to dump: {}", faults.join("; "));
        Err(PostgresError::new(PostgresErrorKind::MissingObject, message)
            .hint("Correct `tables` in the plan; names are literal, and a schema may stand before them."))
    }
}
