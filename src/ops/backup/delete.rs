//! Deleting one copy of one backup, unless something still needs it.

use crate::catalog::{Artifact, Repository};
use crate::model::failure::{Failure, FailureKind};
use crate::ops::Setting;
use crate::steps::bury;

/// Why `artifact` may not be deleted from its repository, given everything that repository holds.
pub fn delete_refusal(artifact: &Artifact, holdings: &[Artifact]) -> Option<Failure> {
    let refuse = |why: String| {
        let message = format!("delete {} from repository {}: {why}", artifact.name, artifact.repository);
        Failure::new(FailureKind::RefusedForSafety, message)
    };
    if let Some(reason) = &artifact.pinned {
        let failure = refuse(format!("it is kept by hand ({reason})"));
        return Some(failure.hint("`dbagent backup keep --release` puts it under retention again."));
    }
    let here = || holdings.iter().filter(|other| other.repository == artifact.repository);
    let id = artifact.manifest.id;
    if let Some(child) = here().find(|other| other.manifest.parent.as_ref().is_some_and(|parent| parent.id == id)) {
        return Some(refuse(format!("{} builds upon it", child.name)));
    }
    let another_good = here().any(|other| {
        other.manifest.id != id && other.manifest.job == artifact.manifest.job && other.verified.is_some()
    });
    if artifact.verified.is_some() && !another_good {
        let failure = refuse(format!("it is the last good backup of the job {} there", artifact.manifest.job));
        return Some(failure.hint("Make another one first."));
    }
    None
}

/// Deletes one copy, unless a restore or a backup holds it. Gives the bytes freed.
pub async fn delete(repository: &Repository, artifact: &Artifact, setting: &Setting) -> Result<u64, Failure> {
    let now = setting.clock.now();
    if repository.leased(now).await?.contains(&artifact.manifest.id) {
        let message = format!(
            "delete {} from repository {}: a running restore reads it, or a running backup builds upon it",
            artifact.name, artifact.repository
        );
        return Err(Failure::new(FailureKind::RefusedForSafety, message).hint(
            "Wait for its end. The hold of one that died ends by itself: a restore's within a week, a backup's within six \
             hours.",
        ));
    }
    Ok(bury::bury(repository, artifact, "deleted by hand", now).await?)
}
