use std::future::poll_fn;
use std::time::Duration;

use hyper::header::HeaderMap;
use hyper::{Method, Uri};
use rustix::net::sockopt;
use tokio::io::{AsyncWriteExt as _, Interest};
use tokio::net::TcpListener;

use super::*;

const TIME: Duration = Duration::from_secs(30);

/// A connection, what ends it, and the agent's side of it.
async fn pair() -> (Wire, Arc<Cut>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let cut = Arc::new(Cut::default());
    (Wire::new(stream, Arc::clone(&cut)), cut, listener.accept().await.unwrap().0)
}

fn begin(wire: &mut Wire, method: &Method, body: Replay) {
    let (uri, headers) = (Uri::from_static("/run/f"), HeaderMap::new());
    let request = Outgoing { method, uri: &uri, headers: &headers, added: &[], asks: true };
    wire.begin(&request, &HeaderValue::from_static("agent"), body, Instant::now() + TIME);
}

fn small() -> Replay {
    Replay::new(Bytes::from_static(b"event"), true)
}

async fn head(wire: &mut Wire, taken: &Taken) -> io::Result<Response<()>> {
    poll_fn(|cx| wire.poll_head(cx, taken)).await.map(|(response, _)| response)
}

async fn body(wire: &mut Wire) -> io::Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(part) = poll_fn(|cx| wire.poll_part(cx)).await {
        all.extend_from_slice(&part?);
    }
    Ok(all)
}

/// Reads a request to the end of its head.
async fn head_of_request(agent: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        text.push(agent.read_u8().await.unwrap());
    }
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn a_connection_carries_one_call_after_the_other() {
    let (mut wire, _cut, mut agent) = pair().await;
    let serving = tokio::spawn(async move {
        for _ in 0..3 {
            let head = head_of_request(&mut agent).await;
            assert!(head.contains("content-length: 5\r\n"), "{head}");
            let mut event = [0; 5];
            agent.read_exact(&mut event).await.unwrap();
            let answer = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
            agent.write_all(&[&answer[..], &event].concat()).await.unwrap();
        }
        agent
    });
    for _ in 0..3 {
        let taken = Taken::default();
        begin(&mut wire, &Method::POST, small());
        assert!(!wire.is_reusable());
        assert_eq!(head(&mut wire, &taken).await.unwrap().status(), 200);
        assert!(taken.is() && !wire.is_reusable());
        assert_eq!(body(&mut wire).await.unwrap(), b"event");
        assert!(wire.is_reusable() && wire.is_open());
    }
    drop(serving.await.unwrap());
    wire.stream.readable().await.unwrap();
    assert!(!wire.is_open(), "the agent has closed it");
}

#[tokio::test]
async fn large_bodies_pass_both_ways_at_once_and_leave_no_memory_behind() {
    const SIZE: usize = 3 << 20;
    let (mut wire, _cut, mut agent) = pair().await;
    let serving = tokio::spawn(async move {
        head_of_request(&mut agent).await;
        agent.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
        let (mut left, mut buffer) = (SIZE, vec![0; 10_000]);
        while left > 0 {
            let count = agent.read(&mut buffer).await.unwrap();
            left -= count;
            agent.write_all(format!("{count:x}\r\n").as_bytes()).await.unwrap();
            agent.write_all(&buffer[..count]).await.unwrap();
            agent.write_all(b"\r\n").await.unwrap();
        }
        agent.write_all(b"0\r\n\r\n").await.unwrap();
        agent
    });
    let sent: Vec<u8> = (0..SIZE).map(|n| (n % 251) as u8).collect();
    begin(&mut wire, &Method::POST, Replay::new(sent.clone().into(), true));
    head(&mut wire, &Taken::default()).await.unwrap();
    assert!(body(&mut wire).await.unwrap() == sent);
    assert!(wire.is_reusable());
    wire.shrink();
    assert!(wire.read.capacity() <= READ.0);
    drop(serving.await.unwrap());
}

#[tokio::test]
async fn what_was_said_before_a_reset_is_heard() {
    let (mut wire, _cut, mut agent) = pair().await;
    agent.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
    // Closes with a reset.
    sockopt::set_socket_linger(&agent, Some(Duration::ZERO)).unwrap();
    drop(agent);
    wire.stream.ready(Interest::ERROR).await.unwrap();
    let taken = Taken::default();
    begin(&mut wire, &Method::POST, small());
    let error = head(&mut wire, &taken).await.unwrap_err();
    assert!(taken.is(), "{error}");
    assert!(!wire.is_reusable());
}

