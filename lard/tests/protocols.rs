//! What the real binary speaks with clients: HTTP/2, upgrades, and bodies that stream in both directions.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use openlambda_config::BalancerConfig;
use serde_json::json;
use support::process::{start, until_targets};
use support::{Agent, Kind, LONG, Lard, config, send_chunked, until};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const MIB: usize = 1 << 20;

/// An agent of one connection.
async fn raw<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { serve(listener.accept().await.unwrap().0).await });
    port
}

/// Reads until something ends with this.
async fn read_to(stream: &mut TcpStream, end: &[u8]) -> String {
    let mut seen = Vec::new();
    let reading = async {
        while !seen.ends_with(end) {
            seen.push(stream.read_u8().await.unwrap());
        }
    };
    let in_time = tokio::time::timeout(LONG, reading).await.is_ok();
    assert!(in_time, "{}", String::from_utf8_lossy(&seen));
    String::from_utf8(seen).unwrap()
}

#[tokio::test]
async fn http2_is_spoken_with_clients_and_http1_with_agents() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = start(config("LARD", &[agent.port])).await;
    let stream = TcpStream::connect(lard.address).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    // Many at a time in one connection.
    let calls = (0..50).map(|number| {
        let mut sender = sender.clone();
        async move {
            let uri = format!("http://front:7079/run/f?n={number}");
            let request = Request::post(uri).header("cookie", "a=1").header("cookie", "b=2");
            let request = request.body(Full::new(Bytes::from(vec![b'x'; 2 * MIB]))).unwrap();
            let answer = sender.send_request(request).await.unwrap();
            assert!(!answer.headers().contains_key("endpoint-load-metrics"));
            answer.into_body().collect().await.unwrap().to_bytes()
        }
    });
    for body in futures::future::join_all(calls).await {
        assert_eq!(&body[..], b"a 2097152");
    }
    let seen = agent.last();
    assert_eq!(
        (&seen.headers["host"], &seen.headers["cookie"]),
        (&"front:7079".parse().unwrap(), &"a=1; b=2".parse().unwrap())
    );
    assert!(seen.target.starts_with("/run/f?n="), "{}", seen.target);
    assert_eq!(agent.calls(), 50);
}

#[tokio::test]
async fn an_http2_client_that_sends_no_request_is_cut_off() {
    let lard = Lard::start_with(config("LARD", &[]), |s| s.header_timeout = Duration::from_millis(50)).await;
    for beginning in [&b"PR"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"] {
        let mut stream = TcpStream::connect(lard.address).await.unwrap();
        stream.write_all(beginning).await.unwrap();
        let end = tokio::time::timeout(LONG, stream.read_to_end(&mut Vec::new())).await;
        assert!(end.is_ok(), "{} bytes", beginning.len());
    }
}

#[tokio::test]
async fn an_upgrade_passes_and_bytes_go_both_ways() {
    let port = raw(async |mut agent| {
        let head = read_to(&mut agent, b"\r\n\r\n").await.to_ascii_lowercase();
        assert!(head.contains("connection: upgrade\r\n") && head.contains("upgrade: websocket\r\n"), "{head}");
        assert!(head.contains("sec-websocket-key: abc\r\n"), "{head}");
        let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhello";
        agent.write_all(answer.as_bytes()).await.unwrap();
        assert_eq!(read_to(&mut agent, b"ping").await, "ping");
        agent.write_all(b"pong").await.unwrap();
    })
    .await;
    let lard = start(config("LARD", &[port])).await;
    let mut client = TcpStream::connect(lard.address).await.unwrap();
    let request = "GET /run/f HTTP/1.1\r\nhost: x\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\nsec-websocket-key: abc\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let head = read_to(&mut client, b"\r\n\r\n").await.to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: websocket\r\n"), "{head}");
    assert!(
        head.contains("connection: upgrade\r\n") && head.contains("sec-websocket-accept: x\r\n"),
        "{head}"
    );
    assert_eq!(read_to(&mut client, b"hello").await, "hello");
    until_targets("it counts as a call", &lard, |targets| targets["servers"][0]["connections"] == 1).await;
    client.write_all(b"ping").await.unwrap();
    let mut rest = String::new();
    client.shutdown().await.unwrap();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "pong");
    until_targets("it is counted out", &lard, |targets| targets["servers"][0]["connections"] == 0).await;
}

