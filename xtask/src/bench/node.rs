//! `bench node`: a node that is full of handlers, one whose handlers run into their limits, and what it costs to wake a paused instance.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use serde_json::json;

use super::report::{Bound, Report};
use super::stats::median;
use super::subject::{Subject, request, settled, starts, throughput};
use super::{Bench, machine};
use crate::http::{Connection, Request};
use crate::vm;

/// Handlers that are deployed and called, and those whose instances must be there afterwards.
const DEPLOYED: u32 = 2000;
const PAUSED: u32 = 1000;
/// Handlers called before the count begins, so that pools and caches of the worker are not counted as a handler's.
const FIRST: u32 = 20;
/// Four fifths of 8 GiB: what the worker takes by itself of such a node.
const POOL: &str = "6553Mi";
const CONNECTIONS: u32 = 16;
/// Longer than `pause_after` of the worker that pauses.
const GAP: Duration = Duration::from_millis(30);
const PACED: u32 = 200;
const CALLS: u32 = 4000;
const MB: f64 = 1e6;

/// What a neighbour does all the time, and up to which limit.
const NEIGHBOURS: [(&str, &str, &str); 3] = [
    (
        "alone, then beside memory",
        "beside one at its memory limit",
        "def handler(event):\n    keep = []\n    while True:\n        keep.append(bytearray(1 << 20))\n",
    ),
    (
        "alone, then beside cpu",
        "beside one at its cpu limit",
        "def handler(event):\n    while True:\n        pass\n",
    ),
    (
        "alone, then beside pids",
        "beside one at its pids limit",
        "import os\ndef handler(event):\n    while True:\n        try:\n            os.fork()\n        except OSError:\n            pass\n",
    ),
];

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("node");
    density(bench, &mut report)?;
    unpausing(bench, &mut report)?;
    neighbours(bench, &mut report)?;
    Ok(report)
}

fn density(bench: &Bench, report: &mut Report) -> Result<()> {
    let options = json!({"memory_pool": POOL, "handler_cache_size": "64Gi", "idle_timeout": "1h", "import_cache_size": 0});
    let subject = Subject::start(bench, "bench-node", &options, DEPLOYED)?;
    call_all(subject.worker, 0..FIRST)?;
    let (processes, before) = (settled()?, machine::memory_in_use());
    call_all(subject.worker, FIRST..FIRST + PAUSED)?;
    let (kept, after) = (settled()?.saturating_sub(processes), machine::memory_in_use());
    ensure!(kept >= PAUSED as usize, "only {kept} of {PAUSED} instances were kept");
    report.add(
        "memory per paused handler",
        "MB",
        vec![after.saturating_sub(before) as f64 / f64::from(PAUSED) / MB],
    );
    report.figure("memory per paused handler", Bound::AtMost(1.3));
    call_all(subject.worker, FIRST + PAUSED..DEPLOYED)?;
    call_all(subject.worker, 0..DEPLOYED)?;
    report.note(format!(
        "{DEPLOYED} handlers on a pool of {POOL}: {} calls over {CONNECTIONS} connections, all answered 200. Memory per paused handler: \
         AnonPages + Slab + KernelStack + PageTables + Percpu of the machine, over {PAUSED} of them.",
        2 * DEPLOYED
    ));
    Ok(())
}

/// Calls each once; an answer that is no 200 is an error.
fn call_all(worker: SocketAddr, handlers: std::ops::Range<u32>) -> Result<()> {
    let next = AtomicU32::new(handlers.start);
    let drive = || -> Result<()> {
        let mut connection = Connection::open(worker)?;
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= handlers.end {
                return Ok(());
            }
            let response = connection.call(&request(number))?;
            if response.status != 200 {
                bail!("handler h{number} answered {} {}", response.status, response.text());
            }
        }
    };
    thread::scope(|scope| {
        let drivers: Vec<_> = (0..CONNECTIONS).map(|_| scope.spawn(drive)).collect();
        drivers.into_iter().try_for_each(|driver| driver.join().map_err(|_| anyhow!("a driver panicked"))?)
    })
}

/// The same calls at the same pace to a worker that pauses between them and to one that does not.
fn unpausing(bench: &Bench, report: &mut Report) -> Result<()> {
    let pausing =
        Subject::start(bench, "bench-pausing", &json!({"pause_after": "10ms", "response_details": true}), 1)?;
    let awake =
        Subject::start(bench, "bench-awake", &json!({"pause_after": "1h", "response_details": true}), 1)?;
    for _ in 0..bench.rounds {
        let paused = starts(pausing.worker, &request(0), PACED, GAP, &["unpaused"])?;
        let warm = starts(awake.worker, &request(0), PACED, GAP, &["warm"])?;
        report.add("unpausing", "us", vec![median(&paused) - median(&warm)]);
        report.add("call of a paused instance", "us", paused);
        report.add("call of an idle instance", "us", warm);
    }
    // The bound on cgroup v2 is 50: there the same is measured in the virtual machine.
    report.figure("unpausing", Bound::AtMost(if vm::host_has_cgroup_v2() { 50.0 } else { 150.0 }));
    Ok(())
}

/// A healthy handler over one connection, alone and beside one that runs into a limit all the time.
fn neighbours(bench: &Bench, report: &mut Report) -> Result<()> {
    let limits = json!({"memory": "64Mi", "cpu": "500m", "pids": 32, "timeout": "2s"});
    let options = json!({"limits": limits, "response_details": false});
    let healthy = [request(0)];
    for (alone, name, source) in NEIGHBOURS {
        let subject = Subject::start(bench, "bench-neighbour", &options, 1)?;
        subject.handler("bad", source)?;
        for _ in 0..bench.rounds {
            report.add(alone, "/s", vec![throughput(subject.worker, &healthy, CALLS, false)?]);
            let beside = beside(subject.worker, || throughput(subject.worker, &healthy, CALLS, false))?;
            report.add(name, "/s", vec![beside]);
        }
        report.ratio(name, alone, Bound::AtLeast(0.9));
    }
    report.note(
        "Neighbours: 64 MiB, half a CPU, 32 processes; called again as soon as they were killed.".into(),
    );
    Ok(())
}

/// Measures while the neighbour is called without pause.
fn beside(worker: SocketAddr, measure: impl FnOnce() -> Result<f64>) -> Result<f64> {
    let (stop, begun) = (AtomicBool::new(false), AtomicBool::new(false));
    thread::scope(|scope| {
        let neighbour = scope.spawn(|| -> Result<()> {
            let call = Request::post("/runLambda/bad", "{}");
            while !stop.load(Ordering::Relaxed) {
                begun.store(true, Ordering::Relaxed);
                let response = Connection::open(worker)?.call(&call)?;
                ensure!(response.status >= 500, "the neighbour answered {}", response.status);
            }
            Ok(())
        });
        while !begun.load(Ordering::Relaxed) && !neighbour.is_finished() {
            thread::yield_now();
        }
        let measured = measure();
        stop.store(true, Ordering::Relaxed);
        neighbour.join().map_err(|_| anyhow!("the neighbour's driver panicked"))??;
        measured
    })
}
