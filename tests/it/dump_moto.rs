//! The whole main job against moto, which behaves as AWS does: two repositories, versions, a thief with a writer's login,
//! and what `check` says of the bucket.

use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{
    BucketVersioningStatus, ExpirationStatus, LifecycleExpiration, LifecycleRule, LifecycleRuleFilter,
    PublicAccessBlockConfiguration, ServerSideEncryption, ServerSideEncryptionByDefault,
    ServerSideEncryptionConfiguration, ServerSideEncryptionRule, VersioningConfiguration,
};
use dbagent::model::manifest::ObjectRole;
use dbagent::model::outcome::Verdict;
use dbagent::ops::backup::verify;
use dbagent::ops::restore::{self, TableMode, TableOptions};
use dbagent::ops::{dump, expire};
use dbagent::storage::S3Settings;

use crate::stage::moto::Moto;
use crate::stage::s3_storage::{open, plain_client};
use crate::stage::site::Site;

const BUCKET: &str = "kept";

fn settings(endpoint: &str) -> S3Settings {
    S3Settings {
        region: Some("us-east-1".into()),
        endpoint: Some(endpoint.into()),
        path_style: true,
        part_size: 5 << 20,
        ..S3Settings::new(BUCKET, "r")
    }
}

/// A site with the repositories `local` and `s3`, the latter in a bucket of moto's that keeps versions.
async fn site(moto: &Moto) -> Site {
    let client = plain_client(&moto.endpoint());
    client.create_bucket().bucket(BUCKET).send().await.unwrap();
    let enabled = VersioningConfiguration::builder().status(BucketVersioningStatus::Enabled).build();
    client.put_bucket_versioning().bucket(BUCKET).versioning_configuration(enabled).send().await.unwrap();
    let mut site = Site::new();
    site.add_repository("s3", Arc::new(open(settings(&moto.endpoint())).await));
    site
}

