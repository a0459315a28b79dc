//! What the reconcilers share.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kube::Client;
use openlambda_api::LambdaClusterStatus;
use openlambda_api::cluster::HandlerCounts;
use openlambda_policy::backoff::Backoff;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::events::Events;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::throttle::Throttle;
use crate::written::Written;

/// Namespace and name.
pub type Key = (String, String);

/// What the reconcilers share.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// What goes into children.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// Where events go.
    pub events: Events,
    /// How many handlers each cluster has.
    pub handlers: Board,
    /// Limits all writes.
    pub throttle: Throttle,
    /// Statuses of clusters that the watch has not shown yet.
    pub written: Mutex<Written<LambdaClusterStatus>>,
    /// The digest of each child as it was last applied.
    pub applied: Mutex<HashMap<String, u64>>,
    backoff: Mutex<HashMap<String, Backoff>>,
    begun: Instant,
}

impl Context {
    /// A context without memory.
    pub fn new(
        client: Client,
        settings: Settings,
        metrics: Metrics,
        events: Events,
        writes_per_second: u32,
    ) -> Self {
        Self {
            client,
            settings,
            metrics,
            events,
            handlers: Board::new(),
            throttle: Throttle::new(writes_per_second, writes_per_second / 5),
            written: Mutex::default(),
            applied: Mutex::default(),
            backoff: Mutex::default(),
            begun: Instant::now(),
        }
    }

    /// An object's reconciliation failed: how long to wait.
    pub fn failed(&self, uid: &str) -> Duration {
        let now = self.begun.elapsed();
        let mut all = self.backoff.lock();
        let backoff = all.entry(uid.to_owned()).or_default();
        backoff.fail(now);
        backoff.remaining(now)
    }

    /// It went well: earlier failures are forgotten.
    pub fn succeeded(&self, uid: &str) {
        self.backoff.lock().remove(uid);
    }
}

/// How many handlers each cluster has, from the handler part to the cluster part.
pub struct Board {
    counts: watch::Sender<HashMap<Key, HandlerCounts>>,
}

impl Board {
    fn new() -> Self {
        Self { counts: watch::Sender::new(HashMap::new()) }
    }

    /// Of one cluster; none before the first count.
    pub fn count(&self, cluster: &Key) -> Option<HandlerCounts> {
        self.counts.borrow().get(cluster).cloned()
    }

    /// Puts up new numbers; who watches is woken only if they differ.
    pub fn put(&self, counts: HashMap<Key, HandlerCounts>) {
        self.counts.send_if_modified(|old| {
            let differs = *old != counts;
            if differs {
                *old = counts;
            }
            differs
        });
    }

    /// Sees every change.
    pub fn watch(&self) -> watch::Receiver<HashMap<Key, HandlerCounts>> {
        self.counts.subscribe()
    }
}
