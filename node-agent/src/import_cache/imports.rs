//! What a revision imports, as far as it is known, and where it may be forked from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;

use openlambda_policy::Time;
use openlambda_policy::import_cache::{self as policy, ModuleId, NodeId, PackageId, ROOT, Wish};
use parking_lot::Mutex;

use super::names::Names;
use crate::revision::Revision;

/// The modules of packages that a load has brought in, by the package's folder. A sandbox says so: it may lie.
pub type Imported = BTreeMap<String, Vec<String>>;

/// Of one revision.
#[derive(Debug, Default)]
pub struct Imports(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    wish: Option<Arc<Wish>>,
    /// Whether it was seen what it imports.
    known: bool,
    /// The last choice, and when it was made.
    choice: Option<(u64, NodeId)>,
    /// Nodes in whose children it is known to load.
    proven: BTreeSet<NodeId>,
    /// It starts from the root only.
    barred: bool,
}

/// Where a sandbox is to be forked from.
pub struct Choice {
    /// Which node.
    pub node: NodeId,
    /// Whether the revision is known to load in its children.
    pub proven: bool,
    /// Whether it is known what it imports.
    pub known: bool,
    /// Whether the policy now knows more than before.
    pub is_demand: bool,
    wish: Arc<Wish>,
}

impl Choice {
    /// What the revision may and does import.
    pub fn wish(&self) -> &Arc<Wish> {
        &self.wish
    }

    /// What the revision imports; as long as that is not known, all that it may.
    pub fn imports(&self) -> &[PackageId] {
        self.wish.imports()
    }
}

impl Imports {
    /// Whether the next load is to say what it imports.
    pub fn is_unknown(&self) -> bool {
        !self.0.lock().known
    }

    /// The best node; the start counts as demand.
    pub fn choose(
        &self,
        revision: &Revision,
        policy: &mut policy::ImportCache,
        names: &mut Names,
        now: Time,
    ) -> Choice {
        let mut state = self.0.lock();
        let wish = match &state.wish {
            Some(wish) => Arc::clone(wish),
            None => {
                // Handlers with the same requirements import much the same.
                let wish = Arc::new(wish(revision, names, |_| true));
                state.wish = Some(Arc::clone(&wish));
                wish
            }
        };
        let is_demand = state.known && !wish.imports().is_empty();
        if is_demand {
            policy.started(&wish, now);
        }
        let node = if state.barred || wish.installed().is_empty() {
            ROOT
        } else {
            let generation = policy.generation();
            match state.choice {
                Some((at, node)) if at == generation => node,
                _ => {
                    let node = policy.best(&wish);
                    state.choice = Some((generation, node));
                    node
                }
            }
        };
        Choice { node, proven: state.proven.contains(&node), known: state.known, is_demand, wish }
    }

    /// Takes up what a load says; whether it was news.
    pub fn observe(
        &self,
        revision: &Revision,
        imported: &Imported,
        policy: &mut policy::ImportCache,
        names: &mut Names,
        now: Time,
    ) -> bool {
        let mut state = self.0.lock();
        if std::mem::replace(&mut state.known, true) {
            return false;
        }
        for package in revision.packages.iter() {
            let id = names.package(package);
            let modules: Vec<String> = imported.get(&package.folder).into_iter().flatten().cloned().collect();
            let own: Vec<String> =
                modules.into_iter().filter(|module| is_of(module, &package.imports)).collect();
            names.saw(id, &own);
        }
        let wish = Arc::new(wish(revision, names, |folder| imported.contains_key(folder)));
        policy.started(&wish, now);
        state.wish = Some(wish);
        state.choice = None;
        true
    }

    /// It loads in the children of this node.
    pub fn prove(&self, node: NodeId) {
        self.0.lock().proven.insert(node);
    }

    /// It is to start from the root.
    pub fn bar(&self) {
        self.0.lock().barred = true;
    }
}

/// Whether a dotted name is of one of these top-level modules.
fn is_of(module: &str, tops: &[String]) -> bool {
    let mut parts = module.split('.');
    let is_name = |part: &str| {
        let mut characters = part.chars();
        characters.next().is_some_and(|one| one.is_alphabetic() || one == '_')
            && characters.all(|one| one.is_alphanumeric() || one == '_')
    };
    parts.next().is_some_and(|top| tops.iter().any(|one| one == top)) && parts.all(is_name)
}

fn wish(revision: &Revision, names: &mut Names, imports: impl Fn(&str) -> bool) -> Wish {
    let mut installed = Vec::new();
    let (mut imported, mut provides) = (Vec::new(), Vec::new());
    for package in revision.packages.iter() {
        let id = names.package(package);
        installed.push(id);
        if imports(&package.folder) {
            imported.push(id);
        }
        provides.extend(package.imports.iter().filter_map(|module| names.module(module)));
    }
    let own = own_modules(&revision.bundle.path, names);
    Wish::new(installed, imported, provides, own)
}

/// The top-level modules in a handler's folder. A folder that cannot be read has none: the handler will not load either.
fn own_modules(folder: &Path, names: &mut Names) -> Vec<ModuleId> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let module = |entry: fs::DirEntry| {
        let file = entry.file_name().to_string_lossy().into_owned();
        names.module(file.split('.').next().unwrap_or_default())
    };
    entries.filter_map(module).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_modules_of_the_package_count() {
        let tops = ["numpy".to_owned()];
        for (module, want) in [
            ("numpy", true),
            ("numpy.linalg", true),
            ("numpyx", false),
            ("os", false),
            ("numpy.a-b", false),
            ("numpy..x", false),
        ] {
            assert_eq!(is_of(module, &tops), want, "{module}");
        }
    }
}
