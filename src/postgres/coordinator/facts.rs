//! What the catalog says of the covered tables, and everything in it that would make a dump less than whole.

use std::collections::{BTreeMap, BTreeSet};

use tokio_postgres::{Client, Row};

use crate::model::blocks::RelationKey;
use crate::model::digest::{Digest, Hasher};
use crate::model::key_text::KeyType;
use crate::model::lsn::{Lsn, SystemId, Timeline};
use crate::model::manifest::{DatabaseLocale, SequenceRecord, SourceRecord};
use crate::model::table::{QualifiedTable, quote_identifier};
use crate::postgres::coordinator::CoveredTable;
use crate::postgres::coordinator::scope::Covered;
use crate::postgres::error::{PostgresError, PostgresErrorKind};

/// Something that keeps a dump from being whole, with its cure.
pub(super) struct Fault {
    what: String,
    cure: String,
}

/// Errors with every fault, if there are any.
pub(super) fn require_none(faults: Vec<Fault>) -> Result<(), PostgresError> {
    if faults.is_empty() {
        return Ok(());
    }
    let (what, cures): (Vec<String>, BTreeSet<String>) =
        faults.into_iter().map(|fault| (fault.what, fault.cure)).unzip();
    let cures: Vec<String> = cures.into_iter().collect();
    Err(PostgresError::new(PostgresErrorKind::Permission, format!("dump every row: {}", what.join("; ")))
        .hint(format!("As the owner or a superuser: {}", cures.join(" "))))
}

/// The database, and whether its server is a standby.
pub(super) async fn source(client: &Client) -> Result<(SourceRecord, bool), PostgresError> {
    let row = client.query_one(include_str!("../../../sql/dump/source.sql"), &[]).await?;
    let mut source = SourceRecord {
        system_identifier: None,
        timeline: None,
        database: row.get(0),
        database_oid: row.get(1),
        server_version: row.get(5),
        encoding: row.get(2),
        locale: Some(DatabaseLocale { collate: row.get(3), ctype: row.get(4) }),
        tools: Vec::new(),
        snapshot: None,
        lsn: None,
        taken: None,
        log: None,
    };
    let readable = client.query_one(include_str!("../../../sql/dump/position_is_readable.sql"), &[]).await?;
    if readable.get(0) {
        let row = client.query_one(include_str!("../../../sql/dump/position.sql"), &[]).await?;
        let (lsn, timeline, system): (Option<String>, Option<i32>, Option<String>) =
            (row.get(0), row.get(1), row.get(2));
        source.lsn = lsn.and_then(|lsn| lsn.parse().ok());
        source.timeline = timeline.and_then(|timeline| u32::try_from(timeline).ok()).map(Timeline);
        source.system_identifier = system.and_then(|system| SystemId::try_from(system).ok());
    }
    let on_standby: bool = row.get(6);
    if !on_standby {
        // The control file still has the old timeline for a while after a promotion.
        let row = client.query_one(include_str!("../../../sql/server/timeline_primary.sql"), &[]).await?;
        source.timeline = u32::try_from(row.get::<_, i32>(0)).ok().map(Timeline);
    }
    Ok((source, on_standby))
}

/// Where the log stands; nothing on a standby and where this role may not ask.
pub(super) async fn log_position(client: &Client) -> Result<Option<Lsn>, PostgresError> {
    let readable = client.query_one(include_str!("../../../sql/dump/log_position_is_readable.sql"), &[]).await?;
    if !readable.get::<_, bool>(0) {
        return Ok(None);
    }
    let row = client.query_one(include_str!("../../../sql/dump/log_position.sql"), &[]).await?;
    Ok(row.get::<_, Option<String>>(0).and_then(|lsn| lsn.parse().ok()))
}

/// Errors with the first name that pg_dump would write in another encoding than ours. Rows are dumped in the server's
/// encoding, whatever it is; names are compared and sent by us, in UTF-8. (In SQL_ASCII names are what they are.)
pub(super) fn require_plain_names(source: &SourceRecord, tables: &[CoveredTable]) -> Result<(), PostgresError> {
    if matches!(source.encoding.as_str(), "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let is_plain = |covered: &&CoveredTable| {
        let table = &covered.table;
        [&table.schema, &table.name].into_iter().chain(&covered.columns).all(|name| name.is_ascii())
    };
    let Some(odd) = tables.iter().find(|covered| !is_plain(covered)) else { return Ok(()) };
    let message = format!(
        "dump {} of a database in {}: its name, or a column's, has letters outside ASCII",
        odd.table, source.encoding
    );
    Err(PostgresError::new(PostgresErrorKind::Other, message)
        .hint("Rename it, leave the table out of the job, or move the database to UTF8; values may have any letters."))
}

