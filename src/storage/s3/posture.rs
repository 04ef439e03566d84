//! What a bucket's owner has set around our objects: encryption, who may read, what its lifecycle deletes.
//!
//! Those who only write have no right to ask, and stores differ in what they answer: what is not told is not known, and
//! never good by default.

use aws_sdk_s3::operation::get_bucket_lifecycle_configuration::GetBucketLifecycleConfigurationOutput as Lifecycle;
use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule};

use crate::storage::s3::bucket::Bucket;
use crate::storage::{Posture, StorageError};

/// Asks.
pub(super) async fn posture(bucket: &Bucket) -> Result<Posture, StorageError> {
    let name = &bucket.settings.bucket;
    let what = format!("ask the bucket {name} how it encrypts");
    let encryption = bucket.send(&what, 0, || bucket.client.get_bucket_encryption().bucket(name).send()).await;
    let encryption = told(encryption, "ServerSideEncryptionConfigurationNotFoundError")?;
    let what = format!("ask the bucket {name} for its lifecycle");
    let rules = bucket.send(&what, 0, || bucket.client.get_bucket_lifecycle_configuration().bucket(name).send()).await;
    let prefix = bucket.key("");
    let deleting = told(rules, "NoSuchLifecycleConfiguration")?
        .map(|rules| rules.as_ref().map(|rules| deleting(rules, &prefix)).unwrap_or_default());
    Ok(Posture { encrypted: encryption.map(|found| found.is_some()), public: public(bucket).await?, deleting })
}

/// Whether strangers may be let in: nothing blocks it, and the policy does it or cannot be asked.
async fn public(bucket: &Bucket) -> Result<Option<bool>, StorageError> {
    let name = &bucket.settings.bucket;
    let what = format!("ask the bucket {name} what it blocks");
    let block = bucket.send(&what, 0, || bucket.client.get_public_access_block().bucket(name).send()).await;
    let block = told(block, "NoSuchPublicAccessBlockConfiguration")?;
    let blocks = block.as_ref().and_then(Option::as_ref).and_then(|block| block.public_access_block_configuration());
    let all = blocks.is_some_and(|blocks| {
        let set = [
            blocks.block_public_acls(),
            blocks.ignore_public_acls(),
            blocks.block_public_policy(),
            blocks.restrict_public_buckets(),
        ];
        set.into_iter().all(|set| set == Some(true))
    });
    if all {
        return Ok(Some(false));
    }
    let what = format!("ask the bucket {name} whom its policy lets in");
    let policy = bucket.send(&what, 0, || bucket.client.get_bucket_policy_status().bucket(name).send()).await;
    let policy = told(policy, "NoSuchBucketPolicy")?.flatten();
    let by_policy = policy.and_then(|policy| policy.policy_status()?.is_public());
    // No block, and no policy that opens it: access lists may still.
    Ok(by_policy.filter(|public| *public).or(block.map(|_| true)))
}

/// The answer; nothing in it where the store says with `none` that nothing is configured; nothing at all where it does not
/// tell: not built, not allowed to ask.
fn told<T>(answer: Result<T, StorageError>, none: &str) -> Result<Option<Option<T>>, StorageError> {
    match answer {
        Ok(output) => Ok(Some(Some(output))),
        Err(error) if error.message.contains(none) => Ok(Some(None)),
        Err(error) if error.is_transient() => Err(error),
        Err(_) => Ok(None),
    }
}

/// The rules in force that delete present objects below `prefix`, or some of them.
fn deleting(lifecycle: &Lifecycle, prefix: &str) -> Vec<String> {
    let reaches = |rule: &&LifecycleRule| {
        let of = scope(rule);
        prefix.starts_with(of) || of.starts_with(prefix)
    };
    let deletes = |rule: &&LifecycleRule| {
        let ends = rule.expiration().is_some_and(|end| end.days().is_some() || end.date().is_some());
        rule.status() == &ExpirationStatus::Enabled && ends
    };
    let rules = lifecycle.rules().iter().filter(deletes).filter(reaches);
    rules.map(|rule| rule.id().unwrap_or("without a name").to_owned()).collect()
}

fn scope(rule: &LifecycleRule) -> &str {
    #[expect(deprecated, reason = "old rules have their prefix here")]
    let old = rule.prefix();
    let filter = rule.filter();
    let new = filter.and_then(|filter| filter.prefix().or_else(|| filter.and()?.prefix()));
    new.or(old).unwrap_or_default()
}
