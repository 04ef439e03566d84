//! `dbagent audit`: the hash chain of the audit log.

use serde_json::json;

use crate::app::App;
use crate::cli::arguments::{
    Audit, AuditBackfill, AuditCheckpoint, AuditInstall, AuditProve, AuditSeal, AuditVerify, Consent,
};
use crate::cli::job::{code_of, outcome_text};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, prompt, signals};
use crate::model::audit::finding::FindingKind;
use crate::model::failure::{Failure, FailureKind};
use crate::model::outcome::Outcome;
use crate::model::span::Span;
use crate::ops::audit_backfill::Backfilled;
use crate::ops::audit_install::Drift;
use crate::ops::audit_prove::Options;
use crate::ops::audit_verify::Scope;
use crate::ops::partition;

pub async fn run(app: &App, command: &Audit, output: &Output) -> Result<Code, Failure> {
    match command {
        Audit::Install(arguments) => install(app, arguments, output).await,
        Audit::Backfill(arguments) => backfill(app, arguments, output).await,
        Audit::Repair(arguments) => repair(app, arguments, output).await,
        Audit::Rebuild(arguments) => rebuild(app, arguments, output).await,
        Audit::Verify(arguments) => verify(app, arguments, output).await,
        Audit::Checkpoint(arguments) => checkpoint(app, arguments, output).await,
        Audit::Seal(arguments) => seal(app, arguments, output).await,
        Audit::Prove(arguments) => prove(app, arguments, output).await,
        Audit::Witness { silence, sample } => {
            let silence = silence.parse::<Span>().map_err(|error| {
                Failure::new(FailureKind::Usage, format!("read {silence:?} as a span of time")).because(error)
            })?;
            let setting = app.setting(progress::on_screen(output), signals::stop());
            told(&app.audit_witness(silence, *sample, &setting).await?, output)
        }
    }
}

async fn backfill(app: &App, arguments: &AuditBackfill, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let AuditInstall { admin_url, database, consent } = &arguments.install;
    let installer = app.audit_installer(admin_url.as_deref(), database.as_deref())?;
    let (database, login) = (installer.connection().database().to_owned(), installer.connection().user().to_owned());
    if consent.plan {
        let kept = app.audit_backfill_plan(&installer, &setting).await?;
        let planned = json!({"database": database, "login": login, "batch": arguments.batch, "kept": kept});
        output.result(&planned, || {
            let rest = match kept {
                0 => "every row of audit_logs gets a new hash and previous_hash.".to_owned(),
                kept => format!(
                    "{kept} rows keep their hashes, which are as [audit.profile] says; all others get new ones."
                ),
            };
            format!("In the database {database}, by {login}: {rest}")
        });
        return Ok(0);
    }
    let what = "write new hashes into every row of audit_logs that no [audit.profile] is for";
    prompt::require_consent(consent, what, &database)?;
    let done = app.audit_backfill(&installer, arguments.batch.max(1), &setting).await?;
    let Backfilled { rows, kept, under_lock } = done;
    output.result(&json!({"database": database, "rows": rows, "kept": kept, "under_lock": under_lock}), || {
        let kept = if kept > 0 { format!("{kept} with the hashes they had, ") } else { String::new() };
        format!("{rows} rows are chained, {kept}{under_lock} while writers were kept out. VACUUM ANALYZE audit_logs.")
    });
    Ok(0)
}

async fn rebuild(app: &App, arguments: &AuditInstall, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let installer = app.audit_installer(arguments.admin_url.as_deref(), arguments.database.as_deref())?;
    let database = installer.connection().database().to_owned();
    if arguments.consent.plan {
        output.result(&json!({"database": database}), || {
            format!(
                "In the database {database}: audit.chain_seq and audit.chain_head, if they are empty, from the log."
            )
        });
        return Ok(0);
    }
    prompt::require_consent(&arguments.consent, "rebuild the side tables of the audit chain", &database)?;
    let rows = app.audit_rebuild(&installer, &setting).await?;
    output.result(&json!({"database": database, "rows": rows}), || {
        format!(
            "{rows} rows have their places again. Next: dbagent audit verify, then audit checkpoint --restored WHY."
        )
    });
    Ok(0)
}

