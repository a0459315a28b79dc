//! Anything in any order, against a model that is told only what the caller is told.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::*;
use super::rig::MIB;

type Ids = BTreeSet<u32>;

#[derive(Clone, Debug)]
enum Step {
    Start(usize),
    Plan,
    /// The nth that is being created is ready, and reports these modules.
    Ready(usize, Ids, Ids),
    Fail(usize, Option<PackageId>),
    End(usize),
    Mark(PackageId),
    Measure(usize, u64),
    Wait(u64),
}

#[derive(Clone, Debug)]
struct RawWish {
    installed: Ids,
    imports: Ids,
    provides: Ids,
    own: Ids,
}

impl RawWish {
    fn wish(&self) -> Wish {
        let of = |ids: &Ids| ids.clone();
        Wish::new(of(&self.installed), of(&self.imports), of(&self.provides), of(&self.own))
    }
}

#[derive(Clone, Debug, Default)]
struct ModelNode {
    parent: NodeId,
    packages: Ids,
    misses: Ids,
    modules: Ids,
    ready: bool,
}

/// The naive model.
#[derive(Debug, Default)]
struct Model {
    nodes: BTreeMap<NodeId, ModelNode>,
    seen: BTreeSet<NodeId>,
    marked: Ids,
}

impl Model {
    fn nth(&self, n: usize, ready: bool) -> Option<NodeId> {
        let ids: Vec<_> =
            self.nodes.iter().filter(|(_, node)| node.ready == ready).map(|(id, _)| *id).collect();
        (!ids.is_empty()).then(|| ids[n % ids.len()])
    }

    fn remove(&mut self, id: NodeId) {
        let gone = self.nodes.remove(&id).unwrap();
        self.nodes.values_mut().filter(|node| node.parent == id).for_each(|node| node.parent = gone.parent);
    }

    fn act(&mut self, action: &Action) -> Result<(), TestCaseError> {
        match action {
            Action::Create { node, parent, packages } => {
                prop_assert!(self.seen.insert(*node), "an id was used twice");
                let above = if *parent == ROOT {
                    ModelNode { ready: true, ..ModelNode::default() }
                } else {
                    self.nodes[parent].clone()
                };
                prop_assert!(above.ready && above.packages.is_disjoint(&self.marked));
                prop_assert!(!packages.is_empty() && packages.is_sorted());
                let own: Ids = packages.iter().copied().collect();
                prop_assert!(own.is_disjoint(&above.packages) && own.is_disjoint(&self.marked));
                let packages = &own | &above.packages;
                self.nodes.insert(*node, ModelNode { parent: *parent, packages, ready: false, ..above });
            }
            Action::Evict { node } => {
                prop_assert!(self.nodes[node].ready);
                prop_assert!(self.nodes.values().all(|child| child.parent != *node), "it has children");
                self.nodes.remove(node);
            }
        }
        Ok(())
    }

    /// By the definition: every node is tried.
    fn best(&self, wish: &RawWish, cache: &ImportCache) -> NodeId {
        let micros = |package: &u32| cache.cost(*package).unwrap_or(DEFAULT_COST).micros;
        let imports: Ids = &wish.imports & &wish.installed;
        let may = self.nodes.iter().filter(|(_, node)| {
            node.ready
                && node.packages.is_disjoint(&self.marked)
                && node.packages.is_subset(&wish.installed)
                && node.misses.is_disjoint(&(&wish.provides | &wish.own))
                && node.modules.is_disjoint(&wish.own)
        });
        let key = |id: NodeId, packages: &Ids| {
            let useful = packages & &imports;
            let saved: u64 = useful.iter().map(micros).sum();
            (std::cmp::Reverse(saved), packages.len() - useful.len(), id)
        };
        let keys = may.map(|(id, node)| key(*id, &node.packages));
        keys.chain([key(ROOT, &Ids::new())]).min().unwrap().2
    }
}

/// What is driven.
struct Run {
    cache: ImportCache,
    model: Model,
    wishes: Vec<RawWish>,
    now: Time,
    /// Whether everything costs what it is taken to cost.
    as_estimated: bool,
    budget: u64,
}

