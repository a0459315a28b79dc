//! Connections that are held open and used for nothing.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit};
use openlambda_tests::books::resident;
use openlambda_tests::{Cluster, Request, settled, settled_as, until, until_within};
use serde_json::json;

/// What a worker and lard are to bear.
const TARGET: usize = 10_000;
/// Those that send no head are closed after ten seconds: so long the first of them are surely there.
const OPENING: Duration = Duration::from_secs(8);
/// What the test itself needs besides.
const OWN: usize = 500;
/// The most that an idle connection may cost.
const BYTES_EACH: u64 = 24 * 1024;

/// As many as this process may open, and as can be opened while all are there.
fn open(port: u16) -> Result<Vec<TcpStream>> {
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = TARGET.min(usize::try_from(soft)?.saturating_sub(OWN));
    let (to, began) = (SocketAddr::from((Ipv4Addr::LOCALHOST, port)), Instant::now());
    let mut all = Vec::with_capacity(most);
    while all.len() < most && began.elapsed() < OPENING {
        all.push(TcpStream::connect_timeout(&to, Duration::from_secs(5)).context("it takes no connection")?);
    }
    ensure!(all.len() >= TARGET / 10, "this machine opens only {} connections in {OPENING:?}", all.len());
    Ok(all)
}

fn descriptors(pid: i32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

#[test]
fn ten_thousand_idle_connections_keep_no_call_waiting() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.start_balancer()?;
    cluster.handler("echo", "def handler(event):\n    return event\n")?;
    ensure!(Request::call("echo", &json!(1)).send(cluster.balancer_port())?.ok()? == json!(1));
    let before = settled(&cluster, 0)?;
    let targets = [
        ("worker", cluster.worker_port(0), cluster.worker_pid(0)?),
        ("lard", cluster.balancer_port(), cluster.balancer_pid()?),
    ];
    for (name, port, pid) in targets {
        let pid = pid.as_raw();
        let (files, memory) = (descriptors(pid)?, resident(pid)?);
        let idle = open(port)?;
        let (count, mut peak) = (idle.len(), 0);
        until("that it has taken them all", || {
            peak = peak.max(descriptors(pid)? - files);
            Ok((peak >= count).then_some(()))
        })
        .with_context(|| format!("{name} has taken {peak} of {count} connections"))?;
        let began = Instant::now();
        for round in 0..20 {
            ensure!(Request::call("echo", &json!(round)).send(port)?.ok()? == json!(round));
        }
        let took = began.elapsed() / 20;
        ensure!(took < Duration::from_secs(1), "{name}: a call takes {took:?} beside {count} connections");
        let each = resident(pid)?.saturating_sub(memory) / count as u64;
        ensure!(each < BYTES_EACH, "{name}: {each} bytes for each of {count} connections");
        println!("{name}: {count} connections (of {TARGET}), {each} bytes each, a call takes {took:?}");
        drop(idle);
        until_within(Duration::from_secs(60), "the end of the connections", || {
            Ok((descriptors(pid)? <= files + 10).then_some(()))
        })?;
    }
    settled_as(&cluster, 0, &before)?;
    cluster.stop()
}
