//! The claims about the audit log: its rows are one chain, and a superuser who alters one is heard of at once.

use std::time::Duration;

use crate::app::demo::Guide;
use crate::app::demo::stage::{DATABASE, Stage};
use crate::model::audit::finding::FindingKind;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::Verdict;
use crate::model::verb::Verb;
use crate::ops::audit_verify::Scope;
use crate::postgres::Session;

/// Longest that a listener waits for the alert.
const PATIENCE: Duration = Duration::from_secs(20);
/// Rows chained in one transaction.
const BATCH: u32 = 5000;
/// What a superuser can do to a row that nobody else can: triggers look away.
const FORGE: &str = "SET session_replication_role = replica; UPDATE public.audit_logs SET success = NOT success \
     WHERE (id, recorded_at) = (SELECT id, recorded_at FROM audit.chain_seq WHERE seq = 100)";

/// The log, which has rows already, is chained, written to and verified.
pub(super) async fn chained(stage: &Stage, guide: &Guide) -> Result<String, Failure> {
    let (app, setting) = (&stage.app, stage.app.setting(guide.events.clone(), guide.stop.clone()));
    guide.events.note("\n$ dbagent audit install && dbagent audit backfill".to_owned());
    let installer = app.audit_installer(None, Some(DATABASE))?;
    app.audit_install(&installer, &setting).await?;
    let chained = app.audit_backfill(&installer, BATCH, &setting).await?;
    session(stage)
        .await?
        .batch("INSERT INTO public.audit_logs (action, resource) VALUES ('demo.visit', 'demo')")
        .await?;
    guide.events.note("\n$ dbagent audit verify && dbagent audit checkpoint".to_owned());
    let verified = app.audit_verify(Scope::Full, Some(DATABASE), &setting).await?;
    require(verified.verdict == Verdict::Ok, || format!("find the chain whole: {}", verified.summary))?;
    let signed = app.audit_checkpoint(None, None, &setting).await?;
    require(signed.verdict == Verdict::Ok, || format!("sign a checkpoint: {}", signed.summary))?;
    Ok(format!(
        "{} rows of audit_logs were chained by hashes, the next one by its trigger; {}; its head is signed in {}.",
        chained.rows,
        verified.summary,
        stage.repository().join("checkpoints").display()
    ))
}

/// A superuser alters a row, and the alert is heard on a listening connection.
pub(super) async fn alerted(stage: &Stage, guide: &Guide) -> Result<String, Failure> {
    let (app, setting) = (&stage.app, stage.app.setting(guide.events.clone(), guide.stop.clone()));
    let mut listener = app.connection(Verb::AuditVerify, Some(DATABASE))?.listen("audit_tampering_detected").await?;
    session(stage).await?.batch(FORGE).await?;
    guide.events.note("\nA superuser alters one row of the audit log.\n\n$ dbagent audit verify".to_owned());
    let verified = app.audit_verify(Scope::Full, Some(DATABASE), &setting).await?;
    let heard = tokio::time::timeout(PATIENCE, listener.next()).await;
    // What was done is undone, whatever came of it, for those who keep the stage.
    session(stage).await?.batch(FORGE).await?;
    let named = verified.findings.iter().any(|finding| finding.code == FindingKind::RowAltered.name());
    require(named, || format!("notice an altered row: {}", verified.summary))?;
    let heard = heard.ok().flatten().unwrap_or_default();
    let payload: serde_json::Value = serde_json::from_str(&heard).unwrap_or_default();
    let told = payload["kind"] == FindingKind::RowAltered.name() && payload["first_bad"]["seq"] == 100;
    require(told, || format!("hear the alert on channel audit_tampering_detected: {heard:?}"))?;
    let acknowledged = app.acknowledge_alerts(None, "demo", Some("the demo altered the row itself")).await?;
    let again = app.audit_verify(Scope::Full, Some(DATABASE), &setting).await?;
    require(again.verdict == Verdict::Ok, || format!("find the chain whole again: {}", again.summary))?;
    Ok(format!(
        "The row was named (place {} of the chain) and the alert was heard on a LISTENing connection; with the row put right and \
         {} alert acknowledged the chain is whole again.",
        payload["first_bad"]["seq"],
        acknowledged.len()
    ))
}

async fn session(stage: &Stage) -> Result<Session, Failure> {
    Ok(stage.app.connection(Verb::Dump, Some(DATABASE))?.connect().await?)
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<(), Failure> {
    if holds { Ok(()) } else { Err(Failure::new(FailureKind::Integrity, otherwise())) }
}
