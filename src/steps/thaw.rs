//! Makes archived objects readable: asks for the thaw, says how long it takes, and goes on when it is there.

use std::time::Duration;

use crate::catalog::{Artifact, Repository};
use crate::host::Clock;
use crate::model::event::Events;
use crate::model::failure::{Failure, FailureKind};
use crate::storage::Thaw;
use tokio_util::sync::CancellationToken;

/// How many days a thawed copy stays readable.
const DAYS: u32 = 3;

/// How often the store is asked whether the thaw is done.
const ASK_EVERY: Duration = Duration::from_secs(60);

/// Waits until every object of `artifact` in `repository` can be read.
pub async fn thaw(
    repository: &Repository,
    artifact: &Artifact,
    clock: &dyn Clock,
    events: &Events,
    stop: &CancellationToken,
) -> Result<(), Failure> {
    let mut told = false;
    for object in &artifact.manifest.objects {
        if repository.storage.head(&object.key).await?.readable {
            continue;
        }
        while let Thaw::Underway { expected } =
            repository.storage.thaw(&object.key, object.version.as_deref(), DAYS).await?
        {
            if !told {
                let hours = expected.as_secs().div_ceil(3600);
                events.note(format!(
                    "{} is archived; the store was asked for it and takes about {hours} hours",
                    artifact.name
                ));
                told = true;
            }
            tokio::select! {
                () = clock.sleep(ASK_EVERY) => {}
                () = stop.cancelled() => return Err(stopped(artifact)),
            }
        }
    }
    Ok(())
}

fn stopped(artifact: &Artifact) -> Failure {
    Failure::new(FailureKind::Failed, format!("wait for the thaw of {}: told to stop", artifact.name))
        .hint("The thaw goes on in the store; run the same restore again later.")
}
