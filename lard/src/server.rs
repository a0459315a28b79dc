//! The port for calls: it listens, accepts until the end, and answers each request.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Incoming};
use hyper::header::{CONNECTION, CONTENT_TYPE, EXPECT, HeaderValue};
use hyper::http::request::Parts;
use hyper::{Request, Response, StatusCode, Version};
use openlambda_api::{HandlerName, Reason};
use openlambda_telemetry::Drain;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::Instant;

use crate::body::{self, BodyError, Gathered};
use crate::connection;
use crate::gate::{self, NotAdmitted};
use crate::gateway::Gateway;
use crate::headers::{self, X_REQUEST_ID};
use crate::limits::Own;
use crate::metrics::Metrics;
use crate::proxy::{self, Call};
use crate::registry;
use crate::reply::{Failure, Reply};
use crate::route::{Route, route};
use crate::tunnel::Upgrade;

/// Connections that the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// How often unused connections to agents are looked through. A timer that is always this near also spares each call
/// a system call: the runtime wakes itself whenever a timer (a client's, of seconds) becomes the first to fire.
const SWEEP: Duration = Duration::from_secs(1);
/// How long to wait when a connection cannot be accepted (no descriptors left, as a rule).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why lard does not listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process does.
    #[error(
        "port {port} on {host} is in use: stop what listens there (`ss -ltnp` shows it) or set another {key}"
    )]
    InUse {
        /// Whereon.
        host: String,
        /// The port.
        port: u16,
        /// The configuration's key for it.
        key: &'static str,
    },
    /// Something else.
    #[error("cannot listen on {host}:{port} ({key}): {source}")]
    Listen {
        /// Whereon.
        host: String,
        /// The port.
        port: u16,
        /// The configuration's key for it.
        key: &'static str,
        /// Why not.
        source: io::Error,
    },
}

