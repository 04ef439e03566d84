//! What is there: the parent and its key, its partitions and their bounds, rows that have no month, who else manages it.

use chrono::{DateTime, NaiveDate, Utc};
use tokio_postgres::types::ToSql;

use crate::model::outcome::{Finding, Severity};
use crate::model::partition::{Bound, Parent, Partition, Reference, Rule, Seal};
use crate::model::table::{QualifiedTable, TableName, quote_identifier};
use crate::postgres::connection::Session;
use crate::postgres::error::{PostgresError, PostgresErrorKind};
use crate::postgres::partitions::{Maintenance, table_of};

/// A table as the catalog has it, partitioned or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Relation oid.
    pub oid: u32,
    /// Schema and name.
    pub table: QualifiedTable,
    /// Whether it is partitioned at all.
    pub is_partitioned: bool,
    /// Whether it is partitioned by the range of one column.
    pub by_range_of_one: bool,
    /// That column; absent for an expression.
    pub key: Option<String>,
    /// Its type.
    pub key_type: Option<String>,
    /// Its owner.
    pub owner: String,
    /// Whether that is a superuser.
    pub owner_is_superuser: bool,
    /// The schema of pg_partman's configuration, where that extension is installed.
    pub partman_schema: Option<String>,
}

/// A partition that was detached and not dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Relation oid.
    pub oid: u32,
    /// Schema and name.
    pub table: QualifiedTable,
    /// The upper bound it had.
    pub upper: Option<DateTime<Utc>>,
}

/// A partition that somebody else has taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Schema and name.
    pub table: QualifiedTable,
    /// Whether it is still there, as a table of its own.
    pub detached: bool,
}

impl Maintenance {
    /// The table `name`. Errors when there is none, or more than one.
    pub async fn origin(&self, name: &TableName) -> Result<Origin, PostgresError> {
        let client = self.session.client();
        let query = include_str!("../../../sql/partition/parent.sql");
        let rows = client.query(query, &[&name.schema, &name.name]).await?;
        let refuse = |why: String| Err(PostgresError::new(PostgresErrorKind::MissingObject, why));
        match rows.as_slice() {
            [row] => Ok(Origin {
                oid: row.get(0),
                table: table_of(row, 1),
                is_partitioned: row.get(3),
                by_range_of_one: row.get(4),
                key: row.get(5),
                key_type: row.get(6),
                owner: row.get(7),
                owner_is_superuser: row.get(8),
                partman_schema: row.get(9),
            }),
            [] => refuse(format!("find the table {name}: there is none of this name")),
            _ => refuse(format!("find the table {name}: there are several; write the schema before the name")),
        }
    }

    /// What keeps `origin` from being maintained by us with the key `key`, if anything. `reader` may read every table.
    pub async fn obstacle(
        &self,
        origin: &Origin,
        key: &str,
        reader: &Session,
    ) -> Result<Option<Finding>, PostgresError> {
        let table = &origin.table;
        let critical = |code: &str, message: String, remedy: &str| {
            Ok(Some(Finding::new(Severity::Critical, code, message).remedy(remedy)))
        };
        if !origin.is_partitioned {
            let message = format!("{table} is a plain table: it has no partitions to maintain");
            return critical("not-partitioned", message, &format!("dbagent partition convert {table} --plan"));
        }
        let known = ["date", "timestamp without time zone", "timestamp with time zone"];
        let type_fits = origin.key_type.as_deref().is_some_and(|name| known.contains(&name));
        if !origin.by_range_of_one || origin.key.as_deref() != Some(key) || !type_fits {
            let message = format!("{table} is not partitioned by the range of the one time column {key}");
            return critical("partition-key", message, "correct `key` of the partition rule, or leave the table out");
        }
        if let Some(schema) = &origin.partman_schema
            && is_partmans(reader, schema, table).await?
        {
            let message =
                format!("{table} is managed by pg_partman ({schema}.part_config): two managers would fight over it");
            return critical("managed-by-pg-partman", message, "take it out of one of the two");
        }
        Ok(None)
    }

    /// The partitions of `origin`, and what lies in its default partition. `reader` may read rows.
    pub async fn parent(&self, origin: &Origin, reader: &Session) -> Result<Parent, PostgresError> {
        let query = include_str!("../../../sql/partition/partitions.sql");
        let rows = self.session.client().query(query, &[&origin.oid]).await?;
        let count = |row: &tokio_postgres::Row, at| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
        let mut partitions: Vec<Partition> = rows
            .iter()
            .map(|row| Partition {
                table: table_of(row, 1),
                oid: row.get(0),
                bound: Bound::read(row.get(3)),
                rows: count(row, 4),
                bytes: count(row, 5),
                detach_pending: row.get(6),
            })
            .collect();
        partitions
            .sort_by_key(|partition| partition.bound.interval().map_or((true, None), |range| (false, Some(range))));
        let mut parent = Parent { table: origin.table.clone(), partitions, strays: Vec::new(), dateless: 0 };
        if let (Some(default), Some(key)) = (parent.default_partition(), &origin.key) {
            let (strays, dateless) = strays(reader, &default.table, key).await?;
            (parent.strays, parent.dateless) = (strays, dateless);
        }
        Ok(parent)
    }

