//! `bench overhead`: what lard adds to a warm call, against haproxy and nginx as reverse proxies before the same backend.
//!
//! The backend costs next to nothing, so that the proxy is what counts. Each proxy has one thread and passes on the same
//! calls: small POSTs of 2,000 handlers, to 8 agents. What it costs is the CPU time of its process per call; how many calls
//! a core can take follows from that, for the load on this machine takes more of the CPUs than the proxy does.

mod proxies;

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow};

use self::proxies::{Agents, Proxy};
use super::machine::{self, Side};
use super::process::Running;
use super::report::{Bound, Report};
use super::subject::calls;
use super::{Bench, work_folder};
use crate::http::{Connection, Request};

const AGENTS: usize = 8;
const HANDLERS: usize = 2000;
const CONNECTIONS: usize = 32;
/// Calls of a block, over all connections.
const CALLS: usize = 64_000;
/// Calls of a block on one connection, one after the other.
const SINGLE: u32 = 4000;
const EVENT: &str = r#"{"name": "x", "n": 3} "#;

/// What is measured of one proxy.
struct Names {
    cpu: &'static str,
    get: &'static str,
    capacity: &'static str,
    single: &'static str,
    added: &'static str,
}

const fn names(proxy: Proxy) -> Names {
    macro_rules! named {
        ($name:literal) => {
            Names {
                cpu: concat!($name, ", CPU of a call"),
                get: concat!($name, ", CPU of a GET"),
                capacity: concat!($name, ", calls of a core"),
                single: concat!($name, ", 1 connection"),
                added: concat!($name, ", added to the p50"),
            }
        };
    }
    match proxy {
        Proxy::Lard => named!("lard"),
        Proxy::LardByLard => named!("lard by LARD"),
        Proxy::Haproxy => named!("haproxy"),
        Proxy::Nginx => named!("nginx"),
    }
}

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    machine::run_on(Side::Servers)?;
    let (folder, _cleanup) = work_folder("bench-overhead")?;
    let agents = Agents::start(bench, AGENTS)?;
    let mut report = Report::new("overhead");
    let mut running = Vec::new();
    for proxy in Proxy::ALL {
        match proxy.find(bench) {
            Some(program) => running.push((names(proxy), proxy.start(&program, &agents, &folder)?)),
            None => report.note(format!("NOT MEASURED: {} is not in PATH", proxy.name())),
        }
    }
    machine::run_on(Side::Client)?;
    let (posts, gets) = (requests("POST", EVENT), requests("GET", ""));
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        let direct = calls(agents.first()?, &posts[0], SINGLE, Duration::ZERO)?;
        let direct_p50 = super::stats::median(&direct);
        report.add("directly, 1 connection", "us", direct);
        for (names, proxy) in &running {
            let single = calls(proxy.address, &posts[0], SINGLE, Duration::ZERO)?;
            report.add(names.added, "us", vec![super::stats::median(&single) - direct_p50]);
            report.add(names.single, "us", single);
            let cpu = cpu_of_a_call(proxy, &posts)?;
            report.add(names.cpu, "us", vec![cpu]);
            report.add(names.capacity, "/s", vec![1e6 / cpu]);
            report.add(names.get, "us", vec![cpu_of_a_call(proxy, &gets)?]);
        }
    }
    targets(&mut report);
    Ok(report)
}

fn targets(report: &mut Report) {
    let [lard, haproxy, nginx] = [Proxy::Lard, Proxy::Haproxy, Proxy::Nginx].map(names);
    report.ratio(lard.cpu, haproxy.cpu, Bound::AtMost(1.1));
    report.ratio(lard.cpu, nginx.cpu, Bound::AtMost(1.0));
    report.figure(lard.added, Bound::AtMost(50.0));
    report.figure(lard.capacity, Bound::AtLeast(45_000.0));
    report.ratio(lard.get, haproxy.get, Bound::None);
    report.ratio(lard.get, nginx.get, Bound::None);
    report.ratio(names(Proxy::LardByLard).cpu, lard.cpu, Bound::None);
    report.figure(haproxy.added, Bound::None);
    report.figure(nginx.added, Bound::None);
    report.note(format!(
        "{HANDLERS} handlers, {AGENTS} agents, {CONNECTIONS} connections. The client has one CPU; agents and proxies share the others."
    ));
}

fn requests(method: &str, body: &str) -> Vec<Request> {
    (0..HANDLERS).map(|number| Request::json(method, &format!("/run/h{number}"), body)).collect()
}

/// Microseconds of CPU that the proxy takes for a call when it is kept busy.
fn cpu_of_a_call(proxy: &Running, requests: &[Request]) -> Result<f64> {
    // Connections, homes of handlers and memory get warm.
    drive(proxy.address, requests, CALLS / 8)?;
    let before = proxy.cpu()?;
    drive(proxy.address, requests, CALLS)?;
    Ok((proxy.cpu()? - before).as_secs_f64() * 1e6 / CALLS as f64)
}

/// So many calls in all, each connection with its part of the handlers.
fn drive(address: SocketAddr, requests: &[Request], count: usize) -> Result<()> {
    thread::scope(|scope| {
        let drivers: Vec<_> = requests
            .chunks(requests.len().div_ceil(CONNECTIONS))
            .map(|own| scope.spawn(move || drive_one(address, own, count / CONNECTIONS)))
            .collect();
        drivers.into_iter().try_for_each(|driver| driver.join().map_err(|_| anyhow!("a driver panicked"))?)
    })
}

fn drive_one(address: SocketAddr, requests: &[Request], count: usize) -> Result<()> {
    let mut connection = Connection::open(address)?;
    for request in requests.iter().cycle().take(count) {
        let response = connection.call(request)?;
        anyhow::ensure!(response.status == 200, "answered {} {}", response.status, response.text());
    }
    Ok(())
}
