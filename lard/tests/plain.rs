//! Plain requests, which lard reads itself, and the others, which it leaves to hyper: on one connection, in pieces, from
//! clients that leave, with answers that stream or break off.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::{Agent, Kind, LONG, Lard, config, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

async fn one(kind: Kind) -> (Lard, Agent, TcpStream) {
    let agent = Agent::start(kind).await;
    let lard = Lard::start(config("LARD", &[agent.port])).await;
    let stream = TcpStream::connect(lard.address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    (lard, agent, stream)
}

fn post(body: &str, headers: &str) -> String {
    format!("POST /run/f HTTP/1.1\r\nhost: x\r\n{headers}content-length: {}\r\n\r\n{body}", body.len())
}

/// Reads until something was seen.
async fn read_until(stream: &mut TcpStream, seen: impl Fn(&str) -> bool) -> String {
    let mut text = String::new();
    let reading = async {
        while !seen(&text) {
            let byte = stream.read_u8().await.unwrap_or_else(|error| panic!("{error} after {text}"));
            text.push(char::from(byte));
        }
    };
    timeout(LONG, reading).await.unwrap_or_else(|_| panic!("waited in vain"));
    text
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(LONG, stream.read_to_end(&mut bytes)).await.expect("the connection is not closed").unwrap();
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn plain_requests_and_others_are_answered_in_turn_on_one_connection() {
    let (_lard, agent, mut stream) = one(Kind::Good("a")).await;
    // All at once: two that are plain, one in chunks, and one that would be plain but comes after that and is the last.
    let chunked =
        "POST /run/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n4\r\nfour\r\n0\r\n\r\n";
    let get = "GET /run/f?second HTTP/1.1\r\nhost: x\r\n\r\n";
    let all = [&post("one", ""), get, chunked, &post("fives", "connection: close\r\n")].concat();
    stream.write_all(all.as_bytes()).await.unwrap();
    let text = rest(&mut stream).await;
    let bodies: Vec<_> =
        text.match_indices("\r\n\r\na ").map(|(at, mark)| &text[at + mark.len()..][..1]).collect();
    assert_eq!(bodies, ["3", "0", "4", "5"], "{text}");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 4, "{text}");
    assert_eq!(text.matches("connection: close").count(), 1, "{text}");
    for header in ["content-length: 3", "date: ", "x-own: kept", "x-request-id: "] {
        assert_eq!(text.matches(header).count(), 4, "{header}: {text}");
    }
    let bodies: Vec<_> = agent.log.seen.lock().iter().map(|seen| seen.body.clone()).collect();
    assert_eq!(bodies, ["one", "", "four", "fives"]);
    assert_eq!(agent.log.seen.lock()[1].target, "/run/f?second");
}

#[tokio::test]
async fn a_request_in_pieces_is_read_however_slowly_they_come() {
    let (lard, agent, _) = one(Kind::Good("a")).await;
    let text = post("body", "");
    let middle = text.len() - 2;
    for (round, pause) in [0, 10, 120].into_iter().enumerate() {
        for at in [3, 20, text.find("\r\n\r\n").unwrap() + 2, middle] {
            let (first, second) = text.split_at(at);
            // What is not plain stays with its connection: each case has one of its own.
            let mut stream = TcpStream::connect(lard.address).await.unwrap();
            stream.set_nodelay(true).unwrap();
            stream.write_all(first.as_bytes()).await.unwrap();
            // The pace of the client is what is tested: one that lard waits for, and one that it does not.
            tokio::time::sleep(Duration::from_millis(pause)).await;
            stream.write_all(second.as_bytes()).await.unwrap();
            read_until(&mut stream, |text| text.ends_with("\r\n\r\na 4")).await;
            assert_eq!(agent.last().body, "body");
        }
        assert_eq!(agent.calls(), 4 * (round + 1));
    }
}

#[tokio::test]
async fn what_is_too_large_is_413_plain_or_not() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = Lard::start_with(config("LARD", &[agent.port]), |s| s.request_limit = 100).await;
    for size in [101, 100 << 10] {
        let mut stream = TcpStream::connect(lard.address).await.unwrap();
        stream.write_all(post(&"x".repeat(size), "").as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        assert!(text.starts_with("HTTP/1.1 413") && text.contains("payload_too_large"), "{text}");
    }
    assert_eq!(agent.calls(), 0);
}

#[tokio::test]
async fn a_call_ends_with_its_client_and_one_that_sends_the_next_meanwhile_has_not_left() {
    let permits = Arc::new(Semaphore::new(0));
    let (lard, agent, mut stream) = one(Kind::Slow(Arc::clone(&permits))).await;
    stream.write_all(post("one", "").as_bytes()).await.unwrap();
    until("the call", || agent.calls() == 1).await;
    stream.write_all(post("two", "").as_bytes()).await.unwrap();
    permits.add_permits(1);
    read_until(&mut stream, |text| text.ends_with("slow")).await;
    until("the next call", || agent.calls() == 2).await;
    assert_eq!(agent.log.abandoned.load(Ordering::Relaxed), 0);
    drop(stream);
    until("it is given up", || agent.log.abandoned.load(Ordering::Relaxed) == 1).await;
    until("it is counted", || lard.metric(r#"openlambda_lb_requests_total{code="499"} 1"#)).await;
}

#[tokio::test]
async fn an_idle_connection_ends_with_lard_and_a_call_is_finished_first() {
    let permits = Arc::new(Semaphore::new(0));
    let (lard, agent, mut busy) = one(Kind::Slow(Arc::clone(&permits))).await;
    let mut idle = TcpStream::connect(lard.address).await.unwrap();
    permits.add_permits(1);
    idle.write_all(post("x", "").as_bytes()).await.unwrap();
    read_until(&mut idle, |text| text.ends_with("slow")).await;
    busy.write_all(post("x", "").as_bytes()).await.unwrap();
    until("the call", || agent.calls() == 2).await;
    lard.drain.begin();
    assert_eq!(rest(&mut idle).await, "");
    permits.add_permits(1);
    let text = rest(&mut busy).await;
    assert!(text.contains("connection: close\r\n") && text.ends_with("slow"), "{text}");
}

#[tokio::test]
async fn a_connection_without_a_request_is_closed_in_time() {
    let agent = Agent::start(Kind::Good("a")).await;
    let lard = Lard::start_with(config("LARD", &[agent.port]), |s| {
        s.header_timeout = Duration::from_millis(200);
    })
    .await;
    let mut stream = TcpStream::connect(lard.address).await.unwrap();
    stream.write_all(post("x", "").as_bytes()).await.unwrap();
    assert!(rest(&mut stream).await.ends_with("a 1"));
}

/// An agent that answers its first request with these bytes, and the others after a word.
async fn scripted(parts: Vec<&'static str>, word: Arc<Semaphore>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        read_until(&mut stream, |text| text.contains("\r\n\r\n")).await;
        for part in parts {
            stream.write_all(part.as_bytes()).await.unwrap();
            word.acquire().await.unwrap().forget();
        }
    });
    port
}

#[tokio::test]
async fn answers_stream_as_they_come_and_break_off_where_the_agents_did() {
    let heads = [
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n", "3\r\none\r\n"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\none", "one"),
        ("HTTP/1.1 200 OK\r\n\r\none", "3\r\none\r\n"),
    ];
    for (head, shown) in heads {
        let word = Arc::new(Semaphore::new(0));
        let port = scripted(vec![head], Arc::clone(&word)).await;
        let lard = Lard::start(config("LARD", &[port])).await;
        let mut stream = TcpStream::connect(lard.address).await.unwrap();
        stream.write_all(b"GET /run/f HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        // The first part is here before there is another.
        let text = read_until(&mut stream, |text| text.ends_with(shown)).await;
        let length =
            if head.contains("content-length") { "content-length: 9" } else { "transfer-encoding: chunked" };
        assert!(text.contains(length), "{text}");
        word.add_permits(1);
        // Where it ends with the connection it is whole; the others are not, and show it.
        let whole = !head.contains("length") && !head.contains("chunked");
        let last = if whole { "0\r\n\r\n" } else { "" };
        let mut left = String::new();
        if whole {
            left = read_until(&mut stream, |text| text.ends_with(last)).await;
        } else {
            timeout(LONG, stream.read_to_string(&mut left)).await.expect("it stays open").unwrap();
        }
        assert_eq!(left, last, "{head}");
    }
}
