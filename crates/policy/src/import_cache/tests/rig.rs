//! A caller whose creations succeed at once, or when a test says so.

use std::collections::BTreeMap;

use super::super::*;

pub(super) const MIB: u64 = 1 << 20;

pub(super) fn s(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

/// Who may see and imports these, and nothing else.
pub(super) fn wish(packages: &[PackageId]) -> Wish {
    Wish::new(packages.iter().copied(), packages.iter().copied(), [], [])
}

/// A cache with packages that cost what `costs` says, else 1 ms and 10 MiB.
pub(super) struct Rig {
    pub cache: ImportCache,
    pub costs: BTreeMap<PackageId, Cost>,
    pub misses: BTreeMap<PackageId, Vec<ModuleId>>,
    pub modules: BTreeMap<PackageId, Vec<ModuleId>>,
    /// What a process takes besides its packages.
    pub extra: u64,
}

impl Rig {
    pub fn new(settings: Settings) -> Self {
        Self {
            cache: ImportCache::new(settings),
            costs: BTreeMap::new(),
            misses: BTreeMap::new(),
            modules: BTreeMap::new(),
            extra: 0,
        }
    }

    pub fn with_budget(mib: u64) -> Self {
        Self::new(Settings { budget: mib * MIB, ..Settings::default() })
    }

    pub fn costs(mut self, package: PackageId, ms: u64, mib: u64) -> Self {
        self.costs.insert(package, Cost { micros: ms * 1000, bytes: mib * MIB });
        self
    }

    pub fn cost(&self, package: PackageId) -> Cost {
        self.costs.get(&package).copied().unwrap_or(Cost { micros: 1000, bytes: 10 * MIB })
    }

    /// What a creation of these reports.
    pub fn report(&self, packages: &[PackageId]) -> Ready {
        let of = |map: &BTreeMap<PackageId, Vec<ModuleId>>| {
            packages.iter().flat_map(|p| map.get(p).cloned().unwrap_or_default()).collect()
        };
        Ready {
            costs: packages.iter().map(|p| (*p, self.cost(*p))).collect(),
            bytes: packages.iter().map(|p| self.cost(*p).bytes).sum::<u64>() + self.extra,
            misses: of(&self.misses),
            modules: of(&self.modules),
        }
    }

    /// Lets the cache measure these without holding them.
    pub fn measure(&mut self, packages: &[PackageId]) {
        for package in packages {
            let cost = self.cost(*package);
            self.cache.known.learn_cost(*package, cost);
        }
    }

    /// Starts a sandbox.
    pub fn start(&mut self, wish: &Wish, now: Time) {
        self.cache.started(wish, now);
        self.cache.forked(self.cache.best(wish), now);
    }

    pub fn finish(&mut self, actions: &[Action], now: Time) {
        for action in actions {
            if let Action::Create { node, packages, .. } = action {
                let report = self.report(packages);
                self.cache.ready(*node, report, now);
            }
        }
    }

    /// Plans and creates until nothing is left to do. Returns all that was done.
    pub fn settle(&mut self, now: Time) -> Vec<Action> {
        let mut all = Vec::new();
        for _ in 0..1000 {
            let actions = self.cache.plan(now);
            if actions.is_empty() {
                return all;
            }
            self.finish(&actions, now);
            all.extend(actions);
        }
        panic!("it never settles: {:?}", &all[all.len() - 10..]);
    }

    /// What the answer for this wish holds.
    pub fn best(&self, wish: &Wish) -> Vec<PackageId> {
        let id = self.cache.best(wish);
        self.cache.view().into_iter().find(|node| node.id == id).unwrap().packages
    }

    /// All sets held, but for the root's.
    pub fn held(&self) -> Vec<Vec<PackageId>> {
        let mut sets: Vec<_> = self.cache.view().into_iter().skip(1).map(|node| node.packages).collect();
        sets.sort();
        sets
    }

    /// The node with this set.
    pub fn id(&self, packages: &[PackageId]) -> NodeId {
        self.cache.view().into_iter().find(|node| node.packages == packages).unwrap().id
    }
}

pub(super) fn created(actions: &[Action]) -> Vec<(NodeId, Vec<PackageId>)> {
    let create = |action: &Action| match action {
        Action::Create { parent, packages, .. } => Some((*parent, packages.clone())),
        Action::Evict { .. } => None,
    };
    actions.iter().filter_map(create).collect()
}

pub(super) fn evicted(actions: &[Action]) -> Vec<NodeId> {
    let evict = |action: &Action| match action {
        Action::Evict { node } => Some(*node),
        Action::Create { .. } => None,
    };
    actions.iter().filter_map(evict).collect()
}
