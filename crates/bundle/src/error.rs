//! Why a bundle cannot be made or used.

use std::io;
use std::path::{Path, PathBuf};

use crate::tree::TreeError;

/// Why a bundle cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// What is in it will not do.
    #[error("{0}")]
    Invalid(String),
    /// The directory to pack will not do.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file of this machine cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BundleError {
    /// A failure of this machine.
    pub fn io(path: &Path, source: io::Error) -> Self {
        Self::Io { path: path.to_owned(), source }
    }

    /// Whether the bundle is not to blame.
    pub fn is_ours(&self) -> bool {
        match self {
            Self::Invalid(_) => false,
            Self::Tree(error) => error.is_ours(),
            Self::Io { .. } => true,
        }
    }
}

/// What is wrong with a bundle.
pub(crate) fn invalid(message: impl Into<String>) -> BundleError {
    BundleError::Invalid(message.into())
}
