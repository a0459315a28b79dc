//! What two processes of OpenLambda must agree on: header names, error bodies, load reports, handler names.
//!
//! This crate has no client, no async runtime and no I/O: it parses and formats.

pub mod error;
pub mod headers;
pub mod load;
pub mod name;

pub use error::{Component, ErrorBody, Reason};
pub use load::LoadReport;
pub use name::HandlerName;
