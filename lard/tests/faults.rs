//! Agents that are frozen or killed with calls on them, as processes, before the real binary.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::{Method, Request};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::process::{Process, start, targets, until_targets};
use support::timed::{Timed, config};
use support::{Answer, send, try_send};
use tokio::time::{Instant, interval, sleep_until};

/// Calls per second, and for how long: what a small machine bears besides other tests.
const RATE: u32 = 400;
const LOAD: Duration = Duration::from_secs(4);

/// No test: the process that the tests start from this same binary.
#[test]
#[ignore = "the others run it as a process"]
fn be_a_timed_agent() {
    support::timed::be_one();
}

fn request(method: Method, path: &str, id: &str) -> Request<http_body_util::Full<bytes::Bytes>> {
    Request::builder().method(method).uri(path).header("x-request-id", id).body("1".into()).unwrap()
}

async fn call(lard: SocketAddr, method: Method, path: &str, id: &str) -> Answer {
    send(lard, request(method, path, id)).await
}

fn later(
    lard: SocketAddr,
    method: Method,
    path: &'static str,
    id: &'static str,
) -> tokio::task::JoinHandle<Answer> {
    tokio::spawn(async move { call(lard, method, path, id).await })
}

fn of_each(targets: &Value, key: &str) -> Vec<Value> {
    targets["servers"].as_array().unwrap().iter().map(|server| server[key].clone()).collect()
}

async fn retries(lard: &Process, reason: &str) -> bool {
    let metrics = send(lard.admin, Request::get("/metrics").body(Default::default()).unwrap()).await.body;
    metrics.contains(&format!("openlambda_lb_retries_total{{reason=\"{reason}\"}} 1\n"))
}

#[tokio::test]
async fn a_frozen_agent_is_passed_over_where_the_call_may_run_twice_and_nobody_waits_for_ever() {
    let agents = [Timed::start(&[]).await, Timed::start(&[]).await];
    let lard = start(config("LARD", &[&agents[0], &agents[1]])).await;
    until_targets("both are heard of", &lard, |t| of_each(t, "cpu").iter().all(Value::is_number)).await;
    assert_eq!(call(lard.address, Method::POST, "/run/f0?exec=1", "warm").await.status, 200);
    let home = usize::from(agents[1].ran() == ["warm"]);
    let (frozen, other) = (&agents[home], &agents[1 - home]);
    // A handler that takes its time, longer than any silence lasts, where its agent is well.
    let mut slow = None;
    for number in 1..1000 {
        let (path, id): (&'static str, &'static str) =
            (format!("/run/f{number}?exec=8000").leak(), format!("slow{number}").leak());
        let probe = later(lard.address, Method::POST, path, id);
        support::until("it runs", || agents.iter().any(|agent| agent.ran().contains(&id.to_owned()))).await;
        if other.ran().contains(&id.to_owned()) {
            slow = Some(probe);
            break;
        }
        probe.abort();
    }
    let slow = slow.expect("the other agent is never chosen");

    frozen.signal(Signal::STOP);
    let begun = Instant::now();
    let safe = later(lard.address, Method::GET, "/run/f0?exec=1", "safe");
    let unsafe_one = later(lard.address, Method::POST, "/run/f0?exec=1", "unsafe");
    until_targets("it is mute", &lard, |t| of_each(t, "mute")[home] == json!(true)).await;
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert!(!safe.is_finished() && !unsafe_one.is_finished(), "nobody is given up so soon");
    // A new call does not go there at all.
    let new = Instant::now();
    assert_eq!(call(lard.address, Method::POST, "/run/f0?exec=1", "new").await.status, 200);
    assert!(new.elapsed() < Duration::from_secs(1), "{:?}", new.elapsed());

    assert_eq!(safe.await.unwrap().status, 200);
    let refused = unsafe_one.await.unwrap();
    assert_eq!((refused.status, refused.reason().as_str()), (502, "agent_unreachable"));
    let message = refused.json()["message"].as_str().unwrap().to_owned();
    assert!(message.contains("says nothing") && message.contains(&format!("agent w{home}")), "{message}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(retries(&lard, "silent").await);
    let ran = other.ran();
    assert!(ran.contains(&"safe".to_owned()) && ran.contains(&"new".to_owned()), "{ran:?}");
    assert!(!ran.contains(&"unsafe".to_owned()), "it may have run, and later does");

    assert_eq!(slow.await.unwrap().status, 200, "a slow handler is not cut off");
    frozen.signal(Signal::CONT);
    until_targets("it speaks again", &lard, |t| of_each(t, "mute")[home] == json!(false)).await;
    drop(lard);
}

struct Made {
    id: String,
    sent: Instant,
    took: Duration,
    /// None: the connection broke.
    status: Option<u16>,
}

/// Calls at a steady rate, each on a connection of its own, whatever becomes of those before.
async fn load(lard: SocketAddr) -> Vec<Made> {
    let (mut ticks, end) = (interval(Duration::from_secs(1) / RATE), Instant::now() + LOAD);
    let mut calls = Vec::new();
    while Instant::now() < end {
        ticks.tick().await;
        let number = calls.len();
        calls.push(tokio::spawn(async move {
            let (id, sent) = (format!("c{number}"), Instant::now());
            let path = format!("/run/f{}?exec=5", number % 50);
            let answer = try_send(lard, request(Method::POST, &path, &id)).await;
            Made { id, sent, took: sent.elapsed(), status: answer.ok().map(|answer| answer.status) }
        }));
    }
    let mut made = Vec::new();
    for call in calls {
        made.push(call.await.unwrap());
    }
    made
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_killed_agent_only_what_it_ran_is_lost_and_its_share_moves_within_a_second() {
    let cheap = ["--cold-ms", "3", "--slots", "64"];
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(Timed::start(&cheap).await);
    }
    let lard = start(config("LARD", &agents.iter().collect::<Vec<_>>())).await;
    let loading = tokio::spawn(load(lard.address));
    sleep_until(Instant::now() + LOAD / 3).await;
    agents[0].signal(Signal::KILL);
    let killed = Instant::now();
    let made = loading.await.unwrap();

    let ran: Vec<HashSet<String>> = agents.iter().map(|agent| agent.ran().into_iter().collect()).collect();
    assert!(!ran[0].is_empty(), "the victim had a share");
    let (mut failed, mut moved) = (0, 0);
    for call in &made {
        let times = ran.iter().filter(|ran| ran.contains(&call.id)).count();
        let Made { id, status, took, .. } = call;
        assert!(times <= 1, "{id} ran {times} times");
        if *status != Some(200) {
            failed += 1;
            assert!(ran[0].contains(id), "{id} got {status:?} and had not reached a sandbox of the victim");
            assert_eq!(*status, Some(502), "{id}");
        }
        if call.sent > killed + Duration::from_secs(1) {
            moved += 1;
            assert!(*status == Some(200) && *took < Duration::from_millis(500), "{id}: {status:?} {took:?}");
        }
    }
    assert!(moved > 100, "{moved} calls after the move");
    assert!(failed < 50, "{failed} calls ran on the victim when it was killed");
    let servers = targets(&lard).await;
    assert_eq!(of_each(&servers, "connections"), [json!(0), json!(0), json!(0)], "all are counted out");
}
