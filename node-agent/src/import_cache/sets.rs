//! Which package sets a sandbox finds imported: what lard sends handlers by.
//!
//! A set is what a handler has installed, by its digest. It is there if a handler that has it would be forked from a node
//! that holds all that the handler imports of it, or if a node holds just that set, as those of a given tree may.

use std::collections::HashMap;
use std::sync::Arc;

use openlambda_api::load::MAX_ZYGOTES;
use openlambda_api::{Zygote, packages};
use openlambda_policy::import_cache::{ImportCache, NodeState, NodeView, PackageId, ROOT, Wish};

use super::names::Names;

/// Sets that are remembered: those that were started last.
const MAX_SETS: usize = 4 * MAX_ZYGOTES;

/// The sets that were started lately.
#[derive(Debug, Default)]
pub struct Sets {
    seen: HashMap<u64, Seen>,
    /// Starts so far.
    starts: u64,
    /// Changes whenever other sets are remembered.
    version: u64,
    latest: Option<Report>,
}

#[derive(Debug)]
struct Seen {
    wish: Arc<Wish>,
    /// The number of its last start.
    last: u64,
}

#[derive(Debug)]
struct Report {
    generation: u64,
    version: u64,
    zygotes: Arc<[Zygote]>,
}

impl Sets {
    /// A sandbox was started for a handler with this set. Handlers with one set are taken to import the same of it.
    pub fn started(&mut self, set: u64, wish: &Arc<Wish>) {
        self.starts += 1;
        let last = self.starts;
        if let Some(seen) = self.seen.get_mut(&set) {
            seen.last = last;
            return;
        }
        if self.seen.len() >= MAX_SETS {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| seen.last).map(|(set, _)| *set);
            oldest.map(|set| self.seen.remove(&set));
        }
        self.seen.insert(set, Seen { wish: Arc::clone(wish), last });
        self.version += 1;
    }

    /// The sets that are there: those that were started last, then the nodes that were forked most.
    pub fn report(&mut self, policy: &ImportCache, names: &Names) -> Arc<[Zygote]> {
        let (generation, version) = (policy.generation(), self.version);
        let fresh =
            self.latest.as_ref().filter(|last| (last.generation, last.version) == (generation, version));
        if let Some(latest) = fresh {
            return Arc::clone(&latest.zygotes);
        }
        let zygotes: Arc<[Zygote]> = self.there(policy, names).into();
        self.latest = Some(Report { generation, version, zygotes: Arc::clone(&zygotes) });
        zygotes
    }

    fn there(&self, policy: &ImportCache, names: &Names) -> Vec<Zygote> {
        let views = policy.view();
        let mut seen: Vec<_> = self.seen.iter().collect();
        seen.sort_unstable_by_key(|(_, seen)| std::cmp::Reverse(seen.last));
        let mut zygotes: Vec<Zygote> =
            seen.into_iter().filter_map(|(set, seen)| covered(*set, &seen.wish, policy, &views)).collect();
        let mut nodes: Vec<_> = views.iter().filter(|view| forks(view)).collect();
        nodes.sort_by_key(|view| std::cmp::Reverse(view.hits));
        for node in nodes {
            let set = packages::digest(node.packages.iter().map(|id| names.folder(*id)));
            if zygotes.iter().all(|zygote| zygote.set != set) {
                zygotes.push(Zygote { set, import_ms: millis(node.micros) });
            }
        }
        zygotes.truncate(MAX_ZYGOTES);
        zygotes
    }
}

fn forks(view: &NodeView) -> bool {
    view.id != ROOT && view.state == NodeState::Ready
}

/// The set, if what a handler imports of it is all in the node that it would be forked from.
fn covered(set: u64, wish: &Wish, policy: &ImportCache, views: &[NodeView]) -> Option<Zygote> {
    let best = policy.best(wish);
    let view = views.iter().find(|view| view.id == best && forks(view))?;
    let holds = |package: &PackageId| view.packages.binary_search(package).is_ok();
    let all = !wish.imports().is_empty() && wish.imports().iter().all(holds);
    all.then(|| Zygote { set, import_ms: millis(view.micros) })
}

fn millis(micros: u64) -> u32 {
    u32::try_from(micros.div_ceil(1000)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use openlambda_policy::import_cache::{Action, Cost, Ready, Settings};

    use super::*;
    use crate::packages::Package;

    fn names(folders: &[&str]) -> Names {
        let mut names = Names::default();
        for folder in folders {
            let (name, version) = folder.split_once('-').unwrap();
            let (name, version) = (name.into(), version.into());
            let package = Package { name, version, folder: (*folder).into(), imports: vec![], bytes: 0 };
            names.package(&Arc::new(package));
        }
        names
    }

    /// Makes what is planned.
    fn settle(policy: &mut ImportCache, now: Duration) {
        for action in policy.plan(now) {
            let Action::Create { node, packages, .. } = action else { continue };
            let costs = packages.iter().map(|id| (*id, Cost { micros: 40_500, bytes: 1 << 20 })).collect();
            policy.ready(node, Ready { costs, bytes: 1 << 20, ..Ready::default() }, now);
        }
    }

    #[test]
    fn a_set_is_there_when_what_is_imported_of_it_is() {
        let settings = Settings { budget: 1 << 30, ..Settings::default() };
        let (mut policy, names) = (ImportCache::new(settings), names(&["a-1", "b-1", "c-1"]));
        let mut sets = Sets::default();
        // All three are installed, the third is not imported.
        let wish = Arc::new(Wish::new([0, 1, 2], [0, 1], [], []));
        let (all, some) = (packages::digest(["a-1", "b-1", "c-1"]), packages::digest(["a-1", "b-1"]));
        sets.started(all, &wish);
        assert!(sets.report(&policy, &names).is_empty());
        (0..50).for_each(|_| policy.started(&wish, Duration::from_secs(1)));
        settle(&mut policy, Duration::from_secs(1));
        let report = sets.report(&policy, &names);
        assert_eq!(*report, [Zygote { set: all, import_ms: 81 }, Zygote { set: some, import_ms: 81 }]);
        sets.started(all, &wish);
        assert!(Arc::ptr_eq(&report, &sets.report(&policy, &names)), "nothing has changed");
        policy.mark(1);
        settle(&mut policy, Duration::from_secs(2));
        assert!(sets.report(&policy, &names).iter().all(|zygote| zygote.set != all));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut sets = Sets::default();
        let wish = Arc::new(Wish::new([0], [0], [], []));
        (0..=MAX_SETS as u64).for_each(|set| sets.started(set, &wish));
        assert_eq!(sets.seen.len(), MAX_SETS);
        assert!(!sets.seen.contains_key(&0));
    }
}
