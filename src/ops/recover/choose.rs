//! The plan of a recovery: which base backup of which repository, along which timeline, and whether the target can be
//! reached at all. Refuses before anything is written.

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use crate::catalog::{Artifact, Inventory, Repository, Selector, Unsigned, chain};
use crate::model::base::BaseRecord;
use crate::model::failure::{Failure, FailureKind, with_causes};
use crate::model::lsn::Timeline;
use crate::model::wal::Asked;
use crate::ops::Setting;
use crate::ops::recover::directory::tight;
use crate::ops::recover::refusal::outside_window;
use crate::ops::recover::target::Target;
use crate::ops::recover::{Doors, Options};
use crate::steps::wal::{Archive, Reach};

/// How far the time of a file is behind that of the write, at most: kernels take it from their last tick (100 a second at
/// least). A moment that is let through by this can be reached only where the log has a later commit: where PostgreSQL sees
/// none, it does not end the recovery there by itself, and neither do we (`start`).
const FILE_TIME: TimeDelta = TimeDelta::milliseconds(10);

/// What a recovery will use.
#[derive(Debug)]
pub struct Plan {
    /// The repository.
    pub repository: Repository,
    /// The base backup.
    pub artifact: Artifact,
    /// What it is made of: the full one first, itself last.
    pub chain: Vec<Artifact>,
    /// What its manifest says of it.
    pub base: BaseRecord,
    /// The timeline to follow.
    pub timeline: Timeline,
    /// How far it reaches.
    pub reach: Reach,
    /// Bytes to fetch, without the log.
    pub stored_bytes: u64,
    /// Where the copy's server asks for the log.
    pub asked: Asked,
    /// What else a person should know.
    pub notes: Vec<String>,
}

/// Plans the recovery in the first repository that can serve it.
pub async fn plan(options: &Options, doors: &Doors, setting: &Setting) -> Result<Plan, Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    let mut notes: Vec<String> = Vec::new();
    for (name, failure) in &doors.unopened {
        notes.push(format!("repository {name} cannot be opened: failed to {}", failure.full_message()));
    }
    for repository in &doors.repositories {
        match plan_in(repository, options, setting).await {
            Ok(mut plan) => {
                plan.asked = asked(&plan, options, doors).await?;
                plan.notes.extend(notes);
                // A copy that has a place of its own gets it later.
                let has_place = !options.to.as_os_str().is_empty() && !options.delta;
                plan.notes.extend(has_place.then(|| tight(&plan, &options.to)).flatten());
                return Ok(plan);
            }
            Err(failure) => {
                notes.push(format!("not from repository {}: failed to {}", repository.name, failure.full_message()));
                failures.push(failure);
            }
        }
    }
    // A repository that could not serve the instant says more than one that could not be read.
    let best = failures.iter().position(|failure| failure.kind == FailureKind::OutsideWindow).unwrap_or_default();
    if failures.is_empty() {
        return Err(Failure::new(FailureKind::Usage, "restore: no repository takes WAL"));
    }
    Err(failures.swap_remove(best))
}

/// Where the copy's server asks for the log. Up to a target, the repository of the plan has all of it, and its word that
/// there is no more is enough; where everything is wanted, every repository has to say that there is no more.
async fn asked(plan: &Plan, options: &Options, doors: &Doors) -> Result<Asked, Failure> {
    if let Some(only) = &doors.only {
        return Ok(Asked::Only(only.clone()));
    }
    let planned = plan.repository.name.clone();
    if options.target != Target::Latest {
        return Ok(Asked::Believing(planned));
    }
    let mut unknown: Vec<String> =
        doors.unopened.iter().map(|(name, failure)| format!("{name} ({})", failure.full_message())).collect();
    for repository in doors.repositories.iter().filter(|repository| repository.name != planned) {
        match repository.identity().await {
            Ok(Some(identity)) if identity.cluster == doors.cluster => {}
            Ok(Some(identity)) => unknown.push(format!("{} (it is of {})", repository.name, identity.cluster)),
            Ok(None) => unknown.push(format!("{} (it is empty)", repository.name)),
            Err(error) => unknown.push(format!("{} ({})", repository.name, with_causes(&error))),
        }
    }
    match unknown.is_empty() {
        true => Ok(Asked::All),
        false => {
            let message = format!("tell what is the latest: nobody knows what is in repository {}", unknown.join(", "));
            Err(Failure::new(FailureKind::RefusedForSafety, message).hint(format!(
                "Is it lost? --repository {planned} takes what that one has for the latest: up to {}. A --target-time \
                 within the window needs no other repository.",
                plan.reach.until.to_rfc3339_opts(SecondsFormat::AutoSi, true)
            )))
        }
    }
}

