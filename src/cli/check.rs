//! `dbagent check`: one line per check with the remedy below it, or one line for Nagios.

use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::cli::Code;
use crate::cli::arguments;
use crate::cli::output::{Output, Tone};
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::ops::check::{CheckLine, Status, summary, worst};

/// Works through the checklist. Exit code 0 when all is good, 3 otherwise; with `--nagios` 0, 1 or 2.
pub async fn run(app: &App, arguments: &arguments::Check, output: &Output) -> Result<Code, Failure> {
    let lines = app.check_with(arguments.switch_wal, &app.setting(Events::nowhere(), CancellationToken::new())).await;
    let worst = worst(&lines);
    let result = json!({ "verdict": worst, "summary": summary(&lines), "checks": lines });
    output.result(&result, || if arguments.nagios { nagios(&lines) } else { text(&lines, output) });
    Ok(match (arguments.nagios, worst) {
        (_, Status::Ok) => 0,
        (false, _) => FailureKind::Findings.exit_code(),
        (true, Status::Warn) => 1,
        (true, Status::Fail) => 2,
    })
}

fn text(lines: &[CheckLine], output: &Output) -> String {
    let width = lines.iter().map(|line| line.check.len()).max().unwrap_or_default();
    let mut text = Vec::new();
    for line in lines {
        let (word, tone) = word(line.status);
        text.push(format!("{}  {:width$}  {}", output.paint(tone, &format!("{word:4}")), line.check, line.message));
        let remedy = line.remedy.iter().filter(|_| line.status != Status::Ok);
        text.extend(
            remedy.map(|remedy| format!("{:6}{:width$}  {} {remedy}", "", "", output.paint(Tone::Faint, "remedy:"))),
        );
    }
    text.push(output.paint(word(worst(lines)).1, &summary(lines)));
    text.join("\n")
}

fn word(status: Status) -> (&'static str, Tone) {
    match status {
        Status::Ok => ("OK", Tone::Good),
        Status::Warn => ("WARN", Tone::Warning),
        Status::Fail => ("FAIL", Tone::Bad),
    }
}

/// One line as Nagios plugins have it: the worst first, no `|`, which would begin performance data.
fn nagios(lines: &[CheckLine]) -> String {
    let worst = worst(lines);
    let word = match worst {
        Status::Ok => "OK",
        Status::Warn => "WARNING",
        Status::Fail => "CRITICAL",
    };
    let told = lines.iter().filter(|line| line.status == worst && worst != Status::Ok);
    let told: Vec<String> = told.map(|line| format!("{}: {}", line.check, line.message)).collect();
    let text = std::iter::once(summary(lines)).chain(told).collect::<Vec<_>>().join("; ");
    format!("DBAGENT {word} - {}", text.replace(['\n', '|'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(status: Status, message: &str) -> CheckLine {
        CheckLine { check: "a-check", status, message: message.into(), remedy: Some("mend it".into()) }
    }

    #[test]
    fn nagios_gets_one_line_with_the_worst_in_it() {
        let lines = [line(Status::Ok, "fine"), line(Status::Warn, "soon"), line(Status::Fail, "gone|\nnow")];
        assert_eq!(nagios(&lines), "DBAGENT CRITICAL - 3 checks: 1 failed, 1 to be looked at; a-check: gone  now");
        assert_eq!(nagios(&lines[..1]), "DBAGENT OK - 1 checks: all good");
        assert!(nagios(&lines[..2]).starts_with("DBAGENT WARNING - "));
    }
}
