//! SIGKILL, out of nowhere, to each process of a worker and to lard: nothing is left, nothing is lost but what ran in it, and the
//! next call works.

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use openlambda_tests::books::{children, processes};
use openlambda_tests::{Cluster, Request, Response, settled, settled_as, until};
use serde_json::{Value, json};

const ECHO: &str = "def handler(event):\n    return event\n";
const COUNT: &str = "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return n\n";
const SLEEP: &str = "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n";
/// Handlers with a paused instance each.
const FAMILY: usize = 50;

fn kill_hard(pid: i32) -> Result<()> {
    kill(Pid::from_raw(pid), Signal::SIGKILL).with_context(|| format!("kill {pid}"))
}

/// Waits until so many calls run.
fn running(cluster: &Cluster, handler: &str, count: usize) -> Result<()> {
    until(&format!("{count} running calls of {handler}"), || {
        let instances = cluster.instances(handler)?;
        Ok((instances.iter().filter(|i| i["state"] == "running").count() == count).then_some(()))
    })
}

#[test]
fn a_zygote_with_fifty_children_leaves_all_of_them_alive() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let names: Vec<String> = (0..FAMILY).map(|index| format!("child-{index}")).collect();
    for name in &names {
        cluster.handler(name, COUNT)?;
        ensure!(cluster.call(name, &Value::Null)?.ok()? == json!(1));
    }
    let before = settled(&cluster, 0)?;
    ensure!(before.instances == FAMILY, "{before:?}");
    let zygotes = processes(&cluster, 0, "z-")?;
    ensure!(!zygotes.is_empty());
    zygotes.iter().try_for_each(|pid| kill_hard(*pid))?;
    // Each child still is the one that it was; and a new one comes, from the next Zygote.
    for name in &names {
        let answer = cluster.call(name, &Value::Null)?.ok()?;
        ensure!(answer == json!(2), "{name} lost its instance: {answer}");
    }
    cluster.handler("later", ECHO)?;
    ensure!(cluster.call("later", &json!("new"))?.ok()? == json!("new"));
    until("other Zygotes", || {
        let now = processes(&cluster, 0, "z-")?;
        Ok((!now.is_empty() && zygotes.iter().all(|pid| !now.contains(pid))).then_some(()))
    })?;
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn a_sandbox_costs_the_call_in_it_and_no_other() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"max_instances": 2}))?;
    cluster.handler("sleep", SLEEP)?;
    cluster.call("sleep", &json!(0))?.ok()?;
    let before = settled(&cluster, 0)?;
    for _ in 0..5 {
        let calls: Vec<_> = (0..2)
            .map(|_| Request::call("sleep", &json!(30)).open(cluster.worker_port(0)))
            .collect::<Result<_>>()?;
        running(&cluster, "sleep", 2)?;
        // One that was just born may not be in its group yet.
        settled(&cluster, 0)?;
        // Those of the two calls that run, and those that wait to be used.
        processes(&cluster, 0, "s-")?.into_iter().try_for_each(kill_hard)?;
        for call in calls {
            let message = Response::read(call)?.error(500, "function_crashed")?;
            ensure!(message.contains("SIGKILL"), "{message}");
        }
        // Before the kernel has taken the last of them apart, a spare that was killed looks as if it still listened.
        settled(&cluster, 0)?;
        ensure!(cluster.call("sleep", &json!(0))?.ok()? == json!(0));
    }
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}

#[test]
fn an_agent_is_swept_up_by_its_next_start() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    cluster.handler("count", COUNT)?;
    cluster.call("count", &Value::Null)?.ok()?;
    let before = settled(&cluster, 0)?;
    for round in 0..3 {
        let _calls: Vec<_> = (0..5)
            .map(|_| Request::call("sleep", &json!(60)).open(cluster.worker_port(0)))
            .collect::<Result<_>>()?;
        running(&cluster, "sleep", 5)?;
        let pid = cluster.worker_pid(0)?;
        // Its helper as well, which cleans up after it otherwise: then only the next start is left to do that.
        let spawner = children(pid.as_raw());
        if round == 2 {
            spawner.iter().try_for_each(|pid| kill_hard(*pid))?;
        }
        cluster.signal_worker(0, Signal::SIGKILL)?;
        cluster.wait_for_worker_end(pid)?;
        let old = cluster.cgroups(0)?;
        cluster.start_workers(1)?;
        ensure!(!old.iter().any(|path| path.exists()), "cgroups of the dead one are left: {old:?}");
        ensure!(cluster.call("count", &Value::Null)?.ok()? == json!(1), "an instance of the dead one serves");
        settled_as(&cluster, 0, &before)?;
    }
    cluster.stop()
}