#[tokio::test]
async fn an_upgrade_that_the_agent_does_not_take_is_an_ordinary_call() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = start(config("LARD", &[agent.port])).await;
    let request = Request::get("/run/f").header("connection", "upgrade").header("upgrade", "x");
    let answer = support::send(lard.address, request.body(Full::default()).unwrap()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "a 0"));
    assert!(!answer.headers.contains_key("upgrade"));
}

#[tokio::test]
async fn what_is_not_kept_of_a_body_reaches_the_agent_while_the_client_still_sends() {
    let received = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&received);
    let port = raw(async move |mut agent| {
        read_to(&mut agent, b"\r\n\r\n").await;
        agent.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
        let (mut buffer, mut last) = (vec![0; MIB], Vec::new());
        while !last.ends_with(b"0\r\n\r\n") {
            let length = agent.read(&mut buffer).await.unwrap();
            assert!(length > 0, "it broke off");
            count.fetch_add(length, Ordering::Relaxed);
            last.extend_from_slice(&buffer[..length]);
            last.drain(..last.len().saturating_sub(5));
        }
        agent.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    })
    .await;
    let lard = start(config("LARD", &[port])).await;
    let (parts, body) = mpsc::unbounded();
    let stream = TcpStream::connect(lard.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("/run/f").header("host", "x").body(StreamBody::new(body)).unwrap();
    let answer = tokio::spawn(async move { sender.send_request(request).await });
    let part = || Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![0; MIB / 2])));
    (0..5).for_each(|_| parts.unbounded_send(part()).unwrap());
    until("what was sent is there", || received.load(Ordering::Relaxed) > 5 * MIB / 2).await;
    assert!(!answer.is_finished());
    parts.unbounded_send(part()).unwrap();
    drop(parts);
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn a_body_that_is_not_kept_whole_still_goes_to_another_agent_until_one_takes_it() {
    let body = vec![b'x'; 3 * MIB];
    for kind in [Kind::DiesBefore, Kind::Refusing("draining"), Kind::Refusing("no_capacity")] {
        let (bad, good) = (Agent::start(kind).await, Agent::start(Kind::Good("good")).await);
        let lard = start(config("RoundRobin", &[bad.port, good.port])).await;
        let request = Request::post("/run/f").body(Full::from(body.clone())).unwrap();
        assert_eq!(support::send(lard.address, request).await.body, format!("good {}", 3 * MIB));
        assert_eq!(&good.last().body[..], &body[..]);
    }
    // If nobody takes it, the client sees that although it writes before it reads.
    let full = Agent::start(Kind::Refusing("no_capacity")).await;
    let lard = start(config("LARD", &[full.port])).await;
    let mut stream = TcpStream::connect(lard.address).await.unwrap();
    let head = format!("POST /run/f HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let head = read_to(&mut stream, b"\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 503"), "{head}");
}

#[tokio::test]
async fn a_body_that_is_not_kept_whole_goes_to_one_agent_if_that_takes_it() {
    // The agent says that it takes the call and resets the connection at once: all orders come up.
    for _ in 0..20 {
        let (bad, good) = (Agent::start(Kind::DiesAfter).await, Agent::start(Kind::Good("good")).await);
        let lard = Lard::start(config("RoundRobin", &[bad.port, good.port])).await;
        let answer = lard.post("/run/f", vec![b'x'; 3 * MIB]).await;
        assert_eq!((answer.status, answer.reason().as_str(), good.calls()), (502, "agent_unreachable", 0));
    }
}

#[tokio::test]
async fn a_body_that_grows_over_the_limit_on_its_way_is_413() {
    let agent = Agent::start(Kind::Good("a")).await;
    let mut config = config("LARD", &[agent.port]);
    config["RequestLimit"] = json!("2Mi");
    let lard = start(config).await;
    let mut stream = TcpStream::connect(lard.address).await.unwrap();
    send_chunked(&mut stream).await;
    let head = read_to(&mut stream, b"\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 413"), "{head}");
}

