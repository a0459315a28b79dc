//! The import cache: Zygotes that have packages imported, and spare sandboxes forked ahead of need.
//!
//! `policy::import_cache` decides which there are and which one a sandbox is forked from; this makes them ([`making`]), ends them, and
//! tells it what was seen. All handlers of a worker are of one namespace or one cluster directory, so all may share them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_policy::Time;
use openlambda_policy::import_cache::{self as policy, Action, NodeId, PackageId, ROOT, Settings};
use openlambda_policy::spares::Pace;
use openlambda_sandbox::{ForkError, Limits, Sandbox, SandboxSpec, Spare, Zygote};
use openlambda_telemetry::Drain;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::memory::{Charge, MemoryPool};
use crate::metrics::{Hit, Metrics, StartKind};
use crate::packages::PackageSet;
use crate::revision::Revision;

mod imports;
mod making;
mod names;
mod refill;
mod sets;
pub mod tree;
mod view;

pub use imports::{Imported, Imports};
use names::Names;
use sets::Sets;

/// Between two looks at what is to be done, when nothing calls for one.
const ROUND: Duration = Duration::from_secs(1);
/// Demand is gathered for so long before it is planned for: many first calls come together.
const GATHER: Duration = Duration::from_millis(5);
/// Between two plans: one may take milliseconds of the thread that serves calls.
const BREATH: Duration = Duration::from_millis(100);
/// The import cache grows into so much of the room that instances leave it.
const RESERVE: (u64, u64) = (9, 10);
/// Fork requests that wait at the idlest process of a node before it gets another.
const BUSY: usize = 2;
/// A second process of a node that was not needed for so long is given up.
const COPY_UNUSED: Duration = Duration::from_secs(30);

/// What holds for the processes of the import cache.
#[derive(Clone, Debug)]
pub struct Bounds {
    /// What spares are held to until they serve.
    pub sandbox: Limits,
    /// Spares of one node.
    pub spares: usize,
    /// One package may take so long to import.
    pub patience: Duration,
}

/// The import cache of a worker.
#[derive(Debug)]
pub struct ImportCache {
    state: Mutex<State>,
    changed: Notify,
    wanting: Notify,
    epoch: Instant,
    metrics: Arc<Metrics>,
    /// Memory of all Zygotes but the root.
    budget: u64,
    limits: Bounds,
    memory: Arc<MemoryPool>,
    /// What all Zygotes and spares hold.
    charge: Mutex<Charge>,
    /// Processes of one node.
    copies: usize,
    drain: Drain,
}

struct State {
    policy: policy::ImportCache,
    names: Names,
    live: HashMap<NodeId, Node>,
    /// The package sets of the handlers that were started lately.
    sets: Sets,
    marked: BTreeMap<String, Mark>,
    /// Those of the given tree.
    pinned: Vec<PackageSet>,
    /// What the root holds.
    root_bytes: u64,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("nodes", &self.live.len()).finish_non_exhaustive()
    }
}

/// A node that can fork.
struct Node {
    /// Its own process, then others like it.
    zygotes: Vec<Zygote>,
    /// All that it holds, sorted. It does not keep them on the disk: whoever is forked from it does.
    packages: Vec<PackageId>,
    spares: VecDeque<Spare>,
    pace: Pace,
    copying: bool,
    /// When there were last more requests than one process could take.
    crowded: Instant,
}

impl Node {
    fn new(zygote: Zygote, packages: Vec<PackageId>) -> Self {
        Self {
            zygotes: vec![zygote],
            packages,
            spares: VecDeque::new(),
            pace: Pace::default(),
            copying: false,
            crowded: Instant::now(),
        }
    }

    /// The process with the fewest requests, and how many these are.
    fn idlest(&self) -> Option<(&Zygote, usize)> {
        self.zygotes.iter().map(|zygote| (zygote, zygote.waiting())).min_by_key(|(_, waiting)| *waiting)
    }
}

/// Why a package is in no Zygote.
#[derive(Clone, Debug, serde::Serialize)]
struct Mark {
    reason: String,
    message: String,
}

/// What a sandbox can be forked from.
pub struct Offer {
    /// The node.
    pub node: NodeId,
    /// Whether the revision is known to load in its children.
    pub proven: bool,
    /// What of the packages was there.
    pub hit: Option<Hit>,
    complete: bool,
    from: From,
}

enum From {
    Spare(Spare),
    Zygote(Zygote),
}

impl Offer {
    /// Takes it.
    pub async fn start(self, spec: &SandboxSpec) -> Result<(Sandbox, StartKind), ForkError> {
        let cold = if self.complete { StartKind::Zygote } else { StartKind::Cold };
        match self.from {
            From::Spare(spare) => {
                let kind = if self.complete { StartKind::Spare } else { StartKind::Cold };
                Ok((spare.take_up(spec)?, kind))
            }
            From::Zygote(zygote) => Ok((zygote.fork(spec).await?, cold)),
        }
    }
}

