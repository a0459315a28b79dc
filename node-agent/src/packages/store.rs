//! The packages on this node's disk, as they are shared by the workers of one cluster:
//!
//! ```text
//! installed/NAME-VERSION/    what sandboxes see, complete from the moment that it is there
//! about/NAME-VERSION.json    what is known of it
//! locks/NAME-VERSION         held exclusively by who installs or removes it, shared by who uses it; its time is that of last use
//! work/N/                    folders of jobs; what a killed worker leaves is removed by the next start
//! resolved/HANDLER.json      what a handler's requirements were resolved to
//! python                     for which Python all of that is
//! ```
//!
//! Blocking: call it from a blocking thread.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt as _, chown, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use openlambda_api::conditions::ConditionReason;
use openlambda_policy::packages::{OnDisk, to_evict};
use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::error::PackageError;
use super::lock::Pin;
use super::{Package, metadata, uv};

/// The folder that sandboxes see as `/packages`.
pub const INSTALLED: &str = "installed";
const ABOUT: &str = "about";
const LOCKS: &str = "locks";
const WORK: &str = "work";
const RESOLVED: &str = "resolved";

/// The store of a node.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    /// Most bytes of all packages together.
    budget: u64,
    /// Who owns the folders of jobs.
    user: u32,
    /// This worker's folder of jobs.
    work: PathBuf,
    /// Held as long as `work` is ours.
    _work_lock: File,
    next: AtomicU64,
    /// The packages that this worker has used, each with a shared lock while it does.
    known: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    package: Arc<Package>,
    lock: File,
}

/// What is known of a package, on disk.
#[derive(Debug, Serialize, Deserialize)]
struct About {
    name: String,
    version: String,
    imports: Vec<String>,
    bytes: u64,
    /// The wheel had one of these; none: nothing is known.
    #[serde(default)]
    hashes: Vec<String>,
}

impl About {
    /// Whether what is here is what the pin means: the same version with other contents is not.
    fn check(&self, pin: &Pin) -> Result<(), PackageError> {
        let right = !self.hashes.is_empty() && self.hashes.iter().all(|hash| pin.hashes.contains(hash));
        if pin.hashes.is_empty() || right {
            return Ok(());
        }
        let message = format!(
            "{} is on this node with the hash {}, which is none of those that are asked for: name that one too, or another version",
            pin.text(),
            self.hashes.first().map_or("(unknown)", String::as_str)
        );
        Err(PackageError::lasting(ConditionReason::HashMismatch, message))
    }
}

/// The right to install a package, or the package, if somebody was first.
#[derive(Debug)]
pub enum Claim {
    /// It is there.
    There(Arc<Package>),
    /// Nobody else installs it while this is held.
    Install(File),
}

/// The folder of a job, which goes with this.
#[derive(Debug)]
pub struct Job {
    /// The folder.
    pub path: PathBuf,
    user: u32,
}

impl Drop for Job {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "the folder of an installation is left");
        }
    }
}