impl Run {
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let now = self.now;
        match step {
            Step::Start(n) => self.cache.started(&self.wishes[n % self.wishes.len()].wish(), now),
            Step::Plan => {
                self.plan()?;
            }
            Step::Ready(n, misses, modules) => self.ready(*n, misses, modules),
            Step::Fail(n, package) => self.fail(*n, *package),
            Step::End(n) => {
                if let Some(id) = self.model.nth(*n, true) {
                    self.cache.ended(id, now);
                    self.model.remove(id);
                }
            }
            Step::Mark(package) => {
                self.cache.mark(*package);
                self.model.marked.insert(*package);
            }
            Step::Measure(n, mib) => {
                if let Some(id) = self.model.nth(*n, true).filter(|_| !self.as_estimated) {
                    self.cache.measured(id, mib * MIB);
                }
            }
            Step::Wait(seconds) => self.now += Time::from_secs(*seconds),
        }
        Ok(())
    }

    fn ready(&mut self, n: usize, misses: &Ids, modules: &Ids) {
        let Some(id) = self.model.nth(n, false) else { return };
        let node = self.model.nodes.get_mut(&id).unwrap();
        let view = self.cache.view();
        let bytes = view.iter().find(|node| node.id == id).unwrap().bytes;
        let cost = |package: u32| Cost {
            micros: 500 * u64::from(package) * u64::from(package),
            bytes: u64::from(package % 7) * MIB,
        };
        let cost = |package| if self.as_estimated { DEFAULT_COST } else { cost(package) };
        let costs: Vec<_> = node.packages.iter().map(|package| (*package, cost(*package))).collect();
        let bytes = if self.as_estimated { bytes } else { bytes * 3 / 2 };
        let list = |ids: &Ids| ids.iter().rev().copied().collect();
        self.cache.ready(id, Ready { costs, bytes, misses: list(misses), modules: list(modules) }, self.now);
        node.ready = true;
        node.misses.extend(misses);
        node.modules.extend(modules);
    }

    fn fail(&mut self, n: usize, package: Option<PackageId>) {
        let Some(id) = self.model.nth(n, false) else { return };
        let blamed = package.filter(|package| self.model.nodes[&id].packages.contains(package));
        let failure = package.map_or(Failure::Other, |package| Failure::Package { package, misses: vec![] });
        assert_eq!(self.cache.failed(id, failure, self.now), blamed.is_some());
        self.model.marked.extend(blamed);
        self.model.remove(id);
    }

    /// When everything succeeds and nothing else happens, there is an end.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        for _ in 0..200 {
            while self.model.nth(0, false).is_some() {
                self.ready(0, &Ids::new(), &Ids::new());
            }
            if self.plan()? == 0 {
                return Ok(());
            }
        }
        Err(TestCaseError::fail("it never settles"))
    }

    fn plan(&mut self) -> Result<usize, TestCaseError> {
        let actions = self.cache.plan(self.now);
        for action in &actions {
            self.model.act(action)?;
        }
        let view = self.cache.view();
        let creating = view.iter().filter(|node| node.state == NodeState::Creating).count();
        prop_assert!(creating <= 2);
        let pinned: u64 = view.iter().filter(|node| node.pin.is_some()).map(|node| node.bytes).sum();
        let over = self.cache.bytes() > self.budget.max(pinned);
        prop_assert!(!over || !self.as_estimated || pinned > 0);
        // Over the budget, everything that may go is gone.
        let is_parent = |id| view.iter().any(|node| node.id != ROOT && node.parent == id);
        let mut rest = view.iter().filter(|node| node.id != ROOT && node.pin.is_none());
        prop_assert!(!over || rest.all(|node| node.state == NodeState::Creating || is_parent(node.id)));
        // What holds a marked package waits only for what is being created.
        let doomed =
            self.model.nodes.iter().filter(|(_, node)| !node.packages.is_disjoint(&self.model.marked));
        for (id, node) in doomed {
            prop_assert!(!node.ready || self.model.nodes.values().any(|child| child.parent == *id));
        }
        Ok(actions.len())
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let view = self.cache.view();
        prop_assert_eq!(view.len(), self.model.nodes.len() + 1);
        for node in view.iter().skip(1) {
            let model = &self.model.nodes[&node.id];
            prop_assert_eq!(node.parent, model.parent);
            prop_assert!(node.packages.iter().eq(&model.packages));
            prop_assert_eq!(node.state == NodeState::Ready, model.ready);
            let parent = view.iter().find(|other| other.id == node.parent).unwrap();
            prop_assert!(parent.packages.iter().all(|package| node.packages.contains(package)));
        }
        prop_assert_eq!(self.cache.bytes(), view.iter().map(|node| node.bytes).sum::<u64>());
        for wish in &self.wishes {
            prop_assert_eq!(self.cache.best(&wish.wish()), self.model.best(wish, &self.cache));
        }
        Ok(())
    }
}

fn ids(below: u32, most: usize) -> impl Strategy<Value = Ids> {
    prop::collection::btree_set(0..below, 0..=most)
}

fn raw_wish() -> impl Strategy<Value = RawWish> {
    (ids(12, 9), ids(12, 6), ids(30, 3), ids(30, 1)).prop_map(|(more, imports, provides, own)| RawWish {
        installed: &more | &imports,
        imports,
        provides,
        own,
    })
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_usize..8).prop_map(Step::Start),
        6 => Just(Step::Plan),
        6 => (0_usize..4, ids(30, 1), ids(30, 2)).prop_map(|(n, misses, modules)| Step::Ready(n, misses, modules)),
        1 => (0_usize..4, prop::option::of(0_u32..12)).prop_map(|(n, package)| Step::Fail(n, package)),
        1 => (0_usize..9).prop_map(Step::End),
        1 => (0_u32..40).prop_map(Step::Mark),
        1 => (0_usize..9, 0_u64..30).prop_map(|(n, mib)| Step::Measure(n, mib)),
        2 => (0_u64..40).prop_map(Step::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn the_tree_is_as_the_model_says_and_the_budget_holds(
        wishes in prop::collection::vec(raw_wish(), 1..8),
        steps in prop::collection::vec(step(), 1..120),
        budget in 0_u64..60,
        pins in prop::collection::vec((0_u64..3, ids(12, 3)), 0..3),
        with_pins in any::<bool>(),
        tree in prop::bool::weighted(0.1),
        as_estimated in any::<bool>(),
    ) {
        let mode = if tree { Mode::Tree } else { Mode::Auto };
        let budget = budget * MIB;
        let mut cache = ImportCache::new(Settings { mode, budget, ..Settings::default() });
        for (parent, packages) in pins.iter().filter(|_| with_pins || tree) {
            cache.pin(*parent, &packages.iter().copied().collect::<Vec<_>>());
        }
        let mut run = Run { cache, model: Model::default(), wishes, now: Time::ZERO, as_estimated, budget };
        for step in &steps {
            let answers = |run: &Run| run.wishes.iter().map(|w| run.cache.best(&w.wish())).collect::<Vec<_>>();
            let (before, generation) = (answers(&run), run.cache.generation());
            run.step(step)?;
            run.check()?;
            prop_assert!(before == answers(&run) || generation != run.cache.generation());
        }
        run.settle()?;
        run.check()?;
    }
}
