//! Listings of a bucket: objects, folders, unfinished uploads.
//!
//! Keys are asked for in URL encoding, because XML 1.0 cannot carry every character; an answer is decoded only if it
//! says that it is encoded (space as plus, as AWS does it).

use std::borrow::Cow;

use aws_sdk_s3::types::{EncodingType, Object};

use crate::storage::s3::bucket::{Bucket, instant, is_archive, size};
use crate::storage::{ObjectMeta, Page, PageToken, StorageError, Unfinished};

/// One page of the objects below `prefix`.
pub(super) async fn page(bucket: &Bucket, prefix: &str, from: Option<&PageToken>) -> Result<Page, StorageError> {
    let what = bucket.what("list", prefix);
    let output = bucket.send(&what, 0, || {
        bucket
            .client
            .list_objects_v2()
            .bucket(&bucket.settings.bucket)
            .prefix(bucket.key(prefix))
            .encoding_type(EncodingType::Url)
            .set_continuation_token(from.map(|token| token.0.clone()))
            .send()
    });
    let output = output.await?;
    let encoded = output.encoding_type().is_some();
    let mut page =
        Page { next: output.next_continuation_token().map(|token| PageToken(token.to_owned())), ..Page::default() };
    for object in output.contents() {
        let key = decoded(object.key().unwrap_or_default(), encoded);
        let below = bucket.below(&key);
        match below.parse() {
            Ok(key) => page.objects.push(meta(key, object)),
            Err(_) => page.foreign.push(below.to_owned()),
        }
    }
    Ok(page)
}

fn meta(key: crate::model::key::ObjectKey, object: &Object) -> ObjectMeta {
    let class = object.storage_class().map(|class| class.as_str());
    let thawed = object.restore_status().is_some_and(|status| status.is_restore_in_progress() == Some(false));
    ObjectMeta {
        key,
        size: size(object.size()),
        modified: instant(object.last_modified()),
        version: None,
        storage_class: class.filter(|class| *class != "STANDARD").map(str::to_owned),
        readable: !class.is_some_and(is_archive) || thawed,
        digest: None,
        nonce: None,
    }
}

/// Names of the folders right below `above`.
pub(super) async fn folders(bucket: &Bucket, above: &str) -> Result<Vec<String>, StorageError> {
    let what = bucket.what("list", above);
    let (mut folders, mut from) = (Vec::new(), None);
    loop {
        let output = bucket.send(&what, 0, || {
            bucket
                .client
                .list_objects_v2()
                .bucket(&bucket.settings.bucket)
                .prefix(bucket.key(above))
                .delimiter("/")
                .encoding_type(EncodingType::Url)
                .set_continuation_token(from.clone())
                .send()
        });
        let output = output.await?;
        let encoded = output.encoding_type().is_some();
        for common in output.common_prefixes() {
            let prefix = decoded(common.prefix().unwrap_or_default(), encoded);
            let name = bucket.below(&prefix).strip_prefix(above).unwrap_or_default();
            folders.push(name.trim_end_matches('/').to_owned());
        }
        from = output.next_continuation_token;
        if from.is_none() {
            return Ok(folders);
        }
    }
}

/// Uploads begun and not completed, of our prefix.
pub(super) async fn unfinished(bucket: &Bucket) -> Result<Vec<Unfinished>, StorageError> {
    let what = bucket.what("list the uploads of", "");
    let (mut found, mut from) = (Vec::new(), (None, None));
    loop {
        let output = bucket.send(&what, 0, || {
            bucket
                .client
                .list_multipart_uploads()
                .bucket(&bucket.settings.bucket)
                .prefix(bucket.key(""))
                .encoding_type(EncodingType::Url)
                .set_key_marker(from.0.clone())
                .set_upload_id_marker(from.1.clone())
                .send()
        });
        let output = output.await?;
        let encoded = output.encoding_type().is_some();
        for upload in output.uploads() {
            let key = decoded(upload.key().unwrap_or_default(), encoded);
            found.push(Unfinished {
                key: bucket.below(&key).to_owned(),
                handle: upload.upload_id().unwrap_or_default().to_owned(),
                begun: instant(upload.initiated()),
            });
        }
        if output.is_truncated() != Some(true) {
            return Ok(found);
        }
        let next = output.next_key_marker.map(|key| decoded(&key, encoded).into_owned());
        from = (next, output.next_upload_id_marker);
    }
}

/// A key as the store has it.
fn decoded(text: &str, is_encoded: bool) -> Cow<'_, str> {
    if !is_encoded {
        return Cow::Borrowed(text);
    }
    // A key as the value of a form: the same encoding, with the characters that would end it already encoded.
    let pair = url::form_urlencoded::parse(text.as_bytes()).next();
    pair.map_or(Cow::Borrowed(text), |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_decoded_as_aws_encodes_them() {
        assert_eq!(decoded("a+b%2Bc%2Fd%26%3D%C3%BC%01", true), "a b+c/d&=ü\u{1}");
        assert_eq!(decoded("a+b%41", false), "a+b%41");
    }
}
