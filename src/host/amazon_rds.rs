//! What Amazon RDS keeps of a database by itself: its own backups, and its logs in CloudWatch Logs.
//!
//! Two questions, signed by the SDK's own signer, login and region from the SDK's chain; the clients of both services
//! would be larger than this program. Nothing is ever changed there.

use std::time::{Duration, SystemTime};

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::provider::ProvideCredentials as _;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use http_body_util::{BodyExt as _, Limited};
use hyper::Request;
use serde::Deserialize;

use crate::host::services;
use crate::host::{Clock as _, SystemClock};

/// Longest wait for one answer.
const ANSWER_TIME: Duration = Duration::from_secs(20);

/// Longest answer that is read.
const ANSWER_BYTES: usize = 1 << 20;

/// A database at Amazon RDS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RdsDatabase {
    /// A cluster (Aurora), by its identifier.
    Cluster(String),
    /// An instance, by its identifier.
    Instance(String),
}

impl RdsDatabase {
    /// The database whose endpoint is `host` (Amazon RDS User Guide, "Finding the connection information"); nothing when
    /// it is no endpoint of RDS.
    pub fn of_host(host: &str) -> Option<Self> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let known = [".rds.amazonaws.com", ".rds.amazonaws.com.cn"];
        let name = known.iter().find_map(|suffix| host.strip_suffix(suffix))?;
        let mut parts = name.split('.');
        let (name, group) = (parts.next()?, parts.next()?);
        // A custom endpoint names itself, not its cluster.
        if name.is_empty() || group.starts_with("cluster-custom-") || group.starts_with("proxy-") {
            return None;
        }
        let of = if group.starts_with("cluster-") { Self::Cluster } else { Self::Instance };
        Some(of(name.to_owned()))
    }

    /// Its identifier.
    pub fn name(&self) -> &str {
        match self {
            Self::Cluster(name) | Self::Instance(name) => name,
        }
    }

    /// Where RDS exports its PostgreSQL log to (Amazon RDS User Guide, "Publishing PostgreSQL logs to CloudWatch Logs").
    fn log_group(&self) -> String {
        match self {
            Self::Cluster(name) => format!("/aws/rds/cluster/{name}/postgresql"),
            Self::Instance(name) => format!("/aws/rds/instance/{name}/postgresql"),
        }
    }
}

/// How long logs are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogRetention {
    /// They go nowhere where they are kept.
    NotExported,
    /// So many days.
    Days(u32),
    /// They never expire.
    Forever,
}

