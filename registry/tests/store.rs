//! The store on all that it can be on: a directory, the embedded server, and, if the environment names one, another
//! S3 server (`OPENLAMBDA_TEST_S3_SERVER`, with `OPENLAMBDA_TEST_S3_ACCESS_KEY` and `…_SECRET_KEY` and a bucket
//! `registry`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking, as tests do")]

#[path = "store/bad.rs"]
mod bad;
#[path = "store/cut.rs"]
mod cut;
#[path = "store/foreign.rs"]
mod foreign;
#[path = "store/life.rs"]
mod life;
#[path = "store/skew.rs"]
mod skew;
#[path = "store/support.rs"]
mod support;
