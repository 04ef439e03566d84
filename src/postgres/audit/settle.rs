//! The side tables of the chain after rows of the log were put back in place, hashes verbatim and past the trigger: in the
//! transaction that put them back, so that nobody sees one without the other.

use crate::model::table::QualifiedTable;
use crate::postgres::audit::schema;
use crate::postgres::connection::Session;
use crate::postgres::error::PostgresError;

/// What became of the side tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The table is no part of a chained log.
    NotChained,
    /// Every row has its place; so many places that came after the last row are gone.
    Cut(u64),
    /// So many rows have no place, or another hash there: they are not of this chain.
    Strange(u64),
}

/// Holds the chain's places against a log of which rows of `table` were put back. With `cut`, the log is an earlier state of
/// itself: places after its last row go, and the head with them; without, all of them stay, as evidence. The session's
/// transaction must hold the table; inserts wait from here on.
pub async fn settle(session: &Session, table: &QualifiedTable, cut: bool) -> Result<Settled, PostgresError> {
    let client = session.client();
    let of_chain = client.query_one(include_str!("../../../sql/audit/is_of_chain.sql"), &[&table.quoted()]).await?;
    if !of_chain.get::<_, bool>(0)
        || !schema::is_installed(session).await?
        || schema::side_tables_are_empty(session).await?
    {
        return Ok(Settled::NotChained);
    }
    schema::lock_head(session).await?;
    let mut gone = 0;
    if cut && let Some(last) = client.query_opt(include_str!("../../../sql/audit/cut_places.sql"), &[]).await? {
        gone = u64::try_from(last.get::<_, i64>(2)).unwrap_or_default();
        schema::set_head(session, last.get(0), Some(last.get(1))).await?;
    }
    let strange: i64 = client.query_one(include_str!("../../../sql/audit/strange_rows.sql"), &[]).await?.get(0);
    match u64::try_from(strange) {
        Ok(0) | Err(_) => Ok(Settled::Cut(gone)),
        Ok(strange) => Ok(Settled::Strange(strange)),
    }
}
