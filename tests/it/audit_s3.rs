//! The evidence in real object stores: seals and checkpoints that nobody can delete before their time, and months whose
//! archives lie in a class that is not read without asking.

use std::process::Stdio;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::types::{ObjectLockMode, StorageClass};
use chrono::{TimeDelta, Utc};
use rustix::process::{Pid, Signal};

use crate::audit_stage::{self, month};
use crate::cli::Desk;
use crate::stage::moto::Moto;
use crate::stage::radosgw::RadosGateway;
use crate::stage::s3::{ACCESS_KEY, SECRET_KEY};
use crate::stage::s3_storage::plain_client;

const BUCKET: &str = "evidence";

/// Two months are kept; `archive` is what the job that archives says besides.
fn plan(archive: &str) -> String {
    format!(
        "description = 'the log'\n[job.partitions]\nverb = 'partition'\n{archive}\
         [job.checkpoint]\nverb = 'audit-checkpoint'\nobject_lock = true\nkeep = {{ local = '30 days', s3 = '3 years 90 days' }}\n\
         [partition.audit_logs]\nkey = 'recorded_at'\nretention = '2 months'\nseal = true\n"
    )
}

/// A desk with rows of four months, whose second repository is a bucket of this server that can lock objects.
async fn desk(endpoint: &str, archive: &str) -> Desk {
    let client = plain_client(endpoint);
    client.create_bucket().bucket(BUCKET).object_lock_enabled_for_bucket(true).send().await.unwrap();
    let (endpoint, plan) = (endpoint.to_owned(), plan(archive));
    let made = std::thread::spawn(move || {
        let mut desk = audit_stage::desk(4, &plan);
        desk.configure(&format!(
            "[repository.s3]\nurl = 's3://{BUCKET}/r'\nendpoint = '{endpoint}'\nregion = 'us-east-1'\npath_style = true\n\
             object_lock = {{ mode = 'compliance', days = 1 }}\n"
        ));
        desk.environment = vec![
            ("AWS_ACCESS_KEY_ID", ACCESS_KEY.into()),
            ("AWS_SECRET_ACCESS_KEY", SECRET_KEY.into()),
            ("AWS_EC2_METADATA_DISABLED", "true".into()),
        ];
        desk
    });
    made.join().unwrap()
}

/// Keys below `prefix`, with what the store says of each.
async fn objects(client: &Client, prefix: &str) -> Vec<(String, HeadObjectOutput)> {
    let listed = client.list_objects_v2().bucket(BUCKET).prefix(format!("r/{prefix}")).send().await.unwrap();
    let mut objects = Vec::new();
    for object in listed.contents() {
        let key = object.key().unwrap().to_owned();
        let head = client.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
        objects.push((key, head));
    }
    objects
}

/// Every object below `prefix` is locked for three years and ninety days, and nobody can delete it.
async fn are_locked(client: &Client, prefix: &str, count: usize) {
    let held = objects(client, prefix).await;
    assert_eq!(held.len(), count, "{prefix}: {:?}", held.iter().map(|(key, _)| key).collect::<Vec<_>>());
    for (key, head) in held {
        assert_eq!(head.object_lock_mode(), Some(&ObjectLockMode::Compliance), "{key}");
        let until = head.object_lock_retain_until_date().unwrap().secs();
        let days = (until - Utc::now().timestamp()) / TimeDelta::days(1).num_seconds();
        assert!((1180..=1190).contains(&days), "{key} is locked for {days} days");
        let delete = client.delete_object().bucket(BUCKET).key(&key).version_id(head.version_id().unwrap());
        assert!(delete.send().await.is_err(), "{key} was deleted");
    }
}

/// Months are sealed and dropped; what is signed of it is locked, by whichever verb it was signed.
async fn evidence_is_locked(desk: &Desk, client: &Client) {
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["audit", "checkpoint"]);
    desk.json(0, &["job", "run", "checkpoint"]);
    let done = desk.json(0, &["partition", "maintain", "--yes"]);
    assert!(done["outcome"]["summary"].as_str().unwrap().contains("2 archived, 2 dropped"), "{done}");
    // A seal goes beside a checkpoint; each with its signature.
    are_locked(client, "seals/", 4).await;
    are_locked(client, "checkpoints/", 10).await;
    desk.json(0, &["audit", "verify"]);
    desk.json(0, &["audit", "witness"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn seals_and_checkpoints_are_locked_in_a_real_object_gateway() {
    let gateway = RadosGateway::start();
    let desk = desk(&gateway.endpoint(), "").await;
    evidence_is_locked(&desk, &plain_client(&gateway.endpoint())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f43_f93_months_archived_in_glacier_are_sealed_dropped_and_proven() {
    let moto = Moto::start();
    let client = plain_client(&moto.endpoint());
    let desk = desk(&moto.endpoint(), "storage_class = { s3 = 'GLACIER' }\n").await;
    let row = desk.site.ask(&format!("SELECT id FROM {} ORDER BY recorded_at LIMIT 1", month(&desk, 4)));
    evidence_is_locked(&desk, &client).await;
    let data: Vec<_> =
        objects(&client, "partitions/").await.into_iter().filter(|(key, _)| key.ends_with(".gpg")).collect();
    let classes: Vec<_> = data.iter().map(|(_, head)| head.storage_class()).collect();
    assert!(data.len() >= 2 && classes.iter().all(|class| *class == Some(&StorageClass::Glacier)), "{classes:?}");
    let level = desk.json(0, &["backup", "list", "--repository", "s3"]);
    assert_eq!(level["backups"].as_array().unwrap().len(), 2, "{level}");

    // The host with its directory is lost: S3 alone proves the row, once it was asked for and has come.
    let text = std::fs::read_to_string(&desk.config).unwrap();
    let local = format!("[repository.local]\nurl = 'file://{}/local'\n", desk.site.root().display());
    assert!(text.contains(&local));
    std::fs::write(&desk.config, text.replace(&local, "")).unwrap();
    let prove = ["audit", "prove", &row, "--partition", &month(&desk, 4)];
    let asking = desk.command(&prove).stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    while !objects(&client, "partitions/").await.iter().any(|(_, head)| head.restore().is_some()) {}
    rustix::process::kill_process(Pid::from_child(&asking), Signal::TERM).unwrap();
    let told = asking.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("takes about") && told.contains("The thaw goes on in the store"), "{told}");
    let proven = desk.json(0, &prove);
    assert_eq!(proven["proof"]["seq"], 1, "{proven}");
}
