//! A place to work in: a folder, one of the few places, and threads that may block. All of it is given back however a
//! request ends, and only when nothing works in it any more.

use std::path::Path;
use std::time::Duration;

use openlambda_api::Reason;
use openlambda_bundle::BundleError;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use super::folder::Folder;
use crate::reply::Failure;

/// The registry may take so long for everything that one request needs of it.
const REGISTRY_WITHIN: Duration = Duration::from_secs(180);

/// A folder and a place.
pub struct Work {
    /// None only while it is dropped.
    folder: Option<Folder>,
    _permit: OwnedSemaphorePermit,
}

impl Work {
    /// Makes the folder.
    pub fn new(permit: OwnedSemaphorePermit) -> Result<Self, BundleError> {
        Ok(Self { folder: Some(Folder::make()?), _permit: permit })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.as_ref().map_or(Path::new(""), Folder::path)
    }

    /// Has a thread do what blocks, in the folder. It goes on to its end if nobody waits for it any more.
    pub async fn block<T: Send + 'static>(
        self,
        work: impl FnOnce(&Path) -> T + Send + 'static,
    ) -> Result<(T, Self), Failure> {
        let done = spawn_blocking(move || (work(self.path()), self)).await;
        done.map_err(|error| Failure::new(Reason::Internal, format!("the registry's API failed: {error}")))
    }

    /// The same for what asks the registry: it hashes, and reads and writes files, between what it waits for.
    pub async fn ask<T: Send + 'static>(
        self,
        work: impl AsyncFnOnce(&Path) -> T + Send + 'static,
    ) -> Result<(T, Self), Failure> {
        let runtime = Handle::current();
        let (done, work) =
            self.block(move |folder| runtime.block_on(timeout(REGISTRY_WITHIN, work(folder)))).await?;
        let late = |_| {
            let within = REGISTRY_WITHIN.as_secs();
            Failure::new(Reason::RegistryUnavailable, format!("the registry took more than {within} s"))
        };
        Ok((done.map_err(late)?, work))
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let folder = self.folder.take();
        match Handle::try_current() {
            // There may be many files in it. What is not begun when the process ends is dropped there.
            Ok(runtime) => drop(runtime.spawn_blocking(move || drop(folder))),
            Err(_) => drop(folder),
        }
    }
}
