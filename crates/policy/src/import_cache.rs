//! Which imports a node's Zygotes hold, and which Zygote a handler's sandbox is forked from.
//!
//! Zygotes form a tree below the root, bare Python, which always exists and is not ours to make: a node is forked from
//! its parent, shares its memory, and imports more packages. [`ImportCache::best`] picks the node that saves a handler
//! the most, among those that change nothing for it. [`ImportCache::plan`] makes the tree follow the demand: the sets
//! that handlers import, and what the most demanded of them have in common, by time saved per byte.
//!
//! Invariants: a node holds all that its parent holds. No plan lets the estimated memory exceed the budget, except for
//! what pinned nodes take, and if measured memory exceeds it, a plan evicts until it does not. A node is evicted only
//! after its children. A node that holds a marked package is never an answer.
//!
//! It starts no process and measures nothing: the caller carries out a plan and reports what became of it. What is
//! evicted leaves the books at once, so its memory counts no more while its process ends.

use std::time::Duration;

use crate::Time;

mod demand;
mod known;
mod nodes;
mod pins;
mod plan;
mod set;
mod wish;

use demand::Demand;
use known::Known;
use nodes::{Node, Nodes};
use pins::Pins;
use plan::Planner;
use set::Set;
use wish::Footprint;
pub use wish::Wish;

/// A package in one version; the caller numbers them.
pub type PackageId = u32;
/// A top-level module; the caller numbers them.
pub type ModuleId = u32;
/// A process of the tree. Never used again.
pub type NodeId = u64;
/// A node of the given tree. Its processes come and go.
pub type PinId = u64;

/// Bare Python, as a node and as the parent of a pin.
pub const ROOT: NodeId = 0;

/// What a package is taken to cost before it was measured.
pub const DEFAULT_COST: Cost = Cost { micros: 20_000, bytes: 2 << 20 };

/// What importing a package costs, without what it imports of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Time.
    pub micros: u64,
    /// Memory.
    pub bytes: u64,
}

/// Where nodes come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// From demand; and pins, if there are any.
    Auto,
    /// From pins only.
    Tree,
}

/// What is allowed, and how fast it follows.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where nodes come from.
    pub mode: Mode,
    /// Memory of all nodes together.
    pub budget: u64,
    /// Nodes, without the root and pins.
    pub max_nodes: usize,
    /// Creations at a time.
    pub at_once: usize,
    /// A start counts half after this time.
    pub half_life: Duration,
    /// Sets whose demand is remembered.
    pub max_sets: usize,
    /// What a new node saves must be this many times what its victims save.
    pub margin: f64,
    /// A node is not displaced before this age.
    pub grace: Duration,
    /// A node that serves no demand is evicted after this time even if nothing else wants its memory.
    pub disuse: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mode: Mode::Auto,
            budget: 0,
            max_nodes: 200,
            at_once: 2,
            half_life: Duration::from_secs(30),
            max_sets: 512,
            margin: 1.5,
            grace: Duration::from_secs(10),
            disuse: Duration::from_secs(30 * 60),
        }
    }
}

/// What the caller is to do, in the order of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Fork a node and import. To be answered by [`ImportCache::ready`] or [`ImportCache::failed`].
    Create {
        /// The new node.
        node: NodeId,
        /// What it is forked from.
        parent: NodeId,
        /// What it imports, sorted: what its parent does not hold yet.
        packages: Vec<PackageId>,
    },
    /// End a node. It is forgotten here: no answer is expected, later reports of it are ignored.
    Evict {
        /// A node without children.
        node: NodeId,
    },
}

/// A creation that has succeeded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Of the packages imported here.
    pub costs: Vec<(PackageId, Cost)>,
    /// What the node holds beyond its parent.
    pub bytes: u64,
    /// Top-level modules that it looked for and did not find.
    pub misses: Vec<ModuleId>,
    /// Top-level modules that it has loaded from packages.
    pub modules: Vec<ModuleId>,
}

/// Why a creation has failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The import of this package has failed. It is marked, unless all handlers that the node was for have something that it lacked.
    Package {
        /// Which.
        package: PackageId,
        /// Top-level modules that were looked for and not found.
        misses: Vec<ModuleId>,
    },
    /// Not known. It is tried again after a pause.
    Other,
}

/// Whether a node can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// It is importing.
    Creating,
    /// It can fork.
    Ready,
}

