//! The handlers of the worker: found in the registry directory at their first call, looked at again at later ones, so
//! that an edit is served by the next call.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openlambda_api::HandlerName;
use openlambda_api::name::InvalidName;
use parking_lot::{Mutex, RwLock};

use crate::bundles::{Bundle, Bundles, Staged};
use crate::gate::Key;
use crate::metrics::{HandlerMetrics, Metrics};
use crate::shared::Busy;
use crate::tree::{ENTRY_FILE, Stamp, Tree, TreeError};

/// How often a handler's whole directory is looked at; its entry file is at every call.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A directory with more entries is looked at by a blocking thread, after the call that finds it due.
const SMALL: usize = 64;

/// Why a call has no handler.
#[derive(Debug, thiserror::Error)]
pub enum NoFunction {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// It is not in the registry.
    #[error("there is no handler \"{0}\": put {ENTRY_FILE} into the directory {0} of the registry")]
    Unknown(HandlerName),
    /// Its directory cannot be used.
    #[error("the handler \"{0}\" cannot be taken from the registry: {1}")]
    Tree(HandlerName, TreeError),
}

/// All handlers that have been called.
#[derive(Debug)]
pub struct Functions {
    registry: PathBuf,
    bundles: Bundles,
    metrics: Arc<Metrics>,
    known: RwLock<HashMap<Box<str>, Arc<Function>>>,
    next: AtomicU64,
}

/// A handler.
#[derive(Debug)]
pub struct Function {
    /// Its name.
    pub name: Arc<str>,
    /// Its number, for the policies.
    pub key: Key,
    /// Its instances that run several calls at a time.
    pub busy: Busy,
    /// Its series.
    pub metrics: HandlerMetrics,
    directory: PathBuf,
    entry: PathBuf,
    current: Mutex<Current>,
    /// Held by the one who stages it.
    staging: tokio::sync::Mutex<()>,
}

/// What is known of the directory.
#[derive(Debug, Default)]
struct Current {
    bundle: Option<Arc<Bundle>>,
    entry: Option<Stamp>,
    fingerprint: u64,
    settled: bool,
    entries: usize,
    looked: Option<Instant>,
}

/// Whether the bundle can be used.
enum Look {
    Fresh(Arc<Bundle>),
    /// And the rest of the directory is due for a look, which takes a while.
    Due(Arc<Bundle>),
    Stale,
    Missing,
}

impl Functions {
    /// No handler is known yet.
    pub fn new(registry: PathBuf, bundles: Bundles, metrics: Arc<Metrics>) -> Self {
        Self { registry, bundles, metrics, known: RwLock::default(), next: AtomicU64::new(0) }
    }

    /// The handler of this name with the code to serve.
    pub async fn get(self: &Arc<Self>, name: &str) -> Result<(Arc<Function>, Arc<Bundle>), NoFunction> {
        let known = self.known.read().get(name).cloned();
        let function = match known {
            Some(function) => function,
            None => self.discover(name)?,
        };
        match function.look() {
            Look::Fresh(bundle) => Ok((function, bundle)),
            Look::Due(bundle) => {
                let (this, due) = (Arc::clone(self), Arc::clone(&function));
                // What it finds, the next call serves.
                tokio::spawn(async move { this.stage(&due).await });
                Ok((function, bundle))
            }
            Look::Missing => Err(self.forget(&function)),
            Look::Stale => match self.stage(&function).await {
                Ok(bundle) => Ok((function, bundle)),
                Err(TreeError::Missing(_)) => Err(self.forget(&function)),
                Err(error) => Err(NoFunction::Tree(parse(name)?, error)),
            },
        }
    }

    /// Removes what was copied, at the worker's end.
    pub fn remove_bundles(&self) {
        self.bundles.remove();
    }

