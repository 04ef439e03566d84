//! `dbagent restore --to DIR`: the whole cluster as it was at a moment.

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::json;

use crate::app::App;
use crate::app::copy_chain::CopyChain;
use crate::app::restored_chain::RestoredChain;
use crate::catalog::Selector;
use crate::cli::arguments::{Restore, RestoreAction};
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress, restore, signals};
use crate::model::failure::{Failure, FailureKind};
use crate::model::instant;
use crate::model::lsn::Timeline;
use crate::model::schedule::Zone;
use crate::model::size::ByteSize;
use crate::ops::recover::{self, Action, Options, Plan, Restored, Started, Target};

/// Most locked relations that people are shown; programs get all.
const LOCKED_SHOWN: usize = 8;

pub async fn run(app: &App, arguments: &Restore, output: &Output) -> Result<Code, Failure> {
    let options = options(app, arguments)?;
    if recover::is_there(&options) {
        let message = format!("{} is a data directory already; nothing was done", options.to.display());
        output.result(&json!({"restored": null, "reason": message}), || message.clone());
        return Ok(0);
    }
    let setting = app.setting(progress::on_screen(output), signals::stop());
    let doors = app.recover_doors(arguments.repository.as_deref(), arguments.jobs).await?;
    let plan = recover::plan(&options, &doors, &setting).await?;
    if arguments.consent.plan {
        let possible = async {
            recover::require_possible(&plan, &options, &doors, &setting).await?;
            if arguments.start { app.starter(&plan).await.map(|_| ()) } else { Ok(()) }
        };
        let planned = json!({"plan": plan_json(app, &plan, &options)});
        return restore::show_plan(possible.await, &planned, plan_text(app, &plan, &options), output);
    }
    output.talk(&plan_text(app, &plan, &options));
    let planned = plan_json(app, &plan, &options);
    let starter = match arguments.start {
        true => {
            let starter = app.starter(&plan).await?;
            recover::require_fetch(&plan, &options, &app.scratch_directory(), &doors, &setting).await?;
            Some(starter)
        }
        false => None,
    };
    let restored = recover::restore(&plan, &options, &doors, &setting).await?;
    let started = match &starter {
        Some(starter) => Some(recover::start(&plan, &options, &restored, starter, &setting).await?),
        None => None,
    };
    app.remember_pace(&plan, &restored, started.as_ref());
    let chain = match started.as_ref() {
        Some(started) => {
            let reason = format!("dbagent restore to {} from the backup {}", options.target, plan.artifact.name);
            app.chain_of_copy(started, plan.base.stopped, options.takeover.then_some(reason), &setting).await
        }
        None => None,
    };
    let code = restore::code_of(chain.as_ref());
    show(app, planned, (&options, &restored), (started.as_ref(), chain.as_ref()), output);
    Ok(code)
}

/// What is asked for; a copy that has a place of its own gets it later.
pub(super) fn options(app: &App, arguments: &Restore) -> Result<Options, Failure> {
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    let to = arguments.to.clone().unwrap_or_default();
    let to = match to.as_os_str().is_empty() {
        true => to,
        false => std::path::absolute(&to)
            .map_err(|error| usage(format!("use the directory {}", to.display())).because(error))?,
    };
    let Ok(selector) = arguments.backup.parse::<Selector>();
    let maps = arguments.tablespace_map.iter().map(|map| map.parse().map_err(usage)).collect::<Result<Vec<_>, _>>()?;
    Ok(Options {
        to,
        target: target(app, arguments)?,
        exclusive: arguments.exclusive,
        timeline: arguments.timeline.map(Timeline),
        backup: (selector != Selector::Latest).then_some(selector),
        action: match arguments.action {
            RestoreAction::Pause => Action::Pause,
            RestoreAction::Promote => Action::Promote,
            RestoreAction::Shutdown => Action::Shutdown,
        },
        if_empty: arguments.if_empty,
        delta: arguments.delta,
        tablespaces: maps,
        takeover: arguments.takeover,
        accept_unsigned: arguments.accept_unsigned,
    })
}

