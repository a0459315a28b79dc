//! The worker: its own paths, warm instances, pausing, the cache, queues, time limits.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::{Value, json};

const COUNT: &str = "n = 0\ndef handler(event):\n    global n\n    n += 1\n    return n\n";
const SLEEP: &str = "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n";

fn kind(response: &Response) -> &str {
    response.header("x-start-kind").unwrap_or("")
}

#[test]
fn status_rid_history_and_metrics() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    let status = cluster.send(&Request::get("/status"))?;
    ensure!(status.status == 200 && status.text() == "ready\n");
    let rid = cluster.send(&Request::get("/rid?query=mpi"))?.text();
    let lines: Vec<f64> = rid.lines().map(str::parse).collect::<Result<_, _>>()?;
    ensure!(
        lines.len() == 3 && lines[0] > 1e6 && lines[1] >= 1.0 && (0.0..=100.0).contains(&lines[2]),
        "{rid}"
    );
    let usage = cluster.send(&Request::get("/rid?query=x"))?;
    ensure!(usage.status == 400 && usage.text().contains("query"), "{}", usage.text());
    cluster.handler("count", COUNT)?;
    cluster.call("count", &Value::Null)?.ok()?;
    let history = cluster.send(&Request::get("/history"))?.text();
    ensure!(history.contains("count,0") && history.contains("[cold],0"), "{history}");
    let metrics = cluster.metrics()?;
    for line in [
        "openlambda_handler_invocations_total{code=\"200\",handler=\"count\"} 1",
        "openlambda_starts_total{kind=\"zygote\"} 1",
        "openlambda_zygotes 1",
    ] {
        ensure!(metrics.contains(line), "no {line} in\n{metrics}");
    }
    let lost = cluster.send(&Request::get("/nowhere"))?;
    lost.error(404, "not_found")?;
    cluster.stop()
}

#[test]
fn a_warm_instance_is_used_again_and_a_paused_one_wakes() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"pause_after": "50ms"}))?;
    cluster.handler("count", COUNT)?;
    let first = cluster.call("count", &Value::Null)?;
    ensure!(kind(&first) == "zygote" && first.ok()? == json!(1), "{first:?}");
    let timing = first.header("server-timing").context("no server-timing")?;
    for phase in ["queue", "sandbox", "load", "handler"] {
        ensure!(timing.contains(&format!("{phase};dur=")), "{timing}");
    }
    until("a paused instance", || {
        Ok(cluster.instances("count")?.iter().any(|i| i["state"] == "paused").then_some(()))
    })?;
    let second = cluster.call("count", &Value::Null)?;
    ensure!(kind(&second) == "unpaused" && second.ok()? == json!(2), "{second:?}");
    says_that_it_keeps(&cluster, "1.00")?;
    ensure!(cluster.instances("count")?.len() == 1);
    cluster.stop()
}

#[test]
fn a_paused_instance_does_not_run() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"pause_after": "10ms"}))?;
    // A thread that notes how long it was without the processor.
    let source = r"
import threading, time
gaps = [0.0]
def watch():
    last = time.monotonic()
    while True:
        time.sleep(0.005)
        now = time.monotonic()
        gaps[0] = max(gaps[0], now - last)
        last = now
def handler(event):
    if event == 'start':
        threading.Thread(target=watch, daemon=True).start()
        return 0
    time.sleep(0.05)
    return gaps[0]
";
    cluster.handler("watch", source)?;
    cluster.call("watch", &json!("start"))?.ok()?;
    let paused_at = until("a paused instance", || {
        Ok(cluster.instances("watch")?.iter().any(|i| i["state"] == "paused").then(Instant::now))
    })?;
    until("half a second of pause", || Ok((paused_at.elapsed() > Duration::from_millis(500)).then_some(())))?;
    let gap = cluster.call("watch", &json!("read"))?.ok()?;
    ensure!(gap.as_f64() > Some(0.45), "the thread ran on: longest gap {gap} s");
    cluster.stop()
}

#[test]
fn the_cache_keeps_what_fits_and_evicts_the_least_recently_used() -> Result<()> {
    let cluster = Cluster::with_worker(
        &json!({"handler_cache_size": "6Mi", "pause_after": "1ms", "import_cache_size": 0}),
    )?;
    // Each holds some 3 MiB: two fit.
    let source = format!("KEEP = bytearray(2 << 20)\n{COUNT}");
    for name in ["a", "b", "c"] {
        cluster.handler(name, &source)?;
        cluster.call(name, &Value::Null)?.ok()?;
        until("the instance at rest", || {
            Ok(cluster.instances(name)?.iter().all(|i| i["state"] == "paused").then_some(()))
        })?;
    }
    until("the eviction of a", || Ok(cluster.instances("a")?.is_empty().then_some(())))?;
    ensure!(kind(&cluster.call("c", &Value::Null)?) == "unpaused");
    ensure!(kind(&cluster.call("a", &Value::Null)?) == "zygote");
    cluster.stop()
}