/// Errors with every table that cannot be read whole; asked before the locks, which need the same rights.
pub(super) async fn require_readable(client: &Client, covered: &[Covered]) -> Result<(), PostgresError> {
    let role: String = client.query_one("SELECT CURRENT_USER::pg_catalog.text", &[]).await?.get(0);
    let oids: Vec<u32> = covered.iter().map(|covered| covered.oid).collect();
    let rows = client.query(include_str!("../../../sql/dump/table_facts.sql"), &[&oids]).await?;
    let mut faults = Vec::new();
    for row in rows {
        let oid: u32 = row.get(0);
        if let Some(covered) = covered.iter().find(|covered| covered.oid == oid) {
            faults.extend(faults_of(&covered.table, row.get(7), row.get(8), &role));
        }
    }
    require_none(faults)
}

pub(super) async fn tables(
    client: &Client,
    covered: Vec<Covered>,
    source: &SourceRecord,
) -> Result<Vec<CoveredTable>, PostgresError> {
    let oids: Vec<u32> = covered.iter().map(|covered| covered.oid).collect();
    let rows = client.query(include_str!("../../../sql/dump/table_facts.sql"), &[&oids]).await?;
    let by_oid: BTreeMap<u32, _> = rows.iter().map(|row| (row.get::<_, u32>(0), row)).collect();
    let keys = client.query(include_str!("../../../sql/dump/keys.sql"), &[&oids]).await?;
    let mut keys: BTreeMap<u32, (Vec<String>, Vec<u32>, u64)> = keys
        .iter()
        .map(|row| (row.get(0), (row.get(1), row.get(2), u64::try_from(row.get::<_, i64>(3)).unwrap_or_default())))
        .collect();
    let mut tables = Vec::new();
    for Covered { oid, table, is_partitioned } in covered {
        let Some(row) = by_oid.get(&oid) else {
            let message = format!("look at {table} of {}: it is gone", source.database);
            return Err(PostgresError::new(PostgresErrorKind::MissingObject, message));
        };
        let parent: (Option<String>, Option<String>) = (row.get(2), row.get(3));
        let columns: Vec<String> = row.get(4);
        let (key, key_types, own_bytes) = keys.remove(&oid).unwrap_or_default();
        let listed = key.iter().all(|column| columns.contains(column));
        tables.push(CoveredTable {
            key: if listed { key } else { Vec::new() },
            key_types: key_types.into_iter().map(KeyType::of).collect(),
            own_bytes,
            relfilenode: row.get(1),
            storage: storage(is_partitioned, row),
            fingerprint: None,
            is_partitioned,
            partition_of: parent.0.zip(parent.1).map(|(schema, name)| QualifiedTable { schema, name }),
            oid,
            columns,
            estimated_bytes: u64::try_from(row.get::<_, i64>(5)).unwrap_or_default(),
            estimated_rows: u64::try_from(row.get::<_, i64>(6)).unwrap_or_default(),
            table,
        });
    }
    Ok(tables)
}

/// The storage that the row of `table_facts.sql` names, where there is some and the log has every change of it.
fn storage(is_partitioned: bool, row: &Row) -> Option<RelationKey> {
    let (tablespace, database): (Option<u32>, u32) = (row.get(10), row.get(11));
    let key = |tablespace| RelationKey { tablespace, database, number: row.get(1) };
    tablespace.filter(|_| !is_partitioned).map(key)
}

fn faults_of(table: &QualifiedTable, readable: bool, rls_active: bool, role: &str) -> Vec<Fault> {
    let (quoted, role) = (table.quoted(), quote_identifier(role));
    let mut faults = Vec::new();
    if !readable {
        let cure = format!("GRANT SELECT ON {quoted} TO {role};");
        faults.push(Fault { what: format!("no right to read {table}"), cure });
    }
    if rls_active {
        let cure = format!("ALTER ROLE {role} BYPASSRLS;");
        faults.push(Fault { what: format!("row-level security hides rows of {table}"), cure });
    }
    faults
}

