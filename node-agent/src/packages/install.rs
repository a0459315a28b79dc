//! From requirements to packages on the disk: resolve once, record, install what is missing, wheel by wheel.
//!
//! Every step runs in a task of its own: a caller that goes away does not stop it, and one that comes meanwhile waits for the same.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use futures::future::{BoxFuture, FutureExt as _, Shared, try_join_all};
use openlambda_api::labels::children;
use openlambda_config::{Base, WorkerConfig};
use openlambda_sandbox::{Limits, Nursery, TOOL_USER, ToolEnd, ToolSpec};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::error::PackageError;
use super::index::{Configured, Index, pip_settings};
use super::lock::{Lock, Pin};
use super::requirements::{MAX_BYTES, PACKAGES_FILE, REQUIREMENTS_FILE, Requirements, parse_lock};
use super::store::{Claim, INSTALLED, Job, Store};
use super::{Package, PackageSet, uv};

/// Wheels that are installed at a time.
const AT_ONCE: usize = 2;
/// What one run of uv may take: a large wheel on a slow line.
const TIMEOUT: Duration = Duration::from_secs(300);
/// What one run of uv may use.
const LIMITS: Limits = Limits {
    memory: 1 << 30,
    cpu_millis: None,
    cpu_weight: 100,
    pids: 256,
    scratch: 256 << 20,
    open_files: 4096,
};
/// So long a failure is told again without another try: one that may pass, and one that may not.
const REMEMBERED: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// Failures that are remembered.
const FAILURES: usize = 10_000;
/// For so long, what requirements were resolved to holds for other handlers that have the same ones.
const FRESH: Duration = Duration::from_secs(60);
/// Resolutions that are remembered before those that are no longer fresh are forgotten.
const RESOLUTIONS: usize = 1000;
/// User and password for the index, from the environment: nothing that a configuration file should hold.
const CREDENTIALS: (&str, &str) = (children::INDEX_USERNAME, children::INDEX_PASSWORD);

/// What a handler's requirements came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// The packages.
    pub set: PackageSet,
    /// What is to be recorded.
    pub record: Option<Arc<Record>>,
}

/// Which versions some requirements mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// [`Requirements::digest`].
    pub requirements: String,
    /// `name==version`, one each, by name.
    pub locked: Vec<String>,
}

/// Requirements by their digest, and what is recorded.
type Question = (String, Option<Vec<String>>);

/// The last answer, and when it came. Who holds it sees to the next one.
type Resolution = tokio::sync::Mutex<Option<(Instant, Result<Lock, PackageError>)>>;

type Flight = Shared<BoxFuture<'static, Result<Installed, PackageError>>>;

/// All packages of a worker.
pub struct Packages {
    store: Arc<Store>,
    nursery: OnceLock<Nursery>,
    runtime: Handle,
    uv: Option<PathBuf>,
    common: uv::Common,
    index: Index,
    /// What was installed at the start.
    kept: Mutex<PackageSet>,
    turns: Semaphore,
    /// One for each version that was ever installed by this worker: who holds it sees to that.
    doors: Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>,
    resolutions: Mutex<HashMap<Question, Arc<Resolution>>>,
    flights: Mutex<HashMap<Wanted, Flight>>,
    failures: Mutex<HashMap<Wanted, (Instant, PackageError)>>,
}

/// A handler's wish, to tell it from others.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Wanted {
    handler: String,
    digest: String,
    recorded: Option<Vec<String>>,
}

impl std::fmt::Debug for Packages {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packages").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Installs what a handler asks for: [`Packages::ensure`], or what a test puts in its place.
#[derive(Clone)]
pub struct Installer(Arc<Install>);

type Install = dyn Fn(&str, Requirements, Option<Vec<String>>) -> BoxFuture<'static, Result<Installed, PackageError>>
    + Send
    + Sync;

impl std::fmt::Debug for Installer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Installer")
    }
}

impl Installer {
    /// Of a function.
    pub fn new(
        install: impl Fn(
            &str,
            Requirements,
            Option<Vec<String>>,
        ) -> BoxFuture<'static, Result<Installed, PackageError>>
        + Send
        + Sync
        + 'static,
    ) -> Self {
        Self(Arc::new(install))
    }

    /// That of a worker.
    pub fn of(packages: &Arc<Packages>) -> Self {
        let packages = Arc::clone(packages);
        Self::new(move |handler, wanted, recorded| {
            let (packages, handler) = (Arc::clone(&packages), handler.to_owned());
            async move { packages.ensure(&handler, wanted, recorded).await }.boxed()
        })
    }

