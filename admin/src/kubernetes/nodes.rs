//! `admin workers` of a `LambdaCluster`: on which nodes it has an agent. With a number, that many are chosen by a label of this
//! cluster's own, and `spec.agent.nodeSelector` asks for it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use k8s_openapi::api::core::v1::Node;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, ResourceExt as _};
use openlambda_api::LambdaCluster;
use openlambda_api::conditions::{self, ConditionType};
use serde_json::{Value, json};

use super::{Connection, Place, explained, make, wait};
use crate::args::Workers;

/// Agents may take so long: a node may have to fetch their image first.
const READY_WITHIN: Duration = Duration::from_secs(300);
/// Between two looks at the status.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Has an agent on so many nodes, or on all, and waits until they are ready.
pub fn workers(place: Place, args: &Workers, out: &mut dyn Write) -> Result<()> {
    let number = args.num_workers;
    ensure!(
        args.port.is_none(),
        "--port: on Kubernetes calls go to the Service: admin setconf … loadBalancer.service"
    );
    wait(async {
        let connection = Connection::open(place).await?;
        let cluster = connection.cluster().await?;
        let label = label(&connection.place);
        let mut theirs = cluster.spec.agent.node_selector.clone();
        let was_ours = theirs.remove(&label).is_some();
        let nodes: Api<Node> = Api::all(connection.client.clone());
        let generation = match number {
            Some(number) => {
                choose(&nodes, &label, &theirs, number as usize).await?;
                make::patch_spec(&connection, &json!({"agent": {"nodeSelector": {&label: "true"}}})).await?
            }
            None if was_ours => {
                let selector = json!({"agent": {"nodeSelector": {&label: null}}});
                let generation = make::patch_spec(&connection, &selector).await?;
                let all = nodes.list(&ListParams::default().labels(&label)).await;
                for node in all.map_err(|error| explained(&error))? {
                    mark(&nodes, &node, &label, false).await?;
                }
                generation
            }
            None => cluster.metadata.generation.unwrap_or_default(),
        };
        ready(&connection, generation, out).await
    })
}

/// The label of the nodes of a cluster.
fn label(place: &Place) -> String {
    format!("{}.{}.openlambda.dev/agent", place.name, place.namespace)
}

/// Marks so many nodes, and only those.
async fn choose(
    nodes: &Api<Node>,
    label: &str,
    theirs: &BTreeMap<String, String>,
    number: usize,
) -> Result<()> {
    let all = nodes.list(&ListParams::default()).await.map_err(|error| explained(&error))?.items;
    let chosen = chosen(&all, label, theirs, number)?;
    for node in &all {
        let is_chosen = chosen.contains(&node.name_any());
        if is_chosen != node.labels().contains_key(label) {
            mark(nodes, node, label, is_chosen).await?;
        }
    }
    Ok(())
}

/// The names of the nodes to have an agent: those that have one stay, then by name.
fn chosen(
    all: &[Node],
    label: &str,
    theirs: &BTreeMap<String, String>,
    number: usize,
) -> Result<Vec<String>> {
    let mut fit: Vec<&Node> = all.iter().filter(|node| is_fit(node, theirs)).collect();
    fit.sort_by_key(|node| (!node.labels().contains_key(label), node.name_any()));
    if fit.len() < number {
        let names: Vec<_> = fit.iter().map(|node| node.name_any()).collect();
        bail!(
            "of {} nodes {} can have an agent ({}), not {number}: others are not ready, cordoned, tainted, not Linux, or not \
             selected by spec.agent.nodeSelector",
            all.len(),
            fit.len(),
            names.join(", ")
        );
    }
    Ok(fit.into_iter().take(number).map(|node| node.name_any()).collect())
}

/// Whether an agent would be put on it and run.
fn is_fit(node: &Node, theirs: &BTreeMap<String, String>) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let is_ready = conditions.iter().any(|one| one.type_ == "Ready" && one.status == "True");
    let spec = node.spec.clone().unwrap_or_default();
    let is_open = !spec.unschedulable.unwrap_or_default()
        && spec.taints.unwrap_or_default().iter().all(|taint| taint.effect == "PreferNoSchedule");
    let has = |key: &str, value: &str| node.labels().get(key).is_some_and(|has| has == value);
    is_ready
        && is_open
        && has("kubernetes.io/os", "linux")
        && theirs.iter().all(|(key, value)| has(key, value))
}

async fn mark(nodes: &Api<Node>, node: &Node, label: &str, is_chosen: bool) -> Result<()> {
    let value = if is_chosen { json!("true") } else { Value::Null };
    let patch = Patch::Merge(json!({"metadata": {"labels": {label: value}}}));
    let marked = nodes.patch_metadata(&node.name_any(), &PatchParams::default(), &patch).await;
    marked.map(drop).map_err(|error| explained(&error))
}

/// Waits until the status says that all agents are ready.
async fn ready(connection: &Connection, generation: i64, out: &mut dyn Write) -> Result<()> {
    let (api, name) = (connection.api::<LambdaCluster>(), &connection.place.name);
    let until = Instant::now() + READY_WITHIN;
    loop {
        let status =
            api.get_status(name).await.map_err(|error| explained(&error))?.status.unwrap_or_default();
        let is_current = status.observed_generation.is_some_and(|observed| observed >= generation);
        if is_current && conditions::is_true(&status.conditions, ConditionType::AgentsReady) {
            let agents = status.agents.map(|agents| agents.summary).unwrap_or_default();
            let _ = writeln!(out, "{agents} agents are ready, at {}", status.url.unwrap_or_default());
            return Ok(());
        }
        if Instant::now() >= until {
            let condition = conditions::find(&status.conditions, ConditionType::AgentsReady);
            let why = match condition.filter(|_| is_current) {
                Some(condition) => condition.message.clone(),
                None => "no operator has looked at it: is the chart openlambda installed for this namespace?"
                    .to_owned(),
            };
            bail!("agents are not ready within {} s: {why}", READY_WITHIN.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str, label: bool, change: Value) -> Node {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/os": "linux", "zone": "a"}},
            "spec": {}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        if label {
            object["metadata"]["labels"]["demo.functions.openlambda.dev/agent"] = json!("true");
        }
        openlambda_config::merge::merge(&mut object, &change);
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn nodes_that_have_one_stay_and_unfit_ones_are_not_taken() {
        let place = Place::parse("k8s://functions/demo").unwrap();
        let (label, any) = (label(&place), BTreeMap::new());
        let taint = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        let all = [
            node("a", false, json!({})),
            node("b", false, json!({"spec": {"unschedulable": true}})),
            node("c", false, taint),
            node("d", true, json!({})),
            node("e", false, json!({"metadata": {"labels": {"zone": "b"}}})),
            node("f", false, json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}})),
        ];
        assert_eq!(chosen(&all, &label, &any, 2).unwrap(), ["d", "a"]);
        let zone = BTreeMap::from([("zone".to_owned(), "b".to_owned())]);
        assert_eq!(chosen(&all, &label, &zone, 1).unwrap(), ["e"]);
        let error = chosen(&all, &label, &any, 4).unwrap_err().to_string();
        assert!(error.starts_with("of 6 nodes 3 can have an agent (d, a, e), not 4"), "{error}");
    }
}
