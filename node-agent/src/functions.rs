//! The handlers of the worker, wherever they come from: a directory ([`crate::directory`]), which is looked at as calls
//! come, a registry ([`crate::registry`]), or the Kubernetes API ([`crate::kubernetes`]), which pushes. What serves a call is the same for both.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openlambda_api::HandlerName;
use openlambda_api::name::InvalidName;
use openlambda_bundle::tree::{ENTRY_FILE, TreeError};
use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;

use crate::bundles::{Bundle, Bundles};
use crate::directory::{Directory, Place};
use crate::gate::Gates;
use crate::instance::Instance;
use crate::metrics::{HandlerMetrics, Metrics};
use crate::packages::{Installer, PackageError, PackageSet};
use crate::registry::Registry;
use crate::reply::Failure;
use crate::revision::{Revision, Settings};
use crate::shared::Busy;
use crate::warm::Warmth;

/// How long a call waits for a handler that is just being made ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// A handler, for the policies.
pub type Key = u64;

/// Why a call has no handler.
#[derive(Debug, thiserror::Error)]
pub enum NoFunction {
    /// The name cannot be one.
    #[error(transparent)]
    Name(#[from] InvalidName),
    /// It is not in the registry.
    #[error("there is no handler \"{0}\": put {ENTRY_FILE} into the directory {0} of the registry")]
    NotInDirectory(HandlerName),
    /// It is not in the registry that `admin upload` fills.
    #[error("there is no handler \"{0}\" in the registry: admin upload --handler {0}")]
    NotInRegistry(HandlerName),
    /// It is not in the Kubernetes API.
    #[error("there is no handler \"{0}\": apply a Handler with this name")]
    NotApplied(HandlerName),
    /// Its directory cannot be used.
    #[error("the handler \"{0}\" cannot be taken from the registry: {1}")]
    Tree(HandlerName, TreeError),
    /// Its packages cannot be installed.
    #[error("the packages of the handler \"{0}\" cannot be installed: {1}")]
    Packages(HandlerName, PackageError),
    /// Its packages are being installed.
    #[error("the packages of the handler \"{0}\" are being installed; try again")]
    Installing(HandlerName),
    /// It has no revision that can serve.
    #[error("{}", .0.message)]
    Failed(Failure),
    /// Its first revision is not ready yet.
    #[error("the handler \"{0}\" is being made ready; its status says how far it is")]
    Pending(Arc<str>),
}

/// Where handlers come from.
#[derive(Debug)]
pub enum Source {
    /// A directory with one directory per handler.
    Directory(Directory),
    /// A registry.
    Registry(Arc<Registry>),
    /// Whoever calls [`Functions::declare`], [`Functions::install`] and [`Functions::remove`].
    Pushed,
}

/// All handlers that are known.
#[derive(Debug)]
pub struct Functions {
    source: Source,
    /// Where their code is.
    pub bundles: Bundles,
    /// Where their gates come from.
    pub gates: Gates,
    /// What holds for those that say nothing else.
    pub defaults: Settings,
    /// How they get their packages.
    pub installer: Installer,
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
    /// What decides how many instances it has without being asked.
    pub warmth: Warmth,
    /// Its series.
    pub metrics: HandlerMetrics,
    /// Where it is, if that is a directory.
    pub place: Option<Place>,
    current: Mutex<Current>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Current {
    revision: Option<Arc<Revision>>,
    /// Why there is none, if that is known.
    failure: Option<Failure>,
}

impl Functions {
    /// No handler is known yet.
    pub fn new(
        source: Source,
        bundles: Bundles,
        gates: Gates,
        defaults: Settings,
        installer: Installer,
        metrics: Arc<Metrics>,
    ) -> Self {
        let (known, next) = (RwLock::default(), AtomicU64::new(0));
        Self { source, bundles, gates, defaults, installer, metrics, known, next }
    }

    /// The handler of this name with the revision that serves.
    pub async fn get(self: &Arc<Self>, name: &str) -> Result<(Arc<Function>, Arc<Revision>), NoFunction> {
        let known = self.known.read().get(name).cloned();
        match &self.source {
            Source::Directory(directory) => directory.get(self, known, name).await,
            Source::Registry(registry) => registry.get(self, known, name).await,
            Source::Pushed => match known {
                Some(function) => {
                    let revision = function.await_revision().await?;
                    Ok((function, revision))
                }
                None => Err(NoFunction::NotApplied(HandlerName::parse(name)?)),
            },
        }
    }

    /// The handler of this name, if it is known.
    pub fn known(&self, name: &str) -> Option<Arc<Function>> {
        self.known.read().get(name).cloned()
    }

    /// The registry, if handlers come from one.
    pub fn registry(&self) -> Option<&Arc<Registry>> {
        match &self.source {
            Source::Registry(registry) => Some(registry),
            Source::Directory(_) | Source::Pushed => None,
        }
    }

