//! Tests of the real `admin` binary.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

mod files;
mod processes;
mod support;
