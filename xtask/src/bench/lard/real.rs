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
/// Simulations of a round: where handlers first went decides for long, so that one run of the same scenario differs from another by
/// ten points.
const SEEDS: std::ops::Range<u64> = 100..120;
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
         of each; medians of {} rounds by their hits, least to greatest, against means of {} simulations for each round\n\
         {:<12} {:>8} {:>23} {:>8} {:>8} {:>8} {:>8} {:>14} {:>12}",
        SETS.len(),
        bench.rounds,
        SEEDS.count(),
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
        let rounds = (1..=bench.rounds).map(|round| live(bench, &cluster, policy, (calls, round.into())));
        let mut rounds: Vec<_> = rounds.collect::<Result<_>>()?;
        rounds.sort_by(|(one, _), (other, _)| one.hit_rate.total_cmp(&other.hit_rate));
        let simulated = Simulated::of(rounds.iter().map(|(_, scenario)| scenario));
        let (least, most) = (rounds[0].0.hit_rate, rounds[rounds.len() - 1].0.hit_rate);
        let (live, scenario) = rounds.swap_remove(rounds.len() / 2);
        let off = (live.hit_rate - simulated.hit_rate).abs() * 100.0;
        let percent = |share: f64| share * 100.0;
        met &= off <= POINTS;
        println!(
            "{:<12} {:>8.0} {:>6.1} % ({:.1} to {:.1}) {:>6.1} % {:>6.1} % {:>6.1} % {:>6.1} % {:>14.1} {:>12.1}  {off:.1} points off, <= {POINTS} {}",
            policy.name(),
            live.throughput,
            percent(live.hit_rate),
            percent(least),
            percent(most),
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

/// What the simulation expects: means.
struct Simulated {
    hit_rate: f64,
    fork_rate: f64,
    throughput: f64,
}

impl Simulated {
    fn of<'a>(scenarios: impl Iterator<Item = &'a Scenario>) -> Self {
        let seeded = |scenario: &'a Scenario| SEEDS.map(|seed| Scenario { seed, ..scenario.clone() });
        let outcomes: Vec<_> = scenarios.flat_map(seeded).map(|scenario| simulate::run(&scenario)).collect();
        let mean = |of: fn(&Outcome) -> f64| outcomes.iter().map(of).sum::<f64>() / outcomes.len() as f64;
        Self {
            hit_rate: mean(|o| o.hit_rate),
            fork_rate: mean(|o| o.fork_rate),
            throughput: mean(|o| o.throughput),
        }
    }
}

/// New workers and a new lard; the packages are installed from the first time on.
fn live(
    bench: &Bench,
    cluster: &LocalCluster,
    policy: PolicyKind,
    (calls, seed): (usize, u64),
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
        requests: calls,
        declared: false,
        under_way: Some(UNDER_WAY),
        seed,
        ..Scenario::new(policy, WORKERS.into())
    };
    let drive = || drive(lard.address, UNDER_WAY, simulate::calls(&scenario).take(calls), &SHAPE);
    let (made, kept) = watched(&workers, drive)?;
    let scenario = Scenario {
        sandboxes: kept.instances,
        zygotes: kept.zygotes,
        slots: u32::try_from(kept.slots)?,
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

/// What a worker has, or the sum of what some have at some moments.
#[derive(Clone, Copy, Default)]
struct Kept {
    instances: usize,
    zygotes: usize,
    /// Calls at once, as it reports them.
    slots: usize,
}

impl Kept {
    fn and(self, other: Self) -> Self {
        Self {
            instances: self.instances + other.instances,
            zygotes: self.zygotes + other.zygotes,
            slots: self.slots + other.slots,
        }
    }

    fn mean(self, count: usize) -> Self {
        let mean = |sum: usize| (sum as f64 / count.max(1) as f64).round().max(1.0) as usize;
        Self { instances: mean(self.instances), zygotes: mean(self.zygotes), slots: mean(self.slots) }
    }
}

/// Does something, and tells what a worker had meanwhile: the mean of all of them, all the while but for the first fifth.
fn watched<T>(workers: &[SocketAddr], work: impl FnOnce() -> Result<T>) -> Result<(T, Kept)> {
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
    let sum = counted.iter().copied().fold(Kept::default(), Kept::and);
    Ok((done?, sum.mean(counted.len() * workers.len())))
}

/// What the workers have, together.
fn kept(workers: &[SocketAddr]) -> Result<Kept> {
    workers.iter().try_fold(Kept::default(), |sum, worker| Ok(sum.and(kept_by(*worker)?)))
}

fn kept_by(worker: SocketAddr) -> Result<Kept> {
    let mut connection = Connection::open(local(worker.port() + 1000))?;
    let state: Value =
        serde_json::from_slice(&connection.call(&Request::json("GET", "/debug/state", ""))?.body)?;
    let nodes = state["import_cache"]["nodes"].as_array().context("no Zygotes in the state")?;
    let ready = nodes.iter().filter(|node| node["state"] == "ready" && !node["parent"].is_null());
    let load = connection.call(&Request::json("GET", "/debug/load", ""))?.text();
    let slots = load.split([',', ' ']).find_map(|metric| metric.strip_prefix("named_metrics.slots="));
    Ok(Kept {
        instances: state["instances"].as_array().map_or(0, Vec::len),
        zygotes: ready.count(),
        slots: slots.with_context(|| format!("a worker reports no slots: {load}"))?.parse()?,
    })
}
