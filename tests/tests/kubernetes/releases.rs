//! Releases of the chart: their own test, an upgrade, two of them, the end of one.

use std::time::Duration;

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Release, chart, helm, kubectl};
use openlambda_tests::load::Load;
use openlambda_tests::{Request, until, until_within};
use serde_json::json;

use crate::shared::{self, constant};

/// Objects that Kubernetes makes in a namespace by itself, and what nobody makes on purpose.
const OF_KUBERNETES: [&str; 4] =
    ["configmap/kube-root-ca.crt", "serviceaccount/default", "event/", "event.events.k8s.io/"];

#[test]
fn helm_test() -> Result<()> {
    let release = shared::release()?;
    let arguments = ["test", release.name(), "--namespace", release.namespace.name(), "--timeout", "120s"];
    let told = helm(&arguments)?;
    ensure!(told.contains("Succeeded"), "{told}");
    let left = release.namespace.kubectl(&["get", "handlers", "-o", "name"])?;
    ensure!(!left.contains("helm-test"), "{left}");
    Ok(())
}

#[test]
fn an_upgrade_under_load_costs_no_call() -> Result<()> {
    let release = Release::install("upgraded")?;
    release.deploy("steady", &constant("steady"))?;
    let before = (release.agents()?, release.balancers()?);
    let load = Load::start(2, release.lard()?, &[Request::call("steady", &json!(null))]);
    load.progress(50)?;
    // Another default changes the configuration of agents and lard: every pod is replaced, the operator's too.
    let spec =
        json!({"handlerDefaults": {"limits": {"timeout": "20s"}}, "loadBalancer": {"loadHighPercent": 50}});
    release.upgrade(&spec, &["--set", "podAnnotations.upgraded=yes"])?;
    until_within(Duration::from_secs(180), "new pods everywhere", || {
        let after = (release.agents()?, release.balancers()?);
        let whole = after.0.len() == 2 && after.1.len() == 2;
        let new = after.0.iter().all(|pod| !before.0.contains(pod))
            && after.1.iter().all(|pod| !before.1.contains(pod));
        Ok((whole && new).then_some(()))
    })?;
    release.namespace.wait_ready("lambdacluster/demo")?;
    load.progress(50)?;
    let account = load.stop()?;
    println!(
        "{} calls while every pod was replaced, the longest took {:?}",
        account.answered(),
        account.longest
    );
    account.without_failure()
}

#[test]
fn two_releases_do_not_meet() -> Result<()> {
    let (first, second) = (shared::release()?, Release::install("second")?);
    first.deploy("both", &constant("first"))?;
    second.deploy("both", &constant("second"))?;
    ensure!(first.call("both", &json!(null))?.ok()? == json!("first"));
    ensure!(second.call("both", &json!(null))?.ok()? == json!("second"));
    first.namespace.kubectl(&["delete", "handler", "both"])?;
    until("404 in the first", || Ok((first.call("both", &json!(null))?.status == 404).then_some(())))?;
    ensure!(second.call("both", &json!(null))?.ok()? == json!("second"));
    Ok(())
}

#[test]
fn an_uninstalled_release_leaves_nothing() -> Result<()> {
    let release = Release::install("removed")?;
    release.deploy("there", &constant("there"))?;
    ensure!(release.call("there", &json!(null))?.ok()? == json!("there"));
    release.uninstall()?;
    // Handlers are the users': they stay until they are deleted.
    ensure!(
        release
            .namespace
            .kubectl(&["get", "handlers", "-o", "name"])?
            .contains("handler.openlambda.dev/there")
    );
    release.namespace.kubectl(&["delete", "handlers", "--all"])?;
    until_within(Duration::from_secs(90), "an empty namespace", || {
        Ok(objects("removed")?.is_empty().then_some(()))
    })
    .map_err(|error| error.context(format!("{:?}", objects("removed"))))?;
    for kind in ["clusterroles", "clusterrolebindings"] {
        let all = kubectl(&["get", kind, "-o", "name"])?;
        ensure!(!all.contains("removed") && !all.contains("openlambda"), "{kind}: {all}");
    }
    // The definitions are kept when their chart goes, and taken up again when it comes back.
    helm(&["uninstall", "openlambda-crds", "--namespace", "default"])?;
    let kept = kubectl(&["get", "crds", "-o", "name"])?;
    ensure!(
        kept.contains("handlers.openlambda.dev") && kept.contains("lambdaclusters.openlambda.dev"),
        "{kept}"
    );
    let crds = chart("openlambda-crds");
    helm(&["install", "openlambda-crds", &crds, "--namespace", "default", "--wait"]).map(drop)
}

/// Everything that is in a namespace, as `kind/name`.
fn objects(namespace: &str) -> Result<Vec<String>> {
    let kinds = kubectl(&["api-resources", "--namespaced", "--verbs=list", "-o", "name"])?;
    let kinds = kinds.lines().collect::<Vec<_>>().join(",");
    let all = kubectl(&["get", &kinds, "--namespace", namespace, "-o", "name", "--ignore-not-found"])?;
    let ours = all.lines().filter(|name| !OF_KUBERNETES.iter().any(|theirs| name.starts_with(theirs)));
    Ok(ours.map(str::to_owned).collect())
}
