//! In a directory there is no conditional put: who changes a record holds a lock meanwhile.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::StoreError;

/// The lock's file, below the directory.
const LOCK: &str = ".lock";
/// It is held for a read and a write of a small file; who has it for longer has stopped.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);

/// The lock of a directory.
#[derive(Clone, Debug)]
pub struct Lock(PathBuf);

/// Held until it is dropped.
#[derive(Debug)]
pub struct Held {
    _file: File,
}

impl Lock {
    /// That of a directory.
    pub fn of(directory: &Path) -> Self {
        Self(directory.join(LOCK))
    }

    /// Waits for it.
    pub async fn take(&self) -> Result<Held, StoreError> {
        let failed = |error| StoreError::io(&self.0, error);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&self.0);
        let file = file.map_err(failed)?;
        let until = Instant::now() + PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Held { _file: file }),
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) if Instant::now() >= until => {
                    let message = format!("somebody has held this lock for {} s", PATIENCE.as_secs());
                    return Err(failed(io::Error::new(io::ErrorKind::TimedOut, message)));
                }
                // The kernel tells nobody when a lock is free but who blocks for it.
                Err(TryLockError::WouldBlock) => tokio::time::sleep(PAUSE).await,
            }
        }
    }
}
