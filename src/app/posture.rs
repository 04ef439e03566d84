//! What the plan asks of the server's security, for `check`: every key of `[check]` about it has its place here.

use std::collections::BTreeMap;

use crate::app::App;
use crate::config::{Checklist, Plan, RoleRule};
use crate::host::amazon_rds::RdsDatabase;
use crate::model::keep::Keep;
use crate::model::table::TableName;
use crate::model::verb::Verb;
use crate::ops::check::{Declared, HowLong, Kept, Retention, Security};
use crate::postgres::Host;

impl App {
    pub(in crate::app) fn security(&self, plan: &Plan) -> Security {
        let checklist = &plan.check;
        let mut audit_columns: BTreeMap<TableName, Vec<String>> = BTreeMap::new();
        for column in &checklist.audit_columns {
            audit_columns.entry(column.table.clone()).or_default().push(column.column.clone());
        }
        Security {
            tls: checklist.tls,
            row_level_security: checklist.row_level_security.clone(),
            audit_triggers: checklist.audit_triggers.clone(),
            audit_columns,
            roles: roles(checklist),
            retention: Retention {
                logs: checklist.log_retention,
                backups: checklist.backup_retention,
                provider: self.provider(checklist),
                managed: plan.managed,
                kept: self.kept(plan),
            },
        }
    }

    /// The database as Amazon RDS knows it: as the plan says, or by the server's host name.
    fn provider(&self, checklist: &Checklist) -> Option<RdsDatabase> {
        if let Some(name) = &checklist.rds_cluster {
            return Some(RdsDatabase::Cluster(name.clone()));
        }
        if let Some(name) = &checklist.rds_instance {
            return Some(RdsDatabase::Instance(name.clone()));
        }
        match self.connection(Verb::Check, None).ok()?.host() {
            Host::Tcp(name) => RdsDatabase::of_host(name),
            Host::Socket(_) => None,
        }
    }

    fn kept(&self, plan: &Plan) -> Vec<Kept> {
        let dumps = || plan.job.iter().filter(|(_, job)| job.enabled && job.verb == Verb::Dump);
        let repositories = self.loaded.config.repository.keys();
        let of_repository = |repository: &String| {
            let written = dumps().filter(|(_, job)| job.writes_to(repository));
            let kept = written.map(|(name, job)| Kept {
                job: name.clone(),
                repository: repository.clone(),
                how_long: how_long(job.keep_in(repository)),
            });
            kept.collect::<Vec<_>>()
        };
        repositories.flat_map(of_repository).collect()
    }
}

fn how_long(keep: Option<&Keep>) -> HowLong {
    match keep {
        None => HowLong::Ever,
        Some(keep) => keep.age.or(keep.window).map_or(HowLong::Unknown, HowLong::For),
    }
}

/// Roles of our own by their name, others as the plan declares them. A name that is not ours is refused on loading.
fn roles(checklist: &Checklist) -> Vec<Declared> {
    let own = checklist.roles.iter().filter_map(|name| Declared::made(name));
    let declared = |(name, rule): (&String, &RoleRule)| Declared {
        name: name.clone(),
        attributes: rule.attributes.iter().map(|attribute| attribute.name().to_owned()).collect(),
        member_of: rule.member_of.clone(),
        grants: rule.grants.clone(),
    };
    own.chain(checklist.role.iter().map(declared)).collect()
}
