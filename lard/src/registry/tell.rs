//! Has every worker look at the registry, and tells what each said. One that says nothing in time finds out by itself.

use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hyper::Method;
use openlambda_api::HandlerName;
use openlambda_api::look::{self, Said, Wanted};
use serde_json::{Value, json};
use tokio::time::timeout_at;

use crate::ask::exchange;
use crate::gateway::Gateway;

/// All workers together have so long. One may take longer to install packages.
const WITHIN: Duration = Duration::from_secs(10);
/// Workers that are told at a time.
const AT_ONCE: usize = 16;

/// What each worker said, by name.
pub async fn all(gateway: &Gateway, handler: &HandlerName, wanted: Wanted<'_>) -> Vec<Value> {
    let (until, path) = (tokio::time::Instant::now() + WITHIN, look::path(handler));
    let mut workers: Vec<_> = gateway.targets.upstreams().into_values().collect();
    workers.sort_by(|a, b| a.name.cmp(&b.name));
    let path = path.as_str();
    let telling = workers.into_iter().map(|worker| async move {
        let said = match worker.admin() {
            Some(admin) => ask(&admin, path, wanted, until).await,
            None => Said::Badly("has no AdminPort: it finds out by itself".to_owned()),
        };
        json!({"worker": worker.name, "ok": said.is_well(), "message": said.text()})
    });
    futures::stream::iter(telling).buffered(AT_ONCE).collect().await
}

async fn ask(admin: &(String, u16), path: &str, wanted: Wanted<'_>, until: tokio::time::Instant) -> Said {
    let began = Instant::now();
    match timeout_at(until, exchange(admin, Method::POST, path)).await {
        Ok(Ok((status, body))) => look::said(status.as_u16(), &body, wanted, began.elapsed()),
        Ok(Err(error)) => Said::Badly(format!("no answer: {error}")),
        Err(_) => Said::Badly(format!("is not done within {} s: it goes on by itself", WITHIN.as_secs())),
    }
}