impl ImportCache {
    /// With the root only, which is not there yet either. Without a budget it stays so.
    pub fn new(
        settings: Settings,
        limits: Bounds,
        memory: Arc<MemoryPool>,
        metrics: Arc<Metrics>,
        drain: Drain,
    ) -> Arc<Self> {
        let budget = settings.budget;
        let state = State {
            policy: policy::ImportCache::new(settings),
            names: Names::default(),
            live: HashMap::new(),
            sets: Sets::default(),
            marked: BTreeMap::new(),
            pinned: Vec::new(),
            root_bytes: 0,
        };
        let copies = std::thread::available_parallelism().map_or(1, usize::from);
        Arc::new(Self {
            state: Mutex::new(state),
            changed: Notify::new(),
            wanting: Notify::new(),
            epoch: Instant::now(),
            metrics,
            budget,
            limits,
            charge: Mutex::new(memory.hold(0)),
            memory,
            copies,
            drain,
        })
    }

    /// The root Zygote is up.
    pub fn root_is(&self, zygote: Zygote) {
        let bytes = zygote.memory_bytes().unwrap_or(0);
        let node = Node::new(zygote, Vec::new());
        let mut state = self.state.lock();
        state.root_bytes = bytes;
        let former = state.live.insert(ROOT, node);
        self.count(&state);
        drop(state);
        drop(former);
        self.changed.notify_one();
    }

    /// The package sets that a sandbox finds imported, and what that saves; none if there are no Zygotes with packages here.
    /// Worked out anew only when Zygotes have come or gone, or other sets are asked for.
    pub fn sets(&self) -> Option<Arc<[openlambda_api::Zygote]>> {
        if self.budget == 0 {
            return None;
        }
        let mut state = self.state.lock();
        let State { policy, names, sets, .. } = &mut *state;
        Some(sets.report(policy, names))
    }

    /// The root Zygote has ended.
    pub fn root_is_gone(&self) {
        let former = self.state.lock().live.remove(&ROOT);
        drop(former);
    }

    /// The best there is to fork a sandbox for this revision from; none but the root if nothing else is safe.
    pub fn offer(self: &Arc<Self>, revision: &Revision) -> Option<Offer> {
        let now = self.now();
        let mut state = self.state.lock();
        let State { policy, names, live, sets, .. } = &mut *state;
        let choice = revision.imports.choose(revision, policy, names, now);
        let node = if live.contains_key(&choice.node) { choice.node } else { ROOT };
        let entry = live.get_mut(&node)?;
        policy.forked(node, now);
        entry.pace.count(now);
        if let Some((set, _)) = revision.set.as_ref().filter(|_| choice.known) {
            sets.started(*set, choice.wish());
        }
        let holds = |package: &PackageId| entry.packages.binary_search(package).is_ok();
        let wish = choice.imports();
        // As long as it is not known what it imports, what others with its packages import is taken for that.
        let complete =
            revision.packages.is_empty() || if choice.known { wish.iter().all(holds) } else { node != ROOT };
        let hit = (!revision.packages.is_empty()).then(|| match (complete, wish.iter().any(holds)) {
            (true, _) => Hit::Full,
            (false, true) => Hit::Part,
            (false, false) => Hit::None,
        });
        let spare = std::iter::from_fn(|| entry.spares.pop_front()).find(Spare::is_waiting);
        let from = match spare {
            Some(spare) => From::Spare(spare),
            None => {
                let (zygote, waiting) = entry.idlest()?;
                let zygote = zygote.clone();
                if waiting >= BUSY {
                    self.crowded(node, entry);
                }
                From::Zygote(zygote)
            }
        };
        drop(state);
        self.wanting.notify_one();
        if choice.is_demand {
            self.changed.notify_one();
        }
        Some(Offer { node, proven: node == ROOT || choice.proven, hit, complete, from })
    }

    /// Has another process of a node made, which takes as long as a fork.
    fn crowded(self: &Arc<Self>, node: NodeId, entry: &mut Node) {
        entry.crowded = Instant::now();
        if entry.copying || entry.zygotes.len() >= self.copies || self.budget == 0 {
            return;
        }
        entry.copying = true;
        let this = Arc::clone(self);
        tokio::spawn(async move { this.copy(node).await });
    }

    /// What the load of a revision has brought to light.
    pub fn observed(&self, revision: &Revision, imported: &Imported) {
        if self.budget == 0 {
            return;
        }
        let mut state = self.state.lock();
        let State { policy, names, .. } = &mut *state;
        if revision.imports.observe(revision, imported, policy, names, self.now()) {
            drop(state);
            self.changed.notify_one();
        }
    }

    /// A revision loads in the children of a node.
    pub fn proven(&self, revision: &Revision, node: NodeId) {
        revision.imports.prove(node);
    }

