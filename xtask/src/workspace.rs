//! Where things are: the checkout, cargo's target folder, the cache outside the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// The folders of this checkout.
#[derive(Clone, Debug)]
pub struct Workspace {
    /// The checkout.
    pub root: PathBuf,
    /// Cargo's target folder; `CARGO_TARGET_DIR` is honoured.
    pub target: PathBuf,
}

impl Workspace {
    /// Finds both.
    pub fn find() -> Result<Self> {
        // Cargo sets the variable for what it runs. The compiled-in path may be of another checkout that shares the
        // target folder, so it only serves when the binary is run by hand.
        let package = std::env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = package.parent().context("the xtask package has no parent folder")?.to_path_buf();
        let target = match std::env::var_os("CARGO_TARGET_DIR") {
            Some(folder) => std::path::absolute(folder)?,
            None => root.join("target"),
        };
        Ok(Self { root, target })
    }

    /// A path inside the checkout.
    pub fn path(&self, inside: impl AsRef<Path>) -> PathBuf {
        self.root.join(inside)
    }
}

/// Where tools are kept that are not the system's: `OPENLAMBDA_CACHE`, else `/var/cache/openlambda`.
pub fn cache() -> PathBuf {
    std::env::var_os("OPENLAMBDA_CACHE").map_or_else(|| PathBuf::from("/var/cache/openlambda"), PathBuf::from)
}
