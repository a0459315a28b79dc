//! What the tests from outside share: a local cluster of real processes, a Kubernetes with the charts in it, a plain
//! HTTP client, waiting for a condition.
//!
//! The binaries are in `OPENLAMBDA_BIN_DIR`, the Python runtime in `OPENLAMBDA_RUNTIME_DIR`; `cargo xtask test` builds them and sets both.

pub mod books;
pub mod cluster;
pub mod http;
pub mod kubernetes;
pub mod leaks;
pub mod load;
pub mod loopback_index;
pub mod soak;
pub mod wait;

pub use books::{Books, settled, settled_as};
pub use cluster::Cluster;
pub use http::{Request, Response};
pub use loopback_index::LoopbackIndex;
pub use wait::{until, until_within};
