//! What two processes of OpenLambda must agree on: header names, error bodies, load reports, handler names, and the
//! resources of Kubernetes with their schemas.
//!
//! This crate has no client, no async runtime and no I/O: it parses and formats.

pub mod cluster;
pub mod conditions;
pub mod crds;
pub mod error;
pub mod handler;
pub mod headers;
pub mod labels;
pub mod limits;
pub mod load;
pub mod look;
pub mod name;
pub mod packages;
pub mod revision;
pub mod schema;
pub mod source;
pub mod state;
pub mod uploaded;

pub use cluster::{LambdaCluster, LambdaClusterSpec, LambdaClusterStatus};
pub use conditions::{ConditionReason, ConditionType, Verdict};
pub use error::{Component, ErrorBody, Reason};
pub use handler::{Handler, HandlerSpec, HandlerStatus};
pub use load::{LoadReport, Zygote};
pub use name::HandlerName;
pub use state::{AgentState, HandlerState, Phase};
