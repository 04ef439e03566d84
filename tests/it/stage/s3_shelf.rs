//! What s3s-fs does not do and the tests need: race-free conditional writes, checksums on parts, listing of unfinished
//! uploads, storage classes with their refusal, URL encoding of listings, no stale side files after a delete.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::SystemTime;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use dbagent::model::digest::Digest;
use futures_util::TryStreamExt;
use s3s::dto::*;
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;

/// Key and id of an upload.
type Name = (String, String);
/// When it was begun, and the class it asked for.
type Begun = (Timestamp, Option<StorageClass>);

pub struct Shelf {
    files: FileSystem,
    root: PathBuf,
    /// Held over the check and the write: s3s-fs looks first and writes later.
    writing: tokio::sync::Mutex<()>,
    uploads: Mutex<BTreeMap<Name, Begun>>,
    classes: Mutex<BTreeMap<String, StorageClass>>,
}

impl Shelf {
    pub fn new(root: &Path) -> Self {
        Self {
            files: FileSystem::new(root).unwrap(),
            root: root.to_owned(),
            writing: tokio::sync::Mutex::new(()),
            uploads: Mutex::default(),
            classes: Mutex::default(),
        }
    }

    /// s3s-fs makes a bucket that is written to.
    fn find_bucket(&self, bucket: &str) -> S3Result<()> {
        if self.root.join(bucket).is_dir() { Ok(()) } else { Err(s3_error!(NoSuchBucket)) }
    }

    fn classify(&self, key: &str, class: Option<StorageClass>) {
        let mut classes = self.classes.lock().unwrap();
        match class {
            Some(class) => classes.insert(key.to_owned(), class),
            None => classes.remove(key),
        };
    }

    fn class(&self, key: &str) -> Option<StorageClass> {
        self.classes.lock().unwrap().get(key).cloned()
    }
}

/// The whole body, refused unless it has the SHA-256 that came with it.
async fn checked(body: Option<StreamingBlob>, sum: Option<&String>) -> S3Result<Option<StreamingBlob>> {
    let Some(body) = body else { return Ok(None) };
    let bytes: Vec<Bytes> =
        body.try_collect().await.map_err(|error| s3s::S3Error::with_source(s3s::S3ErrorCode::IncompleteBody, error))?;
    let bytes = bytes.concat();
    if sum.is_some_and(|sum| *sum != BASE64_STANDARD.encode(Digest::of(&bytes).as_bytes())) {
        return Err(s3_error!(BadDigest));
    }
    Ok(Some(StreamingBlob::wrap(futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]))))
}

fn encoded(text: &str) -> String {
    url::form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

type Answer<T> = S3Result<S3Response<T>>;

#[async_trait::async_trait]
impl S3 for Shelf {
    async fn head_bucket(&self, request: S3Request<HeadBucketInput>) -> Answer<HeadBucketOutput> {
        self.files.head_bucket(request).await
    }

    async fn head_object(&self, request: S3Request<HeadObjectInput>) -> Answer<HeadObjectOutput> {
        let class = self.class(&request.input.key);
        let mut answer = self.files.head_object(request).await?;
        answer.output.storage_class = class;
        Ok(answer)
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> Answer<GetObjectOutput> {
        if self.class(&request.input.key).is_some_and(|class| class.as_str().contains("GLACIER")) {
            return Err(s3_error!(InvalidObjectState));
        }
        self.files.get_object(request).await
    }

    async fn put_object(&self, mut request: S3Request<PutObjectInput>) -> Answer<PutObjectOutput> {
        self.find_bucket(&request.input.bucket)?;
        let class = request.input.storage_class.take();
        let key = request.input.key.clone();
        request.input.body = checked(request.input.body.take(), request.input.checksum_sha256.as_ref()).await?;
        let _writing = self.writing.lock().await;
        let answer = self.files.put_object(request).await?;
        self.classify(&key, class);
        Ok(answer)
    }

    async fn delete_object(&self, request: S3Request<DeleteObjectInput>) -> Answer<DeleteObjectOutput> {
        let encode = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let (bucket, key) = (encode(&request.input.bucket), encode(&request.input.key));
        let answer = self.files.delete_object(request).await?;
        for kind in ["metadata", "internal"] {
            let _ = std::fs::remove_file(self.root.join(format!(".bucket-{bucket}.object-{key}.{kind}.json")));
        }
        Ok(answer)
    }

    async fn list_objects_v2(&self, request: S3Request<ListObjectsV2Input>) -> Answer<ListObjectsV2Output> {
        let encode = request.input.encoding_type.is_some();
        let mut answer = self.files.list_objects_v2(request).await?;
        for object in answer.output.contents.iter_mut().flatten() {
            let key = object.key.take().unwrap_or_default();
            object.storage_class = self.class(&key).map(|class| ObjectStorageClass::from(class.as_str().to_owned()));
            object.key = Some(if encode { encoded(&key) } else { key });
        }
        for common in answer.output.common_prefixes.iter_mut().flatten().filter(|_| encode) {
            common.prefix = common.prefix.take().map(|prefix| encoded(&prefix));
        }
        Ok(answer)
    }

    async fn create_multipart_upload(
        &self,
        mut request: S3Request<CreateMultipartUploadInput>,
    ) -> Answer<CreateMultipartUploadOutput> {
        self.find_bucket(&request.input.bucket)?;
        let class = request.input.storage_class.take();
        let key = request.input.key.clone();
        let answer = self.files.create_multipart_upload(request).await?;
        let id = answer.output.upload_id.clone().unwrap();
        self.uploads.lock().unwrap().insert((key, id), (SystemTime::now().into(), class));
        Ok(answer)
    }

    async fn upload_part(&self, mut request: S3Request<UploadPartInput>) -> Answer<UploadPartOutput> {
        let sum = request.input.checksum_sha256.clone();
        request.input.body = checked(request.input.body.take(), sum.as_ref()).await?;
        let mut answer = self.files.upload_part(request).await?;
        answer.output.checksum_sha256 = sum;
        Ok(answer)
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> Answer<CompleteMultipartUploadOutput> {
        let name = (request.input.key.clone(), request.input.upload_id.clone());
        let _writing = self.writing.lock().await;
        let Some((_, class)) = self.uploads.lock().unwrap().get(&name).cloned() else {
            return Err(s3_error!(NoSuchUpload));
        };
        let answer = self.files.complete_multipart_upload(request).await?;
        self.uploads.lock().unwrap().remove(&name);
        self.classify(&name.0, class);
        Ok(answer)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> Answer<AbortMultipartUploadOutput> {
        let name = (request.input.key.clone(), request.input.upload_id.clone());
        if self.uploads.lock().unwrap().remove(&name).is_none() {
            return Err(s3_error!(NoSuchUpload));
        }
        self.files.abort_multipart_upload(request).await
    }

    async fn list_multipart_uploads(
        &self,
        request: S3Request<ListMultipartUploadsInput>,
    ) -> Answer<ListMultipartUploadsOutput> {
        let prefix = request.input.prefix.unwrap_or_default();
        let uploads = self.uploads.lock().unwrap();
        let below = uploads.iter().filter(|((key, _), _)| key.starts_with(&prefix));
        let uploads = below.map(|((key, id), (begun, _))| MultipartUpload {
            key: Some(key.clone()),
            upload_id: Some(id.clone()),
            initiated: Some(begun.clone()),
            ..MultipartUpload::default()
        });
        Ok(S3Response::new(ListMultipartUploadsOutput {
            uploads: Some(uploads.collect()),
            is_truncated: Some(false),
            ..ListMultipartUploadsOutput::default()
        }))
    }
}
