//! What passes through and how, which agent gets it, and what lard answers itself.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, Request};
use serde_json::json;
use support::{Agent, Kind, LONG, Lard, config, send_chunked, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

async fn one() -> (Lard, Agent) {
    let agent = Agent::start(Kind::Good("a")).await;
    (Lard::start(config("LARD", &[agent.port])).await, agent)
}

#[tokio::test]
async fn verb_path_query_headers_and_body_pass() {
    let (lard, agent) = one().await;
    for verb in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "PROPFIND"] {
        let body = if verb == "GET" || verb == "HEAD" { "" } else { "body" };
        let request = Request::builder()
            .method(Method::from_bytes(verb.as_bytes()).unwrap())
            .uri("/runLambda/f/a%20b?x=1&y=%2F")
            .header("x-mine", "1")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("keep-alive", "5")
            .body(Full::from(body))
            .unwrap();
        let answer = lard.send(request).await;
        assert_eq!(answer.status, 200, "{verb}");
        let seen = agent.last();
        assert_eq!((seen.method.as_str(), seen.target.as_str()), (verb, "/runLambda/f/a%20b?x=1&y=%2F"));
        assert_eq!(&seen.body[..], body.as_bytes());
        assert_eq!(
            (&seen.headers["x-mine"], &seen.headers["host"]),
            (&"1".parse().unwrap(), &"front:7079".parse().unwrap())
        );
        assert_eq!(seen.headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(seen.headers["x-forwarded-host"], "front:7079");
        for gone in ["x-hop", "keep-alive", "connection"] {
            assert!(!seen.headers.contains_key(gone), "{verb}: {gone} reached the agent");
        }
        assert_eq!(answer.headers["x-own"], "kept");
        assert!(!answer.headers.contains_key("endpoint-load-metrics"));
    }
    assert_eq!(lard.servers()[0].memory, Some(0.5), "the load report was read");
}

#[tokio::test]
async fn the_request_id_is_honoured_or_minted_and_on_every_answer() {
    let (lard, agent) = one().await;
    for path in ["/run/f", "/status", "/nothing", "/run/../f"] {
        let request = Request::get(path).header("x-request-id", "mine-1").body(Full::default()).unwrap();
        assert_eq!(lard.send(request).await.headers["x-request-id"], "mine-1", "{path}");
        assert_eq!(lard.get(path).await.headers["x-request-id"].len(), 36, "{path}");
    }
    let request =
        Request::get("/run/f").header("x-request-id", "x".repeat(129)).body(Full::default()).unwrap();
    let answer = lard.send(request).await;
    assert_eq!(answer.headers["x-request-id"].len(), 36);
    assert_eq!(agent.last().headers["x-request-id"], answer.headers["x-request-id"]);
}

#[tokio::test]
async fn own_answers() {
    let (lard, agent) = one().await;
    let answer = lard.get("/status").await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "ready\n"));
    let long = format!("/run/{}", "x".repeat(300));
    for (path, status, reason) in [
        ("/", 404, "not_found"),
        ("/runner/f", 404, "not_found"),
        ("/run/", 400, "bad_name"),
        ("/run/../etc", 400, "bad_name"),
        ("/run/a%00", 400, "bad_name"),
        (long.as_str(), 400, "bad_name"),
    ] {
        let answer = lard.post(path, "{}").await;
        assert_eq!((answer.status, answer.reason().as_str()), (status, reason), "{path}");
        assert_eq!(answer.json()["component"], "balancer");
        assert_eq!(answer.json()["requestId"], answer.headers["x-request-id"].to_str().unwrap());
        assert_eq!(answer.headers["content-type"], "application/json");
    }
    assert_eq!(agent.calls(), 0);
    assert!(lard.metric(r#"openlambda_lb_requests_total{code="400"} 4"#));
}

#[tokio::test]
async fn round_robin_alternates() {
    let (a, b) = (Agent::start(Kind::Good("a")).await, Agent::start(Kind::Good("b")).await);
    let lard = Lard::start(config("RoundRobin", &[a.port, b.port])).await;
    for name in ["a 1", "b 1", "a 1", "b 1"] {
        assert_eq!(lard.post("/run/f", "1").await.body, name);
    }
}

#[tokio::test]
async fn lard_sticks_whatever_the_path_and_moves_when_its_agent_is_loaded() {
    let permits = Arc::new(Semaphore::new(0));
    let (a, b) = (
        Agent::start(Kind::Slow(Arc::clone(&permits))).await,
        Agent::start(Kind::Slow(Arc::clone(&permits))).await,
    );
    let mut config = config("LARD", &[a.port, b.port]);
    for server in config["Servers"].as_array_mut().unwrap() {
        server["MaxConn"] = json!(10);
    }
    let lard = Arc::new(Lard::start(config).await);
    let mut calls = Vec::new();
    for number in 1..=5 {
        let lard = Arc::clone(&lard);
        calls.push(tokio::spawn(async move { lard.post(&format!("/run/f/{number}"), "1").await.status }));
        until("the call is at an agent", || a.calls() + b.calls() == number).await;
    }
    // With 4 of 10 connections its load is LoadHigh, and the other is idle: the fifth call moves.
    let counts = (a.calls(), b.calls());
    assert!(counts == (4, 1) || counts == (1, 4), "{counts:?}");
    permits.add_permits(5);
    for call in calls {
        assert_eq!(call.await.unwrap(), 200);
    }
    assert!(lard.metric(r#"openlambda_lb_moves_total{reason="imbalance"} 1"#));
    assert!(lard.metric(r#"openlambda_lb_locality_total{result="hit"} 3"#));
    assert!(lard.metric(r#"openlambda_lb_locality_total{result="new"} 1"#));
}

#[tokio::test]
async fn over_max_conn_calls_wait_then_are_turned_away() {
    let permits = Arc::new(Semaphore::new(0));
    let agent = Agent::start(Kind::Slow(Arc::clone(&permits))).await;
    let mut config = config("LARD", &[agent.port]);
    config["MaxConn"] = json!(1);
    let lard = Arc::new(Lard::start_with(config, |s| s.queue_length = 1).await);
    let post = |lard: &Arc<Lard>| {
        let lard = Arc::clone(lard);
        tokio::spawn(async move { lard.post("/run/f", "1").await.status })
    };
    let first = post(&lard);
    until("one runs", || agent.calls() == 1).await;
    let second = post(&lard);
    until("one waits", || lard.gateway.gate.counts() == (1, 1)).await;
    let refused = lard.post("/run/f", "1").await;
    assert_eq!((refused.status, refused.reason().as_str()), (429, "concurrency_exceeded"));
    assert!(refused.headers.contains_key("retry-after"));
    assert!(lard.metric(r#"openlambda_lb_rejections_total{reason="queue_full"} 1"#));
    assert_eq!(agent.calls(), 1);
    permits.add_permits(2);
    assert_eq!((first.await.unwrap(), second.await.unwrap()), (200, 200));
    assert_eq!(lard.gateway.gate.counts(), (0, 0));
}

#[tokio::test]
async fn who_waits_too_long_gets_503() {
    let agent = Agent::start(Kind::Slow(Arc::new(Semaphore::new(0)))).await;
    let mut config = config("LARD", &[agent.port]);
    config["MaxConn"] = json!(1);
    let lard = Arc::new(Lard::start_with(config, |s| s.queue_timeout = Duration::from_millis(20)).await);
    let running = tokio::spawn({
        let lard = Arc::clone(&lard);
        async move { lard.post("/run/f", "1").await.status }
    });
    until("one runs", || agent.calls() == 1).await;
    let refused = lard.post("/run/f", "1").await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "no_capacity"));
    assert!(refused.headers.contains_key("retry-after"));
    running.abort();
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_and_the_limit_itself_passes() {
    let agent = Agent::start(Kind::Good("a")).await;
    let mut config = config("LARD", &[agent.port]);
    config["RequestLimit"] = json!("1Mi");
    let lard = Lard::start(config).await;
    assert_eq!(lard.post("/run/f", vec![0; 1 << 20]).await.body, "a 1048576");
    let over = lard.post("/run/f", vec![0; (1 << 20) + 1]).await;
    assert_eq!((over.status, over.reason().as_str()), (413, "payload_too_large"));
    // Without a length, and a client that reads only after it has written all.
    let mut stream = TcpStream::connect(lard.address).await.unwrap();
    send_chunked(&mut stream).await;
    let text = read(stream).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    // A client that asks first is told before it sends anything.
    let mut stream = TcpStream::connect(lard.address).await.unwrap();
    stream
        .write_all(
            b"POST /run/f HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 9999999\r\n\r\n",
        )
        .await
        .unwrap();
    let text = read(stream).await;
    assert!(text.starts_with("HTTP/1.1 413"), "{text}");
    assert_eq!(agent.calls(), 1);
}

#[tokio::test]
async fn slow_clients_are_cut_off() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = Lard::start_with(config("LARD", &[agent.port]), |s| {
        s.header_timeout = Duration::from_millis(100);
        s.body_pause = Duration::from_millis(100);
    })
    .await;
    let mut body = TcpStream::connect(lard.address).await.unwrap();
    body.write_all(b"POST /run/f HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n12345").await.unwrap();
    let text = read(body).await;
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("request_timeout"), "{text}");
    let mut head = TcpStream::connect(lard.address).await.unwrap();
    head.write_all(b"POST /run/f HTTP/1.1\r\nhos").await.unwrap();
    read(head).await;
    assert_eq!(agent.calls(), 0);
}

#[tokio::test]
async fn large_answers_and_many_calls_at_once_pass() {
    let (lard, agent) = one().await;
    let lard = Arc::new(lard);
    let body = Bytes::from(vec![b'x'; 1 << 20]);
    let calls: Vec<_> = (0..50)
        .map(|_| {
            let (lard, body) = (Arc::clone(&lard), body.clone());
            tokio::spawn(async move { lard.post("/run/f", body).await.body })
        })
        .collect();
    for call in calls {
        assert_eq!(call.await.unwrap(), "a 1048576");
    }
    assert_eq!(agent.calls(), 50);
    until("all are counted out", || lard.servers()[0].connections == 0).await;
}

/// Reads until the other side closes.
async fn read(mut stream: TcpStream) -> String {
    let mut text = Vec::new();
    let end = tokio::time::timeout(LONG, stream.read_to_end(&mut text)).await;
    end.expect("the connection was not closed").unwrap();
    String::from_utf8_lossy(&text).into_owned()
}
