//! Bundles on their way to and from the registry, in pieces: memory does not grow with them.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path as FilePath;

use bytes::Bytes;
use futures::StreamExt as _;
use object_store::path::Path;
use object_store::{ObjectStoreExt as _, PutPayload};
use openlambda_bundle::{Digest, MAX_ARCHIVE, Tee};

use crate::error::StoreError;
use crate::store::Store;

/// What goes in one request: no less is allowed for a part.
const PART: u64 = 8 << 20;

impl Store {
    /// Sends a file; `progress` hears how much has arrived.
    pub(crate) async fn send(
        &self,
        key: &Path,
        file: &FilePath,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), StoreError> {
        let local = |error| StoreError::io(file, error);
        let mut source = File::open(file).map_err(local)?;
        let length = source.metadata().map_err(local)?.len();
        if length > MAX_ARCHIVE {
            return Err(StoreError::TooLarge(file.display().to_string()));
        }
        if length <= PART {
            let whole = piece(&mut source).map_err(local)?;
            self.objects().put(key, whole.into()).await.map_err(|error| self.failed(error))?;
            progress(length);
            return Ok(());
        }
        let mut upload = self.objects().put_multipart(key).await.map_err(|error| self.failed(error))?;
        let mut sent = 0;
        let parts = async {
            loop {
                let part = piece(&mut source).map_err(local)?;
                if part.is_empty() {
                    return Ok(());
                }
                sent += part.len() as u64;
                upload.put_part(PutPayload::from(part)).await.map_err(|error| self.failed(error))?;
                progress(sent);
            }
        };
        let done = match parts.await {
            Ok(()) => upload.complete().await.map(drop).map_err(|error| self.failed(error)),
            Err(error) => Err(error),
        };
        if done.is_err() {
            // What has arrived takes up room; if this fails too, the first error is the one that counts.
            let _ = upload.abort().await;
        }
        done
    }

    /// Fetches the bundle under a key into a file that is not there yet, and verifies it. Gives its length. The file is
    /// not there if it fails.
    pub async fn fetch(&self, key: &str, digest: &Digest, to: &FilePath) -> Result<u64, StoreError> {
        let fetched = self.download(key, digest, to).await;
        if fetched.is_err() {
            // Perhaps it was never made.
            let _ = std::fs::remove_file(to);
        }
        fetched
    }

    async fn download(&self, key: &str, digest: &Digest, to: &FilePath) -> Result<u64, StoreError> {
        let local = |error| StoreError::io(to, error);
        let got = self.objects().get(&Path::from(key)).await.map_err(|error| self.failed(error))?;
        if got.meta.size > MAX_ARCHIVE {
            return Err(StoreError::TooLarge(key.to_owned()));
        }
        let mut file = Tee::new(File::create_new(to).map_err(local)?);
        let mut stream = got.into_stream();
        while let Some(bytes) = stream.next().await {
            let bytes = bytes.map_err(|error| self.failed(error))?;
            if file.length() + bytes.len() as u64 > MAX_ARCHIVE {
                return Err(StoreError::TooLarge(key.to_owned()));
            }
            file.write_all(&bytes).map_err(local)?;
        }
        let length = file.length();
        let (_, found) = file.finish();
        if found != *digest {
            return Err(StoreError::Mismatch { key: key.to_owned(), wanted: digest.clone(), found });
        }
        Ok(length)
    }
}

/// The next piece of a file; empty at its end.
fn piece(file: &mut File) -> io::Result<Bytes> {
    let mut bytes = Vec::new();
    file.take(PART).read_to_end(&mut bytes)?;
    Ok(bytes.into())
}