#[tokio::test]
async fn one_that_is_cut_keeps_nobody_waiting() {
    let (wire, cut, _agent) = pair().await;
    assert!(wire.is_reusable());
    cut.cut();
    assert!(!wire.is_reusable(), "also if its answer came just then");
    let (mut wire, cut, _agent) = pair().await;
    begin(&mut wire, &Method::GET, Replay::new(Bytes::new(), false));
    let taken = Taken::default();
    let waiting = head(&mut wire, &taken);
    let cutting = async {
        tokio::task::yield_now().await;
        cut.cut();
    };
    let (result, ()) = tokio::join!(waiting, cutting);
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn what_cannot_carry_another_call_is_not_used_again() {
    let cases = [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab", "it is closed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nabHTTP/1.1 200 OK\r\n", "there is another answer"),
        ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nab", "HTTP/1.0"),
        ("HTTP/1.1 200 OK\r\n\r\nab", "its end is the answer's"),
    ];
    for (answer, why) in cases {
        let (mut wire, _cut, mut agent) = pair().await;
        agent.write_all(answer.as_bytes()).await.unwrap();
        agent.shutdown().await.unwrap();
        begin(&mut wire, &Method::POST, small());
        head(&mut wire, &Taken::default()).await.unwrap();
        assert_eq!(body(&mut wire).await.unwrap(), b"ab");
        assert!(!wire.is_reusable(), "{why}");
    }
    // The request is larger than what both sides' kernels take, and the agent reads none of it.
    let (mut wire, _cut, mut agent) = pair().await;
    agent.write_all(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n").await.unwrap();
    begin(&mut wire, &Method::POST, Replay::new(vec![0; 64 << 20].into(), true));
    assert_eq!(head(&mut wire, &Taken::default()).await.unwrap().status(), 413);
    assert!(wire.is_ended() && !wire.is_reusable());
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nab",
    ] {
        let (mut wire, _cut, mut agent) = pair().await;
        agent.write_all(answer.as_bytes()).await.unwrap();
        agent.shutdown().await.unwrap();
        begin(&mut wire, &Method::POST, small());
        head(&mut wire, &Taken::default()).await.unwrap();
        let error = body(&mut wire).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{answer}");
    }
    let (mut wire, _cut, mut agent) = pair().await;
    agent.write_all(b"HTTP/1.1 200 OK\r\nContent-Le").await.unwrap();
    agent.shutdown().await.unwrap();
    begin(&mut wire, &Method::POST, small());
    let error = head(&mut wire, &Taken::default()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn an_answer_to_head_has_no_body_whatever_it_says() {
    let (mut wire, _cut, mut agent) = pair().await;
    agent.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n").await.unwrap();
    begin(&mut wire, &Method::HEAD, Replay::new(Bytes::new(), false));
    let response = head(&mut wire, &Taken::default()).await.unwrap();
    assert_eq!(response.headers()["content-length"], "3");
    assert!(body(&mut wire).await.unwrap().is_empty() && wire.is_reusable());
}

#[tokio::test]
async fn a_head_without_end_is_given_up() {
    let (mut wire, _cut, mut agent) = pair().await;
    let flooding = tokio::spawn(async move {
        agent.write_all(b"HTTP/1.1 200 OK\r\nX-A: ").await.unwrap();
        // It is told by the write that fails.
        while agent.write_all(&[b'a'; 4096]).await.is_ok() {}
    });
    begin(&mut wire, &Method::POST, small());
    let error = head(&mut wire, &Taken::default()).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    drop(wire);
    flooding.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn each_call_has_a_deadline_of_its_own() {
    let (mut wire, _cut, _agent) = pair().await;
    for _ in 0..2 {
        begin(&mut wire, &Method::POST, small());
        let begun = Instant::now();
        poll_fn(|cx| wire.poll_late(cx)).await;
        assert!((TIME..TIME + Duration::from_millis(2)).contains(&begun.elapsed()));
    }
}

/// What is read of an answer: its status, its body as far as there is one, and what is left of the text.
fn read(text: &[u8]) -> io::Result<Option<(u16, usize, usize)>> {
    let mut read = BytesMut::from(text);
    let Some(mut head) = head::parse(&mut read, &mut Vec::new())? else { return Ok(None) };
    let mut length = 0;
    while let Some(part) = head.framing.take(&mut read)? {
        length += part.len();
    }
    Ok(Some((head.response.status().as_u16(), length, read.len())))
}

#[test]
fn whatever_an_answer_is_it_is_read_or_refused() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nendpoint-load-metrics: TEXT cpu=1\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n2;x\r\nab\r\n0\r\nx: y\r\n\r\n",
    ];
    let (mut taken, mut refused) = (0, 0);
    for text in answers {
        let whole = read(text.as_bytes()).unwrap().unwrap();
        assert_eq!((whole.0, whole.1, whole.2), (200, 2, 0));
        for place in 0..text.len() {
            for byte in [0, b'\t', b'\n', b'\r', b' ', b'0', b'9', b':', b';', b'f', 0x7f, 0xff] {
                let mut mangled = text.as_bytes().to_vec();
                mangled[place] = byte;
                match read(&mangled) {
                    Ok(Some((_, length, left))) => {
                        assert!(length + left < text.len(), "{place} {byte}");
                        taken += 1;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{place} {byte}");
                        refused += 1;
                    }
                }
            }
        }
    }
    assert!(taken > 100 && refused > 100, "{taken} taken, {refused} refused");
}
