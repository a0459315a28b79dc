//! What is measured: a local cluster of release binaries, and ways to call it.

use std::fs;
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use serde_json::Value;

use super::{Bench, machine};
use crate::cluster::LocalCluster;
use crate::http::{self, Connection, Request};
use crate::ports;

/// The same as the anchor's handler and event.
const HANDLER: &str = "def handler(event):
    n = int(event.get(\"n\", 1))
    return {\"hello\": event.get(\"name\"), \"sq\": [i * i for i in range(n)]}
";
const EVENT: &str = r#"{"name": "x", "n": 3} "#;
/// Calls that are not counted: connections, code objects and memory get warm.
const WARM_UP: u32 = 20;
const SETTLE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// A cluster with one worker.
pub struct Subject {
    cluster: LocalCluster,
    /// The worker.
    pub worker: SocketAddr,
}

/// How long calls took, in microseconds, in the order they were made.
pub type Times = Vec<f64>;

impl Subject {
    /// Starts a worker with these options and so many handlers, `h0`, `h1`, …
    pub fn start(bench: &Bench, purpose: &str, options: &Value, handlers: u32) -> Result<Self> {
        Self::with(bench, purpose, options, handlers, HANDLER, "")
    }

    /// The same with other handlers: all have this source, and these packages.
    pub fn with(
        bench: &Bench,
        purpose: &str,
        options: &Value,
        handlers: u32,
        source: &str,
        requirements: &str,
    ) -> Result<Self> {
        let cluster = LocalCluster::new(&bench.built, purpose)?;
        cluster.configure(options)?;
        for number in 0..handlers {
            let folder = cluster.directory().join(format!("registry/h{number}"));
            fs::create_dir_all(&folder)?;
            fs::write(folder.join("lambda_func.py"), source)?;
            if !requirements.is_empty() {
                fs::write(folder.join("requirements.txt"), requirements)?;
            }
        }
        let workers = cluster.workers(1, ports::free(8080, 1)?)?;
        let worker = *workers.first().context("no worker was started")?;
        Ok(Self { cluster, worker })
    }

    /// Deploys one more handler.
    pub fn handler(&self, name: &str, source: &str) -> Result<()> {
        let folder = self.cluster.directory().join("registry").join(name);
        fs::create_dir_all(&folder)?;
        Ok(fs::write(folder.join("lambda_func.py"), source)?)
    }

    /// Starts lard in front of the worker.
    pub fn load_balancer(&self) -> Result<SocketAddr> {
        self.cluster.load_balancer(ports::free(7079, 1)?)
    }
}

/// The request that all sides of a benchmark get.
pub fn request(handler: u32) -> Request {
    Request::post(&format!("/runLambda/h{handler}"), EVENT)
}

/// Calls on one connection, one after the other, `gap` apart.
pub fn calls(address: SocketAddr, request: &Request, count: u32, gap: Duration) -> Result<Times> {
    let mut connection = Connection::open(address)?;
    for _ in 0..WARM_UP {
        call(&mut connection, request)?;
    }
    (0..count)
        .map(|_| {
            if !gap.is_zero() {
                thread::sleep(gap);
            }
            call(&mut connection, request)
        })
        .collect()
}

/// Cold starts: like [`calls`], and each answer must say that it was one.
pub fn cold_calls(address: SocketAddr, request: &Request, count: u32, gap: Duration) -> Result<Times> {
    let mut connection = Connection::open(address)?;
    let kind = connection.call(request)?.header(http::START_KIND).map(str::to_owned);
    match kind.as_deref() {
        Some("zygote" | "cold") => calls(address, request, count, gap),
        other => bail!("a call that must be a cold start says it was {other:?}"),
    }
}

/// Calls on one connection, `gap` apart, each of which must start a sandbox of one of these kinds. Of those that start otherwise only a
/// few are tolerated, and none is counted.
pub fn starts(
    address: SocketAddr,
    request: &Request,
    count: u32,
    gap: Duration,
    kinds: &[&str],
) -> Result<Times> {
    let mut connection = Connection::open(address)?;
    let (mut times, mut others) = (Vec::new(), 0);
    while times.len() < count as usize {
        thread::sleep(gap);
        let start = Instant::now();
        let response = connection.call(request)?;
        let time = start.elapsed();
        if response.status != 200 {
            bail!("a call was answered {} {}", response.status, response.text());
        }
        let kind = response.header(http::START_KIND).unwrap_or_default();
        if kinds.contains(&kind) {
            times.push(time.as_secs_f64() * 1e6);
        } else {
            others += 1;
            if others > count.max(10) {
                bail!("{others} calls started {kind:?}, not {kinds:?}");
            }
        }
    }
    Ok(times)
}

/// Calls until packages are installed and a Zygote has them.
pub fn await_start(address: SocketAddr, request: &Request, kinds: &[&str]) -> Result<()> {
    let end = Instant::now() + SETTLE * 3;
    let mut connection = Connection::open(address)?;
    loop {
        let response = connection.call(request)?;
        let kind = response.header(http::START_KIND).unwrap_or_default().to_owned();
        if response.status == 200 && kinds.contains(&kind.as_str()) {
            return Ok(());
        }
        if Instant::now() > end {
            bail!("in vain waited for a start {kinds:?}: {} {kind} {}", response.status, response.text());
        }
        thread::sleep(POLL);
        if response.status != 200 {
            connection = Connection::open(address)?;
        }
    }
}

fn call(connection: &mut Connection, request: &Request) -> Result<f64> {
    let start = Instant::now();
    let response = connection.call(request)?;
    let time = start.elapsed();
    if response.status != 200 {
        bail!("a call was answered {} {}", response.status, response.text());
    }
    Ok(time.as_secs_f64() * 1e6)
}

/// Calls per second over so many connections, each with its own request, until each has made `count` calls and, if
/// `teardown`, until the sandboxes are gone.
pub fn throughput(address: SocketAddr, requests: &[Request], count: u32, teardown: bool) -> Result<f64> {
    let mut connections = requests
        .iter()
        .map(|request| Ok((Connection::open(address)?, request)))
        .collect::<Result<Vec<_>>>()?;
    for (connection, request) in &mut connections {
        call(connection, request)?;
    }
    let before = if teardown { settled()? } else { 0 };
    let start = Instant::now();
    thread::scope(|scope| {
        let drivers: Vec<_> = connections
            .iter_mut()
            .map(|(connection, request)| {
                scope.spawn(|| (0..count).try_for_each(|_| call(connection, request).map(drop)))
            })
            .collect();
        drivers.into_iter().try_for_each(|driver| driver.join().map_err(|_| anyhow!("a driver panicked"))?)
    })?;
    while teardown && machine::sandboxed_processes() > before {
        if start.elapsed() > SETTLE {
            bail!("sandboxes are still there {SETTLE:?} after the calls");
        }
    }
    Ok(f64::from(count) * requests.len() as f64 / start.elapsed().as_secs_f64())
}

/// Waits until the number of sandboxed processes stands still, and gives it.
pub fn settled() -> Result<usize> {
    let end = Instant::now() + SETTLE;
    let (mut last, mut same) = (machine::sandboxed_processes(), 0);
    while same < 10 {
        if Instant::now() > end {
            bail!("the number of sandboxed processes still changes after {SETTLE:?}");
        }
        thread::sleep(POLL);
        let now = machine::sandboxed_processes();
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    Ok(last)
}
