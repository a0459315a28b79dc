//! lard's part of the admin port: `/debug/targets`, and gauges that are fresh when they are read.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::map_request;
use axum::routing::get;
use axum::{Json, Router};
use openlambda_telemetry::{Readiness, Registry, admin};
use serde::Serialize;

use crate::gateway::Gateway;
use crate::targets::TargetView;

/// The answer of `/debug/targets`.
#[derive(Debug, Serialize)]
struct TargetsView {
    /// Calls that run and that wait under the limits of connections.
    running: usize,
    waiting: usize,
    /// Calls that wait for an agent.
    held: usize,
    servers: Vec<TargetView>,
    /// Handler to agent.
    handlers: BTreeMap<String, String>,
}

/// All paths of the admin port.
pub fn router(registry: Registry, readiness: Readiness, gateway: &Arc<Gateway>) -> Router {
    let (of_targets, of_metrics) = (Arc::clone(gateway), Arc::clone(gateway));
    let targets = async move || {
        let (running, waiting) = of_targets.gate.counts();
        let handlers = of_targets.targets.assignments().into_iter().collect();
        let held = of_targets.hold.waiting();
        Json(TargetsView { running, waiting, held, servers: of_targets.targets.view(), handlers })
    };
    let refresh = move |request: Request| {
        of_metrics.metrics.refresh(&of_metrics);
        async { request }
    };
    admin::router(registry, readiness).layer(map_request(refresh)).route("/debug/targets", get(targets))
}
