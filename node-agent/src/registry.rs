//! Handlers from a registry: found there at their first call, looked at again now and then and when `admin upload` says
//! so. A revision serves once it is fetched, verified, unpacked, has its packages, and loads; until then, and if it
//! fails, the former one serves.
//!
//! All of it runs on a thread of its own, beside the calls: one of a handler that serves asks nobody.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use openlambda_api::HandlerName;
use openlambda_config::RegistryConfig;
use openlambda_store::{Store, StoreError};
use parking_lot::Mutex;
use serde::Serialize;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{mpsc, oneshot};

use crate::agent::Agent;
use crate::functions::{Function, Functions, NoFunction};
use crate::revision::Revision;
use crate::trial;
use crate::trouble::Trouble;

mod archives;
mod desk;
mod make;
mod port;
mod settings;
mod shelf;

pub use archives::Archives;
use desk::Desk;
use make::Maker;
pub use port::router;
pub use shelf::{Shelf, Unpacked};

/// Questions that may wait to be looked at.
const ASKED: usize = 4096;
/// A call waits so long for code that is being fetched, or packages that are being installed; both are got all the same.
/// Less than lard gives a call.
const PATIENCE: Duration = Duration::from_secs(25);
/// Who asked for a look waits so long: fetching, installing and trying have limits of their own.
const LOOK: Duration = Duration::from_secs(600);

/// What outlives the worker, below its directory.
const KEPT: &str = "registry";

/// What a look at a handler came to.
#[derive(Clone, Debug)]
pub enum Look {
    /// This revision serves, which is the newest.
    Serves(Serving),
    /// The registry has no such handler.
    Missing,
    /// The newest cannot serve.
    Fails(Trouble),
}

/// A revision that serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Serving {
    /// Its number in the handler's record.
    pub revision: u64,
    /// That of its bundle.
    pub digest: String,
}

/// A question to the thread that looks.
struct Ask {
    handler: HandlerName,
    /// Whether what was found missing a moment ago is to be looked for again.
    anew: bool,
    answer: oneshot::Sender<Look>,
}

/// What is known of the registry, to be seen.
#[derive(Debug, Default, Serialize)]
struct View {
    /// Where it is.
    place: String,
    /// Why it could not be read the last time.
    trouble: Option<String>,
    /// What serves, by handler.
    serving: BTreeMap<String, Serving>,
}

/// The registry as calls see it.
#[derive(Debug)]
pub struct Registry {
    asks: mpsc::Sender<Ask>,
    asked: Mutex<Option<mpsc::Receiver<Ask>>>,
    view: Arc<Mutex<View>>,
    config: RegistryConfig,
}

/// The thread that looks; it ends with this.
#[derive(Debug)]
pub struct Looking {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Looking {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // If it panicked it has said so itself.
            let _ = thread.join();
        }
    }
}

impl Registry {
    /// Nothing is looked at before [`start`].
    pub fn new(config: RegistryConfig) -> Self {
        let (asks, asked) = mpsc::channel(ASKED);
        let view = View { place: config.place.to_string(), ..View::default() };
        Self { asks, asked: Mutex::new(Some(asked)), view: Arc::new(Mutex::new(view)), config }
    }

    /// The handler of this name with the code to serve; `known` if it has been called before.
    pub async fn get(
        &self,
        functions: &Functions,
        known: Option<Arc<Function>>,
        name: &str,
    ) -> Result<(Arc<Function>, Arc<Revision>), NoFunction> {
        if let Some(function) = known
            && let Some(revision) = function.serving()
        {
            return Ok((function, revision));
        }
        let handler = HandlerName::parse(name)?;
        match tokio::time::timeout(PATIENCE, self.ask(handler.clone(), false)).await {
            Ok(Look::Serves(_)) => {}
            Ok(Look::Missing) => return Err(NoFunction::NotInRegistry(handler)),
            Ok(Look::Fails(trouble)) => return Err(NoFunction::Failed(trouble.failure())),
            Err(_) => return Err(NoFunction::Pending(name.into())),
        }
        // It may have been removed in this moment.
        let found =
            functions.known(name).and_then(|function| Some((Arc::clone(&function), function.serving()?)));
        found.ok_or(NoFunction::NotInRegistry(handler))
    }

    /// Has the newest revision of a handler serve, and says what came of it.
    pub async fn look(&self, handler: HandlerName) -> Look {
        match tokio::time::timeout(LOOK, self.ask(handler, true)).await {
            Ok(look) => look,
            Err(_) => desk::ours(format!("no end of it within {} s", LOOK.as_secs())),
        }
    }

    async fn ask(&self, handler: HandlerName, anew: bool) -> Look {
        let (answer, answered) = oneshot::channel();
        if self.asks.try_send(Ask { handler, anew, answer }).is_err() {
            return desk::ours("too many handlers are waited for".to_owned());
        }
        answered.await.unwrap_or_else(|_| desk::ours("the worker ends".to_owned()))
    }

    /// What is known, as JSON.
    pub fn view(&self) -> serde_json::Value {
        serde_json::to_value(&*self.view.lock()).unwrap_or_default()
    }
}

/// The bundles of a worker, with what the one before it has kept.
pub fn shelf(agent: &Agent, store: Store, budget: u64) -> anyhow::Result<Shelf> {
    let folder = agent.config.worker_dir.join(KEPT);
    let archives =
        Archives::open(&folder, budget).with_context(|| format!("cannot use {}", folder.display()))?;
    Ok(Shelf::new(store, agent.functions.bundles.clone(), Arc::new(archives), budget))
}

/// Starts to look. Must be called from the runtime that serves calls.
pub fn start(agent: &Arc<Agent>, registry: &Arc<Registry>) -> anyhow::Result<Looking> {
    let store = Store::open(&registry.config.place)?;
    let asked = registry.asked.lock().take().context("the registry is looked at already")?;
    let trial = trial::in_sandbox(Arc::clone(agent), Handle::current());
    let (functions, pool) = (Arc::clone(&agent.functions), Arc::clone(&agent.pool));
    let shelf = shelf(agent, store.clone(), registry.config.cache.bytes())?;
    let maker = Maker::new(Arc::clone(&functions), shelf, trial);
    let desk = Desk::new(store, maker, pool, Arc::clone(&registry.view));
    let (stop, stopped) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let every = registry.config.look_every;
    let thread = std::thread::Builder::new().name("registry".into()).spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = desk.work(asked, every) => {}
                _ = stopped => {}
            }
        });
        runtime.shutdown_background();
    });
    Ok(Looking { stop: Some(stop), thread: Some(thread.context("start a thread")?) })
}

impl From<StoreError> for Trouble {
    fn from(error: StoreError) -> Self {
        use openlambda_api::conditions::ConditionReason::{
            AgentFailed, DigestMismatch, FetchFailed, InvalidSource,
        };
        let message = error.to_string();
        match error {
            StoreError::Mismatch { .. } => Self::passing(DigestMismatch, message),
            StoreError::TooLarge(_) => Self::lasting(InvalidSource, message),
            StoreError::Io { .. } => Self::passing(AgentFailed, message),
            // Keys, buckets and records are corrected where they are, and nobody here hears of it.
            _ => Self::passing(FetchFailed, message),
        }
    }
}
