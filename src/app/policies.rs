//! Retention as the plan says it, by repository and job.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::app::App;
use crate::model::failure::Failure;
use crate::model::verb::Verb;
use crate::ops::expire;

impl App {
    /// What `expire` applies.
    pub fn expire_options(&self) -> Result<expire::Options, Failure> {
        let plan = self.plan()?;
        let now = self.clock.now();
        let mut policies = BTreeMap::new();
        for repository in self.loaded.config.repository.keys() {
            let by_job = plan.job.keys().map(|job| (job.clone(), plan.policy(job, repository, now))).collect();
            policies.insert(repository.clone(), by_job);
        }
        Ok(expire::Options { policies, grace: self.expire_grace(), checkpoints: self.checkpoint_ends()? })
    }

    /// Until when checkpoints of the audit chain are past what the plan keeps, by repository. Several jobs: the longest.
    fn checkpoint_ends(&self) -> Result<BTreeMap<String, DateTime<Utc>>, Failure> {
        let jobs = || {
            self.loaded.plan.iter().flat_map(|plan| plan.job.values()).filter(|job| job.verb == Verb::AuditCheckpoint)
        };
        let now = self.clock.now();
        let end = |repository: &String| {
            let ends = jobs().map(|job| job.keep_in(repository).and_then(|keep| keep.age).map(|age| age.before(now)));
            // A job that keeps for ever keeps all.
            let ends: Option<Vec<DateTime<Utc>>> = ends.collect();
            Some((repository.clone(), ends?.into_iter().min()?))
        };
        Ok(self.loaded.config.repository.keys().filter_map(end).collect())
    }

    /// The repositories to expire in; those that cannot be opened must not hold up the others.
    pub async fn expire_doors(&self) -> Result<expire::Doors, Failure> {
        let (repositories, mut unopened) = self.try_repositories(None).await?;
        match (repositories.is_empty(), unopened.pop()) {
            (true, Some((_, failure))) => Err(failure),
            (_, last) => Ok(expire::Doors { repositories, unopened: unopened.into_iter().chain(last).collect() }),
        }
    }

    pub(super) fn expire_grace(&self) -> Duration {
        self.loaded.config.agent.expire_grace.to_duration()
    }
}