fn target(app: &App, arguments: &Restore) -> Result<Target, Failure> {
    let usage = |message: String| Failure::new(FailureKind::Usage, message);
    if let Some(text) = arguments.target_time.as_deref().filter(|text| *text != "latest") {
        return instant(app, text, arguments.timezone.as_deref()).map(Target::Time);
    }
    if let Some(lsn) = &arguments.target_lsn {
        return lsn.parse().map(Target::Position).map_err(|error| usage(format!("{error}")));
    }
    if let Some(id) = arguments.target_xid {
        return Ok(Target::Transaction(id));
    }
    if let Some(name) = &arguments.target_name {
        return Ok(Target::Name(name.clone()));
    }
    Ok(if arguments.immediate { Target::Immediate } else { Target::Latest })
}

fn instant(app: &App, text: &str, zone: Option<&str>) -> Result<DateTime<Utc>, Failure> {
    let zone: Option<Zone> = match zone {
        Some(zone) => Some(zone.parse().map_err(|error| {
            Failure::new(FailureKind::Usage, "read --timezone")
                .because(error)
                .hint("Zones are named as in Europe/Amsterdam.")
        })?),
        None => app.loaded.config.restore.timezone,
    };
    instant::parse(text, zone, app.clock.now()).map_err(|error| {
        let hint = match error.candidates.as_slice() {
            [] => "Write it like 2026-03-01T14:30:00Z or \"2026-03-01 14:30 Europe/Amsterdam\".".to_owned(),
            candidates => {
                format!(
                    "Did you mean: {}? Write it with its offset or zone, or add --timezone.",
                    candidates.join(" or ")
                )
            }
        };
        Failure::new(FailureKind::Usage, error.to_string()).hint(hint)
    })
}

pub(super) fn precise(instant: DateTime<Utc>) -> String {
    instant.to_rfc3339_opts(SecondsFormat::AutoSi, true)
}

pub(super) fn plan_json(app: &App, plan: &Plan, options: &Options) -> serde_json::Value {
    json!({
        "target": options.target.to_string(),
        "directory": options.to,
        "repository": plan.repository.name,
        "backup": plan.artifact.manifest.id,
        "name": plan.artifact.name.to_string(),
        "chain": plan.chain.iter().map(|link| link.manifest.id).collect::<Vec<_>>(),
        "timeline": plan.timeline.0,
        "window": {"from": precise(plan.reach.from), "until": precise(plan.reach.until)},
        "first_segment": plan.reach.first,
        "last_segment": plan.reach.last,
        "segments": plan.reach.segments,
        "bytes": plan.base.bytes,
        "stored_bytes": plan.stored_bytes,
        "estimate": app.estimate(plan),
        "notes": plan.notes,
    })
}

/// How long it will take, and how that is known.
fn estimate_text(app: &App, plan: &Plan) -> String {
    let Some(estimate) = app.estimate(plan) else {
        return "how long it takes is not known: no restore was measured on this host yet".to_owned();
    };
    let minutes = |seconds: f64| format!("{:.1} min", seconds / 60.0);
    let log = match estimate.log_seconds {
        Some(seconds) => format!("at most {} more to replay the log", minutes(seconds)),
        None => "and an unknown time to replay the log".to_owned(),
    };
    let (files, when) = (minutes(estimate.seconds), precise(estimate.measured));
    format!("about {files} to lay it down, {log}, as fast as the restore of {when} on this host was")
}

pub(super) fn plan_text(app: &App, plan: &Plan, options: &Options) -> String {
    let into = match options.to.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" into {}", options.to.display()),
    };
    let target = match &options.target {
        Target::Time(instant) => {
            format!("{} ({} here)", precise(*instant), instant.with_timezone(&chrono::Local).to_rfc3339())
        }
        target => target.to_string(),
    };
    let mut lines = vec![
        format!("to {target}{into}"),
        format!(
            "from {} in repository {}: {} of files, {} to fetch",
            plan.artifact.name,
            plan.repository.name,
            ByteSize(plan.base.bytes),
            ByteSize(plan.stored_bytes)
        ),
        format!(
            "log: {} segments of timeline {}, {} to {}, all stored",
            plan.reach.segments, plan.timeline.0, plan.reach.first, plan.reach.last
        ),
        format!(
            "from this backup any moment from {} to {} can be reached",
            precise(plan.reach.from),
            precise(plan.reach.until)
        ),
    ];
    lines.push(estimate_text(app, plan));
    lines.extend(plan.notes.iter().map(|note| format!("note: {note}")));
    lines.join("\n")
}