/// Exit code 13 when the chain is not whole, 3 when something else should be looked at.
async fn verify(app: &App, arguments: &AuditVerify, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let scope = match (&arguments.partition, arguments.incremental) {
        (Some(partition), _) => Scope::Partition(partition.clone()),
        (None, true) => Scope::Incremental,
        (None, false) => Scope::Full,
    };
    let outcome = app.audit_verify(scope, arguments.database.as_deref(), &setting).await?;
    told(&outcome, output)
}

async fn checkpoint(app: &App, arguments: &AuditCheckpoint, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    if arguments.restored.is_some() {
        let consent = Consent { plan: false, yes: arguments.yes };
        let what = "let checkpoints of places beyond the present chain no longer count";
        prompt::require_consent(&consent, what, &app.loaded.config.cluster)?;
    }
    let outcome = app.audit_checkpoint(None, arguments.restored.clone(), &setting).await?;
    told(&outcome, output)
}

/// The proof is what `--json` prints: it can be kept, handed on and checked with `--from`.
async fn prove(app: &App, arguments: &AuditProve, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let AuditProve { id, partition, from, row } = arguments;
    let proven = match from {
        Some(file) => app.audit_check_proof(*id, file, row.as_deref(), &setting).await?,
        None => app.audit_prove(&Options { id: *id, partition: partition.clone() }, &setting).await?,
    };
    let (proof, seal) = (&proven.proof, &proven.seal);
    let sealed = json!({"key": seal.key, "digest": seal.digest, "number": seal.seal.number, "root": seal.seal.root,
                        "rows": seal.seal.rows, "sealed": seal.seal.sealed});
    output.result(&json!({"proof": proof, "seal": sealed}), || {
        let when = seal.seal.sealed.format("%Y-%m-%dT%H:%M:%SZ");
        format!(
            "row {id} lay in {} at place {} of the chain, hash {}.\nIts {} digests lead to the root {} of {}, signed {when}.",
            proof.partition,
            proof.seq,
            proof.hash,
            proof.path.len(),
            seal.seal.root,
            seal.key,
        )
    });
    Ok(0)
}

/// Seals months by hand; the job `partitions` seals what it is about to drop.
async fn seal(app: &App, arguments: &AuditSeal, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let (name, job) = app.partition_job()?;
    let (options, doors) = (app.partition_options(name, job, false)?, app.partition_doors(job).await?);
    let due = partition::due(&arguments.partitions, &options, &doors, &setting).await?;
    if arguments.consent.plan {
        let one = |due: &partition::Due| {
            json!({"partition": due.partition.table.to_string(), "rows": due.partition.rows, "bytes": due.partition.bytes,
                   "past_retention": due.is_past_retention})
        };
        let result = json!({"seal": due.iter().map(one).collect::<Vec<_>>()});
        output.result(&result, || match due.as_slice() {
            [] => "nothing is past its retention; name a month to seal it now".to_owned(),
            due => due.iter().map(planned).collect::<Vec<_>>().join("\n"),
        });
        return Ok(0);
    }
    if !due.is_empty() {
        let what = format!("archive and seal {} partitions", due.len());
        prompt::require_consent(&arguments.consent, &what, doors.connection.database())?;
    }
    told(&Box::pin(partition::seal(&due, &options, &doors, &setting)).await?, output)
}

fn planned(due: &partition::Due) -> String {
    let when = if due.is_past_retention { "past its retention" } else { "before its time" };
    format!("archive and seal {} (about {} rows), {when}", due.partition.table, due.partition.rows)
}

fn told(outcome: &Outcome, output: &Output) -> Result<Code, Failure> {
    output.result(&json!({"outcome": outcome}), || outcome_text(outcome, output));
    let broken = |kind: FindingKind| outcome.findings.iter().any(|finding| finding.code == kind.name());
    Ok(if FindingKind::ALL.into_iter().any(broken) { FailureKind::Integrity.exit_code() } else { code_of(outcome) })
}