#[test]
fn an_agent_without_its_nursery_ends_and_says_why() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("sleep", SLEEP)?;
    let call = Request::call("sleep", &json!(60)).open(cluster.worker_port(0))?;
    running(&cluster, "sleep", 1)?;
    let pid = cluster.worker_pid(0)?;
    kill_hard(nursery(pid.as_raw())?)?;
    Response::read(call)?.error(500, "function_crashed")?;
    // Whoever started it is to start it again: it does not stay and refuse calls.
    cluster.wait_for_worker_end(pid)?;
    let log = cluster.log(0)?;
    ensure!(log.contains("the nursery, in which sandboxes live, has ended"), "{log}");
    cluster.admin("kill", &[])?;
    cluster.traces().are_gone()?;
    cluster.start_workers(1)?;
    ensure!(cluster.call("sleep", &json!(0))?.ok()? == json!(0));
    cluster.stop()
}

#[test]
fn an_agent_without_its_spawner_serves_and_ends_clean() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("count", COUNT)?;
    ensure!(cluster.call("count", &Value::Null)?.ok()? == json!(1));
    let spawner = *children(cluster.worker_pid(0)?.as_raw()).first().context("no spawner")?;
    kill_hard(spawner)?;
    ensure!(cluster.call("count", &Value::Null)?.ok()? == json!(2));
    cluster.handler("echo", ECHO)?;
    ensure!(cluster.call("echo", &json!("new"))?.ok()? == json!("new"));
    cluster.stop()
}

fn nursery(agent: i32) -> Result<i32> {
    let spawner = *children(agent).first().context("no spawner")?;
    children(spawner).first().copied().context("no nursery")
}

#[test]
fn lard_comes_back_and_workers_do_not_mind() -> Result<()> {
    let cluster = Cluster::new(&json!({}))?;
    cluster.start_workers(2)?;
    cluster.start_balancer()?;
    cluster.handler("count", COUNT)?;
    cluster.handler("sleep", SLEEP)?;
    let through = |handler: &str, event: &Value| Request::call(handler, event).send(cluster.balancer_port());
    ensure!(through("count", &Value::Null)?.ok()? == json!(1));
    ensure!(through("sleep", &json!(0))?.ok()? == json!(0));
    let before = [settled(&cluster, 0)?, settled(&cluster, 1)?];
    let calls: Vec<_> = (0..5)
        .map(|_| Request::call("sleep", &json!(1)).open(cluster.balancer_port()))
        .collect::<Result<_>>()?;
    until("calls that run", || {
        let mut count = 0;
        for index in 0..2 {
            let state = cluster.state(index)?;
            let all = state["instances"].as_array().into_iter().flatten();
            count += all.filter(|i| i["handler"] == "sleep" && i["state"] == "running").count();
        }
        Ok((count == 5).then_some(()))
    })?;
    kill_hard(cluster.balancer_pid()?.as_raw())?;
    for call in calls {
        ensure!(Response::read(call).is_err(), "an answer of a dead lard");
    }
    cluster.start_balancer()?;
    // It may send the call to the other worker, whose instance is new.
    let count = through("count", &Value::Null)?.ok()?;
    ensure!(count == json!(2) || count == json!(1), "{count}");
    for (index, before) in (0..).zip(&before) {
        let after = settled_as(&cluster, index, before)?;
        ensure!(after.pid == before.pid, "worker-{index} was started anew");
    }
    cluster.stop()
}