/// A node as a state document shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeView {
    /// Which.
    pub id: NodeId,
    /// What it was forked from, or the nearest ancestor of that which still lives. The root is its own.
    pub parent: NodeId,
    /// The pin that it is the process of.
    pub pin: Option<PinId>,
    /// All that it holds, its ancestors' too.
    pub packages: Vec<PackageId>,
    /// Whether it can serve.
    pub state: NodeState,
    /// What it holds beyond its parent.
    pub bytes: u64,
    /// Sandboxes forked from it.
    pub hits: u64,
    /// How long importing all that it holds takes.
    pub micros: u64,
}

/// The decisions of the import cache.
#[derive(Debug)]
pub struct ImportCache {
    settings: Settings,
    known: Known,
    demand: Demand,
    nodes: Nodes,
    pins: Pins,
}

impl ImportCache {
    /// With the root only.
    pub fn new(settings: Settings) -> Self {
        let demand = Demand::new(settings.half_life, settings.max_sets);
        Self { settings, known: Known::default(), demand, nodes: Nodes::new(), pins: Pins::default() }
    }

    /// A node of the given tree: it holds `packages` and what `parent` holds ([`ROOT`], or a pin; one that is unknown
    /// counts as the root). It gets a process whenever it has none, whatever the budget, and no plan evicts it but for
    /// a marked package, which its next process does without.
    pub fn pin(&mut self, parent: PinId, packages: &[PackageId]) -> PinId {
        self.pins.add(parent, Set::new(packages.iter().copied()))
    }

    /// A sandbox for this wish was started, from whatever node.
    pub fn started(&mut self, wish: &Wish, now: Time) {
        self.demand.started(wish, now);
    }

    /// The ready node that a sandbox for this wish is best forked from: of those that it may be forked from, the one
    /// that saves the most import time; then the one with the least that it does not import; then the oldest.
    pub fn best(&self, wish: &Wish) -> NodeId {
        let micros: Vec<u64> = wish.imports.iter().map(|package| self.known.micros_of(package)).collect();
        let mut best = (0, 0, ROOT);
        for (id, node) in self.nodes.iter() {
            if !node.forks() || !node.all.is_within(&wish.installed) {
                continue;
            }
            let (count, saved) =
                wish.imports.shared(&node.all).fold((0, 0), |(n, sum), at| (n + 1, sum + micros[at]));
            let extra = node.all.len() - count;
            let better = saved > best.0 || (saved == best.0 && extra < best.1);
            if better && node.footprint.fits(wish) {
                best = (saved, extra, id);
            }
        }
        best.2
    }

    /// Changes whenever an answer of [`best`](Self::best) may have changed.
    pub fn generation(&self) -> u64 {
        self.nodes.generation
    }

    /// What is to be done now. To be asked after reports and new demand, and every second or so.
    #[must_use = "what is planned is on the books already and must be carried out"]
    pub fn plan(&mut self, now: Time) -> Vec<Action> {
        let mut actions = self.evict_marked();
        self.create_pinned(&mut actions, now);
        self.demand.forget_faded(now);
        let mut planner = Planner::new(&self.settings, &self.known, &mut self.nodes, &self.demand, now);
        planner.shrink();
        planner.retire();
        if self.settings.mode == Mode::Auto {
            planner.grow();
        }
        actions.append(&mut planner.actions);
        actions
    }

    /// A created node has imported everything and can fork.
    pub fn ready(&mut self, node: NodeId, ready: Ready, now: Time) {
        let Some(created) = self.nodes.get_mut(node).filter(|node| !node.is_ready()) else { return };
        let footprint = Footprint { misses: Set::new(ready.misses), modules: Set::new(ready.modules) };
        self.known.learn_footprint(&created.all, &footprint, now);
        created.footprint = created.footprint.and(&footprint);
        created.state = NodeState::Ready;
        (created.since, created.last_used) = (now, now);
        for (package, cost) in ready.costs {
            self.known.learn_cost(package, cost);
        }
        self.nodes.generation += 1;
        self.measured(node, ready.bytes);
    }

    /// A creation has failed. Whether the package is marked.
    pub fn failed(&mut self, node: NodeId, failure: Failure, now: Time) -> bool {
        let Some(created) = self.nodes.get(node).filter(|node| !node.is_ready()) else { return false };
        let mut marked = false;
        match failure {
            Failure::Package { package, misses } if created.all.contains(package) => {
                let footprint = Footprint { misses: Set::new(misses), modules: Set::default() };
                marked = self.demand.blames(&created.all, &footprint);
                if marked {
                    self.mark(package);
                } else {
                    // What several handlers have in common may lack what its packages depend on, if that differs between them.
                    self.known.learn_footprint(&created.all, &footprint, now);
                }
            }
            Failure::Package { .. } | Failure::Other => self.known.fail(&created.all, Time::ZERO, now),
        }
        self.nodes.remove(node);
        marked
    }

