//! `bench lard --live`, second part: three real workers with real packages behind lard.
//!
//! Handlers share package sets; they sleep, so that the two CPUs of a small machine are for starts. A worker has room for some of the
//! instances and for some of the Zygotes. What it turns out to have, and what starts turn out to cost, is what the simulation gets.

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use openlambda_policy::balance::PolicyKind;
use openlambda_policy::simulate::{self, Outcome, Scenario, Start};
use serde_json::{Value, json};

use super::drive::{Shape, drive, mean_wait, outcome};
use super::{POINTS, Row};
use crate::bench::process::lard;
use crate::bench::{Bench, work_folder};
use crate::cluster::{LocalCluster, local};
use crate::http::{self, Connection, Request, Response};
use crate::ports;

const WORKERS: u16 = 3;
const POLICIES: [PolicyKind; 3] = [PolicyKind::LeastLoaded, PolicyKind::Lard, PolicyKind::CostAware];
/// What handlers import: the packages, and the modules.
const SETS: [(&str, &str); 6] = [
    ("numpy==2.2.1", "numpy"),
    ("numpy==2.2.1\npandas==2.2.3", "pandas"),
    ("requests==2.32.3", "requests"),
    ("flask==3.1.0", "flask"),
    ("jinja2==3.1.5\nrequests==2.32.3", "jinja2, requests"),
    ("boto3==1.35.90", "boto3"),
];
const HANDLERS: u32 = 90;
const UNDER_WAY: usize = 6;
const EXEC_MS: f64 = 20.0;
/// Of each worker: for about a third of the handlers, and for about half of the package sets.
const INSTANCES: &str = "160Mi";
const ZYGOTES: &str = "96Mi";
/// Calls per worker that lard lets be under way: as the simulation has it for four slots.
const MAX_CONN: u32 = 26;
/// How often workers are asked what they have.
const LOOK: Duration = Duration::from_millis(250);
/// All packages are installed after this time.
const INSTALLED: Duration = Duration::from_secs(180);
const SHAPE: Shape = Shape { request, start };

/// Measures with so many calls of each policy. True if all came as simulated.
pub fn run(bench: &Bench, calls: usize) -> Result<(Vec<(Row, Value)>, bool)> {
    let cluster = LocalCluster::new(&bench.built, "bench-real")?;
    cluster.configure(&json!({
        "response_details": true, "handler_cache_size": INSTANCES, "import_cache_size": ZYGOTES, "spares": 0,
        "limits": {"memory": "512Mi"}
    }))?;
    deploy(&cluster)?;
    println!(
        "\n{WORKERS} workers with real packages behind lard, {calls} calls of {HANDLERS} handlers with {} package sets, {UNDER_WAY} under way:\n\
         live against a simulation with the instances, Zygotes and costs that there were\n\
         {:<12} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>14} {:>12}",
        SETS.len(),
        "policy",
        "calls/s",
        "hits",
        "sim.",
        "forks",
        "sim.",
        "imports",
        "mean start ms",
        "p99"
    );
    let (mut rows, mut met) = (Vec::new(), true);
    for policy in POLICIES {
        let (live, scenario) = live(bench, &cluster, policy, calls)?;
        let simulated = simulate::run(&scenario);
        let off = (live.hit_rate - simulated.hit_rate).abs() * 100.0;
        let percent = |share: f64| share * 100.0;
        met &= off <= POINTS;
        println!(
            "{:<12} {:>8.0} {:>6.1} % {:>6.1} % {:>6.1} % {:>6.1} % {:>6.1} % {:>14.1} {:>12.1}  {off:.1} points off, <= {POINTS} {}",
            policy.name(),
            live.throughput,
            percent(live.hit_rate),
            percent(simulated.hit_rate),
            percent(live.fork_rate),
            percent(simulated.fork_rate),
            percent(1.0 - live.hit_rate - live.fork_rate),
            live.start_mean_ms,
            live.start_p99_ms,
            if off <= POINTS { "ok" } else { "MISS" },
        );
        let json =
            json!({"simulated_hit_rate": simulated.hit_rate, "simulated_throughput": simulated.throughput});
        rows.push((Row { scenario, outcome: live }, json));
    }
    Ok((rows, met))
}

fn deploy(cluster: &LocalCluster) -> Result<()> {
    for number in 0..HANDLERS {
        let (packages, modules) = SETS[set(number)];
        let folder = cluster.directory().join(format!("registry/f{number}"));
        fs::create_dir_all(&folder)?;
        // The sleep is the handler's work: as long as the simulation's, and of no CPU.
        let source = format!(
            "import time, {modules}\ndef handler(event):\n    time.sleep(event / 1000)\n    return {number}\n"
        );
        fs::write(folder.join("lambda_func.py"), source)?;
        fs::write(folder.join("requirements.txt"), packages)?;
    }
    Ok(())
}

/// The package set of a handler, as the simulation has it.
fn set(function: u32) -> usize {
    let sets = SETS.len() as u32;
    let scenario = Scenario { package_sets: sets, ..Scenario::new(PolicyKind::Lard, 1) };
    // The digests of the sets, in any order: each stands for one.
    let mut digests: Vec<u64> = (0..HANDLERS).map(|function| scenario.packages(function)).collect();
    digests.sort_unstable();
    digests.dedup();
    digests.binary_search(&scenario.packages(function)).unwrap_or_default() % SETS.len()
}

