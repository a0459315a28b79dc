//! Connections to one agent: kept open, used one call at a time, opened anew when none is free.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response};
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::agent_stream::AgentStream;
use crate::report::Latest;
use crate::tail::Replay;

/// Connections kept per agent; more are opened at need and closed after use.
const MAX_IDLE: usize = 256;
/// What was sent must be acknowledged within this, by the machine, not the agent: else the machine is gone.
const UNACKNOWLEDGED_MS: u32 = 700;
/// How often a machine that owes an answer is asked whether it is still there; the same limit holds for its word.
const ASK: Duration = Duration::from_secs(1);

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// No connection: nothing was sent.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Whereto.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The connection broke.
    #[error("the connection to {address} broke: {source}")]
    Broken {
        /// Whereto.
        address: String,
        /// How.
        source: hyper::Error,
        /// Whether the connection had been used before: then the agent may just have closed it.
        reused: bool,
        /// Whether nothing of the request was sent.
        unsent: bool,
    },
    /// The agent says nothing, and nobody waits for it any longer. It may go on later, and with what it has got by then.
    #[error("{address} says nothing, at its admin port neither; it may run the call yet")]
    Silent {
        /// Whereto.
        address: String,
        /// Whether nothing of the request was sent.
        unsent: bool,
    },
}

impl SendError {
    /// The metrics' word for it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Connect { .. } => "connect",
            Self::Broken { .. } => "broken",
            Self::Silent { .. } => "silent",
        }
    }

    /// Whether the agent may just have closed a connection that was kept open, and is well otherwise.
    pub fn is_of_reused(&self) -> bool {
        matches!(self, Self::Broken { reused: true, .. }) && !self.is_silence()
    }

    /// Whether neither the agent nor its machine answers: another connection would fare no better, and whether the
    /// request has arrived is not known.
    pub fn is_silence(&self) -> bool {
        let source = match self {
            Self::Connect { .. } => return false,
            Self::Silent { .. } => return true,
            Self::Broken { source, .. } => source,
        };
        let mut cause = std::error::Error::source(source);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>() {
                return SILENCE.contains(&error.kind());
            }
            cause = error.source();
        }
        false
    }
}

/// How silence shows: acknowledgements or neighbours that do not come.
const SILENCE: [io::ErrorKind; 3] =
    [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];

struct Idle {
    sender: SendRequest<Replay>,
    since: Instant,
}

/// One agent.
pub struct Upstream {
    /// Its name in logs and metrics.
    pub name: String,
    host: String,
    port: u16,
    admin_port: Option<u16>,
    /// What it said of itself.
    pub report: Latest,
    /// Stands in for a `Host` that the client did not send.
    host_header: HeaderValue,
    connect_timeout: Duration,
    idle_timeout: Duration,
    idle: Mutex<Vec<Idle>>,
    /// What drives the connections.
    connections: Mutex<JoinSet<()>>,
    /// How often it was given up for its silence.
    cuts: AtomicU64,
}

impl Upstream {
    /// An agent that is not connected to yet.
    pub fn new(
        server: &openlambda_config::Server,
        connect_timeout: Duration,
        idle_timeout: Duration,
    ) -> Self {
        let mut upstream = Self {
            name: server.name.clone(),
            host: server.host.clone(),
            port: server.port,
            admin_port: server.admin_port,
            report: Latest::default(),
            host_header: HeaderValue::from_static("agent"),
            connect_timeout,
            idle_timeout,
            idle: Mutex::new(Vec::new()),
            connections: Mutex::default(),
            cuts: AtomicU64::new(0),
        };
        if let Ok(value) = HeaderValue::from_str(&upstream.address()) {
            upstream.host_header = value;
        }
        upstream
    }

    /// Whether this is that agent.
    pub fn is(&self, server: &openlambda_config::Server) -> bool {
        self.name == server.name
            && self.host == server.host
            && (self.port, self.admin_port) == (server.port, server.admin_port)
    }

