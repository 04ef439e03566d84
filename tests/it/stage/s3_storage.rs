//! `S3Storage` as tests open it: fixed credentials, small parts, little patience.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, SharedCredentialsProvider};
use dbagent::storage::{Retrier, RetryPolicy, Retrying, S3Settings, S3Storage};

use super::s3::{ACCESS_KEY, BUCKET, REGION, S3Server, SECRET_KEY};

pub fn credentials() -> SharedCredentialsProvider {
    SharedCredentialsProvider::new(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
}

/// A client for what is none of `Storage`'s business.
pub fn plain_client(endpoint: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(credentials())
        .endpoint_url(endpoint)
        .force_path_style(true);
    aws_sdk_s3::Client::from_conf(config.build())
}

/// Tries as often as usual, without the usual waits.
pub fn impatient() -> RetryPolicy {
    RetryPolicy {
        first_wait: Duration::from_millis(2),
        longest_wait: Duration::from_millis(20),
        deadline: Duration::from_secs(10),
        idle: Duration::from_millis(300),
        ..RetryPolicy::default()
    }
}

impl S3Server {
    /// Settings for `prefix` in [`BUCKET`], with the smallest parts that S3 takes.
    pub fn settings(&self, prefix: &str) -> S3Settings {
        S3Settings {
            region: Some(REGION.into()),
            endpoint: Some(self.endpoint()),
            path_style: true,
            part_size: 5 << 20,
            answer_timeout: Duration::from_secs(5),
            ..S3Settings::new(BUCKET, prefix)
        }
    }

    /// The repository below `prefix` as an agent opens it: with retries.
    pub async fn storage(&self, prefix: &str) -> Retrying {
        open(self.settings(prefix)).await
    }
}

pub async fn open(settings: S3Settings) -> Retrying {
    let retrier = Retrier::new(impatient());
    Retrying::new(Arc::new(bare(settings, &retrier).await), retrier)
}

/// Without the wrapper that retries.
pub async fn bare(settings: S3Settings, retrier: &Retrier) -> S3Storage {
    S3Storage::connect(settings, Some(credentials()), retrier.clone()).await.unwrap()
}
