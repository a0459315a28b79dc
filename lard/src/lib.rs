//! lard, the locality-aware balancer: it takes calls, chooses an agent for each, and passes the answer back.
//!
//! One thread carries the calls ([`server`]), another the admin port ([`admin`]). A call goes through these steps:
//! connection ([`connection`]) → route ([`route`]) → body ([`body`], [`tail`]) → admission ([`gate`]) → ranking
//! ([`targets`]) → attempts ([`proxy`], [`upstream`], [`wire`]), again if all agents are just being replaced ([`hold`]) → answer
//! ([`reply`], [`tunnel`]). Agents are those of the configuration or of the Kubernetes API ([`kubernetes`]). What they
//! say of their load comes with their answers, or is asked for ([`report`], [`poll`]). Uploads, if they are enabled, are
//! not calls, and have their own way ([`registry`]).
//!
//! Invariants: a call that may have reached a sandbox is never sent twice, unless its verb is safe or its handler says
//! that it may; what is counted in (connections, places in the queue) is counted out by a guard's drop, however the
//! call ends.

#![forbid(unsafe_code)]

pub mod admin;
pub mod ask;
pub mod body;
pub mod client_stream;
pub mod connection;
pub mod gate;
pub mod gateway;
pub mod head_timer;
pub mod headers;
pub mod hold;
pub mod kubernetes;
pub mod limits;
pub mod message;
pub mod metrics;
pub mod moves;
pub mod plain;
pub mod poll;
pub mod proxy;
pub mod registry;
pub mod reload;
pub mod reply;
pub mod report;
pub mod route;
pub mod server;
pub mod settings;
pub mod tail;
pub mod targets;
pub mod tunnel;
pub mod upstream;
pub mod view;
pub mod wire;

pub use gateway::Gateway;
pub use settings::Settings;