#[tokio::test(flavor = "multi_thread")]
async fn dump_increment_verify_restore_and_expire_with_moto_as_the_second_repository() {
    let moto = Moto::start();
    let mut site = site(&moto).await;
    for _ in 0..2 {
        assert_eq!(site.dump().await.unwrap().verdict, Verdict::Ok);
    }
    site.ask("UPDATE orders SET note = 'changed' WHERE id <= 100; DELETE FROM orders WHERE id > 2900");
    let outcome = site.increment().await.unwrap();
    assert!(outcome.verdict == Verdict::Ok && outcome.repositories.len() == 2, "{outcome:?}");

    let held = site.artifacts("s3").await;
    assert!(
        held.len() == 3 && held.iter().all(|each| each.manifest.objects.iter().all(|object| object.version.is_some()))
    );
    let s3 = site.repositories[1].clone();
    let keys = site.restore_doors().keys;
    for artifact in &held {
        let verified = verify(&s3, artifact, &held, keys.as_ref(), &site.setting()).await;
        assert!(verified.result.is_ok() && verified.unrecorded.is_none(), "{verified:?}");
    }
    // Everything below reads S3 alone.
    let local = site.repositories.remove(0);
    let restored = site.restore_database("copy").await.unwrap();
    assert!(restored.proofs.iter().all(|proof| proof.holds()) && restored.rows() == 7450);
    site.ask("DELETE FROM orders");
    let (doors, setting) = (site.restore_doors(), site.setting());
    let choice = restore::choose(&site.wanted(Some("orders")), &doors, &setting).await.unwrap();
    let options = TableOptions {
        table: "orders".parse().unwrap(),
        mode: TableMode::Replace,
        plan_only: false,
        lock_timeout: Duration::from_secs(2),
        reindex: false,
    };
    restore::restore_table(&options, &choice, &doors, &setting).await.unwrap();
    assert_eq!(site.ask("SELECT count(*), count(*) FILTER (WHERE note = 'changed') FROM orders"), "2900|100");

    // Nothing is said of how long it is kept: for ever.
    let options =
        expire::Options { policies: Default::default(), grace: Duration::ZERO, checkpoints: Default::default() };
    site.repositories.insert(0, local);
    let doors = expire::Doors { repositories: site.repositories.clone(), unopened: Vec::new() };
    let outcome = expire::run(&doors, &options, &site.setting()).await.unwrap();
    assert!(outcome.verdict != Verdict::Failed, "{outcome:?}");
    assert_eq!((site.artifacts("s3").await.len(), site.artifacts("local").await.len()), (3, 3));
    let oldest = site.artifacts("s3").await.remove(0);
    dbagent::ops::backup::delete(&s3, &oldest, &site.setting()).await.unwrap();
    expire::run(&doors, &options, &site.setting()).await.unwrap();
    assert_eq!((site.artifacts("s3").await.len(), site.artifacts("local").await.len()), (2, 3));
    site.restore_database("again").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f47_objects_shadowed_or_deleted_by_a_writer_are_restored_by_their_versions() {
    let moto = Moto::start();
    let mut site = site(&moto).await;
    site.repositories.remove(0);
    assert_eq!(
        dump::run(&site.dump_options(), &site.dump_doors(), &site.setting()).await.unwrap().verdict,
        Verdict::Ok
    );
    let client = plain_client(&moto.endpoint());
    let manifest = site.artifacts("s3").await.remove(0).manifest;
    let key = |role| format!("r/{}", manifest.object(role).unwrap().key);
    let shadow = client.put_object().bucket(BUCKET).key(key(ObjectRole::Data)).body(ByteStream::from_static(b"pay up"));
    shadow.send().await.unwrap();
    client.delete_object().bucket(BUCKET).key(key(ObjectRole::Schema)).send().await.unwrap();
    let archived = client.put_object().bucket(BUCKET).key(key(ObjectRole::Roles)).body(ByteStream::from_static(b"x"));
    archived.storage_class(aws_sdk_s3::types::StorageClass::Glacier).send().await.unwrap();
    // The faults are there: who asks for the names alone gets the thief's.
    let storage = &site.repositories[0].storage;
    let object = |role| &manifest.object(role).unwrap().key;
    assert_eq!(storage.head(object(ObjectRole::Data)).await.unwrap().size, 6);
    assert!(storage.head(object(ObjectRole::Schema)).await.unwrap_err().is_missing());

    let restored = site.restore_database("copy").await.unwrap();
    assert!(restored.proofs.iter().all(|proof| proof.holds()) && restored.rows() == 7550);
    let (s3, held) = (site.repositories[0].clone(), site.artifacts("s3").await);
    assert!(verify(&s3, &held[0], &held, None, &site.setting()).await.result.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_buckets_owner_has_set_is_told() {
    let moto = Moto::start();
    let site = site(&moto).await;
    let storage = site.repositories[1].storage.clone();
    let client = plain_client(&moto.endpoint());
    let before = storage.posture().await.unwrap().unwrap();
    assert_eq!((before.public, before.deleting.as_deref()), (Some(true), Some(&[][..])), "{before:?}");
    let blocked = PublicAccessBlockConfiguration::builder()
        .block_public_acls(true)
        .ignore_public_acls(true)
        .block_public_policy(true)
        .restrict_public_buckets(true)
        .build();
    client.put_public_access_block().bucket(BUCKET).public_access_block_configuration(blocked).send().await.unwrap();
    let rule = |name: &str, prefix: &str, status: ExpirationStatus| {
        LifecycleRule::builder()
            .id(name)
            .filter(LifecycleRuleFilter::builder().prefix(prefix).build())
            .status(status)
            .expiration(LifecycleExpiration::builder().days(30).build())
            .build()
            .unwrap()
    };
    let rules = aws_sdk_s3::types::BucketLifecycleConfiguration::builder()
        .rules(rule("ours", "r/full/", ExpirationStatus::Enabled))
        .rules(rule("off", "r/", ExpirationStatus::Disabled))
        .rules(rule("others", "logs/", ExpirationStatus::Enabled))
        .rules(rule("all", "", ExpirationStatus::Enabled))
        .build()
        .unwrap();
    let put = client.put_bucket_lifecycle_configuration().bucket(BUCKET).lifecycle_configuration(rules);
    put.send().await.unwrap();
    assert_eq!((before.tls_only, before.kms), (Some(false), Some(false)), "{before:?}");
    let policy = format!(
        "{{\"Version\": \"2012-10-17\", \"Statement\": [{{\"Effect\": \"Deny\", \"Principal\": \"*\", \"Action\": \"s3:*\", \
         \"Resource\": [\"arn:aws:s3:::{BUCKET}\", \"arn:aws:s3:::{BUCKET}/*\"], \
         \"Condition\": {{\"Bool\": {{\"aws:SecureTransport\": \"false\"}}}}}}]}}"
    );
    client.put_bucket_policy().bucket(BUCKET).policy(policy).send().await.unwrap();
    let by_default =
        ServerSideEncryptionByDefault::builder().sse_algorithm(ServerSideEncryption::AwsKms).build().unwrap();
    let rule = ServerSideEncryptionRule::builder().apply_server_side_encryption_by_default(by_default).build();
    let encryption = ServerSideEncryptionConfiguration::builder().rules(rule).build().unwrap();
    client
        .put_bucket_encryption()
        .bucket(BUCKET)
        .server_side_encryption_configuration(encryption)
        .send()
        .await
        .unwrap();
    let after = storage.posture().await.unwrap().unwrap();
    assert_eq!((after.public, after.tls_only, after.kms), (Some(false), Some(true), Some(true)));
    let mut deleting = after.deleting.unwrap();
    deleting.sort();
    assert_eq!(deleting, ["all", "ours"]);
    assert!(site.repositories[0].storage.posture().await.unwrap().is_none(), "a directory has no owner of that kind");
}