fn request(function: u32, exec: f64) -> Request {
    Request::post(&format!("/run/f{function}"), &format!("{exec:.3}"))
}

fn start(response: &Response) -> Result<Start> {
    if response.status != 200 {
        bail!("a call was answered {} {}", response.status, response.text());
    }
    match response.header(http::START_KIND) {
        Some("warm" | "unpaused") => Ok(Start::Warm),
        Some("zygote" | "spare") => Ok(Start::Fork),
        Some("cold") => Ok(Start::Import),
        other => bail!("an answer says that its start was {other:?}"),
    }
}

/// New workers and a new lard; the packages are installed from the first time on.
fn live(
    bench: &Bench,
    cluster: &LocalCluster,
    policy: PolicyKind,
    calls: usize,
) -> Result<(Outcome, Scenario)> {
    let workers = cluster.workers(WORKERS, ports::free(8080, WORKERS)?)?;
    workers.iter().try_for_each(|worker| install(*worker))?;
    // What was called while packages were installed shall not count as warm.
    cluster.admin("kill", &[] as &[&str])?;
    let workers = cluster.workers(WORKERS, workers[0].port())?;
    let (folder, _cleanup) = work_folder("bench-real-lard")?;
    let servers: Vec<Value> = workers
        .iter()
        .map(|worker| json!({"Host": "127.0.0.1", "Port": worker.port(), "AdminPort": worker.port() + 1000, "MaxConn": MAX_CONN}))
        .collect();
    let lard = lard(bench, json!({"Policy": policy.name(), "LoadLow": 0.15, "Servers": servers}), &folder)?;
    let scenario = Scenario {
        functions: HANDLERS,
        package_sets: SETS.len() as u32,
        exec_ms: EXEC_MS,
        slots: 4,
        requests: calls,
        declared: false,
        under_way: Some(UNDER_WAY),
        ..Scenario::new(policy, WORKERS.into())
    };
    let drive = || drive(lard.address, UNDER_WAY, simulate::calls(&scenario).take(calls), &SHAPE);
    let (made, (sandboxes, zygotes)) = watched(&workers, drive)?;
    let scenario = Scenario {
        sandboxes,
        zygotes,
        fork_ms: mean_wait(&made, Start::Fork).unwrap_or(scenario.fork_ms),
        cold_ms: mean_wait(&made, Start::Import).unwrap_or(scenario.cold_ms),
        ..scenario
    };
    let outcome = outcome(made)?;
    drop(lard);
    cluster.admin("kill", &[] as &[&str])?;
    Ok((outcome, scenario))
}

/// Calls one handler of each set until its packages are there.
fn install(worker: SocketAddr) -> Result<()> {
    let end = Instant::now() + INSTALLED;
    for wanted in 0..SETS.len() {
        let handler = (0..HANDLERS).find(|handler| set(*handler) == wanted);
        let handler = handler.with_context(|| format!("no handler has package set {wanted}"))?;
        loop {
            let response = Connection::open(worker)?.call(&request(handler, 0.0))?;
            match response.status {
                200 => break,
                // They are being installed.
                503 if Instant::now() < end => {}
                status => bail!("handler f{handler} answered {status} {}", response.text()),
            }
        }
    }
    Ok(())
}

/// Does something, and tells how many instances and Zygotes a worker had meanwhile: the mean of all of them, all the while
/// but for the first fifth.
fn watched<T>(workers: &[SocketAddr], work: impl FnOnce() -> Result<T>) -> Result<(T, (usize, usize))> {
    let (over, has_ended) = mpsc::channel::<()>();
    let look = move || {
        let mut seen = Vec::new();
        // Nothing is ever sent: that the other end is dropped ends it.
        while has_ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
            seen.push(kept(workers)?);
        }
        anyhow::Ok(seen)
    };
    let (done, seen) = thread::scope(|scope| {
        let looking = scope.spawn(look);
        let done = work();
        drop(over);
        (done, looking.join())
    });
    let seen = seen.map_err(|_| anyhow!("who watches the workers panicked"))??;
    let counted = &seen[seen.len() / 5..];
    let mean = |of: fn(&(usize, usize)) -> usize| {
        let sum: usize = counted.iter().map(of).sum();
        (sum as f64 / (counted.len() * workers.len()).max(1) as f64).round().max(1.0) as usize
    };
    Ok((done?, (mean(|seen| seen.0), mean(|seen| seen.1))))
}

/// How many instances and Zygotes the workers have, together.
fn kept(workers: &[SocketAddr]) -> Result<(usize, usize)> {
    let (mut instances, mut zygotes) = (0, 0);
    for worker in workers {
        let mut connection = Connection::open(local(worker.port() + 1000))?;
        let state: Value =
            serde_json::from_slice(&connection.call(&Request::json("GET", "/debug/state", ""))?.body)?;
        instances += state["instances"].as_array().map_or(0, Vec::len);
        let nodes = state["import_cache"]["nodes"].as_array().context("no Zygotes in the state")?;
        zygotes += nodes.iter().filter(|node| node["state"] == "ready" && !node["parent"].is_null()).count();
    }
    Ok((instances, zygotes))
}
