//! Nodes that come, go and die, and agents that are killed: what becomes of the calls.
//!
//! lard stays on the first two nodes here: a client whose connection ends at a dead lard would tell nothing of agents.

use std::time::Duration;

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Emptied, Node, Release, kubectl};
use openlambda_tests::load::{Account, Load};
use openlambda_tests::{Request, until, until_within};
use serde_json::json;

use crate::shared::constant;

const CLIENTS: usize = 4;
/// Long enough that a killed agent has calls in its sandboxes, nearly always: the pause is the handler's work.
const SLOW: &str = "import time\ndef handler(event):\n    time.sleep(0.03)\n    return event\n";

fn release(name: &str) -> Result<Release> {
    kubectl(&["label", "node", "node1", "node2", "lard=here", "--overwrite"])?;
    Release::install_with(name, &json!({"loadBalancer": {"nodeSelector": {"lard": "here"}}}))
}

/// One handler an agent would keep to itself; several are spread over all of them.
fn spread(release: &Release, count: usize) -> Result<Vec<Request>> {
    let names: Vec<String> = (0..count).map(|number| format!("slow-{number}")).collect();
    for name in &names {
        release.namespace.handler(name, SLOW)?;
    }
    for name in &names {
        release.namespace.wait_ready(&format!("handler/{name}"))?;
    }
    Ok(names.iter().map(|name| Request::call(name, &json!(name))).collect())
}

/// Only calls that ran on what was killed may fail, at most one of each client, and they are told honestly.
fn at_most_what_ran(account: &Account) -> Result<()> {
    println!(
        "{} answered, {} failed, the longest took {:?}",
        account.answered(),
        account.failures.len(),
        account.longest
    );
    ensure!(
        account.failures.len() <= CLIENTS,
        "more calls failed than were running: {:#?}",
        account.failures
    );
    for (when, failure) in &account.failures {
        ensure!(failure.starts_with("502") || failure.starts_with("504"), "after {when:?}: {failure}");
    }
    Ok(())
}

#[test]
fn a_killed_agent_costs_only_what_it_ran() -> Result<()> {
    let release = release("agent-killed")?;
    let load = Load::start(CLIENTS, release.lard()?, &spread(&release, 8)?);
    load.progress(100)?;
    let victim = release.agents()?.swap_remove(0);
    release.namespace.kubectl(&["delete", "pod", &victim, "--force", "--grace-period=0"])?;
    load.progress(200)?;
    until("the new agent", || {
        let agents = release.agents()?;
        Ok((agents.len() == 2 && !agents.contains(&victim)).then_some(()))
    })?;
    release.namespace.wait_ready("lambdacluster/demo")?;
    load.progress(100)?;
    let account = load.stop()?;
    at_most_what_ran(&account)?;
    ensure!(account.longest < Duration::from_secs(2), "a call took {:?}", account.longest);
    Ok(())
}

#[test]
fn a_drained_agent_costs_nothing() -> Result<()> {
    let release = release("agent-drained")?;
    let load = Load::start(CLIENTS, release.lard()?, &spread(&release, 8)?);
    load.progress(100)?;
    for agent in release.agents()? {
        release.namespace.kubectl(&["delete", "pod", &agent, "--wait=true"])?;
        release.namespace.kubectl(&["rollout", "status", "daemonset/demo-agent", "--timeout=60s"])?;
        load.progress(50)?;
    }
    load.stop()?.without_failure()
}

/// Agents that there are of those that there should be, as the LambdaCluster and a handler tell it.
fn wait_for_agents(release: &Release, wanted: &str) -> Result<()> {
    for object in ["lambdacluster/demo", "handler/slow-0"] {
        let told = until_within(Duration::from_secs(90), &format!("{wanted} agents of {object}"), || {
            let object = release.namespace.get(object)?;
            Ok((object["status"]["agents"]["summary"] == wanted).then_some(()))
        });
        told.map_err(|error| {
            let status = |object| release.namespace.get(object).map(|object| object["status"].clone());
            let (set, cluster) = (status("daemonset/demo-agent"), status("lambdacluster/demo"));
            error.context(format!("{set:?}\n{cluster:?}\n{}", release.namespace.pods()))
        })?;
    }
    Ok(())
}

