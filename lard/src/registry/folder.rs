//! A working folder, locked as long as its process lives: what a lard that was killed has left is told by that from what another
//! works in. Not by pids: in a container each lard is the first process.

use std::fs::{self, DirEntry, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use openlambda_bundle::BundleError;
use tempfile::TempDir;

/// What the names of working folders begin with.
const PREFIX: &str = "openlambda-upload-";
/// A folder that another lard, which starts this moment, takes for a leftover is made again so often.
const ATTEMPTS: u32 = 3;

/// It goes when this is dropped.
pub struct Folder {
    folder: TempDir,
    _lock: File,
}

impl Folder {
    /// Makes one among the temporary files.
    pub fn make() -> Result<Self, BundleError> {
        let all = std::env::temp_dir();
        let mut taken = io::Error::from(io::ErrorKind::AlreadyExists);
        for _ in 0..ATTEMPTS {
            let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&all);
            let folder = folder.map_err(|error| BundleError::io(&all, error))?;
            match lock(folder.path()) {
                Ok(lock) if folder.path().is_dir() => return Ok(Self { folder, _lock: lock }),
                Ok(_) => {}
                Err(error) => taken = error,
            }
        }
        Err(BundleError::io(&all, taken))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

/// Removes what lards that were killed have left. Blocks.
pub fn sweep() {
    sweep_in(&std::env::temp_dir());
}

fn sweep_in(all: &Path) {
    let entries = fs::read_dir(all).into_iter().flatten().flatten();
    for entry in entries.filter(is_ours) {
        let path = entry.path();
        // Whoever works in it has the lock.
        let Ok(_lock) = lock(&path) else { continue };
        match fs::remove_dir_all(&path) {
            Ok(()) => {
                tracing::info!(folder = %path.display(), "removed what a lard that was killed has left")
            }
            Err(error) => tracing::warn!(folder = %path.display(), %error, "cannot be removed"),
        }
    }
}

fn is_ours(entry: &DirEntry) -> bool {
    let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
    let is_named = entry.file_name().to_string_lossy().starts_with(PREFIX);
    let me = rustix::process::geteuid().as_raw();
    is_folder && is_named && entry.metadata().is_ok_and(|metadata| metadata.uid() == me)
}

fn lock(folder: &Path) -> io::Result<File> {
    let file = File::open(folder)?;
    file.try_lock()?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_works_in_is_swept() {
        let all = tempfile::tempdir().unwrap();
        let path = |name: &str| all.path().join(name);
        for name in ["openlambda-upload-left", "openlambda-upload-used", "another"] {
            fs::create_dir(path(name)).unwrap();
        }
        fs::write(path("openlambda-upload-left").join("arrived"), "half").unwrap();
        fs::write(path("openlambda-upload-file"), "").unwrap();
        std::os::unix::fs::symlink("another", path("openlambda-upload-link")).unwrap();
        let used = lock(&path("openlambda-upload-used")).unwrap();
        sweep_in(all.path());
        assert!(!path("openlambda-upload-left").exists());
        for name in ["openlambda-upload-used", "another", "openlambda-upload-file", "openlambda-upload-link"]
        {
            assert!(path(name).exists(), "{name}");
        }
        drop(used);
        sweep_in(all.path());
        assert!(!path("openlambda-upload-used").exists());
    }

    #[test]
    fn one_that_is_made_is_locked_and_goes() {
        let folder = Folder::make().unwrap();
        let path = folder.path().to_owned();
        assert!(lock(&path).is_err());
        drop(folder);
        assert!(!path.exists());
    }
}
