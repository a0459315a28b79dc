//! What happens to calls while their Handler is changed, broken and deleted.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use openlambda_tests::kubernetes::kubectl;
use openlambda_tests::load::Load;
use openlambda_tests::{Request, until, until_within};
use serde_json::json;

use crate::shared::{self, constant};

#[test]
fn an_edit_under_load_costs_no_call() -> Result<()> {
    let release = shared::release()?;
    release.deploy("edited", &constant("version 0"))?;
    let load = Load::start(4, release.lard()?, &[Request::call("edited", &json!(null))]);
    load.progress(50)?;
    for version in 1..=5 {
        let answer = format!("version {version}");
        release.namespace.handler("edited", &constant(&answer))?;
        release.wait_for_answer("edited", &json!(null), &json!(answer))?;
        load.progress(20)?;
    }
    release.namespace.wait_ready("handler/edited")?;
    // From now on the old one does not answer, on any agent.
    let after = Load::start(4, release.lard()?, &[Request::call("edited", &json!(null))]);
    after.progress(100)?;
    let (account, after) = (load.stop()?, after.stop()?);
    account.without_failure()?;
    after.without_failure()?;
    ensure!(account.answers.len() == 6, "not every version answered: {:?}", account.answers);
    ensure!(after.answers.keys().eq(["\"version 5\""]), "an old version answers: {:?}", after.answers);
    Ok(())
}

#[test]
fn a_broken_edit_leaves_the_old_one_and_names_the_line() -> Result<()> {
    let release = shared::release()?;
    release.deploy("broken", &constant("whole"))?;
    let load = Load::start(2, release.lard()?, &[Request::call("broken", &json!(null))]);
    load.progress(20)?;
    let start = Instant::now();
    release
        .namespace
        .handler("broken", "import json\n\nimport no_such_module\n\ndef handler(event):\n    return 1\n")?;
    let ready = until_within(Duration::from_secs(5), "the condition of the broken edit", || {
        let ready = release.namespace.condition("handler/broken", "Ready")?;
        Ok((ready["status"] == "False" && ready["observedGeneration"] == 2).then_some(ready))
    })?;
    println!("a broken edit is told after {:.2} s", start.elapsed().as_secs_f64());
    let message = ready["message"].as_str().unwrap_or_default();
    ensure!(ready["reason"] == "ImportFailed", "{ready}");
    ensure!(
        ["line 3", "no_such_module", "generation 1 keeps serving"].iter().all(|part| message.contains(part)),
        "{message}"
    );
    load.progress(50)?;
    let account = load.stop()?;
    account.without_failure()?;
    ensure!(account.answers.keys().eq(["\"whole\""]), "{:?}", account.answers);
    let events =
        release.namespace.kubectl(&["get", "events", "--field-selector=involvedObject.name=broken"])?;
    ensure!(events.contains("ImportFailed"), "{events}");
    // And it recovers.
    release.deploy("broken", &constant("mended"))?;
    release.wait_for_answer("broken", &json!(null), &json!("mended"))
}

#[test]
fn a_deleted_handler_is_gone_everywhere() -> Result<()> {
    let release = shared::release()?;
    release.deploy("deleted", "import os\ndef handler(event):\n    return os.getpid()\n")?;
    let load = Load::start(4, release.lard()?, &[Request::call("deleted", &json!(null))]);
    load.progress(20)?;
    load.stop()?.without_failure()?;
    ensure!(!release.instances("deleted")?.is_empty(), "no instance is there after calls");
    let before = sandboxes(release)?;
    release.namespace.kubectl(&["delete", "handler", "deleted"])?;
    until("404", || {
        let response = release.call("deleted", &json!(null))?;
        Ok((response.status == 404).then_some(()))
    })?;
    let message = release.call("deleted", &json!(null))?.error(404, "handler_not_found")?;
    ensure!(message.contains("deleted"), "{message}");
    until("the end of its instances", || Ok(release.instances("deleted")?.is_empty().then_some(())))?;
    until("the end of their processes", || Ok((sandboxes(release)? < before).then_some(())))?;
    for agent in release.agents()? {
        let handlers = release.namespace.admin(&agent, "/debug/handlers")?.to_string();
        ensure!(!handlers.contains("\"deleted\""), "{agent} still has it: {handlers}");
    }
    let files = bundles(release)?;
    ensure!(!files.contains("deleted"), "files are left: {files}");
    Ok(())
}

/// The processes with a root of their own in the agents' pods: Zygotes and sandboxes.
fn sandboxes(release: &openlambda_tests::kubernetes::Release) -> Result<usize> {
    let count = "for p in /proc/[0-9]*; do tr '\\0' ' ' <$p/cmdline; echo; done 2>/dev/null | grep -c python3 || true";
    let mut sum = 0;
    for agent in release.agents()? {
        let namespace = release.namespace.name();
        let text = kubectl(&["--namespace", namespace, "exec", &agent, "--", "sh", "-c", count])?;
        sum += text.trim().parse::<usize>()?;
    }
    Ok(sum)
}

/// What the agents keep on disk.
fn bundles(release: &openlambda_tests::kubernetes::Release) -> Result<String> {
    let mut all = String::new();
    for agent in release.agents()? {
        let namespace = release.namespace.name();
        all += &kubectl(&[
            "--namespace",
            namespace,
            "exec",
            &agent,
            "--",
            "find",
            "/var/lib/openlambda",
            "-maxdepth",
            "4",
        ])?;
    }
    Ok(all)
}
