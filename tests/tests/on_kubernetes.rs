//! On a real Kubernetes, from outside: what users do with kubectl, helm and curl, and what can go wrong with nodes, pods
//! and the control plane.
//!
//! One cluster for all tests, one test at a time. A test that disturbs nothing shares one release with the others.

#![allow(clippy::print_stdout, reason = "figures for whoever reads the log")]

#[path = "kubernetes/access.rs"]
mod access;
#[path = "kubernetes/admin.rs"]
mod admin;
#[path = "kubernetes/bad_objects.rs"]
mod bad_objects;
#[path = "kubernetes/clusters.rs"]
mod clusters;
#[path = "kubernetes/control_plane.rs"]
mod control_plane;
#[path = "kubernetes/editing.rs"]
mod editing;
#[path = "kubernetes/examples.rs"]
mod examples;
#[path = "kubernetes/first_answer.rs"]
mod first_answer;
#[path = "kubernetes/limits.rs"]
mod limits;
#[path = "kubernetes/many.rs"]
mod many;
#[path = "kubernetes/nodes.rs"]
mod nodes;
#[path = "kubernetes/packages.rs"]
mod packages;
#[path = "kubernetes/quickstart.rs"]
mod quickstart;
#[path = "kubernetes/registry.rs"]
mod registry;
#[path = "kubernetes/registry_api.rs"]
mod registry_api;
#[path = "kubernetes/releases.rs"]
mod releases;
#[path = "kubernetes/revisions.rs"]
mod revisions;
#[path = "kubernetes/shared.rs"]
mod shared;
#[path = "kubernetes/steady.rs"]
mod steady;
#[path = "kubernetes/tls.rs"]
mod tls;
