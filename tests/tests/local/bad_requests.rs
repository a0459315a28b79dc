//! Bad names, bad bodies, bad clients.

use std::io::Write;
use std::time::Instant;

use anyhow::{Result, ensure};
use openlambda_tests::http::connect;
use openlambda_tests::{Cluster, Request, Response, until};
use serde_json::{Value, json};

#[test]
fn names_that_are_none() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("x", "def handler(event):\n    return 1\n")?;
    let long = format!("/run/{}", "n".repeat(300));
    for path in
        ["/run/..", "/run/../x", "/runLambda/x%00", "/run/%2e%2e", "/run/", "/run/-x", "/run/x%2F..", &long]
    {
        let response = cluster.send(&Request::get(path))?;
        ensure!([400, 404].contains(&response.status), "{path}: {response:?}");
        let reason = response.json()?["reason"].clone();
        ensure!(["bad_name", "not_found"].iter().any(|r| reason == *r), "{path}: {reason}");
    }
    ensure!(cluster.call("x", &Value::Null)?.ok()? == json!(1));
    cluster.stop()
}

#[test]
fn a_body_over_the_limit() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("length", "def handler(event):\n    return len(event)\n")?;
    let body = |size: usize| format!("\"{}\"", "x".repeat(size - 2));
    let fits = Request::new("POST", "/run/length").body(body(6 << 20));
    ensure!(cluster.send(&fits)?.ok()? == json!((6 << 20) - 2));
    let over = Request::new("POST", "/run/length").body(body((6 << 20) + 1));
    let message = cluster.send(&over)?.error(413, "payload_too_large")?;
    ensure!(message.contains("6"), "{message}");
    // Without a length said beforehand.
    let mut stream = connect(cluster.worker_port(0))?;
    stream.write_all(
        b"POST /run/length HTTP/1.1\r\nHost: t\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
    )?;
    let chunk = [b"100000\r\n".to_vec(), vec![b'x'; 1 << 20], b"\r\n".to_vec()].concat();
    // The server may stop us half-way.
    let _ = (0..8).try_for_each(|_| stream.write_all(&chunk)).and_then(|()| stream.write_all(b"0\r\n\r\n"));
    Response::read(stream)?.error(413, "payload_too_large")?;
    cluster.stop()
}

#[test]
fn slow_clients_are_cut_off() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("echo", "def handler(event):\n    return event\n")?;
    let began = Instant::now();
    let mut slow_body = connect(cluster.worker_port(0))?;
    slow_body.write_all(b"POST /run/echo HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{")?;
    let mut slow_head = connect(cluster.worker_port(0))?;
    slow_head.write_all(b"POST /run/echo HTT")?;
    ensure!(cluster.call("echo", &json!(1))?.ok()? == json!(1));
    Response::read(slow_body)?.error(408, "request_timeout")?;
    // Nothing can be answered to half a head: the connection is closed.
    let mut rest = Vec::new();
    std::io::Read::read_to_end(&mut slow_head, &mut rest)?;
    ensure!(began.elapsed().as_secs() < 40);
    cluster.stop()
}

#[test]
fn a_client_that_hangs_up_leaks_nothing() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({"max_instances": 2, "limits": {"timeout": "3s"}}))?;
    cluster
        .handler("sleep", "import time\ndef handler(event):\n    time.sleep(event)\n    return event\n")?;
    for _ in 0..10 {
        let stream = Request::call("sleep", &json!(0.05)).open(cluster.worker_port(0))?;
        drop(stream);
    }
    // In the middle of a call, and in the middle of a body.
    let stream = Request::call("sleep", &json!(1)).open(cluster.worker_port(0))?;
    until("the running call", || {
        Ok(cluster.instances("sleep")?.iter().any(|i| i["state"] == "running").then_some(()))
    })?;
    drop(stream);
    let mut half = connect(cluster.worker_port(0))?;
    half.write_all(b"POST /run/sleep HTTP/1.1\r\nHost: t\r\nContent-Length: 100\r\n\r\n{")?;
    drop(half);
    ensure!(cluster.call("sleep", &json!(0))?.ok()? == json!(0));
    until("no running call", || {
        Ok(cluster.instances("sleep")?.iter().all(|i| i["state"] != "running").then_some(()))
    })?;
    ensure!(cluster.metrics()?.contains("openlambda_inflight 0"), "{}", cluster.metrics()?);
    cluster.stop()
}

#[test]
fn malformed_requests_and_ids() -> Result<()> {
    let cluster = Cluster::with_worker(&json!({}))?;
    cluster.handler("echo", "def handler(event):\n    return event\n")?;
    let mut stream = connect(cluster.worker_port(0))?;
    stream.write_all(b"NONSENSE\r\n\r\n")?;
    ensure!(Response::read(stream)?.status == 400);
    let minted = cluster.send(&Request::call("echo", &json!(1)).header("X-Request-Id", &"x".repeat(500)))?;
    let id = minted.header("x-request-id").unwrap_or_default();
    ensure!(!id.is_empty() && id.len() <= 128, "{id}");
    ensure!(cluster.call("echo", &json!(1))?.ok()? == json!(1));
    cluster.stop()
}
