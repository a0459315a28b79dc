//! Bundles: handlers' code as it was at one moment, copied once into the worker's directory under its digest.
//!
//! A sandbox mounts a bundle, never the registry, so an edit cannot change what a running instance sees. A bundle is
//! removed when nothing refers to it any more.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak, mpsc};

use bytes::Bytes;
use openlambda_bundle::tree::{ENTRY_FILE, Kind, MAX_BYTES, Tree, TreeError};
use openlambda_bundle::{DIRECTORY_MODE, FILE_MODE, make_directory};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use crate::frame::Meta;

/// How often a directory that changes under the copy is copied again.
const ATTEMPTS: usize = 3;

/// A handler's code at one moment.
#[derive(Debug)]
pub struct Bundle {
    /// SHA-256 of names and contents, in hex.
    pub digest: String,
    /// The copy.
    pub path: PathBuf,
    /// What it takes on the disk, about.
    pub on_disk: u64,
    /// The entry file compiled, or why it cannot be; empty until someone has tried.
    pub code: OnceLock<Result<Bytes, Meta>>,
    /// Set by the one who compiles it.
    pub compiling: AtomicBool,
    store: Arc<Inner>,
}

impl Drop for Bundle {
    fn drop(&mut self) {
        self.store.forget(&self.digest, &self.path);
    }
}

/// What is known of a directory after a look at it.
#[derive(Debug)]
pub struct Staged {
    /// The code.
    pub bundle: Arc<Bundle>,
    /// [`Tree::fingerprint`] of what was copied.
    pub fingerprint: u64,
    /// [`Tree::settled`] of what was copied.
    pub settled: bool,
    /// The number of entries.
    pub entries: usize,
}

/// All bundles of a worker.
#[derive(Clone, Debug)]
pub struct Bundles {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    alive: Mutex<HashMap<String, Weak<Bundle>>>,
    next: AtomicU64,
    trash: Mutex<mpsc::Sender<PathBuf>>,
}

impl Bundles {
    /// An empty store in `directory`; what a former worker left there is removed.
    pub fn open(directory: PathBuf) -> io::Result<Self> {
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        fs::create_dir_all(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(DIRECTORY_MODE))?;
        let (trash, removed) = mpsc::channel::<PathBuf>();
        // Large trees take a while to remove: never on a thread that serves calls.
        std::thread::Builder::new().name("bundle-trash".into()).spawn(move || {
            for path in removed {
                if let Err(error) = fs::remove_dir_all(&path) {
                    tracing::warn!(path = %path.display(), %error, "cannot remove an old bundle");
                }
            }
        })?;
        let alive = Mutex::new(HashMap::new());
        Ok(Self {
            inner: Arc::new(Inner { directory, alive, next: AtomicU64::new(0), trash: Mutex::new(trash) }),
        })
    }

    /// Removes all of it, at the worker's end.
    pub fn remove(&self) {
        match fs::remove_dir_all(&self.inner.directory) {
            // The trash thread may be at work on the same files; what is left, the next start removes.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::debug!(%error, "some bundles are left");
            }
            _ => {}
        }
    }

    /// Copies a handler's directory, or finds the bundle that already holds the same. Blocking.
    pub fn stage(&self, source: &Path) -> Result<Staged, TreeError> {
        let read = || Tree::read(source, Path::new(ENTRY_FILE));
        let mut tree = read()?;
        for _ in 0..ATTEMPTS {
            let copy = self.inner.scratch();
            let digest = copy_tree(&tree, &copy);
            let after = read()?;
            match digest {
                Ok(digest) if after.fingerprint == tree.fingerprint => {
                    let bundle = self.inner.adopt(digest, &copy, tree.on_disk())?;
                    let (fingerprint, settled) = (tree.fingerprint, tree.settled);
                    return Ok(Staged { bundle, fingerprint, settled, entries: tree.entries.len() });
                }
                digest => {
                    self.inner.discard(copy);
                    // A file that is gone or different is no error while others change too.
                    match digest {
                        Err(error) if after.fingerprint == tree.fingerprint => return Err(error),
                        _ => tree = after,
                    }
                }
            }
        }
        Err(TreeError::Restless(source.to_owned()))
    }

    /// A bundle of what `fill` puts into an empty directory. It says which file must be among that, and what else is part
    /// of the digest. Blocking.
    pub fn make<E: From<TreeError>>(
        &self,
        fill: impl FnOnce(&Path) -> Result<(PathBuf, String), E>,
    ) -> Result<Arc<Bundle>, E> {
        let copy = self.inner.scratch();
        let made = make_directory(&copy)
            .map_err(|source| failed(&copy, source).into())
            .and_then(|()| fill(&copy))
            .and_then(|(entry, extra)| {
                let tree = Tree::read(&copy, &entry)?;
                Ok((digest_tree(&tree, &extra)?, tree.on_disk()))
            });
        match made {
            Ok((digest, on_disk)) => Ok(self.inner.adopt(digest, &copy, on_disk)?),
            Err(error) => {
                self.inner.discard(copy);
                Err(error)
            }
        }
    }

    /// A path for a file of a moment, which goes with the worker if not before.
    pub fn scratch_file(&self) -> PathBuf {
        self.inner.scratch()
    }
}

