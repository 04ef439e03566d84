//! Single tables: is one there, make one like it, are its columns those expected, refresh its statistics.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use crate::model::manifest::SequenceRecord;
use crate::model::table::{QualifiedTable, TableName, quote_identifier};
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// Whether `table` exists, of whatever kind.
pub async fn exists(client: &Client, table: &QualifiedTable) -> Result<bool, PostgresError> {
    let row =
        client.query_one("SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL", &[&table.quoted()]).await?;
    Ok(row.get(0))
}

/// The ordinary and partitioned tables that `name` may mean, each with whether it is partitioned.
pub async fn find(client: &Client, name: &TableName) -> Result<Vec<(QualifiedTable, bool)>, PostgresError> {
    let parameters: [&(dyn ToSql + Sync); 2] = [&name.name, &name.schema];
    let rows = client.query(include_str!("../../sql/table/find.sql"), &parameters).await?;
    let table = |row: &Row| (QualifiedTable::new(row.get::<_, String>(0), row.get::<_, String>(1)), row.get(2));
    Ok(rows.iter().map(table).collect())
}

/// `table` and every partition below it.
pub async fn tree(client: &Client, table: &QualifiedTable) -> Result<Vec<QualifiedTable>, PostgresError> {
    let rows = client.query(include_str!("../../sql/table/tree.sql"), &[&table.quoted()]).await?;
    Ok(rows.iter().map(|row| QualifiedTable::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// The sequences that belong to columns of `table` or of a partition below it.
pub async fn owned_sequences(client: &Client, table: &QualifiedTable) -> Result<Vec<QualifiedTable>, PostgresError> {
    let rows = client.query(include_str!("../../sql/table/owned_sequences.sql"), &[&table.quoted()]).await?;
    Ok(rows.iter().map(|row| QualifiedTable::new(row.get::<_, String>(0), row.get::<_, String>(1))).collect())
}

/// The value that `sequence` has.
pub async fn sequence_value(client: &Client, sequence: QualifiedTable) -> Result<SequenceRecord, PostgresError> {
    let row = client.query_one(&format!("SELECT last_value, is_called FROM {}", sequence.quoted()), &[]).await?;
    Ok(SequenceRecord { sequence, last_value: row.get(0), is_called: row.get(1) })
}

/// The columns of `table` that COPY lists, in order.
pub async fn columns(client: &Client, table: &QualifiedTable) -> Result<Vec<String>, PostgresError> {
    let rows = client.query(include_str!("../../sql/table/columns.sql"), &[&table.quoted()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// The columns of the primary key of `table`, in its order; none where there is no such key.
pub async fn primary_key(client: &Client, table: &QualifiedTable) -> Result<Vec<String>, PostgresError> {
    let rows = client.query(include_str!("../../sql/table/primary_key.sql"), &[&table.quoted()]).await?;
    Ok(rows.iter().map(|row| row.get(0)).collect())
}

/// Name and type of each column of `table`, and whether it is generated; by name.
pub async fn form(client: &Client, table: &QualifiedTable) -> Result<Vec<(String, String, bool)>, PostgresError> {
    let rows = client.query(include_str!("../../sql/table/form.sql"), &[&table.quoted()]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect())
}

/// The encoding of the database's text.
pub async fn encoding(client: &Client) -> Result<String, PostgresError> {
    Ok(client.query_one(include_str!("../../sql/table/encoding.sql"), &[]).await?.get(0))
}

/// Makes the empty table `name` with the columns, defaults, checks and indexes of `like`, without its triggers and
/// foreign keys.
pub async fn create_like(client: &Client, name: &QualifiedTable, like: &QualifiedTable) -> Result<(), PostgresError> {
    let statement = format!("CREATE TABLE {} (LIKE {} INCLUDING ALL)", name.quoted(), like.quoted());
    Ok(client.batch_execute(&statement).await?)
}

/// Drops `table` if it is there. Never cascades.
pub async fn drop(client: &Client, table: &QualifiedTable) -> Result<(), PostgresError> {
    Ok(client.batch_execute(&format!("DROP TABLE IF EXISTS {}", table.quoted())).await?)
}

/// Errors unless `table` has every column of `columns`, and no other that COPY would list.
pub async fn require_columns(client: &Client, table: &QualifiedTable, columns: &[String]) -> Result<(), PostgresError> {
    let has = self::columns(client, table).await?;
    let lacks = columns.iter().filter(|column| !has.contains(column)).cloned();
    let extra = has.iter().filter(|column| !columns.contains(column)).cloned();
    let different: Vec<String> =
        lacks.map(|name| format!("{name} is gone")).chain(extra.map(|name| format!("{name} is new"))).collect();
    if different.is_empty() {
        return Ok(());
    }
    let message = format!("match the columns of {table} with the backup's: {}", different.join(", "));
    Err(PostgresError::new(PostgresErrorKind::Other, message)
        .hint("The table was altered since the backup. Restore the database beside and copy what you need."))
}

/// Gathers statistics, and rebuilds the indexes first if asked.
pub async fn analyze(client: &Client, table: &QualifiedTable, reindex: bool) -> Result<(), PostgresError> {
    let quoted = table.quoted();
    if reindex {
        client.batch_execute(&format!("REINDEX TABLE {quoted}")).await?;
    }
    Ok(client.batch_execute(&format!("ANALYZE {quoted}")).await?)
}

/// Whether `table` has its rows in partitions.
pub async fn is_partitioned(client: &Client, table: &QualifiedTable) -> Result<bool, PostgresError> {
    let query = "SELECT relkind = 'p' FROM pg_catalog.pg_class WHERE oid = ($1::pg_catalog.text)::pg_catalog.regclass";
    Ok(client.query_one(query, &[&table.quoted()]).await?.get(0))
}

/// Fills every materialized view that is not, those that others read first. The ones that could not be filled, and why.
pub async fn refresh_views(client: &Client) -> Result<Vec<(String, String)>, PostgresError> {
    let rows = client.query(include_str!("../../sql/table/unpopulated_views.sql"), &[]).await?;
    let mut views: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    loop {
        let mut failed = Vec::new();
        for view in &views {
            if let Err(error) = client.batch_execute(&format!("REFRESH MATERIALIZED VIEW {view}")).await {
                failed.push((view.clone(), PostgresError::from(error).to_string()));
            }
        }
        // One that reads another fails until that one is filled.
        if failed.is_empty() || failed.len() == views.len() {
            return Ok(failed);
        }
        views = failed.into_iter().map(|(view, _)| view).collect();
    }
}

/// How many blocks `table` has.
pub async fn blocks(client: &Client, table: &QualifiedTable) -> Result<i64, PostgresError> {
    Ok(client.query_one(include_str!("../../sql/table/blocks.sql"), &[&table.quoted()]).await?.get(0))
}

/// Whether `table` is an ordinary one that has no row yet and that we may truncate.
pub async fn is_refillable(client: &Client, table: &QualifiedTable) -> Result<bool, PostgresError> {
    Ok(client.query_one(include_str!("../../sql/table/refillable.sql"), &[&table.quoted()]).await?.get(0))
}

/// Sets a sequence to its recorded value.
pub async fn set_sequence(client: &Client, record: &SequenceRecord) -> Result<(), PostgresError> {
    let parameters: [&(dyn ToSql + Sync); 3] = [&record.sequence.quoted(), &record.last_value, &record.is_called];
    client.query_one(include_str!("../../sql/table/set_sequence.sql"), &parameters).await?;
    Ok(())
}

/// Columns as an SQL list.
pub fn column_list(columns: &[String]) -> String {
    columns.iter().map(|column| quote_identifier(column)).collect::<Vec<_>>().join(", ")
}
