//! Two LambdaClusters in one namespace: which of them serves a Handler.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{Release, handler};
use openlambda_tests::{Request, until};
use serde_json::{Value, json};

use crate::shared::constant;

/// The second one; the release's own is `demo`.
const OTHER: &str = "other";
/// Kubernetes tells in whole seconds when an object was made.
const SECOND: Duration = Duration::from_secs(1);

fn apply_other(release: &Release) -> Result<()> {
    let object = json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "LambdaCluster", "metadata": {"name": OTHER},
        "spec": {"loadBalancer": {"replicas": 1, "service": {"type": "NodePort"}}},
    });
    release.namespace.apply(&object.to_string())?;
    release.namespace.wait_ready(&format!("lambdacluster/{OTHER}"))
}

fn apply_for(release: &Release, name: &str, cluster: Option<&str>) -> Result<()> {
    let mut object = handler(name, &constant(name));
    if let Some(cluster) = cluster {
        object["spec"]["cluster"] = cluster.into();
    }
    release.namespace.apply(&object.to_string())
}

/// The status with which each of the two answers a call of a handler; 0 for none: a new NodePort is not open at once.
fn statuses(handler: &str, balancers: [SocketAddr; 2]) -> [u16; 2] {
    let call = |to| Request::call(handler, &json!(null)).send_to(to);
    balancers.map(|to| call(to).map_or(0, |answer| answer.status))
}

fn wait_for_statuses(handler: &str, balancers: [SocketAddr; 2], wanted: [u16; 2]) -> Result<()> {
    let mut last = [0; 2];
    let waited = until(&format!("the answers {wanted:?} of {handler}"), || {
        last = statuses(handler, balancers);
        Ok((last == wanted).then_some(()))
    });
    waited.with_context(|| format!("the last were {last:?}"))
}

fn wait_for_reason(release: &Release, handler: &str, reason: &str) -> Result<Value> {
    until(&format!("{reason} of {handler}"), || {
        let ready = release.namespace.condition(&format!("handler/{handler}"), "Ready")?;
        Ok((ready["reason"] == reason).then_some(ready))
    })
}

#[test]
fn each_of_two_clusters_serves_its_own_handlers_and_none_those_that_could_be_either_ones() -> Result<()> {
    let release = Release::install("two-clusters")?;
    apply_for(&release, "first-come", None)?;
    let made = Instant::now();
    release.namespace.wait_ready("handler/first-come")?;
    // What is made in the same second has not come later.
    until("the next second", || Ok((made.elapsed() > SECOND).then_some(())))?;
    apply_other(&release)?;
    let balancers = [release.lard()?, release.namespace.node_port(OTHER)?];

    for (name, cluster) in [("of-demo", "demo"), ("of-other", OTHER)] {
        apply_for(&release, name, Some(cluster))?;
        release.namespace.wait_ready(&format!("handler/{name}"))?;
    }
    apply_for(&release, "of-either", None)?;
    let ready = wait_for_reason(&release, "of-either", "ClusterAmbiguous")?;
    let message = ready["message"].as_str().unwrap_or_default();
    ensure!(["demo", OTHER, "spec.cluster"].iter().all(|part| message.contains(part)), "{message}");

    wait_for_statuses("of-demo", balancers, [200, 404])?;
    wait_for_statuses("of-other", balancers, [404, 200])?;
    wait_for_statuses("of-either", balancers, [404, 404])?;
    // Whom a handler had keeps it when another cluster comes.
    wait_for_statuses("first-come", balancers, [200, 404])?;
    release.namespace.wait_ready("handler/first-come")?;
    counts(&release)?;

    // Naming one mends it, and so would the end of the other.
    apply_for(&release, "of-either", Some(OTHER))?;
    release.namespace.wait_ready("handler/of-either")?;
    wait_for_statuses("of-either", balancers, [404, 200])?;
    apply_for(&release, "of-none", None)?;
    wait_for_reason(&release, "of-none", "ClusterAmbiguous")?;
    release.namespace.kubectl(&["delete", "lambdacluster", OTHER, "--wait"])?;
    release.namespace.wait_ready("handler/of-none")?;
    release.wait_for_answer("of-none", &json!(null), &json!("of-none"))?;
    wait_for_reason(&release, "of-other", "ClusterNotFound").map(drop)
}

/// Each counts its own.
fn counts(release: &Release) -> Result<()> {
    for (cluster, wanted) in [("demo", "2/2"), (OTHER, "1/1")] {
        until(&format!("{wanted} handlers of {cluster}"), || {
            let object = release.namespace.get(&format!("lambdacluster/{cluster}"))?;
            Ok((object["status"]["handlers"]["summary"] == wanted).then_some(()))
        })?;
    }
    Ok(())
}