    /// Removes what was copied, at the worker's end.
    pub fn remove_bundles(&self) {
        self.bundles.remove();
    }

    /// Visits all handlers that are known, in no order.
    pub fn for_each(&self, visit: impl FnMut(&Arc<Function>)) {
        self.known.read().values().for_each(visit);
    }

    /// The handlers that are known, by name.
    pub fn all(&self) -> Vec<Arc<Function>> {
        let mut all: Vec<_> = self.known.read().values().cloned().collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The handler of this name, which is known from now on.
    pub fn declare(&self, name: &HandlerName, place: Option<Place>) -> Arc<Function> {
        let mut known = self.known.write();
        let function = known.entry(name.as_str().into()).or_insert_with(|| {
            Arc::new(Function {
                name: name.as_str().into(),
                busy: Busy::default(),
                warmth: Warmth::default(),
                key: self.next.fetch_add(1, Ordering::Relaxed),
                metrics: self.metrics.handler(name.as_str()),
                place,
                current: Mutex::default(),
                changed: Notify::new(),
            })
        });
        Arc::clone(function)
    }

    /// A revision of a handler that is not the one that serves yet.
    pub fn revision(
        &self,
        function: &Function,
        bundle: Arc<Bundle>,
        settings: Settings,
        packages: PackageSet,
    ) -> Arc<Revision> {
        let former = function.serving();
        Revision::new(&function.name, bundle, settings, packages, &self.gates, former.as_deref())
    }

    /// Forgets a handler: the next call finds none.
    pub fn remove(&self, function: &Arc<Function>) {
        let mut known = self.known.write();
        if known.get(&*function.name).is_some_and(|known| Arc::ptr_eq(known, function)) {
            known.remove(&*function.name);
        }
        drop(known);
        // Instances that are out on a call find that they serve nobody any more.
        *function.current.lock() = Current::default();
        function.changed.notify_waiters();
    }

    /// Forgets the handlers that have left the directory. Blocking.
    pub fn prune(&self) {
        self.known.write().retain(|_, function| function.place.as_ref().is_none_or(|place| !place.is_gone()));
    }

    /// Whether the handler is still known.
    fn knows(&self, function: &Arc<Function>) -> bool {
        self.known.read().get(&*function.name).is_some_and(|known| Arc::ptr_eq(known, function))
    }

    /// A revision serves from now on, unless the handler has been removed meanwhile.
    pub fn install(&self, function: &Arc<Function>, revision: Arc<Revision>) {
        function.install(revision);
        if !self.knows(function) {
            *function.current.lock() = Current::default();
        }
    }
}

impl Function {
    /// The revision that serves.
    pub fn serving(&self) -> Option<Arc<Revision>> {
        self.current.lock().revision.clone()
    }

    /// Whether this is the revision that serves.
    pub fn serves(&self, revision: &Arc<Revision>) -> bool {
        self.current.lock().revision.as_ref().is_some_and(|current| Arc::ptr_eq(current, revision))
    }

    /// Whether an instance can be called again, which serves the current revision from then on if it can.
    pub fn keeps(&self, instance: &mut Instance) -> bool {
        let current = self.current.lock().revision.clone();
        current.is_some_and(|current| instance.becomes(&current))
    }

    /// A revision serves from now on.
    pub fn install(&self, revision: Arc<Revision>) {
        let digest = &revision.bundle.digest[..12];
        tracing::info!(handler = &*self.name, digest, "serving a new revision");
        *self.current.lock() = Current { revision: Some(revision), failure: None };
        self.changed.notify_waiters();
    }

    /// No revision can serve: if none does, calls are told why.
    pub fn fail(&self, failure: Failure) {
        self.current.lock().failure = Some(failure);
        self.changed.notify_waiters();
    }

    /// There is hope again: calls wait for it.
    pub fn hope(&self) {
        self.current.lock().failure = None;
    }

    /// The revision that serves; the first one is waited for.
    async fn await_revision(self: &Arc<Self>) -> Result<Arc<Revision>, NoFunction> {
        if let Some(revision) = self.serving() {
            return Ok(revision);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            {
                let current = self.current.lock();
                match (&current.revision, &current.failure) {
                    (Some(revision), _) => return Ok(Arc::clone(revision)),
                    (None, Some(failure)) => return Err(NoFunction::Failed(failure.clone())),
                    (None, None) => {}
                }
            }
            if tokio::time::timeout_at(until.into(), changed).await.is_err() {
                return Err(NoFunction::Pending(Arc::clone(&self.name)));
            }
        }
    }

    /// Why no newer revision serves, if there is to be one and that is known.
    pub fn trouble(&self) -> Option<String> {
        self.current.lock().failure.as_ref().map(|failure| failure.message.clone())
    }

    /// The digest of the code that is served.
    pub fn digest(&self) -> Option<String> {
        self.serving().map(|revision| revision.bundle.digest.clone())
    }
}
