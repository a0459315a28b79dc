//! What a handler may be forked from, and what a process did that decides it.

use super::set::Set;
use super::{ModuleId, PackageId};

/// What the revision of a handler may and wants to start from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    pub(super) installed: Set,
    pub(super) imports: Set,
    /// Modules that its packages provide, and its own.
    pub(super) has: Set,
    pub(super) own: Set,
}

impl Wish {
    /// Of a revision that may see the packages `installed` and was seen to import `imports` of them (nothing: not
    /// known yet). Its packages provide the top-level modules `provides`, its own folder has the top-level modules
    /// `own`. In any order; imports that are not installed are left out.
    pub fn new(
        installed: impl IntoIterator<Item = PackageId>,
        imports: impl IntoIterator<Item = PackageId>,
        provides: impl IntoIterator<Item = ModuleId>,
        own: impl IntoIterator<Item = ModuleId>,
    ) -> Self {
        let (installed, own) = (Set::new(installed), Set::new(own));
        let imports = Set::new(imports).filtered(|package| installed.contains(package));
        let has = Set::new(provides.into_iter().chain(own.iter()));
        Self { installed, imports, has, own }
    }

    /// The packages it may see, sorted.
    pub fn installed(&self) -> &[PackageId] {
        self.installed.ids()
    }

    /// The packages it was seen to import, sorted.
    pub fn imports(&self) -> &[PackageId] {
        self.imports.ids()
    }
}

/// What a process remembers of its imports, and a handler would inherit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Footprint {
    /// Modules it looked for and did not find: an optional dependency, say. Who has such a module must not start
    /// from here, because what was imported has settled for doing without.
    pub misses: Set,
    /// Modules it has loaded. They would win over a handler's own of the same name.
    pub modules: Set,
}

impl Footprint {
    pub fn fits(&self, wish: &Wish) -> bool {
        self.misses.is_disjoint(&wish.has) && self.modules.is_disjoint(&wish.own)
    }

    pub fn and(&self, other: &Self) -> Self {
        Self { misses: self.misses.or(&other.misses), modules: self.modules.or(&other.modules) }
    }
}
