//! Small real agents, good and bad, a lard in this process before them, and a client.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod api_server;
pub mod front;
pub mod process;
pub mod timed;
pub mod timed_agent;

use std::convert::Infallible;
use std::future::pending;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use openlambda_config::BalancerConfig;
use openlambda_lard::view::{ServerView, view};
use openlambda_lard::{Gateway, Settings, server};
use openlambda_telemetry::{Drain, Registry};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

/// Longer than anything in a test should take.
pub const LONG: Duration = Duration::from_secs(20);

/// A request as an agent got it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: Method,
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

#[derive(Default)]
pub struct Log {
    pub seen: Mutex<Vec<Seen>>,
    /// Connections that were accepted.
    pub connections: AtomicUsize,
    /// Calls that were begun and given up.
    pub abandoned: AtomicUsize,
}

#[derive(Clone)]
pub enum Kind {
    /// Answers with its name.
    Good(&'static str),
    /// Answers with its name, and with these headers.
    Saying(&'static str, Vec<(&'static str, String)>),
    /// Answers with what is in there: an admin port that tells the load.
    Telling(Arc<Mutex<String>>),
    /// As an agent: does not take the body, answers 503 with this reason.
    Refusing(&'static str),
    /// Answers 503 as a handler's own.
    OwnError,
    /// Takes the call, then waits for a permit before it answers.
    Slow(Arc<Semaphore>),
    /// Reads the head, then closes.
    DiesBefore,
    /// Reads the head, takes the call with 100, then closes.
    DiesAfter,
    /// Answers the first request of each connection and closes upon the second, as one that just timed out would.
    ClosesKeptConnections,
    /// Sends a head and half a body, then closes.
    DiesHalfway,
}

pub struct Agent {
    pub port: u16,
    pub log: Arc<Log>,
}

impl Agent {
    pub async fn start(kind: Kind) -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").await.unwrap(), kind)
    }

    pub fn start_on(listener: TcpListener, kind: Kind) -> Self {
        let port = listener.local_addr().unwrap().port();
        let log = Arc::new(Log::default());
        tokio::spawn(accept(listener, kind, Arc::clone(&log)));
        Self { port, log }
    }

    pub fn calls(&self) -> usize {
        self.log.seen.lock().len()
    }

    pub fn last(&self) -> Seen {
        self.log.seen.lock().last().unwrap().clone()
    }
}

async fn accept(listener: TcpListener, kind: Kind, log: Arc<Log>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        log.connections.fetch_add(1, Ordering::Relaxed);
        match kind {
            Kind::DiesBefore | Kind::DiesAfter | Kind::ClosesKeptConnections | Kind::DiesHalfway => {
                tokio::spawn(raw(stream, kind.clone(), Arc::clone(&log)));
            }
            _ => {
                let (kind, log) = (kind.clone(), Arc::clone(&log));
                let service = service_fn(move |request| answer(request, kind.clone(), Arc::clone(&log)));
                let connection = hyper::server::conn::http1::Builder::new();
                tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
            }
        }
    }
}

