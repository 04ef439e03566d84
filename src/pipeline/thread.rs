//! Starts the belt's own threads: named, and with an answer that can be awaited.
//!
//! Not the runtime's blocking pool: a thread that hangs in a read must not keep the runtime from ending.

use std::{io, thread};

use tokio::sync::oneshot;

/// Runs `work` on a thread of its own. A panic shows as a closed channel.
pub(super) fn run<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<oneshot::Receiver<T>> {
    let (answer, result) = oneshot::channel();
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Whoever asked may be gone; then nobody needs the answer.
        let _ = answer.send(work());
    })?;
    Ok(result)
}