/// The pods of a part that are on a node.
fn on_node(release: &Release, node: &str, component: &str) -> Result<Vec<String>> {
    let pods = release.namespace.list("pods")?;
    let there = pods.iter().filter(|pod| {
        pod["spec"]["nodeName"] == node
            && pod["metadata"]["labels"]["app.kubernetes.io/component"] == component
    });
    Ok(there.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
}

#[test]
fn a_node_that_is_drained_emptied_and_taken_back_costs_no_call() -> Result<()> {
    let release = release("node-drained")?;
    let load = Load::start(CLIENTS, release.lard()?, &spread(&release, 8)?);
    load.progress(100)?;
    ensure!(on_node(&release, "node2", "lard")?.len() == 1, "{}", release.namespace.pods());
    let node = Emptied::drain("node2")?;
    load.progress(100)?;
    // A drain leaves agents, as the pods of any DaemonSet, and they go on to serve; lard has moved.
    ensure!(on_node(&release, "node2", "agent")?.len() == 1, "{}", release.namespace.pods());
    ensure!(on_node(&release, "node2", "lard")?.is_empty(), "{}", release.namespace.pods());
    wait_for_agents(&release, "2/2")?;
    node.evict_the_rest()?;
    wait_for_agents(&release, "1/1")?;
    until("the end of the agent's pod", || {
        Ok(on_node(&release, "node2", "agent")?.is_empty().then_some(()))
    })?;
    load.progress(100)?;
    drop(node);
    wait_for_agents(&release, "2/2")?;
    ensure!(on_node(&release, "node2", "agent")?.len() == 1, "{}", release.namespace.pods());
    release.namespace.wait_ready("lambdacluster/demo")?;
    load.progress(200)?;
    let account = load.stop()?;
    println!("{} answered, the longest took {:?}", account.answered(), account.longest);
    account.without_failure()
}

#[test]
fn nodes_come_and_die() -> Result<()> {
    let release = release("node-died")?;
    let requests = spread(&release, 8)?;
    let load = Load::start(CLIENTS, release.lard()?, &requests);
    load.progress(50)?;
    let node = Node::start(3)?;
    until("the third agent", || {
        let cluster = release.namespace.get("lambdacluster/demo")?;
        Ok((cluster["status"]["agents"]["summary"] == "3/3").then_some(()))
    })?;
    release.namespace.wait_ready("lambdacluster/demo")?;
    until("the handlers on the third agent", || {
        let handler = release.namespace.get("handler/slow-0")?;
        Ok((handler["status"]["agents"]["summary"] == "3/3").then_some(()))
    })?;
    // Its share of the handlers begins there only when it is asked for: new ones rank it first now and then.
    let more: Vec<Request> = (0..12)
        .map(|number| {
            let name = format!("new-{number}");
            release.deploy(&name, SLOW)?;
            Ok(Request::call(&name, &json!(name)))
        })
        .collect::<Result<_>>()?;
    load.stop()?.without_failure()?;
    let load = Load::start(CLIENTS, release.lard()?, &[&requests[..], &more].concat());
    until("calls on the third node", || {
        load.progress(20)?;
        let pod = release.namespace.kubectl(&[
            "get",
            "pods",
            "-l",
            "app.kubernetes.io/component=agent",
            "--field-selector",
            "spec.nodeName=node3",
            "-o",
            "jsonpath={.items[0].metadata.name}",
        ])?;
        let state = release.namespace.admin(&pod, "/debug/state")?;
        Ok(state["instances"].as_array().is_some_and(|all| !all.is_empty()).then_some(()))
    })?;
    node.kill()?;
    load.progress(500)?;
    let account = load.stop()?;
    at_most_what_ran(&account)?;
    ensure!(account.longest < Duration::from_secs(4), "a call took {:?}", account.longest);
    // Once Kubernetes has given the node up, no agent is wanted there.
    let told = until_within(Duration::from_secs(180), "two agents of two", || {
        let cluster = release.namespace.get("lambdacluster/demo")?;
        Ok((cluster["status"]["agents"]["summary"] == "2/2").then_some(()))
    });
    told.map_err(|error| {
        let status = |object| release.namespace.get(object).map(|object| object["status"].clone());
        let (set, cluster) = (status("daemonset/demo-agent"), status("lambdacluster/demo"));
        error.context(format!("{set:?}\n{cluster:?}\n{}", release.namespace.pods()))
    })?;
    drop(node);
    release.deploy("afterwards", &constant("well"))?;
    release.wait_for_answer("afterwards", &json!(null), &json!("well"))
}
