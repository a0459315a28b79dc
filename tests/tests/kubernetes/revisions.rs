//! Revisions of a Handler: calls that are split between them, going back, and how many are kept.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::{Release, admin};
use openlambda_tests::load::Load;
use openlambda_tests::{Request, until};
use serde_json::{Value, json};

use crate::shared::{self, constant};

const HANDLER: &str = "handler/split";

fn handler(version: u32, more: &Value) -> String {
    let mut spec = json!({"cluster": "demo", "source": {"inline": constant(&format!("v{version}"))}});
    if let (Some(spec), Some(more)) = (spec.as_object_mut(), more.as_object()) {
        spec.extend(more.clone());
    }
    let metadata = json!({"name": "split"});
    json!({"apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": metadata, "spec": spec})
        .to_string()
}

fn patch(release: &Release, spec: &Value) -> Result<()> {
    let patch = json!({"spec": spec}).to_string();
    release.namespace.kubectl(&["patch", HANDLER, "--type=merge", "-p", &patch]).map(drop)
}

/// The status' `activeRevision`, and what gets how much.
fn shares(release: &Release) -> Result<(String, BTreeMap<String, i64>)> {
    let status = release.namespace.get(HANDLER)?["status"].clone();
    let rows = status["revisions"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = rows.iter().map(|row| (text(&row["name"]), row["percent"].as_i64().unwrap_or_default()));
    Ok((text(&status["activeRevision"]), rows.collect()))
}

fn await_shares(release: &Release, active: &str, wanted: &[(&str, i64)]) -> Result<()> {
    let wanted = wanted.iter().map(|(name, percent)| ((*name).to_owned(), *percent)).collect();
    until(&format!("the shares {wanted:?} and {active}"), || {
        Ok((shares(release)? == (active.to_owned(), BTreeMap::clone(&wanted))).then_some(()))
    })
}

/// Of two hundred request ids, how many get which answer; each is asked twice.
fn answers(release: &Release) -> Result<BTreeMap<String, u32>> {
    let (lard, mut counts) = (release.lard()?, BTreeMap::new());
    for number in 0..200 {
        let request = Request::call("split", &Value::Null).header("X-Request-ID", &format!("id-{number}"));
        let both = [request.send_to(lard)?.ok()?, request.send_to(lard)?.ok()?];
        ensure!(both[0] == both[1], "id-{number} was answered by {} and {}", both[0], both[1]);
        *counts.entry(both[0].as_str().unwrap_or_default().to_owned()).or_default() += 1;
    }
    Ok(counts)
}

fn all(release: &Release, version: &str) -> Result<()> {
    let seen = answers(release)?;
    ensure!(seen.keys().eq([version]), "{seen:?}");
    Ok(())
}

#[test]
fn calls_are_split_between_revisions_and_go_back() -> Result<()> {
    let release = shared::release()?;
    let namespace = &release.namespace;
    namespace.apply(&handler(1, &json!({})))?;
    namespace.wait_ready(HANDLER)?;
    namespace.kubectl(&["wait", "controllerrevision/split-1", "--for=create", "--timeout=30s"])?;
    let load = Load::start(2, release.lard()?, &[Request::call("split", &json!(null))]);

    // A new one for a tenth of the calls, from its first answer on.
    let canary = json!([{"revision": "split-1", "percent": 90}, {"percent": 10}]);
    namespace.apply(&handler(2, &json!({"traffic": canary})))?;
    namespace.wait_ready(HANDLER)?;
    await_shares(release, "split-1", &[("split-1", 90), ("split-2", 10)])?;
    let seen = answers(release)?;
    ensure!(seen["v1"] > 150 && (4..50).contains(&seen["v2"]), "{seen:?}");

    // All of them, by its name: that is no new revision.
    patch(release, &json!({"traffic": [{"revision": "split-2", "percent": 100}]}))?;
    await_shares(release, "split-2", &[("split-1", 0), ("split-2", 100)])?;
    namespace.wait_ready(HANDLER)?;
    all(release, "v2")?;

    // What cannot be had leaves what serves, and says so.
    patch(release, &json!({"traffic": [{"revision": "split-99", "percent": 50}, {"percent": 50}]}))?;
    until("the condition that names the revision", || {
        let ready = namespace.condition(HANDLER, "Ready")?;
        let message = ready["message"].as_str().unwrap_or_default();
        Ok((ready["reason"] == "ReferenceNotFound" && message.contains("no revision split-99")).then_some(()))
    })?;
    all(release, "v2")?;
    let short = json!({"traffic": [{"revision": "split-1", "percent": 50}, {"percent": 49}]});
    let refused = namespace.attempt(&["apply", "-f", "-"], &handler(2, &short))?;
    ensure!(!refused.success && refused.text.contains("the percents must add up to 100"), "{}", refused.text);

    // Back to the one before, whatever the spec has now.
    let cluster = format!("k8s://{}/demo", namespace.name());
    let said = admin(&["rollback", "--cluster", &cluster, "--handler", "split"])?;
    ensure!(said.success && said.text.contains("split-1 again"), "{}", said.text);
    await_shares(release, "split-1", &[("split-1", 100), ("split-2", 0)])?;
    all(release, "v1")?;
    namespace.apply(&handler(2, &json!({})))?;
    await_shares(release, "split-2", &[("split-1", 0), ("split-2", 100)])?;
    namespace.wait_ready(HANDLER)?;
    all(release, "v2")?;
    let account = load.stop()?;
    account.without_failure()?;
    ensure!(account.answers.keys().eq(["\"v1\"", "\"v2\""]), "{:?}", account.answers);

    only_some_are_kept(release)
}

/// The last two, and none of a Handler that is gone.
fn only_some_are_kept(release: &Release) -> Result<()> {
    let namespace = &release.namespace;
    let kept = || -> Result<usize> { Ok(of_split(release)?.lines().count()) };
    for version in 3..=5 {
        namespace.apply(&handler(version, &json!({"revisionHistoryLimit": 2})))?;
        release.wait_for_answer("split", &Value::Null, &json!(format!("v{version}")))?;
        namespace.wait_ready(HANDLER)?;
    }
    until("two revisions", || {
        let (active, rows) = shares(release)?;
        Ok((kept()? == 2 && rows.len() == 2 && rows.get(&active) == Some(&100)).then_some(()))
    })?;
    namespace.kubectl(&["delete", HANDLER])?;
    until("the end of its revisions", || Ok((kept()? == 0).then_some(())))
}

fn of_split(release: &Release) -> Result<String> {
    let label = "openlambda.dev/handler=split";
    release.namespace.kubectl(&["get", "controllerrevisions", "-l", label, "-o", "name"])
}