/// Seconds of all phases.
pub(super) fn total(phases: &[(&'static str, f64)]) -> f64 {
    phases.iter().map(|(_, seconds)| seconds).sum()
}

/// The same, against what was promised.
pub(super) fn total_text(app: &App, phases: &[(&'static str, f64)], output: &Output) -> String {
    let seconds = total(phases);
    let Some(goal) = app.loaded.config.goals.rto else { return format!("  in all: {seconds:.1} s") };
    let kept = seconds <= goal.to_duration().as_secs_f64();
    let text = format!("  in all: {seconds:.1} s, {} the goal of {goal} (RTO)", if kept { "within" } else { "beyond" });
    output.paint(if kept { Tone::Good } else { Tone::Bad }, &text)
}

pub(super) fn chain_text(chain: &CopyChain, output: &Output) -> Option<String> {
    match chain {
        CopyChain::NotInstalled => None,
        CopyChain::Whole { rows, seq, checkpoints } => {
            let text = format!(
                "its audit chain is whole: {rows} rows, head at {seq}, against {checkpoints} checkpoints of before"
            );
            Some(output.paint(Tone::Good, &text))
        }
        CopyChain::Broken { findings } => {
            Some(output.paint(Tone::Bad, &format!("its audit chain is NOT whole: {}", findings.join("; "))))
        }
        CopyChain::Unknown { reason } => {
            Some(output.paint(Tone::Warning, &format!("its audit chain is not verified: failed to {reason}")))
        }
    }
}

/// What would make whoever reads it wait without end.
fn locked_text(started: &Started) -> Option<String> {
    let shown: Vec<&str> = started.locked.iter().take(LOCKED_SHOWN).map(String::as_str).collect();
    let more = started.locked.len().saturating_sub(shown.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (!shown.is_empty()).then(|| {
        format!(
            "reading these waits for as long as it is paused, because a transaction that had not ended locks them: {}{more}. \
             SELECT pg_wal_replay_resume() ends recovery here, rolls such transactions back and makes them readable",
            shown.join(", ")
        )
    })
}

fn show(
    app: &App,
    planned: serde_json::Value,
    (options, restored): (&Options, &Restored),
    (started, chain): (Option<&Started>, Option<&RestoredChain>),
    output: &Output,
) {
    let mut phases = restored.phases.clone();
    phases.extend(started.map(|started| ("recover", started.seconds)));
    let listed: Vec<_> = phases.iter().map(|(name, seconds)| json!({"phase": name, "seconds": seconds})).collect();
    let goal = app.loaded.config.goals.rto.map(|goal| goal.to_duration().as_secs_f64());
    let result = json!({
        "restored": {
            "directory": restored.directory, "files": restored.files, "bytes": restored.bytes, "kept": restored.kept,
            "phases": listed, "seconds": total(&phases), "rto_seconds": goal,
        },
        "plan": planned,
        "started": started,
        "audit": chain,
    });
    output.result(&result, || {
        let done =
            format!("{} holds the cluster, ready to recover to {}", restored.directory.display(), options.target);
        let mut lines = vec![output.paint(Tone::Good, &done)];
        lines.extend(phases.iter().map(|(name, seconds)| format!("  {name}: {seconds:.1} s")));
        lines.push(total_text(app, &phases, output));
        match started {
            None => {
                lines.push(format!("start it: pg_ctl -D {} start", restored.directory.display()));
                if options.takeover {
                    lines.push("then, where it has an audit chain: dbagent audit checkpoint --restored WHY".to_owned());
                }
            }
            Some(started) => {
                let last = started.last_commit.map_or("none".to_owned(), precise);
                lines.push(format!("{}; last commit replayed: {last}", started.state));
                lines.extend(chain.into_iter().flat_map(|chain| restore::chain_lines(chain, output)));
                lines.push(format!("look at it: psql -h {} -p {}", started.socket.display(), started.port));
                if started.state == "paused" {
                    lines.push("go on from here as a primary: SELECT pg_wal_replay_resume();".to_owned());
                }
                lines.extend(locked_text(started).map(|text| output.paint(Tone::Warning, &text)));
            }
        }
        lines.join("\n")
    });
}
