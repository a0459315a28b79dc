//! What is as it should be is not written again: neither when the operator looks once more, nor when it begins anew.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{Release, kubectl};
use openlambda_tests::until;
use serde_json::{Value, json};

use crate::shared::constant;

/// What a LambdaCluster consists of.
const KINDS: &str = "serviceaccounts,roles,rolebindings,configmaps,services,daemonsets,deployments,\
    poddisruptionbudgets,networkpolicies,ingresses";
const CLUSTER: &str = "LambdaCluster/demo";
const OPERATOR: &str = "app.kubernetes.io/component=operator";

/// The version of each object, by kind and name: the LambdaCluster, its children, the Handlers.
fn versions(release: &Release) -> Result<BTreeMap<String, String>> {
    let children =
        release.namespace.kubectl(&["get", KINDS, "-l", "openlambda.dev/cluster=demo", "-o", "json"])?;
    let own = release.namespace.kubectl(&["get", "lambdaclusters,handlers", "-o", "json"])?;
    let mut all = BTreeMap::new();
    for list in [children, own] {
        let list: Value = serde_json::from_str(&list)?;
        for item in list["items"].as_array().context("no list")? {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let name = format!("{}/{}", text(&item["kind"]), text(&item["metadata"]["name"]));
            all.insert(name, text(&item["metadata"]["resourceVersion"]));
        }
    }
    Ok(all)
}

/// The only operator's sum of a counter over the labels that contain `label`.
fn counted(release: &Release, counter: &str, label: &str) -> Result<f64> {
    let pods = release.namespace.pods_of(OPERATOR)?;
    let [pod] = &pods[..] else { return Ok(0.0) };
    let path = format!("/api/v1/namespaces/{}/pods/{pod}:9080/proxy/metrics", release.namespace.name());
    // Right after its start it does not answer.
    let text = kubectl(&["get", "--raw", &path]).unwrap_or_default();
    let lines = text.lines().filter(|line| line.starts_with(counter) && line.contains(label));
    Ok(lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum())
}

fn reconciled(release: &Release) -> Result<f64> {
    counted(release, "openlambda_operator_reconciles_total", "kind=\"LambdaCluster\"")
}

fn writes(release: &Release) -> Result<f64> {
    counted(release, "openlambda_operator_writes_total", "")
}

fn touch(release: &Release, value: &str) -> Result<()> {
    let before = reconciled(release)?;
    let annotation = format!("touched={value}");
    release.namespace.kubectl(&["annotate", "lambdacluster/demo", &annotation, "--overwrite"])?;
    until("another look of the operator", || Ok((reconciled(release)? > before).then_some(())))
}

/// Waits until nothing that the operator reacts to happens any more: two looks in a row find the same.
fn settled(release: &Release) -> Result<BTreeMap<String, String>> {
    let mut last = BTreeMap::new();
    until("versions that stay", || {
        touch(release, &format!("{}", last.len()))?;
        let mut now = versions(release)?;
        // The annotation is ours.
        now.remove(CLUSTER);
        let same = now == last;
        last = now;
        Ok(same.then(|| last.clone()))
    })
}

#[test]
fn looking_again_and_beginning_anew_change_nothing() -> Result<()> {
    let spec = json!({"ingress": {"className": "traefik", "host": "steady.example.com"}});
    let release = Release::install_with("steady", &spec)?;
    release.deploy("steady", &constant("steady"))?;
    let before = settled(&release)?;
    ensure!(before.len() >= 14, "{before:?}");
    let written = writes(&release)?;
    ensure!(written >= 14.0, "the counter of writes stands at {written}");
    for value in ["once", "twice"] {
        touch(&release, value)?;
    }
    ensure!(writes(&release)? == written, "a look wrote {} times", writes(&release)? - written);

    let before = versions(&release)?;
    release.namespace.kubectl(&["delete", "pod", "-l", OPERATOR, "--wait"])?;
    until("a look of the new operator at both kinds", || {
        let handlers = counted(&release, "openlambda_operator_reconciles_total", "kind=\"Handler\"")?;
        Ok((reconciled(&release)? > 0.0 && handlers > 0.0).then_some(()))
    })?;
    let after = versions(&release)?;
    ensure!(after == before, "the new operator changed something: {after:#?}\nit was {before:#?}");
    // It applies everything once, as it cannot know that this is done, and then no more.
    let written = writes(&release)?;
    touch(&release, "thrice")?;
    ensure!(writes(&release)? == written, "a look wrote {} times", writes(&release)? - written);
    let mut last = versions(&release)?;
    // Of these one is new: the annotation's.
    last.insert(CLUSTER.to_owned(), before[CLUSTER].clone());
    ensure!(last == before, "the new operator changed something later: {last:#?}\nit was {before:#?}");
    Ok(())
}