    /// A revision that does not load in the children of a node does load in those of the root: what the node imported is to blame. The
    /// revision starts from the root from now on.
    pub fn breaks_when_forked(&self, revision: &Revision, node: NodeId, why: &str) {
        revision.imports.bar();
        self.metrics.zygote_failed("breaks_in_fork");
        let mut state = self.state.lock();
        let State { policy, names, live, marked, .. } = &mut *state;
        let parent = policy.view().iter().find(|view| view.id == node).map(|view| view.parent);
        let inherited = parent.and_then(|parent| live.get(&parent)).map(|node| node.packages.clone());
        let Some(entry) = live.get(&node) else { return };
        for package in &entry.packages {
            if inherited.as_ref().is_none_or(|inherited| inherited.binary_search(package).is_err()) {
                mark(policy, names, marked, *package, "breaks_in_fork", why);
            }
        }
        drop(state);
        self.changed.notify_one();
    }

    /// Carries out what the policy plans, until the worker's end.
    pub async fn keep_up(self: Arc<Self>) {
        tokio::spawn(Arc::clone(&self).refill());
        while !self.drain.has_begun() {
            if tokio::time::timeout(ROUND, self.changed.notified()).await.is_ok() {
                tokio::time::sleep(GATHER).await;
            } else {
                self.measure();
            }
            self.carry_out();
            tokio::time::sleep(BREATH).await;
        }
    }

    fn carry_out(self: &Arc<Self>) {
        if self.budget == 0 {
            return;
        }
        let room = self.memory.room_of(self.charge.lock().bytes());
        self.plan(self.budget.min(room / RESERVE.1 * RESERVE.0));
    }

    /// Has the nodes that are worth it within this budget. Gives how many were given up.
    fn plan(self: &Arc<Self>, budget: u64) -> usize {
        let mut gone = Vec::new();
        let mut state = self.state.lock();
        state.policy.set_budget(budget);
        for action in state.policy.plan(self.now()) {
            match action {
                Action::Evict { node } => gone.extend(state.live.remove(&node)),
                Action::Create { node, parent, packages } => {
                    let this = Arc::clone(self);
                    tokio::spawn(async move { this.make(node, parent, packages).await });
                }
            }
        }
        self.count(&state);
        drop(state);
        self.metrics.evicted("import_cache", gone.len());
        // Kills their processes, which must not be done under the lock.
        gone.len()
    }

    /// What nodes hold that can be given up.
    pub fn bytes(&self) -> u64 {
        self.state.lock().policy.bytes()
    }

    /// Gives up nodes that hold so many bytes, as far as there are any. Gives how many there were.
    pub fn give_up(self: &Arc<Self>, bytes: u64) -> usize {
        if self.budget == 0 {
            return 0;
        }
        let held = self.bytes();
        self.plan(held.saturating_sub(bytes))
    }

    /// Looks at what the Zygotes hold now, and gives up what was not needed for long, and spares that have ended.
    fn measure(&self) {
        let (mut gone, mut ended) = (Vec::new(), Vec::new());
        let mut state = self.state.lock();
        let State { policy, live, root_bytes, .. } = &mut *state;
        for (id, node) in live.iter_mut() {
            if node.zygotes.len() > 1 && node.crowded.elapsed() > COPY_UNUSED {
                gone.extend(node.zygotes.pop());
            }
            let (waiting, others) = node.spares.drain(..).partition(Spare::is_waiting);
            node.spares = waiting;
            ended.extend::<VecDeque<_>>(others);
            let bytes: u64 = node.zygotes.iter().filter_map(|zygote| zygote.memory_bytes().ok()).sum();
            policy.measured(*id, bytes);
            if *id == ROOT {
                *root_bytes = bytes;
            }
        }
        self.count(&state);
        drop(state);
        if !ended.is_empty() {
            self.wanting.notify_one();
        }
        drop((gone, ended));
    }

    fn count(&self, state: &State) {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.zygotes.set(whole(state.live.values().map(|node| node.zygotes.len()).sum()));
        let spares: usize = state.live.values().map(|node| node.spares.len()).sum();
        self.metrics.spares.set(whole(spares));
        let held = state.policy.bytes() + state.root_bytes + spares as u64 * refill::BYTES;
        self.charge.lock().set(held);
        self.metrics.import_cache_bytes.set(i64::try_from(state.policy.bytes()).unwrap_or(i64::MAX));
    }

    fn now(&self) -> Time {
        self.epoch.elapsed()
    }
}

fn mark(
    policy: &mut policy::ImportCache,
    names: &Names,
    marked: &mut BTreeMap<String, Mark>,
    package: PackageId,
    reason: &str,
    message: &str,
) {
    policy.mark(package);
    let name = names.folder(package).to_owned();
    tracing::warn!(package = name, reason, message, "a package is in no Zygote from now on");
    marked.insert(name, Mark { reason: reason.to_owned(), message: message.to_owned() });
}
