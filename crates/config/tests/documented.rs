//! `docs/configuration.md` names every key that is read.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as tests do")]

use std::path::Path;

use openlambda_config::{BalancerConfig, ConfigError, WorkerConfig};
use serde_json::json;

const DOCUMENT: &str = include_str!("../../../docs/configuration.md");
/// Like no key at all, so that the message lists all there are.
const STRANGE: &str = "0000000000";

/// The keys that the message about a strange key lists.
fn known<T: std::fmt::Debug>(result: Result<T, ConfigError>) -> Vec<String> {
    let error = result.unwrap_err();
    let messages = error.problems().iter().map(|problem| &problem.message);
    let list = messages.filter_map(|message| message.split_once("Known here: ")).next().unwrap().1;
    list.split(", ").map(str::to_owned).collect()
}

#[test]
fn every_key_is_documented() {
    let file = Path::new("c.json");
    let worker = known(WorkerConfig::from_value(&json!({STRANGE: 1}), file));
    let limits = known(WorkerConfig::from_value(&json!({"limits": {STRANGE: 1}}), file));
    let balancer = known(BalancerConfig::from_value(&json!({STRANGE: 1}), file));
    let server = known(BalancerConfig::from_value(&json!({"Servers": [{STRANGE: 1}]}), file));
    assert!(worker.len() > 30 && limits.len() == 10 && balancer.len() > 10 && server.len() == 6);
    let limits = limits.iter().map(|key| format!("limits.{key}"));
    for key in worker.into_iter().filter(|key| key != "limits").chain(limits).chain(balancer).chain(server) {
        assert!(DOCUMENT.contains(&format!("`{key}`")), "{key} is not in docs/configuration.md");
    }
}
