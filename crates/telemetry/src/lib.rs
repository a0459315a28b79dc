//! What every binary needs to be operated: logs, metrics, an admin port, readiness, an orderly end.
//!
//! It knows nothing of handlers or balancing: names and meanings of metrics belong to the crates that count them.
//! The admin port has its own thread, so it answers while the data path is busy.
#![forbid(unsafe_code)]

pub mod admin;
pub mod logging;
pub mod metrics;
pub mod readiness;
pub mod shutdown;

pub use admin::AdminServer;
pub use metrics::Registry;
pub use readiness::{Blocker, Readiness};
pub use shutdown::{Drain, Signals};
