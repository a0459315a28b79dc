//! `Handler`: dereference → validate → status → write. There is nothing to build: agents and lard watch Handlers
//! themselves, and the operator only says what came of them.
//!
//! A thousand handlers are settled by asking each agent once for all of them, not by a reconciliation each. So this is
//! one loop over what the watches hold: ask the agents as long as something is not final, compute every status, write
//! those that differ.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use openlambda_api::HandlerStatus;
use openlambda_api::cluster::HandlerCounts;
use openlambda_api::conditions::{self, ConditionType};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, Seen};
use crate::written::Written;

mod agents;
mod fresh;
mod pace;
mod registry;
mod resolve;
mod status;
mod uncached;
mod view;
mod watch;
mod write;

pub use watch::Watches;

use agents::Agents;
use fresh::Fresh;
use pace::Pace;
use uncached::Uncached;

/// Changes that come together are looked at together.
const GATHER: Duration = Duration::from_millis(20);

/// The handler part.
pub struct Observer {
    context: Arc<Context>,
    watches: Watches,
    agents: Agents,
    pace: Pace,
    fresh: Fresh,
    uncached: Uncached,
    written: Written<HandlerStatus>,
    begun: Instant,
}

/// What one pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pass {
    unsettled: usize,
    failed_writes: usize,
}

impl Observer {
    /// Begins to watch.
    pub fn new(context: Arc<Context>, watches: Watches) -> Self {
        Self {
            context,
            watches,
            agents: Agents::new(),
            pace: Pace::default(),
            fresh: Fresh::default(),
            uncached: Uncached::default(),
            written: Written::default(),
            begun: Instant::now(),
        }
    }

    /// Works until it is told to stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let synced = self.watches.synced();
        tokio::select! {
            () = stop.cancelled() => return,
            () = synced => {}
        }
        loop {
            let pause = self.pace.pause(self.begun.elapsed());
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.watches.changed() => self.pace.changed(self.begun.elapsed()),
                () = tokio::time::sleep(pause) => {}
            }
            tokio::time::sleep(GATHER).await;
            self.round().await;
        }
    }

    async fn round(&mut self) {
        let context = Arc::clone(&self.context);
        let timer = context.metrics.reconcile("Handler");
        let moved = self.agents.poll(&self.watches.agent_pods(), &context.metrics).await;
        let pass = self.pass().await;
        context.metrics.unsettled.set(i64::try_from(pass.unsettled).unwrap_or(i64::MAX));
        let open = pass.unsettled + pass.failed_writes;
        self.pace.ended(self.begun.elapsed(), open > 0, moved);
        timer.done((pass.failed_writes > 0).then_some("write"));
    }

    /// Computes every status and writes those that differ.
    async fn pass(&mut self) -> Pass {
        let world = resolve::World::new(&self.watches, &self.agents);
        let now = Time(Timestamp::now());
        let (mut pass, mut counts, mut changes) =
            (Pass::default(), HashMap::<Key, (i32, i32)>::new(), Vec::new());
        let mut registries = HashMap::new();
        for cluster in world.clusters() {
            counts.insert(cluster.clone(), (0, 0));
            registries.insert(cluster.clone(), world.registry(cluster));
        }
        let handlers = self.watches.handlers();
        let uids: Vec<String> = handlers.iter().filter_map(|handler| handler.uid()).collect();
        self.written.prune(&uids);
        self.fresh.prune(&uids);
        self.uncached.prune(&uids);
        for object in handlers {
            let (uid, version) =
                (object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default());
            let Ok(handler) = &object.0 else {
                let change = write::unreadable(&object);
                let known = self.written.current(&uid, &version, None);
                changes.extend(change.filter(|change| known.as_ref() != Some(change.status())));
                continue;
            };
            let old = self.written.current(&uid, &version, handler.status.as_ref()).unwrap_or_default();
            let found = world.look(handler);
            let new = status::compute(handler, &old, &found, &now);
            if let Ok(cluster) = &found {
                for news in self.uncached.news(handler, &cluster.key, self.agents.excluded()) {
                    self.context.events.not_cached(handler, &news);
                }
                let entry = counts.entry(cluster.key.clone()).or_default();
                entry.1 += 1;
                entry.0 += i32::from(conditions::is_true(&new.conditions, ConditionType::Ready));
            }
            let is_final = status::is_final(&new);
            pass.unsettled += usize::from(!is_final);
            let generation = handler.metadata.generation.unwrap_or_default();
            let told = self.fresh.is_told(&uid, generation, is_final, self.begun.elapsed());
            if told && new != old {
                changes.push(write::Change::new(handler, old, new));
            }
        }
        let written = write::all(&self.context, changes).await;
        for done in &written.done {
            self.written.wrote(&done.uid, &done.version, done.status.clone());
        }
        pass.failed_writes = written.failed;
        let seen = counts.into_iter().map(|(key, (ready, total))| {
            let registry = registries.remove(&key);
            (key, Seen { handlers: HandlerCounts::new(ready, total), registry })
        });
        self.context.seen.put(seen.collect());
        pass
    }
}
