//! Ctrl-C and SIGTERM end a command cleanly; a second one ends it at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Exit code of a command that was interrupted twice, as shells have it for SIGINT.
const INTERRUPTED: i32 = 130;

/// A token that fires at the first signal.
pub fn stop() -> CancellationToken {
    let token = CancellationToken::new();
    let fired = token.clone();
    tokio::spawn(async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            tracing::warn!("signals cannot be caught; Ctrl-C ends the command at once");
            return;
        };
        let mut first = true;
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if !first {
                #[expect(clippy::disallowed_methods, reason = "the second signal means now")]
                std::process::exit(INTERRUPTED);
            }
            first = false;
            fired.cancel();
        }
    });
    token
}