    /// See [`Packages::ensure`].
    pub async fn ensure(
        &self,
        handler: &str,
        wanted: Requirements,
        recorded: Option<Vec<String>>,
    ) -> Result<Installed, PackageError> {
        if wanted.is_empty() {
            return Ok(Installed::default());
        }
        (self.0)(handler, wanted, recorded).await
    }
}

impl Packages {
    /// The folder of the store that sandboxes are to see.
    pub fn visible(config: &WorkerConfig) -> PathBuf {
        config.packages_dir.join(INSTALLED)
    }

    /// Opens the store. Call it in the runtime that serves calls.
    pub fn open(config: &WorkerConfig) -> std::io::Result<Arc<Self>> {
        let store = Store::open(
            config.packages_dir.clone(),
            config.packages_size.bytes(),
            TOOL_USER,
            &interpreter(config),
        )?;
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let credentials = environment(CREDENTIALS.0).zip(environment(CREDENTIALS.1));
        let configured = Configured {
            url: config.pip_mirror.as_deref(),
            certificates: config.packages_ca.as_deref(),
            credentials: credentials.as_ref().map(|(user, password)| (user.as_str(), password.as_str())),
        };
        let index = Index::new(configured, environment, &pip_settings());
        let mut variables = index.variables.clone();
        if !index.certificates.is_empty() {
            variables.push(("SSL_CERT_FILE".to_owned(), format!("/packages/{}", uv::CERTIFICATES)));
        }
        Ok(Arc::new(Self {
            store: Arc::new(store),
            nursery: OnceLock::new(),
            runtime: Handle::current(),
            uv: config.uv.clone(),
            common: uv::Common {
                python: config.python.clone(),
                builds: config.allow_source_builds,
                index: variables,
            },
            index,
            kept: Mutex::default(),
            turns: Semaphore::new(AT_ONCE),
            doors: Mutex::default(),
            resolutions: Mutex::default(),
            flights: Mutex::default(),
            failures: Mutex::default(),
        }))
    }

    /// From now on something can be installed.
    pub fn start(&self, nursery: Nursery) {
        // There is one nursery in a worker's life.
        let _ = self.nursery.set(nursery);
    }

    /// Installs packages that no handler has asked for yet, and keeps them. A failure is logged: handlers that need them try again.
    pub fn preinstall(self: &Arc<Self>, requirements: &[String]) {
        let wanted = match Requirements::read(requirements, None, None) {
            Ok(wanted) if wanted.is_empty() => return,
            Ok(wanted) => wanted,
            Err(error) => return tracing::error!(%error, "startup_pkgs cannot be installed"),
        };
        let this = Arc::clone(self);
        self.runtime.spawn(async move {
            // A name that no handler can have.
            if let Ok(installed) = this.ensure(".startup", wanted, None).await {
                *this.kept.lock() = installed.set;
            }
        });
    }

    /// The packages that `wanted` means for a handler, installed. `recorded` is what the same requirements were resolved to before, if
    /// that is recorded elsewhere than on this node; what this node has recorded counts only if it is the same.
    pub async fn ensure(
        self: &Arc<Self>,
        handler: &str,
        wanted: Requirements,
        recorded: Option<Vec<String>>,
    ) -> Result<Installed, PackageError> {
        let key = Wanted { handler: handler.to_owned(), digest: wanted.digest(), recorded };
        let flight = {
            let mut flights = self.flights.lock();
            if let Some(flight) = flights.get(&key) {
                flight.clone()
            } else {
                if let Some(error) = self.failed_lately(&key) {
                    return Err(error);
                }
                let (this, key_too) = (Arc::clone(self), key.clone());
                let task = self.runtime.spawn(async move { this.fly(key_too, wanted).await });
                let ended = |result: Result<_, tokio::task::JoinError>| match result {
                    Ok(result) => result,
                    Err(error) => Err(PackageError::ours(format!("the installation ended: {error}"))),
                };
                let flight = task.map(ended).boxed().shared();
                flights.insert(key, flight.clone());
                flight
            }
        };
        flight.await
    }

