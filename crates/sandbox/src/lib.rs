//! SOCK sandboxes on Linux.
//!
//! ```text
//! agent ──spawn──► spawner ──clone──► nursery (pid 1 of its namespace)
//!   │                                   ├─ Zygote   (own user namespace, mounts, seccomp)   ◄─ fork requests, one socket
//!   │                                   ├─ sandbox  (born of a Zygote by clone3, child of the nursery)
//!   └──── one stream per sandbox ────── ┴─ sandbox …
//! ```
//!
//! - [`prepare`] runs before any thread exists: private mount namespace, base root, own cgroups, sweep of what a killed agent left.
//! - The *nursery* is pid 1 of a pid namespace that holds every Zygote and sandbox: when the agent dies, however, its end of
//!   a socket closes, the nursery exits, and the kernel kills all of them. It reaps, and reports how each ended.
//! - A *Zygote* is a single-threaded interpreter in a one-root mount namespace. A sandbox is one `clone3` of it; the child
//!   inherits the mounts, adds its own on top and drops everything ([`child`]).
//!
//! - A *tool* is any other program that is run for the agent without being trusted, such as the installer of packages: confined like a
//!   Zygote, with one folder to write to.
//!
//! This crate knows neither HTTP nor Kubernetes nor Python packages. It is, with the few calls of the native extension, the only one
//! with `unsafe`; all of it is in [`sys`].

pub mod child;
mod child_filter;
pub mod fdpass;
pub mod fork_request;
pub mod id_map;
pub mod sys;

#[cfg(feature = "agent")]
mod base;
#[cfg(feature = "agent")]
mod branch;
#[cfg(feature = "agent")]
pub mod cgroup;
#[cfg(feature = "agent")]
mod host;
#[cfg(feature = "agent")]
mod limits;
#[cfg(feature = "agent")]
mod messages;
#[cfg(feature = "agent")]
mod nursery;
#[cfg(feature = "agent")]
mod sandbox;
#[cfg(feature = "agent")]
mod seccomp;
#[cfg(feature = "agent")]
mod spare;
#[cfg(feature = "agent")]
mod spawner;
#[cfg(feature = "agent")]
mod tool;
#[cfg(feature = "agent")]
mod zygote;

#[cfg(feature = "agent")]
pub use {
    base::Base,
    branch::BranchError,
    cgroup::memory_of_node,
    host::{Host, HostConfig, PrepareError, prepare},
    limits::Limits,
    nursery::{Nursery, StartError},
    sandbox::{Exit, Sandbox, SandboxHandle, SandboxSpec},
    spare::Spare,
    spawner::spawner_main,
    tool::{TOOL_USER, ToolEnd, ToolSpec},
    zygote::{ForkError, Zygote},
};
