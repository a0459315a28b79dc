//! Python packages as they lie on this node: each version once, in a folder of its own in the node's store, which all
//! sandboxes see read-only as `/packages`.
//!
//! [`requirements`] says what a handler asks for, [`lock`] which versions that comes to, [`store`] what is on the disk, [`uv`]
//! how the installer is spoken to; [`install`] brings them together. Nothing of it is on the path of a call that has its
//! packages.

use std::sync::Arc;

pub mod error;
pub mod index;
pub mod install;
pub mod lock;
pub mod metadata;
pub mod requirements;
pub mod store;
pub mod uv;

pub use error::PackageError;
pub use install::{Installed, Installer, Packages, Record, in_bundle};
pub use requirements::Requirements;

/// One version of a package as it lies on this node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Package {
    /// The name as PEP 503 normalizes it: lower case, words joined by `-`.
    pub name: String,
    /// The version, without a range.
    pub version: String,
    /// The folder below the store: `name-version`.
    pub folder: String,
    /// Top-level modules, from the metadata of its wheel.
    pub imports: Vec<String>,
    /// What it takes on disk.
    pub bytes: u64,
}

/// `name==version`, one each.
pub fn locked(set: &PackageSet) -> Vec<String> {
    set.iter().map(|package| format!("{}=={}", package.name, package.version)).collect()
}

/// The packages of a revision, by name. Who holds one keeps it on the disk.
pub type PackageSet = Arc<[Arc<Package>]>;