    /// The process of a ready node has ended by itself. Its children live on. It is created again, after a pause that
    /// grows if it never lives long.
    pub fn ended(&mut self, node: NodeId, now: Time) {
        let Some(ended) = self.nodes.get(node).filter(|ended| node != ROOT && ended.is_ready()) else {
            return;
        };
        self.known.fail(&ended.all, now.saturating_sub(ended.since), now);
        self.nodes.remove(node);
    }

    /// No Zygote may hold this package any more (it breaks when forked, say). Nodes that hold it are no answers from
    /// now on, and the next plan evicts them: one that is still being created, and its ancestors, once it is.
    pub fn mark(&mut self, package: PackageId) {
        if self.known.mark(package) {
            self.nodes.doom(package);
        }
    }

    /// Whether it was marked.
    pub fn is_marked(&self, package: PackageId) -> bool {
        self.known.is_marked(package)
    }

    /// What a ready node holds beyond its parent was measured anew.
    pub fn measured(&mut self, node: NodeId, bytes: u64) {
        let own = self.nodes.own(node);
        let measured = self.nodes.get_mut(node).filter(|measured| node != ROOT && measured.is_ready());
        if let (Some(measured), Some(own)) = (measured, own) {
            measured.bytes = bytes;
            self.known.learn_bytes(&measured.all, &own, bytes);
        }
    }

    /// A sandbox was forked from this node.
    pub fn forked(&mut self, node: NodeId, now: Time) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.hits += 1;
            node.last_used = now;
        }
    }

    /// All nodes, the root first.
    pub fn view(&self) -> Vec<NodeView> {
        let view = |(id, node): (NodeId, &Node)| NodeView {
            id,
            parent: node.parent,
            pin: node.pin,
            packages: node.all.ids().to_vec(),
            state: node.state,
            bytes: node.bytes,
            hits: node.hits,
            micros: self.known.micros(&node.all),
        };
        self.nodes.with_root().map(view).collect()
    }

    /// What importing the package was measured to cost.
    pub fn cost(&self, package: PackageId) -> Option<Cost> {
        self.known.cost(package)
    }

    /// Nodes may hold so much from now on: the next plan sees to it.
    pub fn set_budget(&mut self, budget: u64) {
        self.settings.budget = budget;
    }

    /// What all nodes hold; those that are being created count as estimated.
    pub fn bytes(&self) -> u64 {
        self.nodes.bytes()
    }

    /// Evicts what holds a marked package, children first. What is being created is let finish, and so are its
    /// ancestors.
    fn evict_marked(&mut self) -> Vec<Action> {
        let doomed = self.nodes.iter().rev().filter(|(_, node)| node.doomed && node.is_ready());
        let ids: Vec<NodeId> = doomed.map(|(id, _)| id).collect();
        let mut actions = Vec::new();
        for node in ids {
            if !self.nodes.parents(&Default::default()).contains(&node) {
                self.nodes.remove(node);
                actions.push(Action::Evict { node });
            }
        }
        actions
    }

    fn create_pinned(&mut self, actions: &mut Vec<Action>, now: Time) {
        for missing in self.pins.missing(&self.nodes, &self.known) {
            if self.nodes.creating() >= self.settings.at_once || self.known.is_paused(&missing.all, now) {
                continue;
            }
            let create = create(&mut self.nodes, &self.known, missing.parent, missing.all, now);
            let Some((node, action)) = create else { continue };
            self.pins.set_node(missing.pin, node);
            if let Some(node) = self.nodes.get_mut(node) {
                node.pin = Some(missing.pin);
            }
            actions.push(action);
        }
    }
}

/// Puts a node on the books; the caller is to create it.
fn create(nodes: &mut Nodes, known: &Known, parent: NodeId, all: Set, now: Time) -> Option<(NodeId, Action)> {
    let packages = all.without(&nodes.get(parent)?.all);
    let expected = Duration::from_micros(known.micros(&packages));
    let bytes = known.expected_bytes(&all, &packages);
    let node = nodes.create(parent, all, bytes, expected, now);
    Some((node, Action::Create { node, parent, packages: packages.ids().to_vec() }))
}

#[cfg(test)]
mod tests;
