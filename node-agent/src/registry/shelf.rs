//! Bundles of the registry on this node: each fetched once however many ask for it, verified, unpacked, and kept for a
//! while after nothing serves them any more, so that going back to one needs nobody.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use openlambda_bundle::{BundleError, Digest, Manifest, entry, unpack};
use openlambda_store::Store;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::archives::Archives;
use crate::bundles::{Bundle, Bundles};
use crate::revision::entry_file;
use crate::trouble::{Trouble, closed};

/// Bundles that are fetched at a time.
const FETCHES: usize = 4;
/// Bundles that are kept though nothing serves them, at most: each has its compiled code in memory.
const KEPT: usize = 64;

/// A bundle with what it says of itself.
#[derive(Clone, Debug)]
pub struct Unpacked {
    /// The code.
    pub bundle: Arc<Bundle>,
    /// What its `ol.yaml` says.
    pub manifest: Arc<Manifest>,
    /// What is called: what was asked for, else what it says, else by its form.
    pub entrypoint: String,
}

/// A bundle, and what it is called by: the entrypoint is a part of what is unpacked.
type Key = (Digest, Option<String>);

/// The bundles.
#[derive(Debug)]
pub struct Shelf {
    store: Store,
    bundles: Bundles,
    archives: Arc<Archives>,
    kept: Mutex<Kept>,
    turns: Mutex<HashMap<Key, Weak<tokio::sync::Mutex<()>>>>,
    fetches: Semaphore,
}

/// The latest used last.
#[derive(Debug)]
struct Kept {
    budget: u64,
    all: VecDeque<(Key, Unpacked)>,
}

impl Shelf {
    /// An empty one, with what a former worker has kept in `archives`. `budget` is what bundles may take on the disk that
    /// nothing serves.
    pub fn new(store: Store, bundles: Bundles, archives: Arc<Archives>, budget: u64) -> Self {
        let kept = Mutex::new(Kept { budget, all: VecDeque::new() });
        Self { store, bundles, archives, kept, turns: Mutex::default(), fetches: Semaphore::new(FETCHES) }
    }

    /// The bundle that lies under a key of the registry and has this digest.
    pub async fn take(
        &self,
        key: &str,
        digest: &Digest,
        entrypoint: Option<&str>,
    ) -> Result<Unpacked, Trouble> {
        let id = (digest.clone(), entrypoint.map(str::to_owned));
        let turn = self.turn(&id);
        let held = turn.lock().await;
        let kept = self.kept.lock().find(&id);
        let found = match kept {
            Some(unpacked) => Ok(unpacked),
            None => self.fetch(key, digest, entrypoint).await,
        };
        if let Ok(unpacked) = &found {
            self.kept.lock().put(id.clone(), unpacked.clone());
        }
        drop(held);
        drop(turn);
        self.turns.lock().retain(|_, turn| turn.strong_count() > 0);
        found
    }

    /// Those who want the same wait for the first of them.
    fn turn(&self, id: &Key) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.turns.lock();
        if let Some(turn) = turns.get(id).and_then(Weak::upgrade) {
            return turn;
        }
        let turn = Arc::default();
        turns.insert(id.clone(), Arc::downgrade(&turn));
        turn
    }

    async fn fetch(&self, key: &str, digest: &Digest, entrypoint: Option<&str>) -> Result<Unpacked, Trouble> {
        let archive = Scratch(self.bundles.scratch_file());
        if !self.is_here(digest, &archive.0).await? {
            let _turn = self.fetches.acquire().await.map_err(closed)?;
            let bytes = self.store.fetch(key, digest, &archive.0).await?;
            tracing::info!(key, bytes, "fetched a bundle");
            self.keep(digest, &archive.0).await?;
        }
        let (bundles, entrypoint) = (self.bundles.clone(), entrypoint.map(str::to_owned));
        let staged = tokio::task::spawn_blocking(move || stage(&bundles, &archive.0, entrypoint));
        staged.await.map_err(closed)?
    }
}

impl Shelf {
    /// What outlives the worker.
    pub fn archives(&self) -> &Arc<Archives> {
        &self.archives
    }

    async fn is_here(&self, digest: &Digest, to: &Path) -> Result<bool, Trouble> {
        let (archives, digest, to) = (Arc::clone(&self.archives), digest.clone(), to.to_owned());
        tokio::task::spawn_blocking(move || archives.take(&digest, &to)).await.map_err(closed)
    }

    /// Not to have it at the next start is no reason not to serve it now.
    async fn keep(&self, digest: &Digest, from: &Path) -> Result<(), Trouble> {
        let (archives, digest, from) = (Arc::clone(&self.archives), digest.clone(), from.to_owned());
        let kept =
            tokio::task::spawn_blocking(move || archives.keep(&digest, &from)).await.map_err(closed)?;
        if let Err(error) = kept {
            tracing::warn!(%error, "cannot keep an archive for the next start");
        }
        Ok(())
    }
}

/// Unpacks an archive that has been verified.
fn stage(bundles: &Bundles, archive: &Path, wanted: Option<String>) -> Result<Unpacked, Trouble> {
    let (mut manifest, mut called) = (Manifest::default(), String::new());
    let bundle = bundles.make(|to| {
        let file = File::open(archive).map_err(|error| BundleError::io(archive, error))?;
        unpack(BufReader::new(file), to)?;
        manifest = Manifest::of(to)?;
        called = match wanted.or_else(|| manifest.entrypoint.clone()) {
            Some(entrypoint) => entrypoint,
            None => entry(to)?.1.to_owned(),
        };
        Ok::<_, Trouble>((entry_file(&called).into(), called.clone()))
    })?;
    Ok(Unpacked { bundle, manifest: Arc::new(manifest), entrypoint: called })
}

