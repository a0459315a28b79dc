//! Numbers for packages and modules: the policy compares, it does not read.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use openlambda_policy::import_cache::{ModuleId, PackageId};

use crate::packages::Package;

/// Names of modules that are told apart; processes that are not trusted invent some.
const MAX_MODULES: usize = 100_000;
/// Modules of one package that are imported in a Zygote.
const MAX_IMPORTED: usize = 4096;

/// All names there were.
#[derive(Debug, Default)]
pub struct Names {
    packages: HashMap<String, PackageId>,
    known: Vec<Known>,
    modules: HashMap<Box<str>, ModuleId>,
}

#[derive(Debug)]
struct Known {
    folder: String,
    package: Weak<Package>,
    /// What handlers were seen to import of it, in the order in which the imports began.
    imported: Vec<String>,
}

impl Names {
    /// The number of a package.
    pub fn package(&mut self, package: &Arc<Package>) -> PackageId {
        let next = PackageId::try_from(self.known.len()).unwrap_or(PackageId::MAX);
        let id = *self.packages.entry(package.folder.clone()).or_insert(next);
        if id == next {
            let (folder, imported) = (package.folder.clone(), Vec::new());
            self.known.push(Known { folder, package: Arc::downgrade(package), imported });
        } else if let Some(known) = self.known.get_mut(id as usize) {
            // The former may have left the disk and come back.
            known.package = Arc::downgrade(package);
        }
        id
    }

    /// The number of a package by its folder.
    pub fn find(&self, folder: &str) -> Option<PackageId> {
        self.packages.get(folder).copied()
    }

    /// The folder of a package.
    pub fn folder(&self, id: PackageId) -> &str {
        self.known.get(id as usize).map_or("", |known| &known.folder)
    }

    /// A package that is on the disk.
    pub fn held(&self, id: PackageId) -> Option<Arc<Package>> {
        self.known.get(id as usize)?.package.upgrade()
    }

    /// What a Zygote is to import of a package: what handlers did, else its top-level modules.
    pub fn imports(&self, package: &Package, id: PackageId) -> Vec<String> {
        let seen = self.known.get(id as usize).map(|known| known.imported.clone()).unwrap_or_default();
        if seen.is_empty() { package.imports.clone() } else { seen }
    }

    /// A handler was seen to import these modules of a package.
    pub fn saw(&mut self, id: PackageId, modules: &[String]) {
        let Some(known) = self.known.get_mut(id as usize) else { return };
        for module in modules {
            if known.imported.len() < MAX_IMPORTED && !known.imported.contains(module) {
                known.imported.push(module.clone());
            }
        }
    }

    /// The number of a module; none if there are too many.
    pub fn module(&mut self, name: &str) -> Option<ModuleId> {
        if let Some(id) = self.modules.get(name) {
            return Some(*id);
        }
        if self.modules.len() >= MAX_MODULES {
            return None;
        }
        let id = ModuleId::try_from(self.modules.len()).ok()?;
        self.modules.insert(name.into(), id);
        Some(id)
    }
}
