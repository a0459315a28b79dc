//! One machine, from outside: the commands, the contract, the worker, lard, and everything bad that can be sent to them.
//!
//! Each test has its own cluster of real processes, and ends by checking that nothing of it is left.

#[path = "local/affinity.rs"]
mod affinity;
#[path = "local/bad_handlers.rs"]
mod bad_handlers;
#[path = "local/bad_requests.rs"]
mod bad_requests;
#[path = "local/balancer.rs"]
mod balancer;
#[path = "local/commands.rs"]
mod commands;
#[path = "local/contract.rs"]
mod contract;
#[path = "local/faults_checker.rs"]
mod faults_checker;
#[path = "local/faults_clients.rs"]
mod faults_clients;
#[path = "local/faults_connections.rs"]
mod faults_connections;
#[path = "local/faults_drain.rs"]
mod faults_drain;
#[path = "local/faults_handlers.rs"]
mod faults_handlers;
#[path = "local/faults_kills.rs"]
mod faults_kills;
#[path = "local/faults_resources.rs"]
mod faults_resources;
#[path = "local/import_cache.rs"]
mod import_cache;
#[path = "local/lifecycle.rs"]
mod lifecycle;
#[path = "local/memory.rs"]
mod memory;
#[path = "local/packages.rs"]
mod packages;
#[path = "local/registry.rs"]
mod registry;
#[path = "local/registry_api.rs"]
mod registry_api;
#[path = "local/scaling.rs"]
mod scaling;
#[path = "local/soak.rs"]
mod soak;
#[path = "local/worker.rs"]
mod worker;
