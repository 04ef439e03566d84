//! Rebuilds the side tables of the audit chain from the log itself: after a restore that brought the log's rows and not the
//! side tables (a dump of named tables), the chain has no head and every insert is refused.
//!
//! Months that are sealed and gone are passed: what came before the rest is known from their signed seals.
//!
//! Hashes are taken as they are; nothing is hashed again. Rows come in the order of their time and wait until the row they
//! follow has come, so that memory grows with the disorder, not with the log. Whether the result is what was signed is for a
//! verification to say, and for whoever restored it to state: `dbagent audit checkpoint --restored`.

use bytes::Bytes;

use crate::catalog::{Reading, Repository};
use crate::model::audit::placing::Placing;
use crate::model::audit::profile::Profiles;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::postgres::audit::profiles::{self, Pinned};
use crate::postgres::audit::{schema, snapshot};
use crate::postgres::{Connection, Session, changes, copy};
use crate::steps::profiles::settle;
use crate::steps::signed::Signed;

/// Bytes sent at once.
const PIECE: usize = 1 << 18;

/// Rebuilds `audit.chain_seq` and `audit.chain_head`, which must be empty, in one transaction that keeps writers out; `profiles`
/// are those configured for older rows. Gives the number of rows. `Integrity` when the rows are not one chain; then nothing is changed.
pub async fn run(
    connection: &Connection,
    repositories: &[Repository],
    profiles: &Profiles,
    setting: &Setting,
) -> Result<u64, Failure> {
    let session = copy::connect(connection, "UTF8").await?;
    if !schema::is_installed(&session).await? {
        return Err(Failure::new(
            FailureKind::NothingMatches,
            "rebuild the audit chain: schema audit is not installed",
        )
        .hint("`dbagent audit install` installs it."));
    }
    schema::begin_alone(&session).await?;
    session.settle(rebuild(&session, connection, repositories, profiles, setting).await).await
}

async fn rebuild(
    session: &Session,
    connection: &Connection,
    repositories: &[Repository],
    profiles: &Profiles,
    setting: &Setting,
) -> Result<u64, Failure> {
    if !schema::side_tables_are_empty(session).await? {
        let message = "rebuild the audit chain: its side tables have rows";
        return Err(Failure::new(FailureKind::RefusedForSafety, message)
            .hint("They are evidence: `dbagent audit verify` says what is wrong with them."));
    }
    setting.events.step("following the audit log from its first row to its last");
    let reader = copy::connect(connection, "UTF8").await?;
    let mut lines = changes::audit_links(&reader).await?;
    let signed = Signed::read(repositories, &[], Reading::Recent, setting.clock.now()).await;
    signed.troubles.iter().for_each(|trouble| setting.events.note(&trouble.message));
    let sealed = signed.sealed_beyond(&snapshot::partitions(session).await?);
    let profiles = pins(session, profiles, &signed).await?;
    let mut chain = Placing::new(sealed.by_first(), profiles.genesis().map(|genesis| genesis.to_string()));
    let statement = "COPY audit.chain_seq (seq, id, recorded_at, hash) FROM STDIN";
    let mut sink = copy::copy_in(session, statement).await?;
    while let Some(line) = lines.next().await? {
        take(&mut chain, &line)?;
        if chain.pending() >= PIECE {
            setting.require_going_on("go on rebuilding the audit chain")?;
            sink.write(Bytes::from(chain.lines())).await?;
        }
    }
    sink.write(Bytes::from(chain.lines())).await?;
    sink.finish().await?;
    chain.finish().map_err(|error| broken(&error.0))?;
    schema::set_head(session, chain.seq, chain.tail.as_deref()).await?;
    Ok(chain.rows)
}

/// The formulas of the log's older rows, pinned in this database: as they came with it, or as they are configured and were
/// signed. Errors where those differ.
async fn pins(session: &Session, configured: &Profiles, signed: &Signed) -> Result<Profiles, Failure> {
    let pinned = profiles::pinned(session).await?;
    let settled = settle(&pinned, configured, signed.profiles());
    match settled.finding {
        None => Ok(settled.profiles),
        // Only the log came back; nothing is known here, and what is configured is what was signed.
        Some(_)
            if pinned == Pinned::default() && signed.profiles().is_none_or(|signed| signed == configured.digest()) =>
        {
            profiles::record(session, configured).await?;
            Ok(configured.clone())
        }
        Some(finding) => {
            let message = format!("rebuild the audit chain: {}", finding.message);
            Err(Failure::new(FailureKind::RefusedForSafety, message)
                .hint("Put [audit.profile] back as it was when the rows were chained."))
        }
    }
}

/// Takes a line of id, time, previous hash and hash.
fn take(chain: &mut Placing, line: &[u8]) -> Result<(), Failure> {
    let line = std::str::from_utf8(line).map_err(|_| broken("a row is not text"))?;
    let mut fields = line.trim_end_matches('\n').split('\t');
    let (Some(id), Some(at), Some(before), Some(hash)) = (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(broken("a row has another form"));
    };
    let before = (before != "\\N").then(|| before.to_owned());
    chain.take(format!("{id}\t{at}"), before, hash.to_owned()).map_err(|error| broken(&error.0))
}

fn broken(what: &str) -> Failure {
    Failure::new(FailureKind::Integrity, format!("rebuild the audit chain: the rows are not one chain: {what}")).hint(
        "Nothing was changed. The backup holds a chain that was broken before, or rows were added without the trigger.",
    )
}
