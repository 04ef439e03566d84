//! SIGTERM and SIGINT stop the agent (a second one at once); SIGHUP reloads its configuration.

use std::sync::PoisonError;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::app::agent::{Current, jobs};
use crate::model::failure::{Failure, FailureKind};
use crate::scheduler::Command;

/// Feeds signals to the scheduler. Signals are caught from the moment this returns.
pub(super) fn watch(
    current: Current,
    commands: mpsc::Sender<Command>,
) -> Result<impl Future<Output = ()> + Send + 'static, Failure> {
    let (mut terminate, mut interrupt) = (caught(SignalKind::terminate())?, caught(SignalKind::interrupt())?);
    let mut hangup = caught(SignalKind::hangup())?;
    Ok(async move {
        loop {
            let command = tokio::select! {
                _ = terminate.recv() => Command::Stop,
                _ = interrupt.recv() => Command::Stop,
                _ = hangup.recv() => Command::Reload(reload(&current)),
            };
            if commands.send(command).await.is_err() {
                return;
            }
        }
    })
}

fn caught(kind: SignalKind) -> Result<Signal, Failure> {
    signal(kind).map_err(|error| Failure::new(FailureKind::Failed, "catch signals").because(error))
}

/// The new jobs, with the new configuration put in force; on any error the old one stays.
fn reload(current: &Current) -> Result<Vec<crate::scheduler::Job>, Failure> {
    let old = current.read().unwrap_or_else(PoisonError::into_inner).clone();
    let new = old.reload()?;
    let jobs = jobs::of_plan(&new)?;
    *current.write().unwrap_or_else(PoisonError::into_inner) = new;
    Ok(jobs)
}
