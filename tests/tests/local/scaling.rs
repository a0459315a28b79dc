//! Instances that are there before they are asked for, and the processors shared between handlers.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::json;

/// Sleeps as long as it is told to; dies when it is told nothing.
const SLEEP: &str = "import os, time\ndef handler(event):\n    if event is None:\n        os._exit(3)\n    time.sleep(event)\n    return event\n";

fn together(cluster: &Cluster, handler: &str, count: usize) -> Result<Vec<String>> {
    let calls: Vec<_> =
        (0..count).map(|_| Request::call(handler, &json!(0.3)).open(cluster.worker_port(0))).collect();
    let mut kinds = Vec::new();
    for call in calls {
        let answer = Response::read(call?)?;
        kinds.push(answer.header("x-start-kind").unwrap_or_default().to_owned());
        answer.ok()?;
    }
    Ok(kinds)
}

/// How many there are once all are idle: the sandbox that compiles the code is none of them.
fn idle_instances(cluster: &Cluster, handler: &str) -> Result<usize> {
    until(&format!("only idle instances of {handler}"), || {
        let all = cluster.instances(handler)?;
        let are_idle = all.iter().all(|i| i["state"] == "idle" || i["state"] == "paused");
        Ok((!all.is_empty() && are_idle).then_some(all.len()))
    })
}

fn await_instances(cluster: &Cluster, handler: &str, count: usize) -> Result<()> {
    until(&format!("{count} idle instances of {handler}"), || {
        let all = cluster.instances(handler)?;
        let idle = all.iter().filter(|i| i["state"] == "idle" || i["state"] == "paused").count();
        Ok((idle == count && all.len() == count).then_some(()))
    })
}

fn all_were_there(kinds: &[String]) -> Result<()> {
    ensure!(kinds.iter().all(|kind| kind == "warm" || kind == "unpaused"), "{kinds:?}");
    Ok(())
}

#[test]
fn the_warm_floor_is_kept_without_calls() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"min_warm": 3, "idle_timeout": "1s"}))?;
    cluster.handler("sleep", SLEEP)?;
    cluster.call("sleep", &json!(0))?.ok()?;
    await_instances(&cluster, "sleep", 3)?;
    until("an age beyond idle_timeout", || {
        let all = cluster.instances("sleep")?;
        ensure!(all.len() == 3, "{all:?}");
        Ok(all.iter().all(|i| i["unused_ms"].as_u64() > Some(2500)).then_some(()))
    })?;
    all_were_there(&together(&cluster, "sleep", 3)?)?;
    cluster.stop()
}

#[test]
fn what_the_cache_has_no_room_for_is_not_made_again() -> Result<()> {
    const REST: Duration = Duration::from_secs(2);
    let cluster = Cluster::with_worker(&json!({"handler_cache_size": "24Mi", "spares": 0}))?;
    let names: Vec<_> = (0..8).map(|number| format!("large{number}")).collect();
    for name in &names {
        cluster.handler(name, "kept = b'x' * (8 << 20)\ndef handler(event):\n    return event\n")?;
    }
    for name in names.iter().chain(&names) {
        cluster.call(name, &json!(1))?.ok()?;
    }
    let last = Instant::now();
    // Each would take the place of another, which would be made again in turn.
    until("rest", || {
        let state = cluster.state(0)?;
        let since = last.elapsed();
        let all = state["instances"].as_array().context("no instances in the state")?;
        let ages = all.iter().filter(|one| one["state"] != "trial").filter_map(|one| one["age_ms"].as_u64());
        let youngest = ages.min().context("the cache has room for some")?;
        ensure!(
            u128::from(youngest) + 100 > since.as_millis(),
            "one is {youngest} ms old, {since:?} after the last call"
        );
        Ok((since > REST).then_some(()))
    })?;
    cluster.stop()
}

#[test]
fn without_a_floor_all_instances_go() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"idle_timeout": "1s"}))?;
    cluster.handler("sleep", SLEEP)?;
    together(&cluster, "sleep", 3)?;
    await_instances(&cluster, "sleep", 0)?;
    cluster.stop()
}

#[test]
fn instances_that_were_lost_are_replaced_before_the_next_call() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    together(&cluster, "sleep", 4)?;
    let before = idle_instances(&cluster, "sleep")?;
    ensure!(before >= 4, "{before}");
    ensure!(cluster.call("sleep", &json!(null))?.status == 500);
    await_instances(&cluster, "sleep", before)?;
    all_were_there(&together(&cluster, "sleep", 4)?)?;
    cluster.stop()
}

#[test]
fn a_new_revision_has_as_many_instances_as_the_former() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    together(&cluster, "sleep", 4)?;
    let before = idle_instances(&cluster, "sleep")?;
    cluster.handler("sleep", &format!("{SLEEP}\n# new\n"))?;
    until("the new revision", || {
        let answer = cluster.call("sleep", &json!(0))?;
        let kind = answer.header("x-start-kind").unwrap_or_default().to_owned();
        answer.ok()?;
        Ok((kind != "warm" && kind != "unpaused").then_some(()))
    })?;
    await_instances(&cluster, "sleep", before)?;
    all_were_there(&together(&cluster, "sleep", 4)?)?;
    cluster.stop()
}

#[test]
fn a_handler_with_many_instances_leaves_others_their_share_of_the_processors() -> Result<()> {
    // All on one processor, so that they are in each other's way on any machine.
    let spin = "
import os, time
def handler(event):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    end, count = time.monotonic() + event, 0
    while time.monotonic() < end:
        count += 1
    return count
";
    let cluster = Cluster::with_worker(&json!({}))?;
    let port = cluster.worker_port(0);
    cluster.handler("hot", spin)?;
    cluster.handler("cold", spin)?;
    let hot: Vec<_> = (0..8).map(|_| Request::call("hot", &json!(4)).open(port)).collect();
    until("eight running instances", || {
        let all = cluster.instances("hot")?;
        Ok((all.iter().filter(|i| i["state"] == "running").count() == 8).then_some(()))
    })?;
    let cold = Request::call("cold", &json!(2)).send(port)?.ok()?.as_u64().context("no number")?;
    let mut most = 0;
    for call in hot {
        most = most.max(Response::read(call?)?.ok()?.as_u64().context("no number")?);
    }
    // In half the time of one of the eight: with equal shares it would have half of what that has, with its own four times as much.
    ensure!(cold as f64 > 1.5 * most as f64, "cold {cold}, the most of the hot {most}");
    cluster.stop()
}
