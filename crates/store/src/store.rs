//! A registry, and what is done with handlers in it.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use jiff::Timestamp;
use object_store::path::Path;
use object_store::{Error, ObjectMeta, ObjectStore, ObjectStoreExt as _};
use openlambda_api::HandlerName;
use openlambda_bundle::Digest;
use openlambda_config::registry::Place;
use uuid::Uuid;

use crate::directory::Lock;
use crate::error::StoreError;
use crate::record::{Revision, Upload};
use crate::{KEPT, open};

/// Where bundles are.
const FOLDER: &str = "bundles";
/// A bundle that no record names is left alone for so long: its upload may still be under way.
const UNDER_WAY: Duration = Duration::from_secs(3600);
/// Such bundles are looked for at every so many uploads of a handler.
const SWEEP_EVERY: u64 = 16;

/// A registry.
#[derive(Clone, Debug)]
pub struct Store {
    objects: Arc<dyn ObjectStore>,
    place: Arc<str>,
    /// In a directory, what changes of records take turns with.
    lock: Option<Lock>,
}

/// What came of an upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uploaded {
    /// The revision that serves from now on.
    pub revision: Revision,
    /// Whether it is a new one: what served already is not uploaded again.
    pub is_new: bool,
}

impl Store {
    /// Opens a registry. Nothing is asked yet, so one that is away is found out later.
    pub fn open(place: &Place) -> Result<Self, StoreError> {
        let shown = place.to_string();
        let (objects, lock) = match place {
            Place::Directory(path) => (open::directory(path, &shown)?, Some(Lock::of(path))),
            Place::S3(config) => (open::bucket(config, &shown)?, None),
        };
        Ok(Self { objects, place: shown.into(), lock })
    }

    /// Where it is, for people.
    pub fn place(&self) -> &str {
        &self.place
    }

    pub(crate) fn objects(&self) -> &Arc<dyn ObjectStore> {
        &self.objects
    }

    pub(crate) fn lock(&self) -> Option<&Lock> {
        self.lock.as_ref()
    }

    pub(crate) fn failed(&self, error: Error) -> StoreError {
        StoreError::of(&self.place, error)
    }

    /// Whether it answers who asks: a list of what is not there.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let nothing = Path::from_iter([FOLDER, ".probe"]);
        match self.objects.list(Some(&nothing)).try_next().await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Uploads a bundle as the handler's new revision. Nobody sees anything of it until all of it is there. `progress`
    /// hears how much has arrived.
    pub async fn upload(
        &self,
        handler: &HandlerName,
        file: &FilePath,
        digest: &Digest,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Uploaded, StoreError> {
        if let Some(revision) = self.serving(handler).await?.filter(|revision| revision.digest == *digest)
            && self.is_there(&revision).await?
        {
            return Ok(Uploaded { revision, is_new: false });
        }
        let upload = self.put(handler, file, digest, progress).await?;
        let key = upload.key.clone();
        let added =
            self.change(handler, |record| Ok((record.add(upload.clone(), KEPT), record.clone()))).await;
        match added {
            Ok(((revision, now), before)) => {
                let gone = before.revisions.into_iter().filter(|former| !now.names(&former.key));
                self.tidy(handler, &revision, gone.map(|former| former.key)).await;
                Ok(Uploaded { revision, is_new: true })
            }
            Err(error) => {
                // It is nobody's; if this fails too, a later upload removes it.
                let _ = self.objects.delete(&Path::from(key)).await;
                Err(error)
            }
        }
    }

    /// Puts a bundle there without a record: for whoever keeps its key and digest elsewhere.
    pub async fn put(
        &self,
        handler: &HandlerName,
        file: &FilePath,
        digest: &Digest,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Upload, StoreError> {
        let bytes = std::fs::metadata(file).map_err(|error| StoreError::io(file, error))?.len();
        let id = &Uuid::new_v4().simple().to_string()[..8];
        let name = format!("{}-{id}.tar.gz", digest.hex());
        let key = Path::from_iter([FOLDER, handler.as_str(), &name]);
        self.send(&key, file, progress).await?;
        let uploaded = Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string();
        Ok(Upload { digest: digest.clone(), key: key.to_string(), bytes, uploaded })
    }

    /// Whether its bundle is, as far as that can be told without reading it.
    async fn is_there(&self, revision: &Revision) -> Result<bool, StoreError> {
        match self.objects.head(&Path::from(revision.key.as_str())).await {
            Ok(object) => Ok(object.size == revision.bytes),
            Err(Error::NotFound { .. }) => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    async fn serving(&self, handler: &HandlerName) -> Result<Option<Revision>, StoreError> {
        Ok(self.record(handler).await?.and_then(|record| record.serving().cloned()))
    }

    /// Another revision serves from now on: that of the number, or the one before.
    pub async fn roll_back(&self, handler: &HandlerName, to: Option<u64>) -> Result<Revision, StoreError> {
        let name = handler.as_str();
        let changed = self.change(handler, |record| {
            if record.revisions.is_empty() {
                return Err(StoreError::NoHandler(name.to_owned()));
            }
            record.roll_back(to).map_err(StoreError::NoRevision)
        });
        Ok(changed.await?.0)
    }

    /// Removes a handler with all its revisions; whether there was one.
    pub async fn delete(&self, handler: &HandlerName) -> Result<bool, StoreError> {
        let was_there = self.remove(handler).await?;
        for object in self.bundles(handler).await? {
            self.discard(&object.location).await?;
        }
        Ok(was_there)
    }

    async fn bundles(&self, handler: &HandlerName) -> Result<Vec<ObjectMeta>, StoreError> {
        let folder = Path::from_iter([FOLDER, handler.as_str()]);
        self.objects.list(Some(&folder)).try_collect().await.map_err(|error| self.failed(error))
    }

    /// Removes what no revision needs any more: what was let go, and now and then what uploads that broke off have left.
    async fn tidy(&self, handler: &HandlerName, newest: &Revision, gone: impl Iterator<Item = String>) {
        let tidied = async {
            for key in gone {
                self.discard(&Path::from(key)).await?;
            }
            if newest.number.is_multiple_of(SWEEP_EVERY) {
                self.sweep(handler, newest).await?;
            }
            Ok::<_, StoreError>(())
        };
        if let Err(error) = tidied.await {
            tracing::warn!(handler = handler.as_str(), %error, "cannot remove what no revision needs");
        }
    }

    /// Removes old bundles of the handler that no revision names. The one that was just uploaded tells the store's time.
    async fn sweep(&self, handler: &HandlerName, newest: &Revision) -> Result<(), StoreError> {
        let all = self.bundles(handler).await?;
        let Some(record) = self.record(handler).await? else { return Ok(()) };
        let is_newest = |object: &&ObjectMeta| object.location.as_ref() == newest.key;
        let Some(now) = all.iter().find(is_newest).map(|object| object.last_modified) else { return Ok(()) };
        let is_old =
            |object: &ObjectMeta| (now - object.last_modified).to_std().is_ok_and(|age| age > UNDER_WAY);
        for object in all.iter().filter(|object| is_old(object) && !record.names(object.location.as_ref())) {
            self.discard(&object.location).await?;
        }
        Ok(())
    }

    async fn discard(&self, path: &Path) -> Result<(), StoreError> {
        match self.objects.delete(path).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(error)),
        }
    }
}
