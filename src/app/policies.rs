//! Retention as the plan says it, by repository and job.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::app::App;
use crate::model::failure::Failure;
use crate::ops::expire;

impl App {
    /// What `expire` applies.
    pub fn expire_options(&self) -> Result<expire::Options, Failure> {
        let plan = self.plan()?;
        let mut policies = BTreeMap::new();
        for repository in self.loaded.config.repository.keys() {
            let by_job = plan.job.keys().map(|job| (job.clone(), plan.policy(job, repository))).collect();
            policies.insert(repository.clone(), by_job);
        }
        Ok(expire::Options { policies, grace: self.expire_grace() })
    }

    fn expire_grace(&self) -> Duration {
        self.loaded.config.agent.expire_grace.to_duration()
    }
}