/// How many large objects there are and how many of them this role cannot read.
pub(super) async fn large_objects(client: &Client) -> Result<(u64, u64), PostgresError> {
    let row = client.query_one(include_str!("../../../sql/dump/large_objects.sql"), &[]).await?;
    let count = |at: usize| u64::try_from(row.get::<_, i64>(at)).unwrap_or_default();
    Ok((count(0), count(1)))
}

pub(super) fn unreadable_large_objects(count: u64) -> Fault {
    Fault {
        what: format!("{count} large objects cannot be read"),
        cure: "GRANT SELECT ON LARGE OBJECT … (or leave them out: large_objects = false in the job).".to_owned(),
    }
}

pub(super) async fn sequences(
    client: &Client,
    tables: &[CoveredTable],
) -> Result<(Vec<SequenceRecord>, Vec<Fault>), PostgresError> {
    let role: String = client.query_one("SELECT CURRENT_USER::pg_catalog.text", &[]).await?.get(0);
    let schemas: BTreeSet<&str> = tables.iter().map(|covered| covered.table.schema.as_str()).collect();
    let schemas: Vec<&str> = schemas.into_iter().collect();
    let (mut sequences, mut faults) = (Vec::new(), Vec::new());
    for row in client.query(include_str!("../../../sql/dump/sequences.sql"), &[&schemas]).await? {
        let sequence = QualifiedTable { schema: row.get(0), name: row.get(1) };
        let quoted = sequence.quoted();
        if !row.get::<_, bool>(2) {
            let cure = format!("GRANT SELECT ON SEQUENCE {quoted} TO {};", quote_identifier(&role));
            faults.push(Fault { what: format!("no right to read the sequence {sequence}"), cure });
            continue;
        }
        let value = client.query_one(&format!("SELECT last_value, is_called FROM {quoted}"), &[]).await?;
        sequences.push(SequenceRecord { sequence, last_value: value.get(0), is_called: value.get(1) });
    }
    Ok((sequences, faults))
}

/// Digest over everything that the form of rows depends on; that of each table that is no partition of another
/// of `tables` is set there.
pub(super) async fn fingerprint(client: &Client, tables: &mut [CoveredTable]) -> Result<Digest, PostgresError> {
    let oids: Vec<u32> = tables.iter().map(|covered| covered.oid).collect();
    let mut all = Hasher::default();
    let mut by_table: BTreeMap<u32, Hasher> = BTreeMap::new();
    for row in client.query(include_str!("../../../sql/dump/schema_fingerprint.sql"), &[&oids]).await? {
        let line = format!("{}\n", row.get::<_, String>(1));
        all.update(line.as_bytes());
        by_table.entry(row.get(0)).or_default().update(line.as_bytes());
    }
    let names: BTreeSet<QualifiedTable> = tables.iter().map(|covered| covered.table.clone()).collect();
    let follows = |covered: &CoveredTable| covered.partition_of.as_ref().is_some_and(|parent| names.contains(parent));
    for covered in tables.iter_mut().filter(|covered| !follows(covered)) {
        covered.fingerprint = Some(by_table.remove(&covered.oid).unwrap_or_default().finish());
    }
    Ok(all.finish())
}

/// The history file's lines are a timeline, the position where it was left, and why (PostgreSQL,
/// src/backend/access/transam/timeline.c).
pub(super) async fn timeline_history(
    client: &Client,
    timeline: Option<Timeline>,
) -> Result<Option<Vec<(Timeline, Lsn)>>, PostgresError> {
    let Some(Timeline(timeline)) = timeline else { return Ok(None) };
    let readable = client.query_one(include_str!("../../../sql/increment/history_is_readable.sql"), &[]).await?;
    if timeline < 2 || !readable.get::<_, bool>(0) {
        return Ok(None);
    }
    let name = format!("{timeline:08X}.history");
    let row = client.query_one(include_str!("../../../sql/increment/timeline_history.sql"), &[&name]).await?;
    let text: Option<String> = row.get(0);
    let line = |line: &str| {
        let mut words = line.split_whitespace();
        Some((Timeline(words.next()?.parse().ok()?), words.next()?.parse().ok()?))
    };
    Ok(text.map(|text| text.lines().filter_map(line).collect()))
}
