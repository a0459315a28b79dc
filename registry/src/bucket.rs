//! The one bucket. What `s3s-fs` does is its own but for this: a conditional put is checked and done without another
//! between, lists have entity tags, and what is deleted is gone, with the files that `s3s-fs` keeps beside it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use openlambda_config::registry::BUCKET;
use s3s::dto::{
    AbortMultipartUploadInput, AbortMultipartUploadOutput, CompleteMultipartUploadInput,
    CompleteMultipartUploadOutput, CreateMultipartUploadInput, CreateMultipartUploadOutput,
    DeleteObjectInput, DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject,
    GetObjectInput, GetObjectOutput, HeadBucketInput, HeadBucketOutput, HeadObjectInput, HeadObjectOutput,
    ListObjectsV2Input, ListObjectsV2Output, PutObjectInput, PutObjectOutput, StreamingBlob, UploadPartInput,
    UploadPartOutput,
};
use s3s::{S3, S3Request, S3Response, S3Result, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::Mutex;

/// The longest body of a conditional put: it is held in memory, so that nobody's slow sending keeps others waiting.
const CONDITIONAL_MAX: usize = 1 << 20;
/// Uploads in parts that nobody goes on with are removed at the start, once they are this old.
const ABANDONED: Duration = Duration::from_secs(24 * 3600);

/// The bucket.
#[derive(Debug)]
pub struct Bucket {
    files: FileSystem,
    root: PathBuf,
    /// Held while a condition is looked at and what it allows is done.
    turn: Mutex<()>,
}

impl Bucket {
    /// That below a directory, which is made if it is not there.
    pub fn open(root: &Path) -> anyhow::Result<Self> {
        let shown = root.display();
        fs::create_dir_all(root.join(BUCKET)).with_context(|| format!("cannot make {shown}"))?;
        let root = root.canonicalize().with_context(|| format!("cannot find {shown}"))?;
        remove_abandoned(&root).with_context(|| format!("cannot clean up {shown}"))?;
        let files =
            FileSystem::new(&root).map_err(|error| anyhow::anyhow!("cannot open {shown}: {error:?}"))?;
        Ok(Self { files, root, turn: Mutex::new(()) })
    }

    fn file(&self, bucket: &str, key: &str) -> PathBuf {
        self.root.join(bucket).join(key)
    }

    /// Removes the files that `s3s-fs` keeps beside an object, and folders that are empty now.
    fn clear(&self, bucket: &str, key: &str) {
        let encoded = |text: &str| base64(text.as_bytes());
        for kind in ["metadata", "internal"] {
            let name = format!(".bucket-{}.object-{}.{kind}.json", encoded(bucket), encoded(key));
            // It need not have been there.
            let _ = fs::remove_file(self.root.join(name));
        }
        let top = self.root.join(bucket);
        let mut folder = self.file(bucket, key);
        // Fails at the first that is not empty.
        while folder.pop() && folder != top && folder.starts_with(&top) && fs::remove_dir(&folder).is_ok() {}
    }
}

/// As file names have it: URL-safe, without padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0_u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(word >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

fn remove_abandoned(root: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let is_part = entry.file_name().to_string_lossy().starts_with(".upload");
        #[expect(
            clippy::disallowed_methods,
            reason = "compared with times of files; a clock that jumps removes an upload that fails then, or keeps a file longer"
        )]
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?).unwrap_or_default();
        if is_part && age > ABANDONED {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// All of a short body.
async fn whole(body: Option<StreamingBlob>) -> S3Result<Bytes> {
    let mut bytes = BytesMut::new();
    let Some(mut body) = body else { return Ok(Bytes::new()) };
    let broken = |error| s3_error!(io::Error::other::<s3s::StdError>(error), IncompleteBody);
    while let Some(part) = body.try_next().await.map_err(broken)? {
        if bytes.len() + part.len() > CONDITIONAL_MAX {
            return Err(s3_error!(EntityTooLarge, "a conditional put may have 1 MiB"));
        }
        bytes.extend_from_slice(&part);
    }
    Ok(bytes.freeze())
}

#[async_trait::async_trait]
impl S3 for Bucket {
    async fn put_object(
        &self,
        mut request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        if request.input.if_match.is_none() && request.input.if_none_match.is_none() {
            return self.files.put_object(request).await;
        }
        let body = whole(request.input.body.take()).await?;
        let body = futures::stream::once(async { Ok::<_, io::Error>(body) });
        request.input.body = Some(StreamingBlob::wrap(body));
        let _turn = self.turn.lock().await;
        self.files.put_object(request).await
    }

    async fn get_object(&self, request: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.files.head_object(request).await
    }

    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        let _turn = self.turn.lock().await;
        let answer = self.files.delete_object(request).await?;
        self.clear(&bucket, &key);
        Ok(answer)
    }

    async fn delete_objects(
        &self,
        request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let (bucket, keys) = (request.input.bucket.clone(), request.input.delete.objects.clone());
        let mut deleted = Vec::new();
        for object in keys {
            let one =
                DeleteObjectInput { bucket: bucket.clone(), key: object.key.clone(), ..Default::default() };
            self.delete_object(request.clone_with(one)).await?;
            deleted.push(DeletedObject { key: Some(object.key), ..Default::default() });
        }
        Ok(S3Response::new(DeleteObjectsOutput { deleted: Some(deleted), ..Default::default() }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let bucket = request.input.bucket.clone();
        let other = request.clone_with(());
        let mut list = self.files.list_objects_v2(request).await?;
        for object in list.output.contents.iter_mut().flatten() {
            let Some(key) = object.key.clone() else { continue };
            let head = HeadObjectInput { bucket: bucket.clone(), key, ..Default::default() };
            // It may be gone since; then the list is as good without its tag.
            if let Ok(head) = self.files.head_object(other.clone_with(head)).await {
                object.e_tag = head.output.e_tag;
            }
        }
        Ok(list)
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.files.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        self.files.upload_part(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        self.files.complete_multipart_upload(request).await
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.files.abort_multipart_upload(request).await
    }
}

/// The same request with another input.
trait CloneWith {
    fn clone_with<U>(&self, input: U) -> S3Request<U>;
}

impl<T> CloneWith for S3Request<T> {
    fn clone_with<U>(&self, input: U) -> S3Request<U> {
        S3Request {
            input,
            method: self.method.clone(),
            uri: self.uri.clone(),
            headers: self.headers.clone(),
            extensions: http::Extensions::new(),
            credentials: self.credentials.clone(),
            region: self.region.clone(),
            service: self.service.clone(),
            trailing_headers: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_those_of_s3s_fs() {
        assert_eq!(base64(b"registry"), "cmVnaXN0cnk");
        for (text, digits) in [("", ""), ("f", "Zg"), ("fo", "Zm8"), ("foo", "Zm9v"), ("\u{3ff}", "z78")] {
            assert_eq!(base64(text.as_bytes()), digits);
        }
    }

    #[test]
    fn the_longest_key_fits_into_a_file_name() {
        let key = format!("bundles/{}/{}-12345678.tar.gz", "h".repeat(63), "0".repeat(64));
        let name =
            format!(".bucket-{}.object-{}.metadata.json", base64(BUCKET.as_bytes()), base64(key.as_bytes()));
        assert!(name.len() <= 255, "{}", name.len());
    }
}
