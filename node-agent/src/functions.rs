//! The handlers of the worker, wherever they come from: a directory ([`crate::directory`]), which is looked at as calls
//! come, a registry ([`crate::registry`]), or the Kubernetes API ([`crate::kubernetes`]), which pushes. What serves a call is the same for both.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use openlambda_api::HandlerName;
use openlambda_api::name::InvalidName;
use openlambda_bundle::tree::{ENTRY_FILE, TreeError};
use openlambda_policy::split;
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
    /// The former revision of a handler that it is, if it answers a part of that handler's calls.
    pub part: Option<Box<str>>,
    current: Mutex<Current>,
    changed: Notify,
}

/// A part of a handler's calls.
#[derive(Clone, Debug)]
pub struct Part {
    /// How many of a hundred.
    pub percent: u32,
    /// Who answers them; none: the handler's own revision.
    pub function: Option<Arc<Function>>,
}

#[derive(Debug, Default)]
struct Current {
    revision: Option<Arc<Revision>>,
    /// Who answers which calls, if not the revision all of them.
    split: Vec<Part>,
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

    /// Who answers the call of this name and id, with the revision that serves.
    pub async fn get(
        self: &Arc<Self>,
        name: &str,
        request_id: &str,
    ) -> Result<(Arc<Function>, Arc<Revision>), NoFunction> {
        let known = self.known.read().get(name).cloned();
        match &self.source {
            Source::Directory(directory) => directory.get(self, known, name).await,
            Source::Registry(registry) => registry.get(self, known, name).await,
            // A part has no name of its own.
            Source::Pushed => match known.filter(|function| function.part.is_none()) {
                Some(function) => function.await_revision(request_id).await,
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
        self.known_as(name.as_str().into(), None, place)
    }

    /// What answers the calls of `handler` that a former revision of it gets.
    pub fn declare_part(&self, handler: &Function, revision: &str) -> Arc<Function> {
        self.known_as(Arc::clone(&handler.name), Some(revision.into()), None)
    }

    fn known_as(&self, name: Arc<str>, part: Option<Box<str>>, place: Option<Place>) -> Arc<Function> {
        let mut known = self.known.write();
        let function = known.entry(id(&name, part.as_deref())).or_insert_with(|| {
            Arc::new(Function {
                busy: Busy::default(),
                warmth: Warmth::default(),
                key: self.next.fetch_add(1, Ordering::Relaxed),
                metrics: self.metrics.handler(&name),
                name,
                place,
                part,
                current: Mutex::default(),
                changed: Notify::new(),
            })
        });
        Arc::clone(function)
    }

    /// What answers parts of a handler's calls.
    pub fn parts(&self, handler: &Function) -> Vec<Arc<Function>> {
        let known = self.known.read();
        let is_part = |one: &&Arc<Function>| one.part.is_some() && one.name == handler.name;
        known.values().filter(is_part).cloned().collect()
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
        let id = function.id();
        if known.get(&id).is_some_and(|known| Arc::ptr_eq(known, function)) {
            known.remove(&id);
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
        self.known.read().get(&function.id()).is_some_and(|known| Arc::ptr_eq(known, function))
    }

    /// A revision serves from now on, unless the handler has been removed meanwhile.
    pub fn install(&self, function: &Arc<Function>, revision: Arc<Revision>) {
        self.install_split(function, Some(revision), Vec::new());
    }

    /// A revision and those that answer parts of the calls serve from now on, unless the handler has been removed
    /// meanwhile.
    pub fn install_split(&self, function: &Arc<Function>, own: Option<Arc<Revision>>, split: Vec<Part>) {
        function.install(own, split);
        if !self.knows(function) {
            *function.current.lock() = Current::default();
        }
    }
}

/// What a function is known by. No name of a handler has an `@`.
fn id(name: &str, part: Option<&str>) -> Box<str> {
    part.map_or_else(|| name.into(), |part| format!("{name}@{part}").into())
}

impl PartialEq for Part {
    fn eq(&self, other: &Self) -> bool {
        let of = |part: &Self| (part.percent, part.function.as_ref().map(Arc::as_ptr));
        of(self) == of(other)
    }
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let part = self.function.as_ref().and_then(|function| function.part.as_deref());
        write!(f, "{} {} %", part.unwrap_or("its own"), self.percent)
    }
}

impl Function {
    fn id(&self) -> Box<str> {
        id(&self.name, self.part.as_deref())
    }

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

    /// These serve from now on.
    pub fn install(&self, revision: Option<Arc<Revision>>, split: Vec<Part>) {
        let (handler, part) = (&*self.name, self.part.as_deref());
        let digest = revision.as_ref().map(|revision| revision.bundle.digest[..12].to_owned());
        let shares = split.iter().map(Part::to_string).collect::<Vec<_>>().join(", ");
        tracing::info!(handler, part, digest, shares, "serving a new revision");
        *self.current.lock() = Current { revision, split, failure: None };
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

    /// Who answers a call.
    fn choose(self: &Arc<Self>, current: &Current, request_id: &str) -> Option<(Arc<Self>, Arc<Revision>)> {
        let percents = current.split.iter().map(|part| part.percent);
        let part = split::part(request_id, percents).and_then(|place| current.split.get(place));
        match part.and_then(|part| part.function.as_ref()) {
            Some(function) => Some((Arc::clone(function), function.serving()?)),
            None => Some((Arc::clone(self), current.revision.clone()?)),
        }
    }

    /// Who answers a call; the first revision is waited for.
    async fn await_revision(
        self: &Arc<Self>,
        request_id: &str,
    ) -> Result<(Arc<Self>, Arc<Revision>), NoFunction> {
        if let Some(chosen) = self.choose(&self.current.lock(), request_id) {
            return Ok(chosen);
        }
        let until = Instant::now() + PATIENCE;
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            // From here on no change is missed.
            changed.as_mut().enable();
            {
                let current = self.current.lock();
                match (self.choose(&current, request_id), &current.failure) {
                    (Some(chosen), _) => return Ok(chosen),
                    (None, Some(failure)) => return Err(NoFunction::Failed(failure.clone())),
                    (None, None) => {}
                }
            }
            if tokio::time::timeout_at(until.into(), changed).await.is_err() {
                return Err(NoFunction::Pending(Arc::clone(&self.name)));
            }
        }
    }

    /// Who answers which calls, if not its revision all of them.
    pub fn split(&self) -> Vec<Part> {
        self.current.lock().split.clone()
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