async fn plan_in(repository: &Repository, options: &Options, setting: &Setting) -> Result<Plan, Failure> {
    let now = setting.clock.now();
    let unsigned = if options.accept_unsigned { Unsigned::Accept } else { Unsigned::Refuse };
    let inventory = Inventory::read(repository, unsigned, now).await?;
    if let (Some(reason), false) = (&inventory.broken_log, options.accept_unsigned) {
        return Err(Failure::new(FailureKind::Integrity, format!("trust repository {}: {reason}", repository.name))
            .hint("Restore from another repository with --repository, or add --accept-unsigned if you know why."));
    }
    let bases = bases(&inventory, options)?;
    if bases.is_empty() {
        return Err(Failure::new(
            FailureKind::NothingMatches,
            format!("find a base backup in repository {}", repository.name),
        )
        .hint("`dbagent job run base` makes one; `dbagent backup list` shows what there is."));
    }
    let archive = Archive::read(repository, now).await?;
    Search { repository, options, all: &inventory.artifacts, bases, archive, now }.find().await
}

/// The base backups to choose from, oldest first.
fn bases(inventory: &Inventory, options: &Options) -> Result<Vec<Artifact>, Failure> {
    let all: Vec<Artifact> = inventory.artifacts.iter().filter(|each| each.manifest.base.is_some()).cloned().collect();
    let mut chosen: Vec<Artifact> = match &options.backup {
        // Whoever names a backup may have a damaged one.
        Some(selector) if *selector != Selector::Latest => selector.choose(&all)?.into_iter().cloned().collect(),
        _ => {
            let whole = |each: &&Artifact| each.damaged.is_none() && chain::line(each, &all).is_ok();
            all.iter().filter(whole).cloned().collect()
        }
    };
    chosen.sort_by_key(|each| each.manifest.as_of());
    Ok(chosen)
}

struct Search<'a> {
    repository: &'a Repository,
    options: &'a Options,
    all: &'a [Artifact],
    bases: Vec<Artifact>,
    archive: Archive,
    now: DateTime<Utc>,
}

impl Search<'_> {
    /// The newest base backup that can serve the target; for a target whose place is not known, the oldest.
    async fn find(self) -> Result<Plan, Failure> {
        let mut reaches: Vec<(Timeline, Reach)> = Vec::new();
        let unknown = matches!(self.options.target, Target::Transaction(_) | Target::Name(_));
        let order: Vec<&Artifact> =
            if unknown { self.bases.iter().collect() } else { self.bases.iter().rev().collect() };
        for artifact in order {
            let Some(base) = &artifact.manifest.base else { continue };
            let timelines = self.archive.reachable(base);
            let asked = self.options.timeline;
            for timeline in timelines.iter().copied().filter(|each| asked.is_none_or(|asked| asked == *each)) {
                let Some(reach) = self.archive.reach(self.repository, &artifact.manifest, timeline, self.now).await?
                else {
                    continue;
                };
                if self.serves(&reach, base) {
                    return self.plan(artifact, base, (timeline, reach), &timelines, unknown);
                }
                reaches.push((timeline, reach));
            }
        }
        Err(outside_window(&self.options.target, &self.repository.name, &reaches, self.now))
    }

    fn serves(&self, reach: &Reach, base: &BaseRecord) -> bool {
        match &self.options.target {
            Target::Time(instant) => reach.from <= *instant && *instant <= reach.until + FILE_TIME,
            Target::Position(lsn) => base.stop <= *lsn && *lsn < reach.end,
            Target::Transaction(_) | Target::Name(_) | Target::Immediate => true,
            Target::Latest => reach.gap.is_none(),
        }
    }

    fn plan(
        &self,
        artifact: &Artifact,
        base: &BaseRecord,
        (timeline, reach): (Timeline, Reach),
        timelines: &[Timeline],
        unknown: bool,
    ) -> Result<Plan, Failure> {
        let chain: Vec<Artifact> = chain::line(artifact, self.all)?.into_iter().cloned().collect();
        let mut notes = Vec::new();
        let others: Vec<String> =
            timelines.iter().filter(|other| **other != timeline).map(|other| other.0.to_string()).collect();
        if !others.is_empty() {
            notes.push(format!(
                "there are other timelines from this backup: {}; this restore follows {} (--timeline chooses)",
                others.join(", "),
                timeline.0
            ));
        }
        if unknown {
            notes.push(
                "when the target was is not known, so that the oldest base backup is used; --backup chooses another"
                    .into(),
            );
        }
        if let Some(damage) = &artifact.damaged {
            notes.push(format!("this backup does not count as good: {damage}"));
        }
        if chain.len() > 1 {
            let names: Vec<String> = chain.iter().map(|link| link.name.to_string()).collect();
            notes.push(format!("this backup is made of a chain of {}: {}", chain.len(), names.join(", ")));
        }
        Ok(Plan {
            repository: self.repository.clone(),
            artifact: artifact.clone(),
            stored_bytes: chain.iter().map(|link| link.manifest.stored_size()).sum(),
            chain,
            base: base.clone(),
            timeline,
            reach,
            asked: Asked::All,
            notes,
        })
    }
}