    /// Its admin port, if it is known.
    pub fn admin(&self) -> Option<(String, u16)> {
        self.admin_port.map(|port| (self.host.clone(), port))
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    /// Connections that are open and unused.
    pub fn idle(&self) -> usize {
        self.idle.lock().len()
    }

    /// Sends a request on a connection that is free, or on a new one: always if `fresh`.
    pub async fn send(
        self: &Arc<Self>,
        mut request: Request<Replay>,
        fresh: bool,
    ) -> Result<(Response<Incoming>, Connection), SendError> {
        if !request.headers().contains_key(HOST) {
            request.headers_mut().insert(HOST, self.host_header.clone());
        }
        let free = if fresh {
            self.close_idle();
            None
        } else {
            self.take()
        };
        let reused = free.is_some();
        let cuts = self.cuts.load(Ordering::Relaxed);
        let mut sender = match free {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        match sender.try_send_request(request).await {
            Ok(response) => Ok((response, Connection { sender: Some(sender), upstream: Arc::clone(self) })),
            Err(mut error) => {
                let (address, unsent) = (self.address(), error.take_message().is_some());
                if self.cuts.load(Ordering::Relaxed) != cuts {
                    return Err(SendError::Silent { address, unsent });
                }
                Err(SendError::Broken { address, unsent, source: error.into_error(), reused })
            }
        }
    }

    /// The most recently used connection that is still good.
    fn take(&self) -> Option<SendRequest<Replay>> {
        let mut idle = self.idle.lock();
        while let Some(Idle { sender, since }) = idle.pop() {
            // One that is not ready has a request in it still: the agent answered before it had read all.
            if sender.is_ready() && since.elapsed() < self.idle_timeout {
                return Some(sender);
            }
        }
        None
    }

    /// Closes connections that were not used for long, or that the agent closed.
    pub fn sweep(&self) {
        self.idle.lock().retain(|idle| !idle.sender.is_closed() && idle.since.elapsed() < self.idle_timeout);
    }

    /// Closes all connections that are unused.
    pub fn close_idle(&self) {
        self.idle.lock().clear();
    }

    /// Ends all connections, with the calls in them: nobody waits any longer. Gives how many there were.
    pub fn cut(&self) -> usize {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        self.close_idle();
        let mut connections = self.connections.lock();
        while connections.try_join_next().is_some() {}
        connections.abort_all();
        connections.len()
    }

    fn put(&self, sender: SendRequest<Replay>) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE && !sender.is_closed() {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<SendRequest<Replay>, SendError> {
        let failed = |source| SendError::Connect { address: self.address(), source };
        let connecting = TcpStream::connect((self.host.as_str(), self.port));
        let stream = match tokio::time::timeout(self.connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => {
                let text = format!("no answer within {:?}", self.connect_timeout);
                return Err(failed(io::Error::new(io::ErrorKind::TimedOut, text)));
            }
        };
        set_options(&stream).map_err(failed)?;
        let (sender, connection) = http1::Builder::new()
            .handshake(AgentStream::new(stream))
            .await
            .map_err(|error| failed(io::Error::other(error)))?;
        let mut connections = self.connections.lock();
        // Those that have ended are forgotten.
        while connections.try_join_next().is_some() {}
        connections.spawn(async move {
            if let Err(error) = connection.with_upgrades().await {
                // Whoever waits for an answer learns it too, and decides.
                tracing::debug!(%error, "connection to an agent ended");
            }
        });
        Ok(sender)
    }
}

/// No delay; and a machine that is gone (a node without power, a pod's address without a pod) is noticed in about a
/// second, however long the call may take.
fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, ASK)?;
    sockopt::set_tcp_keepintvl(stream, ASK)?;
    sockopt::set_tcp_user_timeout(stream, UNACKNOWLEDGED_MS)?;
    Ok(())
}

/// A connection with an answer in it. Given back when that is read to its end, closed when dropped before: so the
/// agent learns that nobody waits any more.
pub struct Connection {
    sender: Option<SendRequest<Replay>>,
    upstream: Arc<Upstream>,
}

impl Connection {
    /// Gives it back.
    pub fn release(&mut self) {
        if let Some(sender) = self.sender.take() {
            self.upstream.put(sender);
        }
    }
}
