//! Makes archived objects readable: asks for the thaw, says how long it takes, and goes on when it is there.

use std::time::Duration;

use crate::catalog::{Artifact, Repository};
use crate::host::Clock;
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::steps::read_back::newest;
use crate::storage::Thaw;
use tokio_util::sync::CancellationToken;

/// How many days a thawed copy stays readable.
const DAYS: u32 = 3;

/// How often the store is asked whether the thaw is done.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Waits until every object of `artifact` in `repository` can be read. All are asked for at once: each takes hours.
pub async fn thaw(
    repository: &Repository,
    artifact: &Artifact,
    clock: &dyn Clock,
    events: &Events,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut archived = Vec::new();
    for object in &artifact.manifest.objects {
        if newest(repository, object).await?.is_some_and(|meta| !meta.readable) {
            archived.push(object);
        }
    }
    let mut told = false;
    loop {
        let (mut underway, mut longest) = (Vec::new(), Duration::ZERO);
        for object in archived {
            let thaw = repository.storage.thaw(&object.key, object.version.as_deref(), DAYS).await?;
            if let Thaw::Underway { expected } = thaw {
                underway.push(object);
                longest = longest.max(expected);
            }
        }
        if underway.is_empty() {
            return Ok(());
        }
        if !told {
            let hours = longest.as_secs().div_ceil(3600);
            let name = &artifact.name;
            events.note(format!("{name} is archived; the store was asked for it and takes about {hours} hours"));
            told = true;
        }
        tokio::select! {
            () = clock.sleep(ASK_EVERY) => {}
            () = stop.cancelled() => return Err(stopped(artifact)),
        }
        archived = underway;
    }
}

fn stopped(artifact: &Artifact) -> Failure {
    Failure::new(FailureKind::Failed, format!("wait for the thaw of {}: told to stop", artifact.name))
        .hint("The thaw goes on in the store; run the same restore again later.")
}
