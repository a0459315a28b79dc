//! The given tree of mode `tree`, in the original's JSON: `{"packages": ["numpy", "pandas==2.2.3"], "children": [{…}]}`. The root has no
//! packages. Versions are settled for all nodes at once, and each node's packages bring what they depend on.

use std::sync::Arc;
use std::time::Duration;

use openlambda_config::ImportTree;
use openlambda_policy::import_cache::{PinId, ROOT};

use super::ImportCache;
use crate::packages::{Installed, PackageError, PackageSet, Packages, Requirements};

/// The first and the longest pause before what may pass is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// A name that no handler can have.
const HANDLER: &str = ".tree";

/// Installs what the tree names, and pins its nodes. What fails is logged; the other nodes are made all the same.
pub async fn plant(cache: Arc<ImportCache>, packages: Arc<Packages>, tree: ImportTree) {
    let mut names = Vec::new();
    collect(&tree, &mut names);
    let Some(all) = resolve(&packages, &names).await else { return };
    let locked = all.record.as_ref().map(|record| record.locked.clone());
    let mut todo: Vec<(PinId, Vec<String>, ImportTree)> =
        tree.children.into_iter().map(|child| (ROOT, Vec::new(), child)).collect();
    while let Some((parent, mut wanted, node)) = todo.pop() {
        wanted.extend(node.packages.iter().cloned());
        let pin = match install(&packages, &wanted, locked.clone()).await {
            Ok(installed) => cache.pin(parent, &installed.set),
            Err(error) => {
                tracing::error!(%error, packages = ?node.packages, "a node of import_cache_tree cannot be installed");
                continue;
            }
        };
        todo.extend(node.children.into_iter().map(|child| (pin, wanted.clone(), child)));
    }
}

/// What all names come to. An index that does not answer is asked again.
async fn resolve(packages: &Arc<Packages>, names: &[String]) -> Option<Installed> {
    let mut pause = RETRY.0;
    loop {
        let error = match install(packages, names, None).await {
            Ok(installed) => return Some(installed),
            Err(error) => error,
        };
        tracing::error!(%error, again = error.passing, "the packages of import_cache_tree cannot be installed");
        if !error.passing {
            return None;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

fn collect(node: &ImportTree, names: &mut Vec<String>) {
    names.extend(node.packages.iter().cloned());
    node.children.iter().for_each(|child| collect(child, names));
}

async fn install(
    packages: &Arc<Packages>,
    names: &[String],
    locked: Option<Vec<String>>,
) -> Result<Installed, PackageError> {
    let wanted = Requirements::read(names, None, None)?;
    if wanted.is_empty() {
        return Ok(Installed::default());
    }
    packages.ensure(HANDLER, wanted, locked).await
}

impl ImportCache {
    fn pin(&self, parent: PinId, set: &PackageSet) -> PinId {
        let mut state = self.state.lock();
        let ids: Vec<_> = set.iter().map(|package| state.names.package(package)).collect();
        let pin = state.policy.pin(parent, &ids);
        // Kept on the disk from now on, whatever becomes of its process.
        state.pinned.push(Arc::clone(set));
        drop(state);
        self.changed.notify_one();
        pin
    }
}
