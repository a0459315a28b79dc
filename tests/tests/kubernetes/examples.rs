//! The manifests in `examples/`: the API server takes them as they are, and what needs nothing from outside serves.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use openlambda_tests::kubernetes::{Namespace, Release, attempt, repository};
use openlambda_tests::until;
use serde_json::json;

fn example(name: &str) -> Result<String> {
    fs::read_to_string(repository().join("examples").join(name)).with_context(|| name.to_owned())
}

#[test]
fn the_examples_are_taken_as_they_are_and_the_self_contained_ones_serve() -> Result<()> {
    let release = Release::without_cluster("examples")?;
    release.namespace.apply(&example("cluster-minimal.yaml")?)?;
    release.namespace.wait_ready("lambdacluster/demo")?;
    release.namespace.apply(&example("handlers.yaml")?)?;
    release.namespace.wait_ready("handler/hello")?;
    let balancer = release.balancers()?.swap_remove(0);
    let path = format!("/api/v1/namespaces/examples/pods/{balancer}:8080/proxy/run/hello");
    let called =
        attempt("kubectl", &["create", "--raw", &path, "-f", "-"], &json!({"name": "Ada"}).to_string())?;
    ensure!(called.success && called.text.trim() == "\"Hello, Ada!\"", "{}", called.text);
    // It names a cluster that is not in this namespace.
    until("the missing cluster of report", || {
        let ready = release.namespace.condition("handler/report", "Ready")?;
        Ok((ready["reason"] == "ClusterNotFound").then_some(()))
    })?;
    // Its ConfigMaps and its Secret come with it; the packages would come from an index.
    until("the source of notify", || {
        let source = release.namespace.condition("handler/notify", "SourceResolved")?;
        Ok((source["status"] == "True").then_some(()))
    })
}

/// It wants a registry, a package index and nodes that are not here: it is only asked whether it may be made.
#[test]
fn every_example_passes_strict_validation() -> Result<()> {
    let _release = crate::shared::release()?;
    let _functions = Namespace::new("functions")?;
    let mut count = 0;
    for entry in fs::read_dir(repository().join("examples"))? {
        let file = entry?.path().display().to_string();
        if file.ends_with(".yaml") {
            let arguments = ["create", "--dry-run=server", "--validate=strict", "-f", &file];
            let outcome = attempt("kubectl", &arguments, "")?;
            ensure!(outcome.success, "{file}: {}", outcome.text);
            count += 1;
        }
    }
    ensure!(count >= 3, "only {count} examples");
    Ok(())
}
