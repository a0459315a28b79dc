//! Nothing in a call's way needs the operator or the API server.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Release, kubectl, part};
use openlambda_tests::load::Load;
use openlambda_tests::{Request, until, until_within};
use serde_json::json;

use crate::shared::{self, constant};

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

/// Starts the API server again, also when a test fails.
pub struct ApiServerStopped;

impl ApiServerStopped {
    pub fn new() -> Result<Self> {
        part("stop", "kube-apiserver")?;
        Ok(Self)
    }
}

impl Drop for ApiServerStopped {
    fn drop(&mut self) {
        let _ = part("start", "kube-apiserver");
    }
}

/// Has the operator back, with one replica, also when a test fails.
struct OperatorAway<'a> {
    release: &'a Release,
    deployment: String,
}

impl<'a> OperatorAway<'a> {
    fn new(release: &'a Release) -> Result<Self> {
        let deployment = format!("deployment/{}-openlambda-operator", release.name());
        let this = Self { release, deployment };
        this.scale(0)?;
        // Kubernetes' own parts may still be slow from the other test here, which took their API server away; a pod that is about to end
        // still acts.
        until_within(AWAY * 2, "the operator's end", || {
            let select = "app.kubernetes.io/component=operator";
            let pods = release.namespace.kubectl(&["get", "pods", "-l", select, "-o", "name"])?;
            Ok(pods.trim().is_empty().then_some(()))
        })?;
        Ok(this)
    }

    fn scale(&self, replicas: u32) -> Result<()> {
        let replicas = format!("--replicas={replicas}");
        self.release.namespace.kubectl(&["scale", &self.deployment, &replicas]).map(drop)
    }
}

impl Drop for OperatorAway<'_> {
    fn drop(&mut self) {
        let _ = self.scale(1);
    }
}

#[test]
fn calls_go_on_without_the_operator() -> Result<()> {
    let release = shared::release()?;
    release.deploy("without-operator", &constant("old"))?;
    let away = OperatorAway::new(release)?;
    // The agents see the edit by themselves; nobody tells the status.
    release.namespace.handler("without-operator", &constant("new"))?;
    release.wait_for_answer("without-operator", &json!(null), &json!("new"))?;
    ensure!(release.namespace.get("handler/without-operator")?["status"]["observedGeneration"] == 1);
    away.scale(2)?;
    until("the status of the edit", || {
        let status = release.namespace.get("handler/without-operator")?["status"].take();
        Ok((status["observedGeneration"] == 2).then_some(()))
    })?;
    // Two replicas, of which one acts; when it goes, the other one does.
    release.namespace.kubectl(&["rollout", "status", &away.deployment, "--timeout=60s"])?;
    let lease = format!("{}-openlambda-operator", release.name());
    let holder = || -> Result<String> {
        let lease = release.namespace.get(&format!("lease/{lease}"))?;
        Ok(lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned())
    };
    let first = holder()?;
    let pods = release.namespace.pods_of("app.kubernetes.io/component=operator")?;
    let victim = pods.iter().find(|pod| first.contains(*pod));
    ensure!(victim.is_some(), "{first} is none of {pods:?}");
    release.namespace.kubectl(&["delete", "pod", victim.map_or("", String::as_str)])?;
    until("another holder", || Ok((holder()? != first).then_some(())))?;
    release.deploy("with-another-operator", &constant("yes"))
}

#[test]
fn calls_go_on_without_the_api_server() -> Result<()> {
    let release = shared::release()?;
    release.deploy("called", &constant("called"))?;
    release.deploy("never-called", &constant("never called"))?;
    let lard = release.lard()?;
    let restarts = restarts(release)?;
    let load = Load::start(2, lard, &[Request::call("called", &json!(null))]);
    load.progress(50)?;
    let stopped = ApiServerStopped::new()?;
    let start = Instant::now();
    // A first call, too: code and limits are on the nodes.
    let first = Request::call("never-called", &json!(null)).send_to(lard)?;
    ensure!(first.ok()? == json!("never called"));
    until_within(AWAY * 2, "a minute without the API server", || {
        load.progress(10)?;
        Ok((start.elapsed() >= AWAY).then_some(()))
    })?;
    drop(stopped);
    load.progress(50)?;
    let account = load.stop()?;
    println!("{} calls without the API server, the longest took {:?}", account.answered(), account.longest);
    account.without_failure()?;
    until_within(AWAY, "an API server that answers", || {
        Ok(kubectl(&["get", "--raw", "/readyz"]).is_ok().then_some(()))
    })?;
    // Everything follows it again, and nothing has restarted.
    release.namespace.handler("called", &constant("again"))?;
    // kube-proxy has to find the API server first, which it had taken out of the Service `kubernetes` when it ended.
    until_within(AWAY * 2, "the edit", || {
        let answer = Request::call("called", &json!(null)).send_to(lard)?.ok()?;
        Ok((answer == json!("again")).then_some(()))
    })?;
    release.namespace.wait_ready("handler/called")?;
    ensure!(restarts == self::restarts(release)?, "pods restarted\n{}", release.namespace.pods());
    Ok(())
}

/// Of agents and lard, by container.
fn restarts(release: &openlambda_tests::kubernetes::Release) -> Result<Vec<(String, u64)>> {
    let mut all = Vec::new();
    for pod in release.namespace.list("pods")? {
        let labels = &pod["metadata"]["labels"]["app.kubernetes.io/component"];
        if labels == "agent" || labels == "lard" {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            all.push((name, pod["status"]["containerStatuses"][0]["restartCount"].as_u64().unwrap_or(99)));
        }
    }
    all.sort();
    Ok(all)
}
