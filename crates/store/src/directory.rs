//! In a directory there is no conditional put: who changes a record holds a lock meanwhile.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::error::StoreError;

/// The lock's file, below the directory.
const LOCK: &str = ".lock";

/// The lock of a directory.
#[derive(Clone, Debug)]
pub struct Lock(PathBuf);

/// Held until it is dropped.
#[derive(Debug)]
pub struct Held(#[allow(dead_code, reason = "it is there to be dropped")] File);

impl Lock {
    /// That of a directory.
    pub fn of(directory: &Path) -> Self {
        Self(directory.join(LOCK))
    }

    /// Waits for it, on a blocking thread: it is held for a read and a write of a small file.
    pub async fn take(&self) -> Result<Held, StoreError> {
        let path = self.0.clone();
        let taken = tokio::task::spawn_blocking(move || {
            let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
            let file = file.map_err(|error| StoreError::io(&path, error))?;
            flock(&file, FlockOperation::LockExclusive)
                .map_err(|error| StoreError::io(&path, error.into()))?;
            Ok(Held(file))
        });
        taken.await.map_err(|error| StoreError::io(&self.0, std::io::Error::other(error)))?
    }
}
