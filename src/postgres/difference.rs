//! The difference between a table and the rows that should be in it, and its exact application.
//!
//! Rows are matched by primary key and compared column by column as text, which every type has. Only differing rows are
//! touched: an unchanged row keeps its version, and no foreign key sees a row vanish that comes back. Everything runs in
//! one transaction of the caller, who holds the table's lock and commits.

use tokio_postgres::Client;

use crate::model::table::{QualifiedTable, quote_identifier};
use crate::postgres::error::{PostgresError, PostgresErrorKind};
use crate::postgres::tables;

/// How many keys of refused rows are shown for one foreign key.
const SHOWN_KEYS: i64 = 20;

/// The staging table's name; temporary, so it lives and dies with the session.
pub const STAGING: &str = "pg_temp.dbagent_staging";

/// How many rows differ, by what it takes to make them equal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// In the backup and not in the table.
    pub missing: u64,
    /// In both, with other contents.
    pub differing: u64,
    /// In the table and not in the backup.
    pub extra: u64,
}

/// Rows that may not be deleted because others refer to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Referenced {
    /// Table and name of the foreign key.
    pub constraint: String,
    /// Number of rows that are referred to.
    pub rows: u64,
    /// Primary keys of the first of them, as row text.
    pub keys: Vec<String>,
}

/// Triggers that were silenced: quoted table, quoted name, and how each was enabled (`pg_trigger.tgenabled`).
#[derive(Debug)]
pub struct Triggers(Vec<(String, String, String)>);

impl Triggers {
    /// Enables each as it was: always, on a replica only, or ordinarily.
    pub async fn wake(self, client: &Client) -> Result<(), PostgresError> {
        for (table, name, enabled) in self.0 {
            let how = match enabled.as_str() {
                "A" => "ENABLE ALWAYS",
                "R" => "ENABLE REPLICA",
                _ => "ENABLE",
            };
            client.batch_execute(&format!("ALTER TABLE {table} {how} TRIGGER {name}")).await?;
        }
        Ok(())
    }
}

/// A table, its key and its columns, beside the staging table that holds the rows wanted.
#[derive(Clone, Debug)]
pub struct Difference {
    table: String,
    /// The table without the tables that inherit from it, whose rows are not the backup's.
    own: String,
    key: Vec<String>,
    columns: Vec<String>,
}

impl Difference {
    /// Makes the session's staging table for `table`, to be filled with `columns` by COPY into
    /// [`Difference::copy_statement`]. A table without primary key is refused: its rows cannot be matched.
    pub async fn begin(client: &Client, table: &QualifiedTable, columns: &[String]) -> Result<Self, PostgresError> {
        let key = tables::primary_key(client, table).await?;
        if key.is_empty() {
            return Err(Self::without_key(table));
        }
        let own = if tables::is_partitioned(client, table).await? { "" } else { "ONLY " };
        let own = format!("{own}{}", table.quoted());
        let difference = Self { table: table.quoted(), own, key, columns: columns.to_vec() };
        let (columns, table) = (list(columns, ""), &difference.table);
        let make = format!("CREATE TEMPORARY TABLE dbagent_staging AS SELECT {columns} FROM {table} WITH NO DATA");
        client.batch_execute(&make).await?;
        Ok(difference)
    }

    /// The refusal of a table whose rows cannot be told apart.
    pub fn without_key(table: &QualifiedTable) -> PostgresError {
        PostgresError::new(PostgresErrorKind::Other, format!("compare the rows of {table}: it has no primary key"))
            .hint("Restore it beside with --as, and compare there.")
    }

    /// The COPY statement that fills the staging table with rows of these columns.
    pub fn copy_statement(columns: &[String]) -> String {
        format!("COPY {STAGING} ({}) FROM STDIN", list(columns, ""))
    }

    /// Makes the filled staging table fast to join.
    pub async fn index(&self, client: &Client) -> Result<(), PostgresError> {
        let key = list(&self.key, "");
        Ok(client.batch_execute(&format!("CREATE UNIQUE INDEX ON {STAGING} ({key}); ANALYZE {STAGING}")).await?)
    }

    /// Counts what differs.
    pub async fn count(&self, client: &Client) -> Result<Counts, PostgresError> {
        let (table, on) = (&self.own, self.same_key());
        let missing = format!("SELECT count(*) FROM {STAGING} s WHERE NOT EXISTS (SELECT FROM {table} t WHERE {on})");
        let extra = format!("SELECT count(*) FROM {table} t WHERE {}", self.not_wanted());
        let differing =
            format!("SELECT count(*) FROM {table} t JOIN {STAGING} s ON {on} WHERE {}", self.other_content());
        Ok(Counts {
            missing: count(client, &missing).await?,
            differing: count(client, &differing).await?,
            extra: count(client, &extra).await?,
        })
    }