impl Inner {
    fn scratch(&self) -> PathBuf {
        self.directory.join(format!(".{}", self.next.fetch_add(1, Ordering::Relaxed)))
    }

    fn discard(&self, path: PathBuf) {
        // Fails only after the trash thread is gone, at the worker's end.
        let _ = self.trash.lock().send(path);
    }

    /// Gives the finished copy its name, unless the same code is already there.
    fn adopt(self: &Arc<Self>, digest: String, copy: &Path, on_disk: u64) -> Result<Arc<Bundle>, TreeError> {
        let mut alive = self.alive.lock();
        if let Some(bundle) = alive.get(&digest).and_then(Weak::upgrade) {
            self.discard(copy.to_owned());
            return Ok(bundle);
        }
        let path = self.directory.join(&digest);
        self.set_aside(&path);
        fs::rename(copy, &path).map_err(|source| TreeError::io(&path, source))?;
        let bundle = Arc::new(Bundle {
            digest: digest.clone(),
            path,
            on_disk,
            code: OnceLock::new(),
            compiling: AtomicBool::new(false),
            store: Arc::clone(self),
        });
        alive.insert(digest, Arc::downgrade(&bundle));
        Ok(bundle)
    }

    /// The last reference is gone. If the same code was staged again meanwhile, the directory is the new bundle's.
    fn forget(&self, digest: &str, path: &Path) {
        let mut alive = self.alive.lock();
        if alive.get(digest).is_some_and(|weak| weak.strong_count() == 0) {
            alive.remove(digest);
            self.set_aside(path);
        }
    }

    fn set_aside(&self, path: &Path) {
        let aside = self.scratch();
        if fs::rename(path, &aside).is_ok() {
            self.discard(aside);
        }
    }
}

/// The digest of a tree: over kind, name and the contents' own digest of each entry, so that no two trees run into the
/// same bytes.
#[derive(Default)]
struct TreeDigest(Sha256);

impl TreeDigest {
    fn header(&mut self, kind: u8, name: &Path) {
        let name = name.as_os_str().as_encoded_bytes();
        self.0.update([kind]);
        self.text(name);
    }

    fn text(&mut self, text: &[u8]) {
        self.0.update((text.len() as u64).to_le_bytes());
        self.0.update(text);
    }

