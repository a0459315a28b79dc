//! lard's part of the admin port: `/debug/targets`, and gauges that are fresh when they are read.

use std::sync::Arc;

use axum::extract::Request;
use axum::middleware::map_request;
use axum::routing::get;
use axum::{Json, Router};
use openlambda_telemetry::{Readiness, Registry, admin};

use crate::gateway::Gateway;
use crate::view::view;

/// All paths of the admin port.
pub fn router(registry: Registry, readiness: Readiness, gateway: &Arc<Gateway>) -> Router {
    let (of_targets, of_metrics) = (Arc::clone(gateway), Arc::clone(gateway));
    let targets = async move || Json(view(&of_targets));
    let refresh = move |request: Request| {
        of_metrics.metrics.refresh(&of_metrics);
        async { request }
    };
    admin::router(registry, readiness).layer(map_request(refresh)).route("/debug/targets", get(targets))
}