/// Listens. `key` is the configuration's key for the port, for the message.
pub async fn bind(host: &str, port: u16, key: &'static str) -> Result<TcpListener, BindError> {
    let listen = |address: SocketAddr| {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse { host: host.to_owned(), port, key },
        _ => BindError::Listen { host: host.to_owned(), port, key, source },
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await.map_err(failed)? {
        match listen(address) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

/// Accepts until the drain begins. Connections then finish the call they are in; [`Drain::finish`] waits for them.
pub async fn serve(listener: TcpListener, gateway: Arc<Gateway>, drain: Drain) {
    let mut sweep = tokio::time::interval(SWEEP);
    loop {
        let accepted = tokio::select! {
            biased;
            () = drain.begun() => return,
            _ = sweep.tick() => {
                gateway.targets.sweep();
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                drain.spawn(connection::serve(stream, peer, Arc::clone(&gateway), drain.clone()));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Counts a call when it is answered, or when its client went away before that.
struct Counted<'a> {
    metrics: &'a Metrics,
    start: std::time::Instant,
    code: StatusCode,
}

impl<'a> Counted<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        let gone = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        Self { metrics, start: std::time::Instant::now(), code: gone }
    }

    /// The answer to a call that came with this version of HTTP.
    fn end(
        mut self,
        gateway: &Gateway,
        id: &HeaderValue,
        version: Version,
        answered: Result<Response<Reply>, Failure>,
    ) -> Response<Reply> {
        let mut response = answered.unwrap_or_else(|failure| {
            let reason = failure.reason.as_str();
            tracing::debug!(request_id = ?id, reason, "refused: {}", failure.message);
            failure.response(id)
        });
        self.code = response.status();
        // An HTTP/2 connection has its own way to say so.
        if version < Version::HTTP_2
            && response.status() != StatusCode::SWITCHING_PROTOCOLS
            && gateway.leaving.load(Ordering::Relaxed)
        {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.metrics.answered(self.code);
        self.metrics.seconds.observe(self.start.elapsed().as_secs_f64());
    }
}

/// Answers a request.
pub async fn answer(gateway: &Gateway, peer: &HeaderValue, request: Request<Incoming>) -> Response<Reply> {
    let counted = Counted::begin(&gateway.metrics);
    let (id, version) = (headers::request_id(request.headers()), request.version());
    let answered = match route(request.uri().path()) {
        Route::Status => Ok(status(&id)),
        Route::Call(handler) => call(gateway, peer, &id, handler, request).await,
        // Boxed: what a call takes must not grow with it.
        Route::Registry(resource) => Ok(Box::pin(registry::answer(gateway, &id, resource, request)).await),
        Route::BadName(error) => Err(Failure::new(Reason::BadName, error.to_string())),
        Route::Unknown => {
            let message = format!(
                "no path {:?}: there are /run/<handler>, /runLambda/<handler> and /status",
                request.uri().path()
            );
            Err(Failure::new(Reason::NotFound, message))
        }
    };
    counted.end(gateway, &id, version, answered)
}

/// Answers a call of HTTP/1.1 whose body is there and that wants nothing of its connection.
pub async fn answer_plain(
    gateway: &Gateway,
    peer: &HeaderValue,
    handler: HandlerName,
    head: Parts,
    body: Bytes,
) -> Response<Reply> {
    let counted = Counted::begin(&gateway.metrics);
    let (id, version) = (headers::request_id(&head.headers), head.version);
    let own = gateway.limits.of(handler.as_str());
    let limit = own.request.unwrap_or(gateway.settings.request_limit);
    let answered = if body.len() > limit {
        Err(Failure::of_body(&BodyError::TooLarge(limit)))
    } else {
        submit(gateway, (peer, &id), (handler, own), head, Gathered::whole(body), None).await
    };
    counted.end(gateway, &id, version, answered)
}

fn status(id: &HeaderValue) -> Response<Reply> {
    let mut response = Response::new(Reply::text("ready\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(X_REQUEST_ID, id.clone());
    response
}

async fn call(
    gateway: &Gateway,
    peer: &HeaderValue,
    id: &HeaderValue,
    handler: HandlerName,
    mut request: Request<Incoming>,
) -> Result<Response<Reply>, Failure> {
    let upgrade = Upgrade::of(&mut request);
    let (head, mut incoming) = request.into_parts();
    let own = gateway.limits.of(handler.as_str());
    let limit = own.request.unwrap_or(gateway.settings.request_limit);
    if incoming.size_hint().exact().is_some_and(|length| length > limit as u64) {
        // A client that asks first (Expect) sends nothing; the others see the answer only after they have written.
        if !head.headers.contains_key(EXPECT) {
            body::discard(&mut incoming).await;
        }
        return Err(Failure::of_body(&BodyError::TooLarge(limit)));
    }
    let body = body::gather(incoming, limit, &gateway.settings).await;
    let body = body.map_err(|error| Failure::of_body(&error))?;
    submit(gateway, (peer, id), (handler, own), head, body, upgrade).await
}

/// Places a call as soon as it may run.
async fn submit(
    gateway: &Gateway,
    (peer, id): (&HeaderValue, &HeaderValue),
    (handler, own): (HandlerName, Own),
    mut head: Parts,
    body: Gathered,
    upgrade: Option<Upgrade>,
) -> Result<Response<Reply>, Failure> {
    // A handler with a time of its own has that on top: what the rest of it is for, waiting, it may need as well.
    let time = gateway.settings.timeout + own.timeout.unwrap_or_default();
    let arrived = Instant::now();
    let deadline = arrived + time;
    let permit = gateway.gate.enter().await.map_err(|error| {
        gateway.metrics.rejections.with_label_values(&[gate::label(&error)]).inc();
        not_admitted(&error)
    })?;
    if head.version == Version::HTTP_2 {
        headers::from_http2(&mut head.headers, &head.uri);
    }
    let added = headers::to_agent(&mut head.headers, id, peer);
    if let Some(upgrade) = &upgrade {
        upgrade.announce(&mut head.headers, None);
    }
    let uri = match head.uri.path_and_query() {
        Some(path) if head.uri.authority().is_some() => path.as_str().parse().unwrap_or(head.uri),
        _ => head.uri,
    };
    let call = Call {
        handler: handler.into(),
        packages: own.packages,
        idempotent: own.idempotent,
        method: head.method,
        uri,
        headers: head.headers,
        added,
        body: body.data,
        tail: body.tail,
        upgrade,
        id: id.clone(),
        time,
        deadline,
        hold_until: deadline.min(arrived + gateway.settings.queue_timeout),
    };
    proxy::place(gateway, &call, permit).await
}

fn not_admitted(error: &NotAdmitted) -> Failure {
    match error {
        NotAdmitted::QueueFull { retry_after, .. } => Failure {
            retry_after: Some(*retry_after),
            ..Failure::new(Reason::ConcurrencyExceeded, error.to_string())
        },
        NotAdmitted::TooLong { .. } => Failure::new(Reason::NoCapacity, error.to_string()),
    }
}
