//! `admin` and `kubectl openlambda` with a LambdaCluster in place of a directory.

use std::os::unix::fs::symlink;
use std::process::Command;

use anyhow::{Result, ensure};
use openlambda_tests::cluster::binary;
use openlambda_tests::kubernetes::{Namespace, Release, admin, handler, kubectl};
use openlambda_tests::until;

use crate::shared::HELLO;

/// Must fail with these words.
fn refused(arguments: &[&str], part: &str) -> Result<()> {
    let outcome = admin(arguments)?;
    ensure!(!outcome.success && outcome.text.contains(part), "{arguments:?}: {}, not {part:?}", outcome.text);
    Ok(())
}

/// Must go well; gives what it says.
fn done(arguments: &[&str]) -> Result<String> {
    let outcome = admin(arguments)?;
    ensure!(outcome.success, "{arguments:?}: {}", outcome.text);
    Ok(outcome.text)
}

#[test]
fn a_cluster_is_made_changed_and_ended() -> Result<()> {
    let release = Release::without_cluster("verbs")?;
    let (namespace, mine) = (&release.namespace, "k8s://verbs/mine");
    refused(&["status", "--cluster", mine], "there is no LambdaCluster mine in the namespace verbs")?;
    refused(
        &["new", "--cluster", "k8s://no-such-namespace/mine"],
        "there is no namespace no-such-namespace",
    )?;
    let made = done(&["new", "--cluster", mine])?;
    ensure!(made.contains("made LambdaCluster mine") && !made.contains("nobody looks after it"), "{made}");
    refused(&["new", "--cluster", mine], "there is a LambdaCluster mine in the namespace verbs already")?;

    ensure!(done(&["workers", "--cluster", mine])?.contains("2/2 agents are ready"), "not both nodes");
    ensure!(
        done(&["workers", "--cluster", mine, "-n", "1"])?.contains("1/1 agents are ready"),
        "not one node"
    );
    let marked = || kubectl(&["get", "nodes", "-l", "mine.verbs.openlambda.dev/agent=true", "-o", "name"]);
    ensure!(marked()?.lines().count() == 1, "{}", marked()?);
    refused(&["workers", "--cluster", mine, "-n", "9"], "of 2 nodes 2 can have an agent")?;
    ensure!(done(&["workers", "--cluster", mine])?.contains("2/2 agents are ready"), "not both nodes");
    ensure!(marked()?.is_empty(), "{}", marked()?);

    refused(&["setconf", "--cluster", mine, "{\"loadBalancr\": {}}"], "unknown field \"spec.loadBalancr\"")?;
    let low = "{\"loadBalancer\": {\"loadLowPercent\": 90}}";
    refused(&["setconf", "--cluster", mine, low], "loadLowPercent must be below loadHighPercent")?;
    done(&["setconf", "--cluster", mine, "{\"loadBalancer\": {\"replicas\": 1}}"])?;
    until("one replica of lard", || {
        Ok((namespace.get("deployment/mine-lard")?["spec"]["replicas"] == 1).then_some(()))
    })?;

    namespace.apply(&handler("hello", HELLO).to_string())?;
    namespace.wait_ready("handler/hello")?;
    namespace.wait_ready("lambdacluster/mine")?;
    let status = done(&["status", "--cluster", mine])?;
    for part in ["2/2 agents", "AgentsReady", "mine-agent-", "hello"] {
        ensure!(status.contains(part), "{part} is not in {status}");
    }
    namespace.apply(&handler("broken", "import nothing_of_this_name\n").to_string())?;
    until("the end of its trial", || {
        Ok((namespace.condition("handler/broken", "Stalled")?["status"] == "True").then_some(()))
    })?;
    refused(&["status", "--cluster", mine], "nothing_of_this_name")?;
    as_a_plugin()?;

    let ended = done(&["kill", "--cluster", mine])?;
    ensure!(ended.contains("deleted LambdaCluster mine") && ended.contains("broken, hello"), "{ended}");
    ensure!(
        namespace.list("pods")?.iter().all(|pod| !pod["metadata"]["name"].to_string().contains("mine-")),
        "{}",
        namespace.pods()
    );
    refused(&["kill", "--cluster", mine], "there is no LambdaCluster mine")
}

/// The same program as kubectl finds it.
fn as_a_plugin() -> Result<()> {
    let folder = tempfile::tempdir()?;
    symlink(binary("admin")?, folder.path().join("kubectl-openlambda"))?;
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH")?);
    for words in [
        vec!["--cluster", "verbs/mine"],
        vec!["--cluster", "mine", "--namespace", "verbs"],
        vec!["-n", "verbs", "--cluster", "mine"],
    ] {
        let mut command = Command::new("kubectl");
        let output = command
            .args(["openlambda", "setconf"])
            .args(&words)
            .arg("{\"ingress\": null}")
            .env("PATH", &path)
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success() && text.contains("set ingress in spec of the LambdaCluster mine"),
            "{words:?}: {text}"
        );
    }
    Ok(())
}

#[test]
fn a_cluster_that_no_operator_looks_after_is_said_to_be_one() -> Result<()> {
    openlambda_tests::kubernetes::install_crds()?;
    let namespace = Namespace::new("unattended")?;
    let made = done(&["new", "--cluster", "k8s://unattended/mine"])?;
    ensure!(made.contains("nobody looks after it"), "{made}");
    refused(&["status", "--cluster", "k8s://unattended/mine"], "nobody looks after it")?;
    drop(namespace);
    Ok(())
}