    /// The handlers that are known, by name.
    pub fn all(&self) -> Vec<Arc<Function>> {
        let mut all: Vec<_> = self.known.read().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// Takes up a handler whose directory is there: so the number of known ones is bounded by what is in the registry.
    fn discover(&self, name: &str) -> Result<Arc<Function>, NoFunction> {
        let name = parse(name)?;
        let directory = self.registry.join(name.as_str());
        let entry = directory.join(ENTRY_FILE);
        if let Err(error) = Stamp::of(&entry) {
            return Err(match TreeError::io(&entry, error) {
                TreeError::Missing(_) => NoFunction::Unknown(name),
                error => NoFunction::Tree(name, error),
            });
        }
        let mut known = self.known.write();
        let function = known.entry(name.as_str().into()).or_insert_with(|| {
            Arc::new(Function {
                name: name.as_str().into(),
                busy: Busy::default(),
                key: self.next.fetch_add(1, Ordering::Relaxed),
                metrics: self.metrics.handler(name.as_str()),
                directory,
                entry,
                current: Mutex::default(),
                staging: tokio::sync::Mutex::new(()),
            })
        });
        Ok(Arc::clone(function))
    }

    /// Forgets the handlers that are no longer in the registry. Blocking.
    pub fn prune(&self) {
        self.known.write().retain(|_, function| match Stamp::of(&function.entry) {
            Err(error) => !TreeError::io(&function.entry, error).is_missing(),
            Ok(_) => true,
        });
    }

    fn forget(&self, function: &Arc<Function>) -> NoFunction {
        let mut known = self.known.write();
        if known.get(&*function.name).is_some_and(|known| Arc::ptr_eq(known, function)) {
            known.remove(&*function.name);
        }
        match HandlerName::parse(&function.name) {
            Ok(name) => NoFunction::Unknown(name),
            Err(error) => NoFunction::Name(error),
        }
    }

    /// Brings the bundle up to date; all who want it wait for one copy.
    async fn stage(&self, function: &Arc<Function>) -> Result<Arc<Bundle>, TreeError> {
        let _turn = function.staging.lock().await;
        if let Look::Fresh(bundle) = function.look() {
            return Ok(bundle);
        }
        let (bundles, this) = (self.bundles.clone(), Arc::clone(function));
        let staged = tokio::task::spawn_blocking(move || this.stage_blocking(&bundles)).await;
        staged.map_err(|error| TreeError::io(&function.directory, io::Error::other(error)))?
    }
}

fn parse(name: &str) -> Result<HandlerName, InvalidName> {
    HandlerName::parse(name)
}

impl Function {
    /// Looks whether the registry has what is served: one system call, and every [`LOOK_EVERY`] some more.
    fn look(&self) -> Look {
        let entry = match Stamp::of(&self.entry) {
            Ok(entry) => entry,
            Err(error) => {
                let missing = TreeError::io(&self.entry, error).is_missing();
                return if missing { Look::Missing } else { Look::Stale };
            }
        };
        let mut current = self.current.lock();
        let Some(bundle) = current.bundle.clone() else { return Look::Stale };
        if current.entry != Some(entry) {
            return Look::Stale;
        }
        if current.looked.is_some_and(|looked| looked.elapsed() < LOOK_EVERY) {
            return Look::Fresh(bundle);
        }
        if !current.settled {
            return Look::Stale;
        }
        current.looked = Some(Instant::now());
        if current.entries > SMALL {
            return Look::Due(bundle);
        }
        match Tree::read(&self.directory) {
            Ok(tree) if tree.fingerprint == current.fingerprint => Look::Fresh(bundle),
            _ => Look::Stale,
        }
    }

    fn stage_blocking(&self, bundles: &Bundles) -> Result<Arc<Bundle>, TreeError> {
        let looked = Instant::now();
        // Before the copy: an edit after this shows as a different stamp at the next call.
        let entry = Stamp::of(&self.entry).map_err(|source| TreeError::io(&self.entry, source))?;
        let (old, fingerprint) = {
            let current = self.current.lock();
            // Of an unsettled one only the contents tell whether it is still the same.
            (current.bundle.clone().filter(|_| current.settled), current.fingerprint)
        };
        if let Some(old) = old
            && let Ok(tree) = Tree::read(&self.directory)
            && tree.fingerprint == fingerprint
        {
            return Ok(old);
        }
        let Staged { bundle, fingerprint, settled, entries } = bundles.stage(&self.directory)?;
        let mut current = self.current.lock();
        let new = current.bundle.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &bundle));
        if new {
            tracing::info!(handler = &*self.name, digest = &bundle.digest[..12], "serving new code");
        }
        *current = Current {
            bundle: Some(Arc::clone(&bundle)),
            entry: Some(entry),
            fingerprint,
            settled,
            entries,
            looked: Some(looked),
        };
        Ok(bundle)
    }

    /// The digest of the code that is served.
    pub fn digest(&self) -> Option<String> {
        self.current.lock().bundle.as_ref().map(|bundle| bundle.digest.clone())
    }

    /// Whether this is the code to serve.
    pub fn serves(&self, bundle: &Arc<Bundle>) -> bool {
        self.current.lock().bundle.as_ref().is_some_and(|current| Arc::ptr_eq(current, bundle))
    }
}