impl Job {
    /// Writes a file for the tool to read.
    pub fn put(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<(), PackageError> {
        let path = self.path.join(name);
        let result = fs::write(&path, contents).and_then(|()| chown(&path, Some(self.user), Some(self.user)));
        on("write", &path, result)
    }
}

fn on<T>(step: &str, path: &Path, result: io::Result<T>) -> Result<T, PackageError> {
    result.map_err(|error| PackageError::io(step, path, &error))
}

impl Store {
    /// Opens the store at `root`, and removes what workers that were killed have left of jobs, whose folders belong to `user`, and
    /// what another Python than `python` has left.
    pub fn open(root: PathBuf, budget: u64, user: u32, python: &str) -> io::Result<Self> {
        fs::create_dir_all(root.join(WORK))?;
        let sweeping = File::create(root.join(WORK).join("lock"))?;
        // One worker at a time makes or removes folders here, so none is removed between its making and its locking.
        flock(&sweeping, FlockOperation::LockExclusive)?;
        for name in [INSTALLED, ABOUT, LOCKS, WORK, RESOLVED] {
            let path = root.join(name);
            fs::create_dir_all(&path)?;
            let mode = if name == INSTALLED { 0o755 } else { 0o700 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
        }
        sweep(&root.join(WORK))?;
        let work = free_folder(&root.join(WORK))?;
        let lock = File::create(work.join("lock"))?;
        flock(&lock, FlockOperation::LockExclusive)?;
        let store = Self {
            root,
            budget,
            user,
            work,
            _work_lock: lock,
            next: AtomicU64::new(0),
            known: Mutex::default(),
        };
        store.become_that_of(python)?;
        Ok(store)
    }

    /// Removes everything if it is for another Python.
    fn become_that_of(&self, python: &str) -> io::Result<()> {
        let marker = self.root.join("python");
        let before = fs::read_to_string(&marker).unwrap_or_default();
        if before == python {
            return Ok(());
        }
        for entry in fs::read_dir(self.root.join(INSTALLED))? {
            let folder = entry?.file_name().to_string_lossy().into_owned();
            if !self.evict(&folder).map_err(io::Error::other)? {
                let text = format!(
                    "{} holds packages for {before}, which another worker uses; this one has {python}: set another Pkgs_dir",
                    self.root.display()
                );
                return Err(io::Error::other(text));
            }
        }
        let resolved = self.root.join(RESOLVED);
        fs::remove_dir_all(&resolved)?;
        fs::create_dir(&resolved)?;
        fs::write(marker, python)
    }

    /// An empty folder for a job.
    pub fn job(&self) -> Result<Job, PackageError> {
        let path = self.work.join(self.next.fetch_add(1, Ordering::Relaxed).to_string());
        on("make the folder", &path, fs::create_dir(&path))?;
        let job = Job { path, user: self.user };
        on("hand over", &job.path, chown(&job.path, Some(self.user), Some(self.user)))?;
        on("close", &job.path, fs::set_permissions(&job.path, fs::Permissions::from_mode(0o700)))?;
        Ok(job)
    }

    /// The package if it is there and nobody is about to remove it.
    pub fn look(&self, pin: &Pin) -> Result<Option<Arc<Package>>, PackageError> {
        let folder = pin.folder();
        let lock = self.lock_of(&folder)?;
        if flock(&lock, FlockOperation::NonBlockingLockShared).is_err() {
            return Ok(None);
        }
        let Some(about) = self.about(&folder) else { return Ok(None) };
        about.check(pin)?;
        Ok(Some(self.enter(about, lock)))
    }

    fn lock_of(&self, folder: &str) -> Result<File, PackageError> {
        let path = self.root.join(LOCKS).join(folder);
        on("open", &path, File::options().create(true).truncate(false).write(true).open(&path))
    }

    /// The package if it is there; otherwise the right to install it, which is waited for while another has it.
    pub fn claim(&self, pin: &Pin) -> Result<Claim, PackageError> {
        let folder = pin.folder();
        let path = self.root.join(LOCKS).join(&folder);
        let lock = self.lock_of(&folder)?;
        loop {
            on("lock", &path, flock(&lock, FlockOperation::LockShared).map_err(Into::into))?;
            if let Some(about) = self.about(&folder) {
                about.check(pin)?;
                return Ok(Claim::There(self.enter(about, lock)));
            }
            on("lock", &path, flock(&lock, FlockOperation::LockExclusive).map_err(Into::into))?;
            // Between the two locks another may have been first.
            if self.about(&folder).is_none() {
                return Ok(Claim::Install(lock));
            }
        }
    }

    /// What is known of a package that is installed.
    fn about(&self, folder: &str) -> Option<About> {
        if !self.root.join(INSTALLED).join(folder).is_dir() {
            return None;
        }
        let text = fs::read(self.root.join(ABOUT).join(format!("{folder}.json"))).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Takes up a package that is in use from now on.
    fn enter(&self, about: About, lock: File) -> Arc<Package> {
        touch(&lock);
        let folder = format!("{}-{}", about.name, about.version);
        let About { name, version, imports, bytes, hashes: _ } = about;
        let mut known = self.known.lock();
        let entry = known.entry(folder.clone()).or_insert_with(|| Known {
            package: Arc::new(Package { name, version, folder, imports, bytes }),
            lock,
        });
        Arc::clone(&entry.package)
    }

    /// Takes over what a tool has installed into `folder` of its job.
    pub fn adopt(&self, job: &Job, pin: &Pin, right: File) -> Result<Arc<Package>, PackageError> {
        let folder = pin.folder();
        let from = job.path.join(&folder);
        on("take over", &from, take_over(&from, geteuid().as_raw()))?;
        let imports = on("read the metadata in", &from, metadata::imports(&from))?;
        let bytes = on("measure", &from, metadata::disk_usage(&from))?;
        let cache = job.path.join(uv::CACHE);
        let hashes = match on("look for the hash in", &cache, metadata::wheel_hash(&cache, &pin.hashes))? {
            Some(hash) => vec![hash],
            None => pin.hashes.clone(),
        };
        let about = About { name: pin.name.clone(), version: pin.version.clone(), imports, bytes, hashes };
        let path = self.root.join(ABOUT).join(format!("{folder}.json"));
        let text = serde_json::to_vec(&about).map_err(|error| PackageError::ours(error.to_string()))?;
        on("write", &path, fs::write(&path, text))?;
        self.make_room(bytes)?;
        let to = self.root.join(INSTALLED).join(&folder);
        // What is there without a description is of no use to anybody.
        let _ = self.trash(&to);
        on("move to its place", &from, fs::rename(&from, &to))?;
        let path = self.root.join(LOCKS).join(&folder);
        on("lock", &path, flock(&right, FlockOperation::LockShared).map_err(Into::into))?;
        match self.about(&folder) {
            Some(about) => Ok(self.enter(about, right)),
            // Removed between the two locks: as good as never installed.
            None => {
                Err(PackageError::ours(format!("{} was removed as soon as it was installed", pin.text())))
            }
        }
    }

    /// Evicts what nobody uses until `more` bytes fit into the budget; an error if they never will.
    fn make_room(&self, more: u64) -> Result<(), PackageError> {
        self.release_unused();
        let there = self.on_disk()?;
        let folders: Vec<&String> = there.keys().collect();
        let mut packages: Vec<_> =
            there.values().enumerate().map(|(key, one)| OnDisk { key, ..*one }).collect();
        loop {
            let used: u64 = packages.iter().filter(|one| one.in_use).map(|one| one.bytes).sum();
            // Nothing is given up for what does not fit all the same.
            if used.saturating_add(more) > self.budget {
                let message = format!(
                    "{more} bytes do not fit beside the {used} bytes of packages that are in use: the budget is {} \
                     (packages_size, spec.agent.storage.size)",
                    self.budget
                );
                return Err(PackageError::passing(ConditionReason::DiskFull, message));
            }
            let Some(key) = to_evict(self.budget - more, &packages).first().copied() else { return Ok(()) };
            let evicted = self.evict(folders[key])?;
            packages.retain(|one| one.key != key || !evicted);
            // Another worker uses it.
            packages.iter_mut().filter(|one| one.key == key).for_each(|one| one.in_use = true);
        }
    }

    /// Gives up the shared locks of packages that nothing of this worker refers to any more.
    fn release_unused(&self) {
        self.known.lock().retain(|_, known| {
            let used = Arc::strong_count(&known.package) > 1;
            if !used {
                touch(&known.lock);
            }
            used
        });
    }

    /// All that is installed.
    fn on_disk(&self) -> Result<BTreeMap<String, OnDisk<usize>>, PackageError> {
        let path = self.root.join(INSTALLED);
        let used: Vec<String> = self.known.lock().keys().cloned().collect();
        let mut all = BTreeMap::new();
        for entry in on("list", &path, fs::read_dir(&path))? {
            let folder = on("list", &path, entry)?.file_name().to_string_lossy().into_owned();
            let modified = fs::metadata(self.root.join(LOCKS).join(&folder)).and_then(|data| data.modified());
            let last_used = modified
                .ok()
                .and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok())
                .unwrap_or(Duration::ZERO);
            let bytes = self.about(&folder).map_or(0, |about| about.bytes);
            let in_use = used.contains(&folder);
            all.insert(folder, OnDisk { key: 0, bytes, last_used, in_use });
        }
        Ok(all)
    }

    /// Removes a package, unless another worker uses it.
    fn evict(&self, folder: &str) -> Result<bool, PackageError> {
        let lock = self.lock_of(folder)?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let installed = self.root.join(INSTALLED).join(folder);
        on("remove", &installed, self.trash(&installed))?;
        // Left over, it describes nothing.
        let _ = fs::remove_file(self.root.join(ABOUT).join(format!("{folder}.json")));
        tracing::info!(package = folder, "evicted from the disk");
        Ok(true)
    }

    /// Takes a folder out of sight at once, and then removes it.
    fn trash(&self, path: &Path) -> io::Result<()> {
        let aside = self.work.join(format!("gone-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        match fs::rename(path, &aside) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => fs::remove_dir_all(&aside),
        }
    }

    /// What the requirements of a handler were resolved to on this node, if they still have this digest.
    pub fn resolved(&self, handler: &str, digest: &str) -> Option<String> {
        let text = fs::read(self.record(handler)).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.requirements == digest).then_some(record.lock)
    }

    /// Records what they were resolved to.
    pub fn record_resolved(&self, handler: &str, digest: &str, lock: &str) -> Result<(), PackageError> {
        let record = Record { requirements: digest.to_owned(), lock: lock.to_owned() };
        let text = serde_json::to_vec(&record).map_err(|error| PackageError::ours(error.to_string()))?;
        let new = self.work.join(format!("resolved-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        on("write", &new, fs::write(&new, text))?;
        on("move to its place", &new, fs::rename(&new, self.record(handler)))
    }

    fn record(&self, handler: &str) -> PathBuf {
        self.root.join(RESOLVED).join(format!("{handler}.json"))
    }
}

/// What a handler's requirements were resolved to.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    requirements: String,
    lock: String,
}

/// Notes that a package is used. If it fails the package looks older than it is.
#[expect(
    clippy::disallowed_methods,
    reason = "which package was used last outlives the worker; it decides only which goes first"
)]
fn touch(lock: &File) {
    let _ = lock.set_modified(SystemTime::now());
}

/// Removes the folders of jobs that no living worker has.
fn sweep(work: &Path) -> io::Result<()> {
    for entry in fs::read_dir(work)? {
        let path = entry?.path();
        if !path.is_dir() {
            continue;
        }
        let left = match File::open(path.join("lock")) {
            Ok(lock) => flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok(),
            Err(_) => true,
        };
        if left {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}

fn free_folder(work: &Path) -> io::Result<PathBuf> {
    for number in 0..10_000 {
        let path = work.join(number.to_string());
        match fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => return other.map(|()| path),
        }
    }
    Err(io::Error::other(format!("{} is full of folders of other workers", work.display())))
}

/// From the tool's user to ours, readable for all and writable for none: what a wheel says of modes does not count.
fn take_over(path: &Path, owner: u32) -> io::Result<()> {
    let kind = fs::symlink_metadata(path)?;
    lchown(path, Some(owner), Some(owner))?;
    if kind.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        for entry in fs::read_dir(path)? {
            take_over(&entry?.path(), owner)?;
        }
    } else if kind.is_file() {
        let mode = if kind.permissions().mode() & 0o111 != 0 { 0o755 } else { 0o644 };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    } else {
        // No wheel has links, sockets or pipes; and nobody of ours is to follow a link that a tool has made.
        fs::remove_file(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