/// Days for which RDS keeps its automatic backups of `database`; 0 where it makes none. Errors with what the service says.
pub async fn backup_retention(database: &RdsDatabase) -> Result<u32, String> {
    let (action, key) = match database {
        RdsDatabase::Cluster(_) => ("DescribeDBClusters", "DBClusterIdentifier"),
        RdsDatabase::Instance(_) => ("DescribeDBInstances", "DBInstanceIdentifier"),
    };
    let name: String = url::form_urlencoded::byte_serialize(database.name().as_bytes()).collect();
    let body = format!("Action={action}&Version=2014-10-31&{key}={name}");
    let answer = ask("rds", &[("content-type", "application/x-www-form-urlencoded")], body).await?;
    let found = between(&answer, "<BackupRetentionPeriod>", "</BackupRetentionPeriod>");
    let days = found.and_then(|days| days.trim().parse().ok());
    days.ok_or_else(|| format!("{action} does not tell how long backups of {} are kept", database.name()))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogGroups {
    log_groups: Vec<LogGroup>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct LogGroup {
    log_group_name: String,
    retention_in_days: Option<u32>,
}

/// How long CloudWatch Logs keeps the PostgreSQL log of `database`. Errors with what the service says.
pub async fn log_retention(database: &RdsDatabase) -> Result<LogRetention, String> {
    let group = database.log_group();
    let body = serde_json::json!({ "logGroupNamePrefix": group }).to_string();
    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", "Logs_20140328.DescribeLogGroups")];
    let answer = ask("logs", &headers, body).await?;
    let answer: LogGroups = serde_json::from_str(&answer).map_err(|error| format!("read the log groups: {error}"))?;
    let found = answer.log_groups.into_iter().find(|found| found.log_group_name == group);
    Ok(match found.map(|found| found.retention_in_days) {
        None => LogRetention::NotExported,
        Some(None) => LogRetention::Forever,
        Some(Some(days)) => LogRetention::Days(days),
    })
}

async fn ask(service: &str, headers: &[(&str, &str)], body: String) -> Result<String, String> {
    let answer = tokio::time::timeout(ANSWER_TIME, ask_patiently(service, headers, body)).await;
    answer.unwrap_or_else(|_| Err(format!("no answer from {service} within {} seconds", ANSWER_TIME.as_secs())))
}

async fn ask_patiently(service: &str, headers: &[(&str, &str)], body: String) -> Result<String, String> {
    let config = aws_config::defaults(BehaviorVersion::latest()).load().await;
    let request = signed(&config, service, headers, body).await?;
    let client = services::web_client().map_err(|error| error.to_string())?;
    let answer = client.request(request).await.map_err(|error| services::with_cause(error).to_string())?;
    let status = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_BYTES).collect().await.map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    if status.is_success() {
        return Ok(text);
    }
    let said = between(&text, "<Message>", "</Message>").unwrap_or(&text).trim();
    Err(format!("{service} answers {status}: {said}"))
}

/// A POST with the signature of Signature Version 4.
async fn signed(
    config: &SdkConfig,
    service: &str,
    headers: &[(&str, &str)],
    body: String,
) -> Result<Request<String>, String> {
    let region = config.region().ok_or("no AWS region is set: AWS_REGION, or one in the AWS configuration")?;
    let address = match config.endpoint_url() {
        Some(address) => format!("{}/", address.trim_end_matches('/')),
        None if region.as_ref().starts_with("cn-") => format!("https://{service}.{region}.amazonaws.com.cn/"),
        None => format!("https://{service}.{region}.amazonaws.com/"),
    };
    let provider = config.credentials_provider().ok_or("no AWS credentials are configured")?;
    let credentials = provider.provide_credentials().await.map_err(|error| format!("find AWS credentials: {error}"))?;
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region.as_ref())
        .name(service)
        .time(SystemTime::from(SystemClock::new().now()))
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| error.to_string())?;
    let signable =
        SignableRequest::new("POST", &address, headers.iter().copied(), SignableBody::Bytes(body.as_bytes()));
    let signed = sign(signable.map_err(|error| error.to_string())?, &parameters.into());
    let (instructions, _) = signed.map_err(|error| error.to_string())?.into_parts();
    let mut request = Request::post(&address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut request = request.body(body).map_err(|error| error.to_string())?;
    instructions.apply_to_request_http1x(&mut request);
    Ok(request)
}

/// What stands between the first `open` and the `close` after it.
fn between<'a>(text: &'a str, open: &str, close: &str) -> Option<&'a str> {
    Some(text.split_once(open)?.1.split_once(close)?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_of_rds_is_told_by_its_endpoint() {
        let cluster = |name: &str| Some(RdsDatabase::Cluster(name.to_owned()));
        let instance = |name: &str| Some(RdsDatabase::Instance(name.to_owned()));
        let of = RdsDatabase::of_host;
        assert_eq!(of("shop.cluster-abc123.eu-west-1.rds.amazonaws.com"), cluster("shop"));
        assert_eq!(of("shop.cluster-ro-abc123.eu-west-1.rds.amazonaws.com."), cluster("shop"));
        assert_eq!(of("Shop-1.abc123.eu-west-1.rds.amazonaws.com"), instance("shop-1"));
        assert_eq!(of("shop.abc123.rds.cn-north-1.amazonaws.com.cn"), None, "another form: it is named in the plan");
        assert_eq!(of("any.cluster-custom-abc123.eu-west-1.rds.amazonaws.com"), None);
        assert_eq!(of("p.proxy-abc123.eu-west-1.rds.amazonaws.com"), None);
        assert_eq!([of("db.example.org"), of("127.0.0.1"), of("rds.amazonaws.com")], [None, None, None]);
    }

    #[test]
    fn the_log_goes_to_a_group_of_its_own() {
        assert_eq!(RdsDatabase::Cluster("a".into()).log_group(), "/aws/rds/cluster/a/postgresql");
        assert_eq!(RdsDatabase::Instance("a".into()).log_group(), "/aws/rds/instance/a/postgresql");
    }
}