    /// Rows not wanted that other tables refer to, by foreign key. Deleting them would fail, or cascade.
    pub async fn referenced(&self, client: &Client) -> Result<Vec<Referenced>, PostgresError> {
        let foreign_keys = client.query(include_str!("../../sql/table/referencing_keys.sql"), &[&self.table]).await?;
        let mut found = Vec::new();
        for row in foreign_keys {
            let (constraint, child, pairs): (String, String, String) = (row.get(0), row.get(1), row.get(2));
            // A row that comes to refer to ours after we looked would be deleted with it.
            client.batch_execute(&format!("LOCK TABLE {child} IN SHARE MODE")).await?;
            let what = format!(
                "FROM {} t WHERE {} AND EXISTS (SELECT FROM {child} c WHERE {pairs})",
                self.own,
                self.not_wanted()
            );
            let rows = count(client, &format!("SELECT count(*) {what}")).await?;
            if rows > 0 {
                let keys = format!("SELECT (ROW({}))::text {what} LIMIT {SHOWN_KEYS}", list(&self.key, "t."));
                let keys = client.query(&keys, &[]).await?.iter().map(|row| row.get(0)).collect();
                found.push(Referenced { constraint, rows, keys });
            }
        }
        Ok(found)
    }

    /// Keeps the table's own triggers from changing what is put in (they would touch `updated_at`, write history …).
    /// Foreign keys stay in force. Needs the table's owner. What [`Triggers::wake`] takes back.
    pub async fn silence_triggers(&self, client: &Client) -> Result<Triggers, PostgresError> {
        let rows = client.query(include_str!("../../sql/table/triggers.sql"), &[&self.table]).await?;
        let triggers = Triggers(rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect());
        for (table, name, _) in &triggers.0 {
            client.batch_execute(&format!("ALTER TABLE {table} DISABLE TRIGGER {name}")).await?;
        }
        Ok(triggers)
    }

    /// Deletes rows that are not wanted.
    pub async fn delete_extra(&self, client: &Client) -> Result<u64, PostgresError> {
        Ok(client.execute(&format!("DELETE FROM {} t WHERE {}", self.own, self.not_wanted()), &[]).await?)
    }

    /// Updates rows whose contents differ.
    pub async fn update_differing(&self, client: &Client) -> Result<u64, PostgresError> {
        let values: Vec<_> = self.columns.iter().filter(|column| !self.key.contains(column)).collect();
        if values.is_empty() {
            return Ok(0);
        }
        let set: Vec<String> = values
            .iter()
            .map(|column| format!("{} = s.{}", quote_identifier(column), quote_identifier(column)))
            .collect();
        let statement = format!(
            "UPDATE {} t SET {} FROM {STAGING} s WHERE {} AND ({})",
            self.own,
            set.join(", "),
            self.same_key(),
            self.other_content()
        );
        Ok(client.execute(&statement, &[]).await?)
    }

    /// Inserts rows that are missing.
    pub async fn insert_missing(&self, client: &Client) -> Result<u64, PostgresError> {
        let statement = format!(
            "INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {selected} FROM {STAGING} s \
             WHERE NOT EXISTS (SELECT FROM {own} t WHERE {on})",
            table = self.table,
            own = self.own,
            columns = list(&self.columns, ""),
            selected = list(&self.columns, "s."),
            on = self.same_key()
        );
        Ok(client.execute(&statement, &[]).await?)
    }

    fn same_key(&self) -> String {
        let same = |column: &String| format!("t.{0} = s.{0}", quote_identifier(column));
        self.key.iter().map(same).collect::<Vec<_>>().join(" AND ")
    }

    fn not_wanted(&self) -> String {
        format!("NOT EXISTS (SELECT FROM {STAGING} s WHERE {})", self.same_key())
    }

    fn other_content(&self) -> String {
        let values = self.columns.iter().filter(|column| !self.key.contains(column));
        let differs = |column: &String| format!("t.{0}::text IS DISTINCT FROM s.{0}::text", quote_identifier(column));
        let all: Vec<String> = values.map(differs).collect();
        if all.is_empty() { "false".to_owned() } else { all.join(" OR ") }
    }
}

fn list(columns: &[String], prefix: &str) -> String {
    columns.iter().map(|column| format!("{prefix}{}", quote_identifier(column))).collect::<Vec<_>>().join(", ")
}

async fn count(client: &Client, statement: &str) -> Result<u64, PostgresError> {
    let count: i64 = client.query_one(statement, &[]).await?.get(0);
    Ok(u64::try_from(count).unwrap_or_default())
}