/// A file that goes when this does.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is not there if it could not be fetched.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Kept {
    fn find(&mut self, id: &Key) -> Option<Unpacked> {
        self.all.iter().find(|(key, _)| key == id).map(|(_, unpacked)| unpacked.clone())
    }

    fn put(&mut self, id: Key, unpacked: Unpacked) {
        self.all.retain(|(key, _)| *key != id);
        self.all.push_back((id, unpacked));
        let (mut bytes, mut count) = (0, 0);
        // From the latest used: what does not fit any more goes. What serves is here at no cost.
        let mut stays: Vec<bool> = Vec::new();
        for (_, unpacked) in self.all.iter().rev() {
            let idle = Arc::strong_count(&unpacked.bundle) == 1;
            if idle {
                bytes += unpacked.bundle.on_disk;
                count += 1;
            }
            stays.push(!idle || (bytes <= self.budget && count <= KEPT));
        }
        self.all.retain(|_| stays.pop().unwrap_or(true));
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use openlambda_api::HandlerName;
    use openlambda_bundle::pack_file;
    use openlambda_config::registry::Place;
    use tempfile::TempDir;

    use super::*;

    struct Rig {
        work: TempDir,
        store: Store,
        shelf: Shelf,
    }

    fn rig(budget: u64) -> Rig {
        let work = tempfile::tempdir().unwrap();
        let store = Store::open(&Place::Directory(work.path().join("store"))).unwrap();
        let bundles = Bundles::open(work.path().join("bundles")).unwrap();
        let archives = Arc::new(Archives::open(&work.path().join("kept"), budget).unwrap());
        let shelf = Shelf::new(store.clone(), bundles, archives, budget);
        Rig { work, store, shelf }
    }

    impl Rig {
        /// Uploads one file; gives its key and digest.
        async fn upload(&self, file: &str, text: &str) -> (String, Digest) {
            let path = self.work.path().join("archive");
            fs::write(&path, pack_file(file, text.as_bytes(), Vec::new()).unwrap()).unwrap();
            let digest = Digest::of_file(&path).unwrap();
            let handler = HandlerName::parse("h").unwrap();
            let put = self.store.put(&handler, &path, &digest, &mut |_| {}).await.unwrap();
            (put.key, digest)
        }

        /// What lies on the disk, once what was let go is gone.
        fn on_disk(&self, expected: usize) -> usize {
            let count = || fs::read_dir(self.work.path().join("bundles")).unwrap().count();
            let start = std::time::Instant::now();
            while count() != expected && start.elapsed().as_secs() < 10 {
                std::thread::yield_now();
            }
            count()
        }
    }

    #[tokio::test]
    async fn one_that_is_here_is_not_fetched_again() {
        let rig = rig(1 << 20);
        let (key, digest) = rig.upload("lambda_func.py", "x = 1\n").await;
        let both = tokio::join!(rig.shelf.take(&key, &digest, None), rig.shelf.take(&key, &digest, None));
        let (one, two) = (both.0.unwrap(), both.1.unwrap());
        assert!(Arc::ptr_eq(&one.bundle, &two.bundle));
        assert_eq!(one.entrypoint, "lambda_func.handler");
        drop((one, two));
        // The registry is away: the shelf does not notice.
        fs::remove_dir_all(rig.work.path().join("store")).unwrap();
        rig.shelf.take(&key, &digest, None).await.unwrap();
        assert_eq!(rig.on_disk(1), 1);
    }

    #[tokio::test]
    async fn what_is_in_it_says_what_is_called() {
        let rig = rig(1 << 20);
        let (key, digest) = rig.upload("f.py", "def f(event): return 1\n").await;
        assert_eq!(rig.shelf.take(&key, &digest, None).await.unwrap().entrypoint, "f.f");
        assert_eq!(rig.shelf.take(&key, &digest, Some("f.g")).await.unwrap().entrypoint, "f.g");
        let none = rig.shelf.take(&key, &digest, Some("other.g")).await.unwrap_err();
        assert!(none.message.contains("other.py"), "{none}");
        let (key, digest) = rig.upload("ol.yaml", "reuse-sandbox: 3\n").await;
        let wrong = rig.shelf.take(&key, &digest, None).await.unwrap_err();
        assert!(wrong.message.contains("ol.yaml") && !wrong.passing, "{wrong}");
        assert_eq!(rig.on_disk(2), 2);
    }

    #[tokio::test]
    async fn no_more_is_kept_than_the_budget_allows_besides_what_serves() {
        // Room for two: each has a block for its file, and a few bytes.
        let rig = rig(2 * (4096 + 100));
        let mut serving = Vec::new();
        for index in 0..6 {
            let (key, digest) = rig.upload("lambda_func.py", &format!("x = {index}\n")).await;
            let taken = rig.shelf.take(&key, &digest, None).await.unwrap();
            if index < 2 {
                serving.push(taken);
            }
        }
        // The last one was still in use when it was put there.
        let (key, digest) = rig.upload("lambda_func.py", "x = 7\n").await;
        drop(rig.shelf.take(&key, &digest, None).await.unwrap());
        assert_eq!(rig.on_disk(2 + 3), 2 + 3);
    }

    #[tokio::test]
    async fn another_digest_is_refused() {
        let rig = rig(1 << 20);
        let (key, _) = rig.upload("lambda_func.py", "x = 1\n").await;
        let other = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let wrong = rig.shelf.take(&key, &other, None).await.unwrap_err();
        assert_eq!(wrong.reason, openlambda_api::conditions::ConditionReason::DigestMismatch);
        assert_eq!(rig.on_disk(0), 0);
    }
}
