//! What the reconcilers share.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use kube::Client;
use openlambda_api::LambdaClusterStatus;
use openlambda_api::cluster::HandlerCounts;
use openlambda_api::conditions::Verdict;
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
    /// What the handler part saw of each cluster.
    pub seen: Board,
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
            seen: Board::new(),
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

/// What the handler part saw of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// How many handlers it has.
    pub handlers: HandlerCounts,
    /// What its agents say of its registry.
    pub registry: Option<Verdict>,
}

/// What was seen of each cluster, from the handler part to the cluster part.
pub struct Board {
    seen: watch::Sender<HashMap<Key, Seen>>,
}

impl Board {
    fn new() -> Self {
        Self { seen: watch::Sender::new(HashMap::new()) }
    }

    /// Of one cluster; none before the first look.
    pub fn of(&self, cluster: &Key) -> Option<Seen> {
        self.seen.borrow().get(cluster).cloned()
    }

    /// Puts up what was seen; who watches is woken only if it differs.
    pub fn put(&self, seen: HashMap<Key, Seen>) {
        self.seen.send_if_modified(|old| {
            let differs = *old != seen;
            if differs {
                *old = seen;
            }
            differs
        });
    }

    /// Sees every change.
    pub fn watch(&self) -> watch::Receiver<HashMap<Key, Seen>> {
        self.seen.subscribe()
    }
}
