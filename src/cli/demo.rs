//! `dbagent demo`: the tour on the screen, one line per claim at its end.
//!
//! Ctrl-C, SIGTERM and a closed terminal end the tour, which then clears everything away by itself. Unlike elsewhere a
//! second signal ends nothing sooner: it would leave a server running.

use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::app::demo::{self, Claim, Options};
use crate::cli::arguments::Demo;
use crate::cli::output::{Output, Tone};
use crate::cli::{Code, progress};
use crate::model::failure::{Failure, FailureKind};

/// Goes on the tour. Success only if every claim held.
pub async fn run(arguments: &Demo, output: &Output) -> Result<Code, Failure> {
    let stop = CancellationToken::new();
    let listening = tokio::spawn(cancel_on_signal(signals()?, stop.clone()));
    let options = Options { keep: arguments.keep.clone(), scale: None, program: None };
    let claims = demo::run(&options, progress::on_screen(output), stop).await;
    listening.abort();
    let claims = claims?;
    output.result(&json!({ "claims": claims }), || lines(&claims, output));
    let all = claims.iter().all(|claim| claim.ok);
    Ok(if all { 0 } else { FailureKind::Failed.exit_code() })
}

fn signals() -> Result<[Signal; 3], Failure> {
    let listen =
        |kind| signal(kind).map_err(|error| Failure::new(FailureKind::Failed, "listen for signals").because(error));
    Ok([listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?])
}

async fn cancel_on_signal([mut interrupt, mut terminate, mut hangup]: [Signal; 3], stop: CancellationToken) {
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    stop.cancel();
}

fn lines(claims: &[Claim], output: &Output) -> String {
    let line = |claim: &Claim| {
        let verdict = if claim.ok { output.paint(Tone::Good, "ok    ") } else { output.paint(Tone::Bad, "FAILED") };
        format!("{verdict}  {:<20} {:>6.1} s\n", claim.name, claim.seconds)
    };
    claims.iter().map(line).collect()
}