#[tokio::test]
async fn an_answer_reaches_the_client_as_it_comes() {
    let permit = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&permit);
    let port = raw(async move |mut agent| {
        read_to(&mut agent, b"\r\n\r\n").await;
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        agent.write_all(head.as_bytes()).await.unwrap();
        agent.write_all(b"9\r\ndata: 1\n\n\r\n").await.unwrap();
        wait.acquire().await.unwrap().forget();
        agent.write_all(b"9\r\ndata: 2\n\n\r\n0\r\n\r\n").await.unwrap();
        read_to(&mut agent, b"never").await;
    })
    .await;
    let lard = start(config("LARD", &[port])).await;
    let stream = TcpStream::connect(lard.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("/run/f").header("host", "x").body(Full::<Bytes>::default()).unwrap();
    let answer: Response<_> = sender.send_request(request).await.unwrap();
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let mut body = answer.into_body();
    let first = tokio::time::timeout(LONG, body.frame()).await.expect("it is held back").unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "data: 1\n\n");
    permit.add_permits(1);
    assert_eq!(body.collect().await.unwrap().to_bytes(), "data: 2\n\n");
}

#[tokio::test]
async fn connections_are_kept_to_clients_and_to_agents() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = Lard::start(config("LARD", &[agent.port])).await;
    let stream = TcpStream::connect(lard.address).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for (number, handler) in ["f", "g", "f"].into_iter().enumerate() {
        let request = Request::post(format!("/run/{handler}")).header("host", "x");
        let request = request.body(Full::new(Bytes::from(vec![b'x'; number * MIB]))).unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), format!("a {}", number * MIB));
        sender.ready().await.unwrap();
        until("it is given back", || lard.servers()[0].idle_connections == 1).await;
    }
    assert_eq!((agent.calls(), agent.log.connections.load(Ordering::Relaxed)), (3, 1));
}

#[tokio::test]
async fn an_http2_connection_ends_with_the_call_that_is_in_it_when_lard_does() {
    let permits = Arc::new(Semaphore::new(0));
    let agent = Agent::start(Kind::Slow(Arc::clone(&permits))).await;
    let lard = Lard::start(config("LARD", &[agent.port])).await;
    let stream = TcpStream::connect(lard.address).await.unwrap();
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = Request::post("http://front/run/f").body(Full::new(Bytes::from("1"))).unwrap();
    let answer = tokio::spawn(sender.send_request(request));
    until("the call is at the agent", || agent.calls() == 1).await;
    lard.drain.begin();
    permits.add_permits(1);
    let body = answer.await.unwrap().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, "slow");
    lard.drain.finish(LONG).await.unwrap();
    tokio::time::timeout(LONG, connection).await.expect("it stays").unwrap().unwrap();
}

/// Reads to the end of the connection, or as far as it goes when that is reset.
async fn rest(mut stream: impl AsyncRead + Unpin) -> String {
    let mut seen = Vec::new();
    let reading = stream.read_to_end(&mut seen);
    // What a client still sends may reset the connection after the answer.
    let _ = tokio::time::timeout(LONG, reading).await.expect("the connection is not closed");
    String::from_utf8_lossy(&seen).into_owned()
}