    async fn fly(self: Arc<Self>, key: Wanted, wanted: Requirements) -> Result<Installed, PackageError> {
        let begun = Instant::now();
        let result = self.install(&key, wanted).await;
        match &result {
            Ok(installed) => {
                tracing::info!(handler = key.handler, packages = installed.set.len(), took = ?begun.elapsed(), "packages are there");
            }
            Err(error) => {
                tracing::warn!(handler = key.handler, %error, "packages are not to be had");
                let mut failures = self.failures.lock();
                if failures.len() >= FAILURES {
                    failures.clear();
                }
                failures.insert(key.clone(), (Instant::now(), error.clone()));
            }
        }
        // Who comes from here on finds the result: in the store, or remembered.
        self.flights.lock().remove(&key);
        result
    }

    /// A failure that is so young that another try would come to the same.
    fn failed_lately(&self, key: &Wanted) -> Option<PackageError> {
        let mut failures = self.failures.lock();
        let (at, error) = failures.get(key)?;
        let remembered = if error.passing { REMEMBERED.0 } else { REMEMBERED.1 };
        if at.elapsed() < remembered {
            return Some(error.clone());
        }
        failures.remove(key);
        None
    }

    async fn install(
        self: &Arc<Self>,
        key: &Wanted,
        wanted: Requirements,
    ) -> Result<Installed, PackageError> {
        let lock = self.lock(key, &wanted).await?;
        let packages = lock.pins().iter().map(|pin| self.package(pin));
        let set: PackageSet = try_join_all(packages).await?.into();
        let (store, handler, digest) = (Arc::clone(&self.store), key.handler.clone(), key.digest.clone());
        let text = lock.text();
        blocking(move || store.record_resolved(&handler, &digest, &text)).await?;
        let record = Record { requirements: key.digest.clone(), locked: lock.locked() };
        Ok(Installed { set, record: Some(Arc::new(record)) })
    }

    /// Which versions: those of a lock that was given, those that are recorded, or those that uv finds now.
    async fn lock(&self, key: &Wanted, wanted: &Requirements) -> Result<Lock, PackageError> {
        if let Some(lock) = &wanted.lock {
            return Ok(lock.clone());
        }
        let (store, handler, digest) = (Arc::clone(&self.store), key.handler.clone(), key.digest.clone());
        let here = blocking(move || Ok(store.resolved(&handler, &digest))).await?;
        let here = here.and_then(|text| parse_lock(&text).ok());
        let same = |lock: &Lock| key.recorded.as_ref().is_none_or(|recorded| *recorded == lock.locked());
        match here.filter(same) {
            Some(lock) => Ok(lock),
            None => self.resolve_once(key, wanted).await,
        }
    }

    /// Resolves, once for all handlers that ask the same at the same time or soon after.
    async fn resolve_once(&self, key: &Wanted, wanted: &Requirements) -> Result<Lock, PackageError> {
        let asked = Instant::now();
        let resolution = self.resolution((key.digest.clone(), key.recorded.clone()));
        let mut last = resolution.lock().await;
        match &*last {
            Some((at, Ok(lock))) if at.elapsed() < FRESH => return Ok(lock.clone()),
            Some((at, Err(error))) if *at > asked => return Err(error.clone()),
            _ => {}
        }
        let result = self.resolve(wanted, key.recorded.as_deref()).await;
        *last = Some((Instant::now(), result.clone()));
        result
    }

    fn resolution(&self, question: Question) -> Arc<Resolution> {
        let mut all = self.resolutions.lock();
        if all.len() >= RESOLUTIONS {
            // One that is locked is being worked on.
            all.retain(|_, one| {
                one.try_lock().map_or(true, |last| last.as_ref().is_some_and(|(at, _)| at.elapsed() < FRESH))
            });
        }
        Arc::clone(all.entry(question).or_default())
    }

    async fn resolve(
        &self,
        wanted: &Requirements,
        recorded: Option<&[String]>,
    ) -> Result<Lock, PackageError> {
        let job = self.job().await?;
        job.put(uv::WANTED, wanted.text())?;
        if let Some(recorded) = recorded {
            job.put(uv::CONSTRAINTS, recorded.join("\n"))?;
        }
        let end = self.run(&job, self.common.resolve(recorded.is_some())).await?;
        if !end.status.success() {
            return Err(uv::failure("the requirements cannot be resolved", &end));
        }
        let path = job.path.join(uv::LOCK);
        let text = read_bounded(&path)?.unwrap_or_default();
        parse_lock(&text)
            .map_err(|error| PackageError::ours(format!("what uv has resolved cannot be read: {error}")))
    }

