//! What a bucket's owner has set around our objects: encryption, TLS, who may read, what its lifecycle deletes.
//!
//! Those who only write have no right to ask, and stores differ in what they answer: what is not told is not known, and
//! never good by default.

use aws_sdk_s3::operation::get_bucket_encryption::GetBucketEncryptionOutput;
use aws_sdk_s3::operation::get_bucket_lifecycle_configuration::GetBucketLifecycleConfigurationOutput as Lifecycle;
use aws_sdk_s3::types::{ExpirationStatus, LifecycleRule, ServerSideEncryption};
use serde_json::Value;

use crate::storage::s3::bucket::Bucket;
use crate::storage::s3::settings::Sse;
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
    let ours = matches!(bucket.settings.sse, Some(Sse::Kms { .. }));
    Ok(Posture {
        kms: if ours { Some(true) } else { encryption.as_ref().map(|found| found.as_ref().is_some_and(by_kms)) },
        encrypted: encryption.map(|found| found.is_some()),
        tls_only: tls_only(bucket).await?,
        public: public(bucket).await?,
        deleting,
    })
}

fn by_kms(encryption: &GetBucketEncryptionOutput) -> bool {
    let rules = encryption.server_side_encryption_configuration().into_iter().flat_map(|found| found.rules());
    let mut algorithms = rules.filter_map(|rule| rule.apply_server_side_encryption_by_default());
    algorithms.any(|by| matches!(by.sse_algorithm(), ServerSideEncryption::AwsKms | ServerSideEncryption::AwsKmsDsse))
}

/// Whether the policy refuses whoever comes without TLS (Amazon S3 User Guide, "Restrict access to only HTTPS requests").
async fn tls_only(bucket: &Bucket) -> Result<Option<bool>, StorageError> {
    let name = &bucket.settings.bucket;
    let what = format!("ask the bucket {name} for its policy");
    let policy = bucket.send(&what, 0, || bucket.client.get_bucket_policy().bucket(name).send()).await;
    let policy = told(policy, "NoSuchBucketPolicy")?;
    Ok(policy
        .map(|policy| policy.and_then(|policy| policy.policy).is_some_and(|text| refuses_without_tls(&text, name))))
}

/// Whether a statement of `policy` denies everybody everything in the bucket `name` when it does not come by TLS.
fn refuses_without_tls(policy: &str, name: &str) -> bool {
    let Ok(policy) = serde_json::from_str::<Value>(policy) else { return false };
    let one_or_many = |value: &Value| match value {
        Value::Array(many) => many.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    let has = |value: &Value, wanted: &dyn Fn(&str) -> bool| {
        one_or_many(value).iter().any(|one| one.as_str().is_some_and(wanted))
    };
    let whole = format!(":{name}/*");
    one_or_many(&policy["Statement"]).iter().any(|statement| {
        let everybody =
            has(&statement["Principal"], &|who| who == "*") || has(&statement["Principal"]["AWS"], &|who| who == "*");
        let everything = has(&statement["Action"], &|action| matches!(action, "*" | "s3:*"));
        let everywhere = has(&statement["Resource"], &|place| place == "*" || place.ends_with(&whole));
        let conditions = statement["Condition"].as_object();
        // Another condition beside it would let some of it through.
        let alone = conditions.is_some_and(|conditions| conditions.len() == 1);
        let secure = statement["Condition"]["Bool"].as_object().filter(|keys| keys.len() == 1);
        let without_tls = secure.is_some_and(|keys| {
            keys.iter().any(|(key, value)| {
                let said = has(value, &|said| said == "false") || *value == Value::Bool(false);
                key.eq_ignore_ascii_case("aws:SecureTransport") && said
            })
        });
        statement["Effect"] == "Deny" && everybody && everything && everywhere && alone && without_tls
    })
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

#[cfg(test)]
mod tests {
    use super::refuses_without_tls;

    fn policy(change: impl FnOnce(&mut serde_json::Value)) -> String {
        let mut policy = serde_json::json!({ "Version": "2012-10-17", "Statement": [
            { "Effect": "Allow", "Principal": { "AWS": "arn:aws:iam::1:role/writer" }, "Action": "s3:PutObject", "Resource": "arn:aws:s3:::b/*" },
            { "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": ["arn:aws:s3:::b", "arn:aws:s3:::b/*"],
              "Condition": { "Bool": { "aws:SecureTransport": "false" } } },
        ]});
        change(&mut policy["Statement"][1]);
        policy.to_string()
    }

    #[test]
    fn a_policy_refuses_what_comes_without_tls_only_when_it_refuses_all_of_it() {
        assert!(refuses_without_tls(&policy(|_| {}), "b"));
        assert!(refuses_without_tls(&policy(|deny| deny["Principal"] = serde_json::json!({ "AWS": "*" })), "b"));
        assert!(!refuses_without_tls(&policy(|_| {}), "bb"), "another bucket");
        let weaker: [fn(&mut serde_json::Value); 6] = [
            |deny| deny["Effect"] = "Allow".into(),
            |deny| deny["Principal"] = "arn:aws:iam::1:root".into(),
            |deny| deny["Action"] = "s3:GetObject".into(),
            |deny| deny["Resource"] = "arn:aws:s3:::b/public/*".into(),
            |deny| deny["Condition"]["Bool"]["aws:SecureTransport"] = "true".into(),
            |deny| deny["Condition"]["IpAddress"] = serde_json::json!({ "aws:SourceIp": "10.0.0.0/8" }),
        ];
        for change in weaker {
            assert!(!refuses_without_tls(&policy(change), "b"), "{}", policy(change));
        }
        assert!(!refuses_without_tls("no policy", "b"));
    }
}
