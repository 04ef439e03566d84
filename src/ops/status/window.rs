//! The recovery window of every repository: each good base backup, followed along each timeline that it leads to.

use chrono::{DateTime, Utc};

use super::Read;
use crate::catalog::{Artifact, CatalogError, Inventory, Repository};
use crate::model::failure::with_causes;
use crate::model::lsn::Timeline;
use crate::model::outcome::{Finding, Severity};
use crate::model::window::{RecoveryStatus, WindowStatus, spans};
use crate::steps::wal::Archive;

/// Works the windows out, of the repositories that could be read and whose log can be believed. `local_durable` says that
/// PostgreSQL is told "archived" by this host alone.
pub async fn recovery_status(
    repositories: &[Repository],
    read: &[Read],
    local_durable: bool,
    now: DateTime<Utc>,
) -> RecoveryStatus {
    let mut status = RecoveryStatus { local_durable, ..RecoveryStatus::default() };
    for repository in repositories {
        let inventory = read.iter().find(|(name, _)| *name == repository.name).and_then(|(_, read)| read.as_ref().ok());
        let Some(inventory) = inventory.filter(|inventory| inventory.broken_log.is_none()) else { continue };
        match windows(repository, inventory, now).await {
            Ok(windows) => status.windows.extend(windows),
            Err(error) => {
                let message = format!(
                    "the recovery window of repository {} is not known: {}",
                    repository.name,
                    with_causes(&error)
                );
                status.findings.push(Finding::new(Severity::Critical, "window-unknown", message));
            }
        }
    }
    let newest = status.windows.iter().map(|window| window.timeline).max();
    for window in &mut status.windows {
        window.current = Some(window.timeline) == newest;
    }
    let findings: Vec<Finding> =
        status.windows.iter().filter(|each| each.current).flat_map(WindowStatus::findings).collect();
    status.findings.extend(findings);
    status
}

async fn windows(
    repository: &Repository,
    inventory: &Inventory,
    now: DateTime<Utc>,
) -> Result<Vec<WindowStatus>, CatalogError> {
    let bases: Vec<&Artifact> = inventory.artifacts.iter().filter(|artifact| artifact.verified.is_some()).collect();
    if bases.iter().all(|artifact| artifact.manifest.base.is_none()) {
        return Ok(Vec::new());
    }
    let archive = Archive::read(repository, now).await?;
    let mut timelines: Vec<Timeline> = archive.timelines.all().collect();
    timelines.reverse();
    let mut windows = Vec::new();
    for timeline in timelines {
        let mut reaches = Vec::new();
        for manifest in bases.iter().map(|artifact| &artifact.manifest) {
            if !manifest.base.as_ref().is_some_and(|base| archive.reachable(base).contains(&timeline)) {
                continue;
            }
            if let Some(reach) = archive.reach(repository, manifest, timeline, now).await? {
                reaches.push(reach.reached());
            }
        }
        let spans = spans(reaches);
        if let Some(last) = spans.last() {
            let rpo_seconds = (now - last.until).num_seconds().max(0);
            let repository = repository.name.clone();
            windows.push(WindowStatus { repository, timeline, current: false, spans, rpo_seconds });
        }
    }
    Ok(windows)
}