    /// One package, installed if it is not there.
    async fn package(&self, pin: &Pin) -> Result<Arc<Package>, PackageError> {
        let looked = |pin: &Pin| {
            let (store, pin) = (Arc::clone(&self.store), pin.clone());
            blocking(move || store.look(&pin))
        };
        if let Some(package) = looked(pin).await? {
            return Ok(package);
        }
        let door = Arc::clone(self.doors.lock().entry(pin.folder()).or_default());
        let _first = door.lock().await;
        if let Some(package) = looked(pin).await? {
            return Ok(package);
        }
        // Before the claim, which blocks a thread while another worker installs: there are never more such threads than turns.
        let _turn = self.turns.acquire().await.map_err(|error| PackageError::ours(error.to_string()))?;
        let (store, claimed) = (Arc::clone(&self.store), pin.clone());
        let right = match blocking(move || store.claim(&claimed)).await? {
            Claim::There(package) => return Ok(package),
            Claim::Install(right) => right,
        };
        let job = self.job().await?;
        job.put(uv::WANTED, pin.line())?;
        let end = self.run(&job, self.common.install(&pin.folder(), !pin.hashes.is_empty())).await?;
        if !end.status.success() {
            return Err(uv::failure(&format!("{} cannot be installed", pin.text()), &end));
        }
        let (store, adopted) = (Arc::clone(&self.store), pin.clone());
        let package = blocking(move || store.adopt(&job, &adopted, right)).await?;
        tracing::info!(bytes = package.bytes, imports = ?package.imports, "installed {}", pin.text());
        Ok(package)
    }

    async fn job(&self) -> Result<Job, PackageError> {
        let (store, index) = (Arc::clone(&self.store), self.index.clone());
        blocking(move || {
            let job = store.job()?;
            let certificates = index
                .certificates()
                .map_err(|(path, error)| PackageError::io("read the certificates in", &path, &error))?;
            if let Some(certificates) = certificates {
                job.put(uv::CERTIFICATES, certificates)?;
            }
            Ok(job)
        })
        .await
    }

    async fn run(&self, job: &Job, arguments: Vec<String>) -> Result<ToolEnd, PackageError> {
        let Some(nursery) = self.nursery.get() else {
            return Err(PackageError::ours("the worker is still starting"));
        };
        let spec = ToolSpec {
            program: uv::find(self.uv.as_deref())?,
            arguments,
            environment: self.common.environment(),
            folder: job.path.clone(),
            limits: LIMITS,
            timeout: TIMEOUT,
        };
        nursery
            .run_tool(&spec)
            .await
            .map_err(|error| PackageError::ours(format!("uv could not be run: {error}")))
    }
}

/// Which Python serves, as far as packages depend on it: the name that the interpreter's links end at, and the processor.
fn interpreter(config: &WorkerConfig) -> String {
    let path = match &config.base {
        Base::Host => config.python.clone(),
        Base::Dir(root) => root.join(config.python.strip_prefix("/").unwrap_or(&config.python)),
    };
    let end = path.canonicalize().unwrap_or(path);
    let name = end.file_name().unwrap_or_default().to_string_lossy();
    format!("{name} {}", std::env::consts::ARCH)
}

/// What a bundle's own files ask for. Blocking.
pub fn in_bundle(bundle: &Path, spec: &[String]) -> Result<Requirements, PackageError> {
    let file = |name: &str| read_bounded(&bundle.join(name));
    let (requirements, packages) = (file(REQUIREMENTS_FILE)?, file(PACKAGES_FILE)?);
    Requirements::read(spec, requirements.as_deref(), packages.as_deref())
}

/// A text file; none if it is not there. A lock of uv's is bounded likewise.
fn read_bounded(path: &Path) -> Result<Option<String>, PackageError> {
    use openlambda_api::conditions::ConditionReason::InvalidRequirements;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // Not through a link: a tool may have made one.
    let bytes = match fs::symlink_metadata(path) {
        Ok(data) if data.len() > MAX_BYTES as u64 => {
            let message = format!("{name} has {} bytes: at most {MAX_BYTES}", data.len());
            return Err(PackageError::lasting(InvalidRequirements, message));
        }
        Ok(data) if data.is_file() => {
            fs::read(path).map_err(|error| PackageError::io("read", path, &error))?
        }
        Ok(_) => return Err(PackageError::lasting(InvalidRequirements, format!("{name} is no file"))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(PackageError::io("read", path, &error)),
    };
    let text = String::from_utf8(bytes);
    text.map(Some).map_err(|_| PackageError::lasting(InvalidRequirements, format!("{name} is not UTF-8")))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PackageError> + Send + 'static,
) -> Result<T, PackageError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| PackageError::ours(error.to_string()))?
}