async fn install(app: &App, arguments: &AuditInstall, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let installer = app.audit_installer(arguments.admin_url.as_deref(), arguments.database.as_deref())?;
    let (database, login) = (installer.connection().database().to_owned(), installer.connection().user().to_owned());
    let pending = app.audit_install_plan(&installer).await?;
    let files: String = pending.iter().map(|name| format!("\n  sql/schema/{name}.sql")).collect();
    let planned = format!("In the database {database}, by {login}: {} files{files}", pending.len());
    if arguments.consent.plan {
        output.result(&json!({"database": database, "login": login, "migrations": pending}), || planned);
        return Ok(0);
    }
    if !pending.is_empty() {
        output.talk(&planned);
        prompt::require_consent(&arguments.consent, "install the audit chain", &database)?;
    }
    let done = app.audit_install(&installer, &setting).await?;
    let drift = lines(&done.drift);
    let result = json!({"database": database, "migrations": done.migrations, "chained": done.chained, "not_as_installed": drift});
    output.result(&result, || match (done.chained, done.enabled_now) {
        (false, _) if !drift.is_empty() => output.paint(
            Tone::Bad,
            "Rows of the log are chained, and the trigger is not on it. Where `dbagent audit backfill` was interrupted, run \
             it again. Otherwise somebody took the trigger off: follow deploy/runbooks/tampering-detected.md; `dbagent audit \
             repair` puts it back.",
        ),
        _ if !drift.is_empty() => output.paint(
            Tone::Bad,
            &format!(
                "The audit log has a chain whose protection is NOT as it was installed:\n  {}\nFollow \
                 deploy/runbooks/tampering-detected.md; `dbagent audit repair` puts trigger and functions back.",
                drift.join("\n  ")
            ),
        ),
        (true, true) => output.paint(Tone::Good, "The audit log is chained from its first row on."),
        (true, false) => output.paint(Tone::Good, "The audit log is chained; nothing was left to do."),
        (false, _) => output.paint(
            Tone::Warning,
            "Installed, but the log has rows and is not chained yet: run `dbagent audit backfill`, after a backup.",
        ),
    });
    Ok(if done.chained && drift.is_empty() { 0 } else { FailureKind::Findings.exit_code() })
}

fn lines(drift: &[Drift]) -> Vec<String> {
    drift.iter().map(|each| format!("{}: {}", each.object, each.what)).collect()
}

/// Exit code 3 while something is left that only a person can judge.
async fn repair(app: &App, arguments: &AuditInstall, output: &Output) -> Result<Code, Failure> {
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let installer = app.audit_installer(arguments.admin_url.as_deref(), arguments.database.as_deref())?;
    let (database, login) = (installer.connection().database().to_owned(), installer.connection().user().to_owned());
    if arguments.consent.plan {
        output.result(&json!({"database": database, "login": login}), || {
            format!("In the database {database}, by {login}: trigger and functions of the audit chain as they are installed.")
        });
        return Ok(0);
    }
    prompt::require_consent(&arguments.consent, "put trigger and functions of the audit chain back", &database)?;
    let (before, after) = app.audit_repair(&installer, &setting).await?;
    let (before, after) = (lines(&before), lines(&after));
    output.result(&json!({"database": database, "before": before, "left": after}), || {
        let done = match before.as_slice() {
            [] => "Nothing was wrong; trigger and functions were put there anew.".to_owned(),
            before => format!("These were not as installed:\n  {}", before.join("\n  ")),
        };
        let left = match after.as_slice() {
            [] => output.paint(Tone::Good, "\nAll is as installed now. Next: dbagent audit verify."),
            after => output.paint(
                Tone::Bad,
                &format!("\nThese still are not; REVOKE, or drop what is not yours:\n  {}", after.join("\n  ")),
            ),
        };
        done + &left
    });
    Ok(if after.is_empty() { 0 } else { FailureKind::Findings.exit_code() })
}