#[tokio::test]
async fn a_head_has_a_longest_and_a_time() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = Lard::start_with(config("LARD", &[agent.port]), |s| {
        s.header_timeout = Duration::from_millis(300);
    })
    .await;
    let long = format!("GET /run/f HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "x".repeat(300 << 10));
    let many = format!("GET /run/f HTTP/1.1\r\nhost: x\r\n{}\r\n", "x-many: 1\r\n".repeat(200));
    for head in [long, many] {
        let mut stream = TcpStream::connect(lard.address).await.unwrap();
        // It may be refused before it is all there.
        let _ = stream.write_all(head.as_bytes()).await;
        let text = rest(stream).await;
        assert!(text.starts_with("HTTP/1.1 431"), "{} bytes: {text}", head.len());
    }
    // A byte now and then is no head either.
    let (mut reader, mut writer) = TcpStream::connect(lard.address).await.unwrap().into_split();
    let dripping = tokio::spawn(async move {
        let head = b"GET /run/f HTTP/1.1\r\nx-slow: ".iter().chain(std::iter::repeat(&b'x'));
        for byte in head {
            if writer.write_all(&[*byte]).await.is_err() {
                return;
            }
            // The pace of a slow client: it is what is tested.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let _ = tokio::time::timeout(LONG, reader.read_to_end(&mut Vec::new())).await.expect("it stays open");
    tokio::time::timeout(LONG, dripping).await.expect("it still takes bytes").unwrap();
    assert_eq!(agent.calls(), 0);
}

/// Sends parts of a chunked body until the other side is done with it, and gives the answer.
async fn endless(lard: &Lard, first: usize) -> String {
    let (reader, mut writer) = TcpStream::connect(lard.address).await.unwrap().into_split();
    tokio::spawn(async move {
        let head = "POST /run/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n";
        let first = [format!("{first:x}\r\n").as_bytes(), &vec![b'x'; first], b"\r\n"].concat();
        let mut part = [head.as_bytes(), &first].concat();
        while writer.write_all(&part).await.is_ok() {
            part = b"1\r\nx\r\n".to_vec();
            // The pace of a client that never ends: it is what is tested.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    rest(reader).await
}

#[tokio::test]
async fn a_body_that_comes_for_ever_is_408_whether_it_is_kept_or_passed_on() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = Lard::start_with(config("LARD", &[agent.port]), |s| {
        s.body_timeout = Duration::from_millis(300);
        s.replay_limit = 1000;
    })
    .await;
    for first in [1, 5000] {
        let text = endless(&lard, first).await;
        assert!(text.starts_with("HTTP/1.1 408") && text.contains("300ms in all"), "{first}: {text}");
    }
    assert_eq!(agent.calls(), 0, "no handler saw it");
    until("both are counted out", || lard.servers()[0].connections == 0).await;
    assert_eq!(lard.servers()[0].failures, 0, "it is not the agent's fault");
}

#[tokio::test]
async fn a_client_that_reads_no_answer_is_cut_off() {
    let port = raw(async |mut agent| {
        read_to(&mut agent, b"\r\n\r\n").await;
        let head = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n";
        agent.write_all(head.as_bytes()).await.unwrap();
        // More than all buffers on the way hold.
        while agent.write_all(&[0; 1 << 16]).await.is_ok() {}
    })
    .await;
    let lard = Lard::start_with(config("LARD", &[port]), |s| {
        s.unread_timeout = Duration::from_millis(200);
    })
    .await;
    let mut client = TcpStream::connect(lard.address).await.unwrap();
    client.write_all(b"GET /run/f HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(read_to(&mut client, b"\r\n\r\n").await.starts_with("HTTP/1.1 200"));
    until("the call is over", || lard.servers()[0].connections == 0).await;
    lard.drain.begin();
    lard.drain.finish(LONG).await.unwrap();
}

#[test]
fn what_is_kept_of_a_body_is_less_than_what_is_allowed() {
    let config = BalancerConfig::from_value(&json!({}), "x".as_ref()).unwrap();
    let settings = openlambda_lard::Settings::from(&config);
    assert!(settings.replay_limit < settings.request_limit);
}
