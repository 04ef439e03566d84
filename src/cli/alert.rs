//! `dbagent alert`: alerts about the audit log.

use serde_json::{Value, json};

use crate::app::App;
use crate::cli::arguments::Alert;
use crate::cli::job::{code_of, outcome_text};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, signals, tables};
use crate::model::failure::{Failure, FailureKind};

pub async fn run(app: &App, command: &Alert, output: &Output) -> Result<Code, Failure> {
    match command {
        Alert::List { all } => list(app, *all, output).await,
        Alert::Ack { alert, by, note, .. } => acknowledge(app, alert.as_deref(), by, note.as_deref(), output).await,
        Alert::Test => {
            let setting = app.setting(progress::on_screen(output), signals::stop());
            let outcome = app.test_alert(&setting).await?;
            output.result(&json!({"outcome": outcome}), || outcome_text(&outcome, output));
            Ok(code_of(&outcome))
        }
    }
}

/// Exit code 3 while something is open or waits.
async fn list(app: &App, all: bool, output: &Output) -> Result<Code, Failure> {
    let (kept, waiting) = app.alerts(all).await?;
    let open = !waiting.is_empty() || kept.iter().any(|alert| alert.acknowledged.is_none());
    output.result(&json!({"alerts": kept, "waiting": waiting}), || {
        let rows = kept.iter().map(|alert| {
            let state = match (&alert.acknowledged, &alert.acknowledged_by) {
                (Some(at), Some(by)) => format!("acknowledged {} by {by}", tables::instant(*at)),
                _ => output.paint(Tone::Bad, &format!("open, sent {} times", alert.sends)),
            };
            let detail = alert.payload["detail"].as_str().unwrap_or_default().to_owned();
            vec![tables::instant(alert.raised), alert.id.clone(), alert.kind.clone(), state, detail]
        });
        let mut text = tables::table(&["raised", "alert", "kind", "state", "what"], rows.collect());
        text.extend(kept.iter().map(|alert| facts(&alert.id, &alert.payload)));
        for name in &waiting {
            let line = format!("\nwaits for the database: {name}");
            text.push_str(&output.paint(Tone::Bad, &line));
        }
        text
    });
    Ok(if open { FailureKind::Findings.exit_code() } else { 0 })
}

/// What whoever looks into it needs next: the first bad row, and the last statement that was still good.
fn facts(id: &str, payload: &Value) -> String {
    let first = &payload["first_bad"];
    let known = |(name, value): (&str, &Value)| match value {
        Value::Null => None,
        Value::String(text) => Some(format!("{name} {text}")),
        other => Some(format!("{name} {other}")),
    };
    let row =
        [("seq", &first["seq"]), ("id", &first["id"]), ("of", &first["recorded_at"]), ("in", &first["partition"])];
    let row: Vec<String> = row.into_iter().filter_map(known).collect();
    let what = [
        (!row.is_empty()).then(|| format!("first bad: {}", row.join(", "))),
        known(("rows:", &payload["bad_rows"])),
        known(("last good checkpoint:", &payload["last_good_checkpoint"])),
    ];
    let what: Vec<String> = what.into_iter().flatten().collect();
    format!("\n\n{id}\n  {}", what.join("\n  "))
}

async fn acknowledge(
    app: &App,
    alert: Option<&str>,
    by: &str,
    note: Option<&str>,
    output: &Output,
) -> Result<Code, Failure> {
    let malformed = |_| {
        let message = format!("read {:?} as the id of an alert", alert.unwrap_or_default());
        Failure::new(FailureKind::Usage, message).hint("`dbagent alert list` shows the ids.")
    };
    let id = alert.map(str::parse).transpose().map_err(malformed)?;
    let acknowledged = app.acknowledge_alerts(id, by, note).await?;
    output.result(&json!({"acknowledged": acknowledged}), || format!("{} alerts acknowledged", acknowledged.len()));
    Ok(0)
}