    fn finish(self) -> String {
        self.0.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Copies a tree and gives its digest.
fn copy_tree(tree: &Tree, to: &Path) -> Result<String, TreeError> {
    let mut digest = TreeDigest::default();
    let mut left = MAX_BYTES;
    make_directory(to).map_err(|source| failed(to, source))?;
    for entry in &tree.entries {
        let (from, target) = (tree.root.join(&entry.path), to.join(&entry.path));
        match &entry.kind {
            Kind::Directory => {
                digest.header(0, &entry.path);
                make_directory(&target).map_err(|source| failed(&target, source))?;
            }
            Kind::Link(end) => {
                digest.header(1, &entry.path);
                digest.text(end.as_os_str().as_encoded_bytes());
                symlink(end, &target).map_err(|source| failed(&target, source))?;
            }
            Kind::File { executable } => {
                digest.header(2 + u8::from(*executable), &entry.path);
                let (copied, contents) = copy_file(&from, &target, *executable, left)
                    .map_err(|source| TreeError::io(&from, source))?;
                digest.0.update(contents);
                left -= copied;
            }
        }
    }
    Ok(digest.finish())
}

/// The same digest of a tree that is ours, and of `extra` behind it.
fn digest_tree(tree: &Tree, extra: &str) -> Result<String, TreeError> {
    let mut digest = TreeDigest::default();
    for entry in &tree.entries {
        let path = tree.root.join(&entry.path);
        match &entry.kind {
            Kind::Directory => digest.header(0, &entry.path),
            Kind::Link(end) => {
                digest.header(1, &entry.path);
                digest.text(end.as_os_str().as_encoded_bytes());
            }
            Kind::File { executable } => {
                digest.header(2 + u8::from(*executable), &entry.path);
                let mut contents = Sha256::new();
                let mut file = File::open(&path).map_err(|source| failed(&path, source))?;
                io::copy(&mut file, &mut contents).map_err(|source| failed(&path, source))?;
                digest.0.update(contents.finalize());
            }
        }
    }
    digest.text(extra.as_bytes());
    Ok(digest.finish())
}

/// A failure on our side of the copy, where "not found" does not mean that the handler is missing.
fn failed(path: &Path, source: io::Error) -> TreeError {
    TreeError::Io { path: path.to_owned(), source }
}

/// Copies a file of at most `left` bytes; gives their number and digest.
fn copy_file(from: &Path, to: &Path, executable: bool, left: u64) -> io::Result<(u64, [u8; 32])> {
    // Neither a link nor a pipe that has come in its place may be followed or waited for.
    let flags = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    let source = OpenOptions::new().read(true).custom_flags(flags.cast_signed()).open(from)?;
    let mut target = File::create_new(to)?;
    let mut source = source.take(left + 1);
    let (mut chunk, mut copied, mut digest) = (vec![0; 64 * 1024], 0, Sha256::new());
    loop {
        let count = source.read(&mut chunk)?;
        if count == 0 {
            break;
        }
        copied += count as u64;
        if copied > left {
            return Err(io::Error::other("the handler grew over its limit while it was copied"));
        }
        digest.update(&chunk[..count]);
        target.write_all(&chunk[..count])?;
    }
    let mode = if executable { DIRECTORY_MODE } else { FILE_MODE };
    target.set_permissions(fs::Permissions::from_mode(mode))?;
    Ok((copied, digest.finalize().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, text: &str) {
        fs::write(directory.join(ENTRY_FILE), text).unwrap();
    }

    fn wait_gone(path: &Path) {
        let start = std::time::Instant::now();
        while path.exists() {
            assert!(start.elapsed().as_secs() < 10, "{} is still there", path.display());
            std::thread::yield_now();
        }
    }

    #[test]
    fn the_same_code_is_one_bundle_and_goes_with_its_last_user() {
        let (work, handler) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bundles = Bundles::open(work.path().join("bundles")).unwrap();
        write(handler.path(), "a");
        fs::create_dir(handler.path().join("sub")).unwrap();
        symlink("../lambda_func.py", handler.path().join("sub/link")).unwrap();
        let one = bundles.stage(handler.path()).unwrap();
        let two = bundles.stage(handler.path()).unwrap();
        assert!(Arc::ptr_eq(&one.bundle, &two.bundle));
        assert_eq!(fs::read_to_string(one.bundle.path.join("sub/link")).unwrap(), "a");
        let mode = fs::metadata(one.bundle.path.join(ENTRY_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, FILE_MODE);

        write(handler.path(), "b");
        let three = bundles.stage(handler.path()).unwrap();
        assert_ne!(three.bundle.digest, one.bundle.digest);
        let old = one.bundle.path.clone();
        drop(one);
        assert!(old.exists());
        drop(two);
        wait_gone(&old);
        write(handler.path(), "a");
        let again = bundles.stage(handler.path()).unwrap();
        assert_eq!(again.bundle.path, old);
        assert!(old.exists());
    }

    #[test]
    fn a_restart_begins_empty() {
        let work = tempfile::tempdir().unwrap();
        let directory = work.path().join("bundles");
        fs::create_dir_all(directory.join("left/over")).unwrap();
        Bundles::open(directory.clone()).unwrap();
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn names_and_contents_do_not_run_together() {
        let work = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(work.path().join("bundles")).unwrap();
        let digest = |files: &[(&str, &str)]| {
            let handler = tempfile::tempdir().unwrap();
            write(handler.path(), "");
            for (name, text) in files {
                fs::write(handler.path().join(name), text).unwrap();
            }
            bundles.stage(handler.path()).unwrap().bundle.digest.clone()
        };
        assert_ne!(digest(&[("a", "b")]), digest(&[("ab", "")]));
        assert_eq!(digest(&[("a", "b")]), digest(&[("a", "b")]));
    }

    #[test]
    fn what_is_made_has_its_entry_and_its_extra_in_the_digest() {
        let work = tempfile::tempdir().unwrap();
        let bundles = Bundles::open(work.path().join("bundles")).unwrap();
        let make = |text: &'static str, extra: &str| {
            bundles.make::<TreeError>(|to| {
                fs::write(to.join("app.py"), text).map_err(|source| failed(to, source))?;
                Ok(("app.py".into(), extra.to_owned()))
            })
        };
        let one = make("1", "app.a").unwrap();
        assert!(Arc::ptr_eq(&one, &make("1", "app.a").unwrap()));
        assert_ne!(one.digest, make("1", "app.b").unwrap().digest);
        assert_ne!(one.digest, make("2", "app.a").unwrap().digest);
        let missing = bundles.make::<TreeError>(|_| Ok(("app.py".into(), String::new()))).unwrap_err();
        assert!(missing.is_missing(), "{missing}");
    }
}