async fn answer(
    request: Request<Incoming>,
    kind: Kind,
    log: Arc<Log>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if let Kind::Refusing(reason) = kind {
        let body = json!({"component": "agent", "reason": reason, "message": "no", "requestId": "x"});
        return Ok(reply(StatusCode::SERVICE_UNAVAILABLE, body.to_string()));
    }
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let target = head.uri.to_string();
    log.seen.lock().push(Seen { method: head.method, target, headers: head.headers, body: body.clone() });
    let response = match kind {
        Kind::Good(name) => reply(StatusCode::OK, format!("{name} {}", body.len())),
        Kind::Saying(name, headers) => {
            let mut answer = reply(StatusCode::OK, format!("{name} {}", body.len()));
            for (name, value) in headers {
                answer.headers_mut().insert(name, value.parse().unwrap());
            }
            answer
        }
        Kind::Telling(text) => Response::new(Full::from(text.lock().clone())),
        Kind::OwnError => reply(StatusCode::SERVICE_UNAVAILABLE, r#"{"reason":"draining"}"#.into()),
        Kind::Slow(permits) => {
            let mut abandoned = Abandoned(Some(&log));
            permits.acquire().await.unwrap().forget();
            abandoned.0 = None;
            reply(StatusCode::OK, "slow".into())
        }
        _ => pending().await,
    };
    Ok(response)
}

struct Abandoned<'a>(Option<&'a Log>);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if let Some(log) = self.0 {
            log.abandoned.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn reply(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    Response::builder()
        .status(status)
        .header("endpoint-load-metrics", "TEXT cpu_utilization=0.25, mem_utilization=0.5")
        .header("x-own", "kept")
        .body(Full::from(body))
        .unwrap()
}

async fn raw(mut stream: TcpStream, kind: Kind, log: Arc<Log>) {
    let mut requests = 0;
    while head(&mut stream).await.is_some() {
        log.seen.lock().push(Seen {
            method: Method::POST,
            target: String::new(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        });
        requests += 1;
        match kind {
            Kind::DiesAfter => {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.unwrap();
                return;
            }
            Kind::DiesHalfway => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf").await.unwrap();
                return;
            }
            Kind::ClosesKeptConnections if requests == 1 => {
                let text = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                stream.write_all(text).await.unwrap();
            }
            _ => return,
        }
    }
}

/// Reads until a head is complete, and whatever of a short body came with it.
async fn head(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        let count = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        bytes.extend_from_slice(&buffer[..count]);
        if bytes.windows(4).any(|w| w == b"\r\n\r\n") {
            return Some(bytes);
        }
    }
}

/// A port that is taken, so that no other test gets it, but where nobody listens yet.
pub struct Dead {
    pub port: u16,
    pub socket: TcpSocket,
}

pub fn dead() -> Dead {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    Dead { port: socket.local_addr().unwrap().port(), socket }
}

pub fn config(policy: &str, ports: &[u16]) -> Value {
    let servers: Vec<_> = (0..)
        .zip(ports)
        .map(|(i, port): (u32, _)| json!({"Name": format!("w{i}"), "Host": "127.0.0.1", "Port": port}))
        .collect();
    json!({"Policy": policy, "Servers": servers, "Host": "127.0.0.1"})
}

pub struct Lard {
    pub address: SocketAddr,
    pub gateway: Arc<Gateway>,
    pub registry: Registry,
    pub drain: Drain,
}

impl Lard {
    /// What it knows of the agents.
    pub fn servers(&self) -> Vec<ServerView> {
        view(&self.gateway).servers
    }

    pub async fn start(config: Value) -> Self {
        Self::start_with(config, |_| {}).await
    }

    pub async fn start_with(config: Value, tweak: impl FnOnce(&mut Settings)) -> Self {
        let config = BalancerConfig::from_value(&config, "test.json".as_ref()).unwrap();
        let mut settings = Settings::from(&config);
        tweak(&mut settings);
        let registry = Registry::new("lard").unwrap();
        let gateway = Gateway::new(&config, settings, &registry).unwrap();
        let listener = server::bind("127.0.0.1", 0, "Port").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        tokio::spawn(server::serve(listener, Arc::clone(&gateway), drain.clone()));
        Self { address, gateway, registry, drain }
    }

    pub async fn post(&self, path: &str, body: impl Into<Bytes>) -> Answer {
        self.send(Request::post(path).body(Full::new(body.into())).unwrap()).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path).body(Full::default()).unwrap()).await
    }

    pub async fn send(&self, request: Request<Full<Bytes>>) -> Answer {
        send(self.address, request).await
    }

    pub fn metric(&self, line: &str) -> bool {
        let text = self.registry.encode().unwrap();
        text.lines().any(|l| l == line)
    }
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap().to_owned()
    }
}

pub async fn send(address: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    tokio::time::timeout(LONG, try_send(address, request)).await.expect("no answer in time").unwrap()
}

pub async fn try_send(address: SocketAddr, mut request: Request<Full<Bytes>>) -> hyper::Result<Answer> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    request.headers_mut().entry("host").or_insert("front:7079".parse().unwrap());
    let (head, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Ok(Answer { status: head.status.as_u16(), headers: head.headers, body })
}

/// Waits until something is so.
pub async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, wait).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"));
}

/// Sends a whole call with a body of 4 MiB that does not say how long it is.
pub async fn send_chunked(stream: &mut TcpStream) {
    stream.write_all(b"POST /run/f HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
    for _ in 0..64 {
        stream.write_all(b"10000\r\n").await.unwrap();
        stream.write_all(&[0; 0x10000]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
}
