//! A client's connection: HTTP/1.1 with upgrades, plain requests first, or HTTP/2 from its first byte (h2c with prior
//! knowledge).
//!
//! One that sends no request, or none any more, is closed after the time that a head may take, and one that takes
//! nothing of what is sent to it after that for an answer; when the drain begins it ends with the calls that are in it.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use openlambda_telemetry::Drain;
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::time::{Instant, interval, sleep, timeout};

use crate::client_stream::ClientStream;
use crate::gateway::Gateway;
use crate::head_timer::HeadTimer;
use crate::plain::{self, End};
use crate::reply::Reply;
use crate::server::answer;
use crate::tunnel::Tunnel;

/// The longest head of a request, about: one that came with a single read may be twice as long. Also the size of a
/// connection's read buffer.
const HEAD_LIMIT: usize = 64 << 10;
/// What an HTTP/2 connection begins with, and no HTTP/1.1 request does.
const PREFACE: &[u8; 4] = b"PRI ";
/// Between two looks at a connection that has begun with less than that.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Calls at a time in one HTTP/2 connection.
const STREAMS: u32 = 100;
/// What is kept of an answer that an HTTP/2 client does not take.
const SEND_BUFFER: usize = 64 << 10;
/// How often an HTTP/2 client is asked whether it is still there, and how long it has for an answer.
const PING: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// How often an HTTP/2 connection is looked at, whether it is to be closed.
const LOOK: Duration = Duration::from_secs(1);

/// What the connections of one client address share.
#[derive(Clone)]
pub struct Client {
    /// Whom it calls.
    pub gateway: Arc<Gateway>,
    /// When that ends.
    pub drain: Drain,
    peer: SocketAddr,
    /// The address alone.
    pub address: HeaderValue,
}

/// Serves a connection to its end.
pub async fn serve(mut stream: TcpStream, peer: SocketAddr, gateway: Arc<Gateway>, drain: Drain) {
    // Without it answers would wait for the client's acknowledgement; if it fails they do.
    let _ = stream.set_nodelay(true);
    let unread = u32::try_from(gateway.settings.unread_timeout.as_millis()).unwrap_or(u32::MAX);
    // Fails for no socket that TCP has.
    let _ = sockopt::set_tcp_user_timeout(&stream, unread);
    let address = HeaderValue::from_str(&peer.ip().to_canonical().to_string())
        .unwrap_or(HeaderValue::from_static("unknown"));
    let client = Client { gateway, drain, peer, address };
    let begun = tokio::select! {
        begun = timeout(client.gateway.settings.header_timeout, is_http2(&stream)) => begun,
        () = client.drain.begun() => return,
    };
    let ended = match begun {
        Ok(Ok(true)) => http2(stream, &client).await.map_err(io::Error::other),
        Ok(Ok(false)) => match plain::serve(&mut stream, &client).await {
            Ok(End::Other(seen)) => http1(stream, seen, &client).await.map_err(io::Error::other),
            Ok(End::Closed) => Ok(()),
            Err(error) => Err(error),
        },
        // It was closed, or broke, or said nothing.
        Ok(Err(_)) | Err(_) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

/// Looks at the first bytes, which stay where they are.
async fn is_http2(stream: &TcpStream) -> io::Result<bool> {
    let mut seen = [0; PREFACE.len()];
    loop {
        let count = stream.peek(&mut seen).await?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen[..count] != PREFACE[..count] {
            return Ok(false);
        }
        if count == PREFACE.len() {
            return Ok(true);
        }
        sleep(LOOK_AGAIN).await;
    }
}

impl Client {
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
        let mut response = answer(&self.gateway, &self.address, request).await;
        if let Some(tunnel) = response.extensions_mut().remove::<Tunnel>() {
            self.drain.spawn(tunnel.run(self.gateway.settings.upgraded_idle));
        }
        Ok(response)
    }
}

/// `seen` was read already.
async fn http1(stream: TcpStream, seen: Bytes, client: &Client) -> hyper::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(HeadTimer::default()).header_read_timeout(client.gateway.settings.header_timeout);
    builder.max_buf_size(HEAD_LIMIT);
    let service = service_fn(|request| {
        let client = client.clone();
        async move { client.answer(request).await }
    });
    let connection = builder.serve_connection(ClientStream::new(stream, seen), service).with_upgrades();
    let mut connection = pin!(connection);
    let mut begun = pin!(client.drain.begun());
    let (mut asked, mut told) = (false, false);
    poll_fn(|cx| {
        // Once asked it wakes this task when it comes; to ask it each time would take locks.
        if !told && (!asked || client.drain.has_begun()) {
            (asked, told) = (true, begun.as_mut().poll(cx).is_ready());
            if told {
                connection.as_mut().graceful_shutdown();
            }
        }
        connection.as_mut().poll(cx)
    })
    .await
}

async fn http2(stream: TcpStream, client: &Client) -> hyper::Result<()> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder.timer(TokioTimer::new()).keep_alive_interval(PING.0).keep_alive_timeout(PING.1);
    builder
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD_LIMIT as u32)
        .max_send_buf_size(SEND_BUFFER);
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request| {
        let (client, stream) = (client.clone(), Stream::begin(&activity));
        async move {
            let mut response = client.answer(request).await?;
            response.body_mut().hold(stream);
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut looks = interval(LOOK);
    let idle = client.gateway.settings.header_timeout;
    let mut closing = None;
    loop {
        tokio::select! {
            ended = connection.as_mut() => return ended,
            _ = looks.tick() => {}
            () = client.drain.begun(), if closing.is_none() => {}
        }
        let unused = activity.unused_for();
        let leaves = client.drain.has_begun() || client.gateway.leaving.load(Ordering::Relaxed);
        let is_idle = unused.is_some_and(|span| span >= idle);
        match closing {
            None if leaves || is_idle => {
                closing = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            // It was told, has nothing to wait for and does not go.
            Some(since) if unused.is_some() && since.elapsed() >= idle => {
                tracing::debug!(peer = %client.peer, "an HTTP/2 connection is cut off");
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Whether an HTTP/2 connection is used.
struct Activity {
    streams: AtomicUsize,
    last: Mutex<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { streams: AtomicUsize::new(0), last: Mutex::new(Instant::now()) }
    }
}

impl Activity {
    /// How long there has been no call; none if there is one.
    fn unused_for(&self) -> Option<Duration> {
        (self.streams.load(Ordering::Relaxed) == 0).then(|| self.last.lock().elapsed())
    }
}

/// A call in an HTTP/2 connection; counted out when dropped.
pub struct Stream(Arc<Activity>);

impl Stream {
    fn begin(activity: &Arc<Activity>) -> Self {
        activity.streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(activity))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        *self.0.last.lock() = Instant::now();
        self.0.streams.fetch_sub(1, Ordering::Relaxed);
    }
}
