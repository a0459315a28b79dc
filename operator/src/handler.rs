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
use openlambda_api::conditions::{self, ConditionType, Verdict};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Key, Seen};
use crate::written::Written;

mod agents;
mod fresh;
mod keep;
mod pace;
mod registry;
mod resolve;
mod revisions;
mod status;
mod uncached;
mod view;
mod watch;
mod write;

pub use watch::Watches;

use agents::Agents;
use fresh::Fresh;
use pace::Pace;
use revisions::Revisions;
use uncached::Uncached;
use view::HandlerView;

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
    revisions: Revisions,
    written: Written<HandlerStatus>,
    begun: Instant,
}

/// What one pass found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Pass {
    unsettled: usize,
    /// What was to be written, and was not.
    open: usize,
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
            revisions: Revisions::default(),
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
        self.pace.ended(self.begun.elapsed(), pass.unsettled + pass.open > 0, moved);
        timer.done((pass.failed_writes > 0).then_some("write"));
    }

    /// Keeps the revisions that are new, computes every status and writes those that differ.
    async fn pass(&mut self) -> Pass {
        let world = resolve::World::new(&self.watches, &self.agents);
        let handlers = self.watches.handlers();
        let uids: Vec<String> = handlers.iter().filter_map(|handler| handler.uid()).collect();
        self.written.prune(&uids);
        self.fresh.prune(&uids);
        self.uncached.prune(&uids);
        self.revisions.prune(&uids);
        let readable = || handlers.iter().filter_map(|object| object.0.as_ref().ok());
        self.revisions.see(self.watches.revisions().iter().map(|object| &**object));
        let works = readable().filter_map(|handler| work(&self.revisions, handler, &world)).collect();
        // Which revision an edit is, its status says. A handler's first one is kept after its status is written.
        let (edits, firsts): (Vec<_>, Vec<_>) = Vec::into_iter(works).partition(|work| !work.kept.is_empty());
        let mut pass =
            Pass { open: keep(&self.context, &mut self.revisions, edits, false).await, ..Pass::default() };
        let mut seen = Tally::new(&world);
        let mut changes = Vec::new();
        for object in handlers.iter().filter(|object| object.0.is_err()) {
            let (uid, version) = version(&**object);
            let known = self.written.current(&uid, &version, None);
            changes
                .extend(write::unreadable(object).filter(|change| known.as_ref() != Some(change.status())));
        }
        for handler in readable() {
            let (uid, version) = version(handler);
            let old = self.written.current(&uid, &version, handler.status.as_ref()).unwrap_or_default();
            let found = world.look(handler);
            let new =
                status::compute(handler, &old, &found, self.revisions.of(&uid), &Time(Timestamp::now()));
            if let Ok(cluster) = &found {
                for news in self.uncached.news(handler, &cluster.key, self.agents.excluded()) {
                    self.context.events.not_cached(handler, &news);
                }
                seen.add(&cluster.key, conditions::is_true(&new.conditions, ConditionType::Ready));
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
        let others_wait = pass.unsettled > 0 || !written.done.is_empty();
        pass.open += written.failed + keep(&self.context, &mut self.revisions, firsts, others_wait).await;
        pass.failed_writes = written.failed;
        self.context.seen.put(seen.boards());
        pass
    }
}

/// The uid and the version of an object.
fn version(object: &impl kube::Resource) -> (String, String) {
    (object.uid().unwrap_or_default(), object.resource_version().unwrap_or_default())
}

/// What is to be done about a handler's revisions, if anything.
fn work(revisions: &Revisions, handler: &HandlerView, world: &resolve::World<'_>) -> Option<keep::Work> {
    let due = world.look(handler).ok().and_then(|found| revisions.due(handler, &found));
    let excess = revisions.excess(handler);
    let kept = revisions.of(&handler.uid()?).to_vec();
    (due.is_some() || !excess.is_empty()).then(|| keep::Work { handler: handler.clone(), due, excess, kept })
}

/// Does it; how much is still to be done.
async fn keep(
    context: &Context,
    revisions: &mut Revisions,
    works: Vec<keep::Work>,
    others_wait: bool,
) -> usize {
    let mut open = 0;
    for done in keep::all(context, works, others_wait).await {
        open += usize::from(done.is_open);
        if let Some(kept) = done.kept {
            revisions.wrote(&done.uid, kept);
        }
        if let Some(generation) = done.none {
            revisions.is_none(&done.uid, generation);
        }
        done.gave_up.iter().for_each(|name| revisions.gave_up(&done.uid, name));
    }
    open
}

/// The handlers of each cluster, and what its agents say of its registry.
struct Tally {
    counts: HashMap<Key, (i32, i32)>,
    registries: HashMap<Key, Verdict>,
}

impl Tally {
    fn new(world: &resolve::World<'_>) -> Self {
        Self {
            counts: world.clusters().map(|cluster| (cluster.clone(), (0, 0))).collect(),
            registries: world.clusters().map(|cluster| (cluster.clone(), world.registry(cluster))).collect(),
        }
    }

    fn add(&mut self, cluster: &Key, is_ready: bool) {
        let entry = self.counts.entry(cluster.clone()).or_default();
        entry.1 += 1;
        entry.0 += i32::from(is_ready);
    }

    fn boards(mut self) -> HashMap<Key, Seen> {
        let seen = self.counts.into_iter().map(|(key, (ready, total))| {
            let registry = self.registries.remove(&key);
            (key, Seen { handlers: HandlerCounts::new(ready, total), registry })
        });
        seen.collect()
    }
}
