//! Ten times as many calls as can be served: what is let through is served as well as ever, the rest is told when to come back,
//! and nothing grows. For a longer run: `cargo xtask bench overload`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::json;
use support::process::{start, targets};
use support::timed::{Timed, config};
use tokio::net::TcpStream;
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Two agents with two slots each, and handlers of 50 ms: 80 calls per second.
const CAPACITY: f64 = 80.0;
const WAITING: u32 = 20;
const CLIENTS: u32 = 200;
const SPAN: Duration = Duration::from_secs(4);

/// No test: the process that the tests start from this same binary.
#[test]
#[ignore = "the others run it as a process"]
fn be_a_timed_agent() {
    support::timed::be_one();
}

struct Made {
    status: u16,
    took: Duration,
    retry_after: bool,
}

/// One client of many: it calls as often as its share is, on one connection.
async fn client(lard: SocketAddr, number: u32) -> Vec<Made> {
    let stream = TcpStream::connect(lard).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut ticks = interval(Duration::from_secs_f64(f64::from(CLIENTS) / CAPACITY / 10.0));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut made, end) = (Vec::new(), Instant::now() + SPAN);
    while Instant::now() < end {
        ticks.tick().await;
        let request = Request::post(format!("/run/f{}?exec=50", number % 8)).header("host", "x");
        let sent = Instant::now();
        sender.ready().await.unwrap();
        let answer = sender.send_request(request.body(Full::<Bytes>::from("1")).unwrap()).await.unwrap();
        let (status, retry_after) = (answer.status().as_u16(), answer.headers().contains_key("retry-after"));
        answer.into_body().collect().await.unwrap();
        made.push(Made { status, took: sent.elapsed(), retry_after });
    }
    made
}

/// In KiB.
fn resident(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse().unwrap()
}

async fn load(lard: SocketAddr) -> Vec<Made> {
    let clients: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(client(lard, number))).collect();
    let mut made = Vec::new();
    for client in clients {
        made.extend(client.await.unwrap());
    }
    made
}

#[tokio::test]
async fn overload_costs_those_that_are_served_nothing_and_the_others_are_told_to_come_back() {
    let agents = [
        Timed::start(&["--slots", "2", "--cold-ms", "3"]).await,
        Timed::start(&["--slots", "2", "--cold-ms", "3"]).await,
    ];
    let mut config = config("CostAware", &[&agents[0], &agents[1]]);
    config["MaxConnPerServer"] = json!(4);
    config["QueueLength"] = json!(WAITING);
    let lard = start(config).await;
    // All buffers get their size.
    load(lard.address).await;
    let before = resident(lard.child.id().unwrap());
    let begun = Instant::now();
    let made = load(lard.address).await;
    let span = begun.elapsed().as_secs_f64();
    let after = resident(lard.child.id().unwrap());

    let served: Vec<Duration> = made.iter().filter(|one| one.status == 200).map(|one| one.took).collect();
    let refused = made.iter().filter(|one| one.status == 429 && one.retry_after).count();
    assert_eq!(served.len() + refused, made.len(), "each is served, or refused and told when to come back");
    assert!(refused > 4 * served.len(), "{refused} refused, {} served: that was no overload", served.len());
    let goodput = served.len() as f64 / span;
    assert!(goodput >= 0.8 * CAPACITY, "{goodput:.0} of {CAPACITY} calls per second");
    // What is before a call: those that wait and those that run, at the rate at which they are served.
    let longest = Duration::from_secs_f64(2.0 * f64::from(WAITING + 8) / CAPACITY);
    let worst = served.iter().max().unwrap();
    assert!(*worst < longest, "a call took {worst:?}, over {longest:?}");
    assert!(after < before + 4096, "lard has grown from {before} to {after} KiB");
    let targets = targets(&lard).await;
    assert_eq!((&targets["running"], &targets["waiting"]), (&json!(0), &json!(0)), "nothing is left");
}
