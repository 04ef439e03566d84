//! That the S3 servers the tests stand on do what the tests rely on.

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_s3::primitives::ByteStream;

use crate::stage::s3::{ACCESS_KEY, BUCKET, REGION, S3Server, SECRET_KEY};
use crate::stage::s3_fault::{Action, Rule};

fn client(server: &S3Server) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "test"))
        .endpoint_url(server.endpoint())
        .force_path_style(true)
        .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

#[tokio::test]
async fn of_many_conditional_puts_at_once_one_wins() {
    let server = S3Server::start();
    let client = client(&server);
    let puts = (0..16).map(|n: u8| {
        let body = ByteStream::from(vec![n; 1000]);
        client.put_object().bucket(BUCKET).key("a/b").if_none_match("*").body(body).send()
    });
    let answers = futures_util::future::join_all(puts).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(server.bytes("a/b").unwrap().len(), 1000);
}

#[tokio::test]
async fn a_fault_rule_fires_as_often_as_it_says_and_every_request_is_recorded() {
    let server = S3Server::start();
    let client = client(&server);
    server.fault(Rule::once("HEAD", "/x", Action::Answer(503, "SlowDown", vec![])).times(2).after(1));
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let error = client.head_object().bucket(BUCKET).key("x").send().await.unwrap_err();
        statuses.push(error.raw_response().unwrap().status().as_u16());
    }
    assert_eq!(statuses, [404, 503, 503, 404]);
    assert_eq!((server.fired(), server.requests().len()), (2, 4));
}
