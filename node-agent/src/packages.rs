//! Python packages as they lie on this node: each version once, in a folder of its own in the node's store, which all
//! sandboxes see read-only as `/packages`.

use std::sync::Arc;

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

/// The packages of a revision, by name.
pub type PackageSet = Arc<[Arc<Package>]>;
