//! The configuration files of OpenLambda: the original's key names, our additions, and clear messages.
//!
//! A file is read as plain JSON, then turned into a typed form with every default resolved
//! ([`WorkerConfig`], [`BalancerConfig`], [`registry::ServerConfig`]). All problems of a file are reported at once, each with its key,
//! its value and what to do about it. [`ClusterDir`] knows where the files of a local cluster are.
//!
//! The crate touches files only in [`mod@file`] and [`cluster`]; it has no async runtime and no network.

pub mod balancer;
pub mod cluster;
pub mod durations;
pub mod file;
pub mod merge;
pub mod problem;
pub mod registry;
pub mod registry_api;
mod section;
pub mod sizes;
pub mod unknown;
mod values;
pub mod worker;

pub use balancer::{BalancerConfig, LIVE_KEYS, LoadFormula, PolicyName, Server};
pub use cluster::{ClusterDir, Process};
pub use problem::{ConfigError, Problem, Problems};
pub use registry::RegistryConfig;
pub use registry_api::RegistryApiConfig;
pub use sizes::Size;
pub use worker::{Base, ImportTree, LimitsConfig, WorkerConfig};