    /// Whether what is registered for `table` is `rule`; nothing when nothing is registered.
    pub async fn is_registered_as(&self, table: &QualifiedTable, rule: &Rule) -> Result<Option<bool>, PostgresError> {
        let query = include_str!("../../../sql/partition/rule.sql");
        let retention = rule.retention.map(|span| span.to_string());
        let parameters: [&(dyn ToSql + Sync); 6] =
            [&table.schema, &table.name, &rule.key, &retention, &rule.archive, &rule.seal];
        Ok(self.session.client().query_opt(query, &parameters).await?.map(|row| row.get(0)))
    }

    /// Partitions of `parent` that we detached and have not dropped.
    pub async fn left(&self, parent: &QualifiedTable) -> Result<Vec<Left>, PostgresError> {
        let query = include_str!("../../../sql/partition/left.sql");
        let rows = self.session.client().query(query, &[&parent.schema, &parent.name]).await?;
        Ok(rows.iter().map(|row| Left { oid: row.get(0), table: table_of(row, 1), upper: row.get(3) }).collect())
    }

    /// Partitions of `parent` that are gone, and not by us.
    pub async fn missing(&self, parent: &QualifiedTable) -> Result<Vec<Missing>, PostgresError> {
        let query = include_str!("../../../sql/partition/missing.sql");
        let rows = self.session.client().query(query, &[&parent.schema, &parent.name]).await?;
        Ok(rows.iter().map(|row| Missing { table: table_of(row, 0), detached: row.get(2) }).collect())
    }

    /// The recorded seal of the partition `oid`.
    pub async fn seal(&self, oid: u32) -> Result<Option<Seal>, PostgresError> {
        let rows = self.session.client().query(include_str!("../../../sql/partition/seal.sql"), &[&oid]).await?;
        let Some(row) = rows.first() else { return Ok(None) };
        let artifact: Option<String> = row.get(1);
        let artifact = match artifact.map(|text| text.parse()).transpose() {
            Ok(artifact) => artifact,
            Err(_) => {
                let message = format!("read the seal of relation {oid}: it names no artifact that could be ours");
                return Err(PostgresError::new(PostgresErrorKind::Other, message));
            }
        };
        Ok(Some(Seal { rows: u64::try_from(row.get::<_, i64>(0)).unwrap_or_default(), artifact }))
    }

    /// What an administrator has yet to give before `origin` can be maintained, in words.
    pub async fn lacking_rights(&self, origin: &Origin) -> Result<Vec<String>, PostgresError> {
        let query = include_str!("../../../sql/partition/rights.sql");
        Ok(self.session.client().query(query, &[&origin.oid]).await?.iter().map(|row| row.get(0)).collect())
    }
}

/// Rows of the default partition by day, and those without a day.
async fn strays(
    reader: &Session,
    default: &QualifiedTable,
    key: &str,
) -> Result<(Vec<(NaiveDate, u64)>, u64), PostgresError> {
    let (key, table) = (quote_identifier(key), default.quoted());
    let query = format!(
        "SELECT CASE WHEN pg_catalog.isfinite({key}) AND {key} >= '0001-01-01' AND {key} < '10000-01-01' \
         THEN {key}::pg_catalog.date END AS day, pg_catalog.count(*) FROM ONLY {table} GROUP BY 1 ORDER BY 1"
    );
    let rows =
        reader.client().query(&query, &[]).await.map_err(|error| reader.failed("count the rows in default", error))?;
    let (mut strays, mut dateless) = (Vec::new(), 0);
    for row in rows {
        let count = u64::try_from(row.get::<_, i64>(1)).unwrap_or_default();
        match row.get::<_, Option<NaiveDate>>(0) {
            Some(day) => strays.push((day, count)),
            None => dateless += count,
        }
    }
    Ok((strays, dateless))
}

/// Rows elsewhere that refer to rows of `partition`, by foreign key; only keys by which at least one does.
pub async fn references(reader: &Session, partition: &QualifiedTable) -> Result<Vec<Reference>, PostgresError> {
    let query = include_str!("../../../sql/table/referencing_keys.sql");
    let mut found = Vec::new();
    for row in reader.client().query(query, &[&partition.quoted()]).await? {
        let (constraint, child, pairs): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let count = format!(
            "SELECT pg_catalog.count(*) FROM {child} c WHERE EXISTS (SELECT FROM ONLY {} t WHERE {pairs})",
            partition.quoted()
        );
        let counted = reader.client().query_one(&count, &[]).await;
        let rows =
            counted.map_err(|error| reader.failed("count the rows that refer to a partition", error))?.get::<_, i64>(0);
        if rows > 0 {
            found.push(Reference { constraint, rows: u64::try_from(rows).unwrap_or_default() });
        }
    }
    Ok(found)
}

/// Whether pg_partman has `table` in its configuration. One that may not be read could have it: so it has.
async fn is_partmans(reader: &Session, schema: &str, table: &QualifiedTable) -> Result<bool, PostgresError> {
    let query = format!(
        "SELECT EXISTS (SELECT FROM {}.part_config WHERE parent_table = $1::pg_catalog.text)",
        quote_identifier(schema)
    );
    let name = format!("{}.{}", table.schema, table.name);
    match reader.client().query_one(&query, &[&name]).await {
        Ok(row) => Ok(row.get(0)),
        Err(error) => match reader.failed("read pg_partman's configuration", error) {
            denied if denied.kind == PostgresErrorKind::Permission => Ok(true),
            error => Err(error),
        },
    }
}
