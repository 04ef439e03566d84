//! The chain of an artifact: from its full dump over every increment in between to itself, in one repository.

use crate::catalog::Artifact;
use crate::model::failure::{Failure, FailureKind};

/// The chain that ends with `artifact`, the full dump first; looks among `artifacts` for copies in the same repository.
/// Errors with the link that is missing, damaged, or not the one that was built upon.
pub fn line<'a>(artifact: &'a Artifact, artifacts: &'a [Artifact]) -> Result<Vec<&'a Artifact>, Failure> {
    let mut line = vec![artifact];
    let mut child = artifact;
    while let Some(parent) = &child.manifest.parent {
        let broken = |what: String| {
            let message =
                format!("follow the chain of {} in repository {}: {what}", artifact.name, artifact.repository);
            Failure::new(FailureKind::Integrity, message).hint(
                "Use another repository's copy with --repository, or an older backup: `dbagent backup verify` tells which \
                 chains are whole.",
            )
        };
        let here = |other: &&Artifact| other.repository == artifact.repository && other.manifest.id == parent.id;
        let Some(found) = artifacts.iter().find(here) else {
            return Err(broken(format!("{} builds upon {}, which is not there", child.name, parent.id)));
        };
        if found.manifest_digest != parent.manifest_digest {
            return Err(broken(format!("{} is not the one that {} builds upon", found.name, child.name)));
        }
        if let Some(damage) = &found.damaged {
            return Err(broken(format!("{} is damaged: {damage}", found.name)));
        }
        if line.iter().any(|link| link.manifest.id == found.manifest.id) {
            return Err(broken(format!("{} builds upon itself", found.name)));
        }
        line.push(found);
        child = found;
    }
    line.reverse();
    Ok(line)
}
