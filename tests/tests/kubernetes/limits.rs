//! Limits and warm instances of a Handler, changed while it serves.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use openlambda_tests::until;
use serde_json::json;

use crate::shared;

const HOLD: &str = "def handler(event):\n    return len(bytearray(event << 20))\n";

fn patch(handler: &str, spec: &serde_json::Value) -> Result<()> {
    let release = shared::release()?;
    let patch = json!({"spec": spec}).to_string();
    release.namespace.kubectl(&["patch", "handler", handler, "--type=merge", "--patch", &patch])?;
    release.namespace.wait_ready(&format!("handler/{handler}"))
}

#[test]
fn limits_are_changed_in_instances_that_live() -> Result<()> {
    let release = shared::release()?;
    release.deploy("limited", HOLD)?;
    patch("limited", &json!({"limits": {"memory": "64Mi"}}))?;
    ensure!(release.call("limited", &json!(1))?.ok()? == json!(1 << 20));
    release.call("limited", &json!(100))?.error(500, "out_of_memory")?;
    ensure!(release.call("limited", &json!(1))?.ok()? == json!(1 << 20));
    let changed = Instant::now();
    patch("limited", &json!({"limits": {"memory": "256Mi"}}))?;
    ensure!(release.call("limited", &json!(100))?.ok()? == json!(100 << 20));
    // Before they are looked at, which takes a while.
    let since = u64::try_from(changed.elapsed().as_millis())?;
    let instances = release.instances("limited")?;
    let older = |instance: &serde_json::Value| instance["age_ms"].as_u64().is_some_and(|age| age > since);
    ensure!(!instances.is_empty() && instances.iter().all(older), "not the same instances: {instances:?}");
    // And down again.
    patch("limited", &json!({"limits": {"memory": "64Mi"}}))?;
    release.call("limited", &json!(100))?.error(500, "out_of_memory")?;
    Ok(())
}

#[test]
fn warm_instances_are_there_before_the_first_call() -> Result<()> {
    let release = shared::release()?;
    let mut object = openlambda_tests::kubernetes::handler("warmed", HOLD);
    object["spec"]["concurrency"] = json!({"minWarm": 2});
    release.namespace.apply(&object.to_string())?;
    release.namespace.wait_ready("handler/warmed")?;
    let agents = release.agents()?.len();
    until("two instances on each agent", || {
        let instances = release.instances("warmed")?;
        let warm = instances.iter().filter(|instance| instance["state"] != "trial").count();
        Ok((warm == 2 * agents).then_some(()))
    })?;
    let before = release.instances("warmed")?.len();
    ensure!(release.call("warmed", &json!(1))?.ok()? == json!(1 << 20));
    ensure!(release.instances("warmed")?.len() == before, "the first call had one made");
    let state = release.namespace.admin(release.agents()?.first().context("no agent")?, "/debug/state")?;
    ensure!(state["memory"]["charged_bytes"].as_u64() > Some(0), "{}", state["memory"]);
    patch("warmed", &json!({"concurrency": {"minWarm": 0, "idleTimeout": "1s"}}))?;
    until("the end of all instances", || Ok(release.instances("warmed")?.is_empty().then_some(())))
}
