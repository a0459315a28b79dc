//! The configuration file, looked at as lard runs: a change of the policy, of its parameters or of the servers takes
//! effect at once, without a connection lost. In Kubernetes the file is a ConfigMap's, which the operator writes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openlambda_config::{BalancerConfig, LIVE_KEYS};

use crate::gateway::Gateway;

/// How often the file is looked at. It is read, not watched: editors and ConfigMaps replace files, which every way of
/// watching sees differently.
const EVERY: Duration = Duration::from_secs(1);

/// Follows a file for ever. `servers`: whether it says which the agents are.
pub async fn follow(mut config: BalancerConfig, gateway: Arc<Gateway>, servers: bool) {
    let file = config.file.clone();
    // It may have changed since lard read it to start.
    let mut seen = None;
    let mut ticks = tokio::time::interval(EVERY);
    loop {
        ticks.tick().await;
        let text = read(&file).await;
        if text == seen {
            continue;
        }
        // A file that is away is about to come back.
        if text.is_some() {
            take_up(&mut config, &file, &gateway, servers);
        }
        seen = text;
    }
}

async fn read(file: &Path) -> Option<Vec<u8>> {
    tokio::fs::read(file).await.ok()
}

fn take_up(config: &mut BalancerConfig, file: &Path, gateway: &Gateway, servers: bool) {
    let new = match BalancerConfig::load(file) {
        Ok(new) => new,
        Err(error) => {
            tracing::warn!("the configuration stays as it was: {error}");
            return;
        }
    };
    if gateway.targets.choose(&new) {
        tracing::info!(policy = ?new.policy, formula = ?new.load_formula, high = new.load_high, low = new.load_low, "the policy is another");
    }
    if servers && new.servers != config.servers {
        gateway.targets.replace(&new.servers);
        gateway.hold.changed();
        tracing::info!(servers = new.servers.len(), "the servers are others");
    }
    if !same_but_live(config, &new) {
        tracing::warn!(
            "a change of other keys than {} takes effect when lard is started anew",
            LIVE_KEYS.join(", ")
        );
    }
    *config = new;
}

fn same_but_live(old: &BalancerConfig, new: &BalancerConfig) -> bool {
    let live = BalancerConfig {
        policy: old.policy,
        load_formula: old.load_formula,
        load_high: old.load_high,
        load_low: old.load_low,
        servers: old.servers.clone(),
        // Unless it is given it is the servers' sum.
        max_conn: if old.servers == new.servers { new.max_conn } else { old.max_conn },
        ..new.clone()
    };
    live == *old
}
