//! What has to be said of an artifact besides that it was made.

use chrono::{DateTime, Utc};

use crate::model::manifest::LargeObjects;
use crate::model::outcome::{Finding, Severity};
use crate::pipeline::openpgp::{Recipient, Recipients};
use crate::postgres::Coordinator;
use crate::steps::artifact::Options;

/// Not encrypted, or not for long any more.
pub fn encryption_findings(recipients: Option<&Recipients>, now: DateTime<Utc>) -> Vec<Finding> {
    match recipients {
        Some(recipients) => recipients.list().iter().filter_map(|recipient| expiry_finding(recipient, now)).collect(),
        None => vec![
            Finding::new(
                Severity::Warning,
                "not-encrypted",
                "artifacts are stored in the clear: encryption is \"none\"",
            )
            .remedy("give [encryption] recipients in dbagent.toml"),
        ],
    }
}

fn expiry_finding(recipient: &Recipient, now: DateTime<Utc>) -> Option<Finding> {
    let days = recipient.warning(now)?;
    let message =
        format!("the recipient {} expires in {days} days, and then nothing can be dumped", recipient.fingerprint);
    Some(
        Finding::new(Severity::Warning, "recipient-expires", message)
            .remedy("extend it, or name a new one in [encryption]"),
    )
}

/// Large objects that are there and left out.
pub fn large_object_finding(coordinator: &Coordinator, options: &Options) -> Option<Finding> {
    let count = coordinator.large_object_count();
    (count > 0 && !options.large_objects).then(|| {
        let message = format!("{count} large objects of the database are not in this dump");
        Finding::new(Severity::Warning, "large-objects-excluded", message)
            .remedy("set large_objects = true in the job if they are needed")
    })
}

/// What a dump says about large objects.
pub fn large_objects(coordinator: &Coordinator, options: &Options) -> LargeObjects {
    match (coordinator.large_object_count(), options.large_objects) {
        (0, _) => LargeObjects::None,
        (_, true) => LargeObjects::Included,
        (_, false) => LargeObjects::Excluded,
    }
}
