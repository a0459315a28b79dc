//! The worker's state, shared by all that serves it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use openlambda_api::LoadReport;
use openlambda_config::{Size, WorkerConfig};
use openlambda_policy::import_cache::{self as cache_policy, Mode};
use openlambda_telemetry::{Drain, Readiness};
use serde_json::json;

use crate::bundles::Bundles;
use crate::costs::Meter;
use crate::functions::{Functions, Source};
use crate::gate::Gates;
use crate::import_cache::{Bounds, ImportCache, tree};
use crate::load::{Load, Sampler};
use crate::memory::MemoryPool;
use crate::metrics::Metrics;
use crate::packages::{Installer, Packages, locked};
use crate::pool::Pool;
use crate::revision::{Settings, wide};
use crate::zygotes::Zygotes;
use crate::{pressure, relief, warm};

/// Calls of all handlers that may wait: each handler has its own, shorter queue.
const WAITING: usize = 20_000;
/// Between two looks for handlers that have left the registry.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Everything a call needs.
#[derive(Debug)]
pub struct Agent {
    /// The configuration.
    pub config: WorkerConfig,
    /// The handlers.
    pub functions: Arc<Functions>,
    /// The memory of all sandboxes.
    pub memory: Arc<MemoryPool>,
    /// The instances.
    pub pool: Arc<Pool>,
    /// Where new ones come from.
    pub zygotes: Arc<Zygotes>,
    /// Zygotes with packages, and spares.
    pub import_cache: Arc<ImportCache>,
    /// What they import.
    pub packages: Arc<Packages>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// How busy the machine is.
    pub load: Arc<Load>,
    /// What is still missing.
    pub readiness: Readiness,
    /// The end.
    pub drain: Drain,
    /// Creations that wait for memory.
    pub creating: AtomicUsize,
}

impl Agent {
    /// A worker that has no sandbox yet; all of them may take so many bytes of memory.
    pub fn new(
        config: WorkerConfig,
        memory: u64,
        source: Source,
        metrics: Arc<Metrics>,
        readiness: Readiness,
    ) -> io::Result<Arc<Self>> {
        let drain = Drain::new();
        let bundles = Bundles::open(config.worker_dir.join("bundles"))?;
        let packages = Packages::open(&config)?;
        let settings = Settings::of(&config);
        let bounds = Bounds {
            sandbox: settings.limits,
            spares: wide(config.spares.into()),
            patience: config.import_timeout,
        };
        let memory = MemoryPool::new(memory, wide(config.create_queue.into()));
        let cache = cache_settings(&config);
        let import_cache =
            ImportCache::new(cache, bounds, Arc::clone(&memory), Arc::clone(&metrics), drain.clone());
        let queue = wide(config.queue_length.into());
        let gates = Gates::new(queue, WAITING.max(queue), config.queue_timeout, drain.clone());
        let functions =
            Functions::new(source, bundles, gates, settings, Installer::of(&packages), Arc::clone(&metrics));
        Ok(Arc::new(Self {
            functions: Arc::new(functions),
            memory,
            pool: Pool::new(config.handler_cache.bytes(), config.pause_after),
            zygotes: Zygotes::new(Arc::clone(&import_cache)),
            import_cache,
            packages,
            load: Arc::default(),
            creating: AtomicUsize::new(0),
            config,
            metrics,
            readiness,
            drain,
        }))
    }

    /// Starts what runs beside the calls. Sampling goes on until the sampler is dropped.
    pub fn start_upkeep(self: &Arc<Self>) -> io::Result<Sampler> {
        tokio::spawn(Arc::clone(&self.pool).keep_up());
        tokio::spawn(Arc::clone(&self.import_cache).keep_up());
        tokio::spawn(relief::keep(Arc::clone(self)));
        tokio::spawn(pressure::watch(Arc::clone(self)));
        tokio::spawn(warm::keep(Arc::clone(self)));
        if let Some(tree) = self.config.import_tree.clone().filter(|_| self.config.import_cache != Size::ZERO)
        {
            tokio::spawn(tree::plant(Arc::clone(&self.import_cache), Arc::clone(&self.packages), tree));
        }
        let functions = Arc::clone(&self.functions);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(PRUNE_EVERY).await;
                let functions = Arc::clone(&functions);
                // It only stats files; if it fails the next round does it.
                let _ = tokio::task::spawn_blocking(move || functions.prune()).await;
            }
        });
        let this = Arc::clone(self);
        let cpus = std::thread::available_parallelism()
            .map_or(1, |count| u32::try_from(count.get()).unwrap_or(u32::MAX));
        let mut meter = Meter::new(cpus);
        self.load.sample(move |used, interval| {
            let waiting = this.functions.gates.waiting();
            this.metrics.sample(this.pool.counts(), waiting);
            let inflight = u64::try_from(this.metrics.inflight.get()).unwrap_or(0);
            let zygotes = this.import_cache.sets().map(|sets| sets.to_vec());
            let costs = meter.read(&this.metrics.spent, used, interval);
            LoadReport { inflight, queued: waiting as u64, costs, zygotes, ..LoadReport::default() }
        })
    }

    /// What `/status` says.
    pub fn status(&self) -> Result<(), &'static str> {
        if self.drain.has_begun() {
            Err("draining")
        } else if self.readiness.is_ready() {
            Ok(())
        } else {
            Err("starting")
        }
    }

    /// Everything there is to see, as JSON.
    pub fn state(&self) -> serde_json::Value {
        let handlers: Vec<_> = self
            .functions
            .all()
            .into_iter()
            .map(|function| {
                let (running, waiting) =
                    function.serving().map_or((0, 0), |revision| revision.gate.counts());
                let packages = function.serving().map(|revision| locked(&revision.packages)).unwrap_or_default();
                let split = function.split().iter().map(ToString::to_string).collect::<Vec<_>>();
                json!({
                    "name": &*function.name, "revision": &function.part, "split": split, "digest": function.digest(), "running": running, "waiting": waiting,
                    "packages": packages, "trouble": function.trouble(),
                })
            })
            .collect();
        let status = self.status().err().unwrap_or("ready");
        json!({
            "status": status,
            "waiting_for": self.readiness.pending(),
            "handlers": handlers,
            "memory": self.memory.view(),
            "instances": self.pool.view(),
            "import_cache": self.import_cache.view(),
            "registry": self.functions.registry().map(|registry| registry.view()),
        })
    }
}

/// How the import cache is to decide.
fn cache_settings(config: &WorkerConfig) -> cache_policy::Settings {
    let mode = if config.import_tree.is_some() { Mode::Tree } else { Mode::Auto };
    cache_policy::Settings { mode, budget: config.import_cache.bytes(), ..cache_policy::Settings::default() }
}