/// Waits until the worker tells lard that of its handlers' instances this share is kept.
fn says_that_it_keeps(cluster: &Cluster, share: &str) -> Result<()> {
    let part = format!("named_metrics.kept={share}");
    until(&part, || {
        let load = Request::get("/debug/load").send(cluster.worker_port(0) + 1000)?.text();
        Ok(load.contains(&part).then_some(()))
    })
}

#[test]
fn without_a_cache_every_call_starts_anew() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"handler_cache_size": 0, "import_cache_size": 0}))?;
    cluster.handler("count", COUNT)?;
    for _ in 0..5 {
        let response = cluster.call("count", &Value::Null)?;
        ensure!(response.ok()? == json!(1) && kind(&response) == "zygote");
    }
    says_that_it_keeps(&cluster, "0.00")?;
    until("no instance", || Ok(cluster.instances("count")?.is_empty().then_some(())))?;
    cluster.stop()
}

#[test]
fn calls_of_one_handler_run_side_by_side_up_to_the_limit() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"max_instances": 2, "queue_length": 100}))?;
    cluster.handler("sleep", SLEEP)?;
    let calls: Vec<_> =
        (0..6).map(|_| Request::call("sleep", &json!(0.2)).open(cluster.worker_port(0))).collect();
    let at_most_two = || {
        let mut instances = cluster.instances("sleep")?;
        instances.retain(|instance| instance["state"] != "trial");
        ensure!(instances.len() <= 2, "{instances:?}");
        Ok(instances.len())
    };
    until("two instances", || Ok((at_most_two()? == 2).then_some(())))?;
    for call in calls {
        ensure!(Response::read(call?)?.ok()? == json!(0.2));
        at_most_two()?;
    }
    cluster.stop()
}

#[test]
fn several_calls_share_a_sandbox_where_max_runners_allows() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"max_runners": 4, "max_instances": 1}))?;
    let source = "import threading, os\nbarrier = threading.Barrier(4)\ndef handler(event):\n    barrier.wait(20)\n    \
                  return os.getpid()\n";
    cluster.handler("meet", source)?;
    // Each waits for the three others: only if all four run at once does any return.
    let calls: Vec<_> =
        (0..4).map(|_| Request::call("meet", &Value::Null).open(cluster.worker_port(0))).collect();
    for call in calls {
        Response::read(call?)?.ok()?;
    }
    let mut instances = cluster.instances("meet")?;
    instances.retain(|instance| instance["state"] != "trial");
    ensure!(instances.len() == 1, "{instances:?}");
    cluster.stop()
}

#[test]
fn a_full_queue_and_a_long_wait_are_refused() -> Result<()> {
    let conf = json!({"max_instances": 1, "queue_length": 1, "queue_timeout": "300ms"});
    let cluster = Cluster::with_worker(&conf)?;
    cluster.handler("sleep", SLEEP)?;
    let running = Request::call("sleep", &json!(2)).open(cluster.worker_port(0))?;
    until("the running call", || {
        Ok(cluster.instances("sleep")?.iter().any(|i| i["state"] == "running").then_some(()))
    })?;
    let waiting = Request::call("sleep", &json!(0)).open(cluster.worker_port(0))?;
    until("the waiting call", || {
        Ok(cluster
            .metrics()?
            .lines()
            .any(|l| l.starts_with("openlambda_queue_depth") && l.ends_with(" 1"))
            .then_some(()))
    })?;
    let refused = cluster.call("sleep", &json!(0))?;
    refused.error(429, "concurrency_exceeded")?;
    ensure!(refused.header("retry-after").is_some());
    // The one that waited in vain is told so, too.
    let waited = Response::read(waiting)?;
    ensure!([429, 503, 504].contains(&waited.status), "{waited:?}");
    ensure!(Response::read(running)?.ok()? == json!(2));
    ensure!(cluster.call("sleep", &json!(0))?.ok()? == json!(0));
    cluster.stop()
}

#[test]
fn a_call_over_its_time_is_killed_and_the_next_works() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"limits": {"timeout": "500ms"}}))?;
    cluster.handler("sleep", SLEEP)?;
    let began = Instant::now();
    let message = cluster.call("sleep", &json!(60))?.error(504, "function_timeout")?;
    ensure!(message.contains("500 ms"), "{message}");
    ensure!(began.elapsed() < Duration::from_secs(10));
    ensure!(cluster.call("sleep", &json!(0))?.ok()? == json!(0));
    // A caller may want it sooner, never later.
    let sooner = Request::call("sleep", &json!(0.3)).header("X-Timeout", "50ms");
    cluster.send(&sooner)?.error(504, "function_timeout")?;
    let later = Request::call("sleep", &json!(60)).header("X-Timeout", "1h");
    cluster.send(&later)?.error(504, "function_timeout")?;
    cluster
        .send(&Request::call("sleep", &json!(0)).header("X-Timeout", "soon"))?
        .error(400, "bad_request")?;
    cluster.stop()
}
