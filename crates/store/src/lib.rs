//! The registry: where bundles and the revisions of handlers are kept. A bucket of an S3 service, or a directory.
//!
//! ```text
//! handlers/<handler>.json                  its record: which revisions there are, and which serves
//! bundles/<handler>/<digest>-<id>.tar.gz   one upload
//! ```
//!
//! An object belongs to one upload and never changes, so that one that no record names can go. A record is replaced
//! whole, and only if it is still what was read: of two that change it at once the second looks again.

mod directory;
mod error;
mod open;
pub mod record;
mod records;
mod store;
mod transfer;

pub use error::StoreError;
pub use record::{Record, Revision};
pub use records::Listed;
pub use store::{Store, Uploaded};

/// Revisions of a handler that are kept, the one that serves among them.
pub const KEPT: usize = 10;
