//! Reading, changing and listing the records of handlers.

use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::path::Path;
use object_store::{
    Error, ObjectMeta, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, UpdateVersion,
};
use openlambda_api::HandlerName;

use crate::error::StoreError;
use crate::record::Record;
use crate::store::Store;

/// Where records are.
const FOLDER: &str = "handlers";
const EXTENSION: &str = ".json";
/// The longest record: some hundred revisions.
const MAX_BYTES: u64 = 256 << 10;
/// So often a record is read again because somebody else changed it.
const ATTEMPTS: u32 = 30;

/// What a list says of a handler.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: HandlerName,
    /// Changes when its record does.
    pub stamp: String,
}

/// A record as it was read.
struct Read {
    record: Record,
    version: UpdateVersion,
}

impl Store {
    /// The record of a handler, if there is one.
    pub async fn record(&self, handler: &HandlerName) -> Result<Option<Record>, StoreError> {
        Ok(self.read(handler).await?.map(|read| read.record))
    }

    /// All handlers, by name.
    pub async fn handlers(&self) -> Result<Vec<Listed>, StoreError> {
        let folder = Path::from(FOLDER);
        let objects: Vec<_> =
            self.objects().list(Some(&folder)).try_collect().await.map_err(|error| self.failed(error))?;
        let mut all: Vec<_> = objects.iter().filter_map(listed).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    async fn read(&self, handler: &HandlerName) -> Result<Option<Read>, StoreError> {
        let got = match self.objects().get(&path(handler)).await {
            Ok(got) => got,
            Err(error) => {
                return match self.failed(error) {
                    StoreError::Missing { .. } => Ok(None),
                    error => Err(error),
                };
            }
        };
        let broken = |why: String| StoreError::Record {
            handler: handler.as_str().to_owned(),
            place: self.place().to_owned(),
            why,
        };
        if got.meta.size > MAX_BYTES {
            return Err(broken(format!("it has {} bytes", got.meta.size)));
        }
        let version = UpdateVersion { e_tag: got.meta.e_tag.clone(), version: got.meta.version.clone() };
        let bytes = got.bytes().await.map_err(|error| self.failed(error))?;
        let record = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
        Ok(Some(Read { record, version }))
    }

    /// Changes a record, or makes one: `change` is called again when somebody else was faster. Gives what it gave, and
    /// the record as it was before.
    pub(crate) async fn change<T>(
        &self,
        handler: &HandlerName,
        mut change: impl FnMut(&mut Record) -> Result<T, StoreError>,
    ) -> Result<(T, Record), StoreError> {
        let _held = match self.lock() {
            Some(lock) => Some(lock.take().await?),
            None => None,
        };
        for attempt in 0..ATTEMPTS {
            let read = self.read(handler).await?;
            let (before, version) = match read {
                Some(read) => (read.record, Some(read.version)),
                None => (Record::default(), None),
            };
            let mut record = before.clone();
            let result = change(&mut record)?;
            if record == before || self.write(handler, &record, version).await? {
                return Ok((result, before));
            }
            // Whoever was faster is done; the more there are, the longer it takes until it is our turn.
            tokio::time::sleep(Duration::from_millis(u64::from(attempt) * 5)).await;
        }
        Err(StoreError::Contended(handler.as_str().to_owned()))
    }

    /// Whether it was written: not if it is not what was read any more.
    async fn write(
        &self,
        handler: &HandlerName,
        record: &Record,
        version: Option<UpdateVersion>,
    ) -> Result<bool, StoreError> {
        let text = serde_json::to_vec_pretty(record).map_err(|error| StoreError::Record {
            handler: handler.as_str().to_owned(),
            place: self.place().to_owned(),
            why: error.to_string(),
        })?;
        let text = Bytes::from(text);
        let mode = match version {
            // Under the lock nobody else writes.
            _ if self.lock().is_some() => PutMode::Overwrite,
            Some(version) if version.e_tag.is_some() => PutMode::Update(version),
            Some(_) => PutMode::Overwrite,
            None => PutMode::Create,
        };
        let path = path(handler);
        let put = |mode| self.objects().put_opts(&path, text.clone().into(), PutOptions::from(mode));
        match put(mode).await {
            Ok(_) => Ok(true),
            Err(Error::Precondition { .. } | Error::AlreadyExists { .. }) => Ok(false),
            // A service without conditions: the last one wins, as long as no two upload the same handler at once.
            Err(error) if is_unconditional(&error) => {
                put(PutMode::Overwrite).await.map(|_| true).map_err(|error| self.failed(error))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    /// Removes a record; whether there was one.
    pub(crate) async fn remove(&self, handler: &HandlerName) -> Result<bool, StoreError> {
        if self.read(handler).await?.is_none() {
            return Ok(false);
        }
        match self.objects().delete(&path(handler)).await {
            Ok(()) | Err(Error::NotFound { .. }) => Ok(true),
            Err(error) => Err(self.failed(error)),
        }
    }
}

fn is_unconditional(error: &Error) -> bool {
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || error.to_string().contains("NotImplemented")
}

fn path(handler: &HandlerName) -> Path {
    Path::from_iter([FOLDER.to_owned(), format!("{}{EXTENSION}", handler.as_str())])
}

fn listed(object: &ObjectMeta) -> Option<Listed> {
    let name = object.location.filename()?.strip_suffix(EXTENSION)?;
    let name = HandlerName::parse(name).ok()?;
    let tag = object.e_tag.as_deref().unwrap_or_default();
    Some(Listed { name, stamp: format!("{tag} {} {}", object.last_modified, object.size) })
}
