//! Connections to one agent: kept open, used one call at a time, opened anew when none is free.

use std::future::poll_fn;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::SizeHint;
use hyper::Response;
use hyper::header::HeaderValue;
use parking_lot::Mutex;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::report::Latest;
use crate::tail::{Replay, Taken};
use crate::wire::{Cut, Outgoing, Said, Wire};

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
        source: io::Error,
        /// Whether the connection had been used before: then the agent may just have closed it.
        reused: bool,
        /// Whether nothing of the request was sent.
        unsent: bool,
    },
    /// The call's time is up.
    #[error("the call's time is up")]
    Late,
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
            Self::Late => "late",
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
        match self {
            Self::Connect { .. } | Self::Late => false,
            Self::Silent { .. } => true,
            Self::Broken { source, .. } => SILENCE.contains(&source.kind()),
        }
    }
}

/// How silence shows: acknowledgements or neighbours that do not come.
const SILENCE: [io::ErrorKind; 3] =
    [io::ErrorKind::TimedOut, io::ErrorKind::HostUnreachable, io::ErrorKind::NetworkUnreachable];

struct Idle {
    wire: Box<Wire>,
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
    /// All that are open, and some that were.
    open: Mutex<Vec<Weak<Cut>>>,
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
            open: Mutex::default(),
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

    /// Sends a request on a connection that is free, or on a new one: always if `fresh`. Gives the head of the answer, and
    /// what its body comes from. `taken` learns that the agent takes the call.
    pub async fn send(
        self: &Arc<Self>,
        request: &Outgoing<'_>,
        body: Replay,
        (taken, deadline): (&Taken, Instant),
        fresh: bool,
    ) -> Result<Response<Exchange>, SendError> {
        let free = if fresh {
            self.close_idle();
            None
        } else {
            self.take()
        };
        let reused = free.is_some();
        let cuts = self.cuts.load(Ordering::Relaxed);
        let mut wire = match free {
            Some(wire) => wire,
            None => timeout_at(deadline, self.connect()).await.unwrap_or(Err(SendError::Late))?,
        };
        wire.begin(request, &self.host_header, body, deadline);
        let head = poll_fn(|cx| match wire.poll_head(cx, taken) {
            Poll::Ready(head) => Poll::Ready(Some(head)),
            Poll::Pending => wire.poll_late(cx).map(|()| None),
        });
        match head.await.ok_or(SendError::Late)? {
            Ok((response, said)) => {
                let upstream = Arc::clone(self);
                Ok(response.map(|()| Exchange { wire: Some(wire), upstream, said }))
            }
            Err(source) => {
                let (address, unsent) = (self.address(), !wire.is_begun());
                if self.cuts.load(Ordering::Relaxed) != cuts {
                    return Err(SendError::Silent { address, unsent });
                }
                Err(SendError::Broken { address, unsent, source, reused })
            }
        }
    }

    /// The most recently used connection that is still good. One that was not used for long goes with the next sweep.
    fn take(&self) -> Option<Box<Wire>> {
        let mut idle = self.idle.lock();
        while let Some(Idle { mut wire, .. }) = idle.pop() {
            if wire.is_open() {
                return Some(wire);
            }
        }
        None
    }

    /// Closes connections that were not used for long, or that the agent closed.
    pub fn sweep(&self) {
        self.idle.lock().retain_mut(|idle| idle.since.elapsed() < self.idle_timeout && idle.wire.is_open());
    }

    /// Closes all connections that are unused.
    pub fn close_idle(&self) {
        self.idle.lock().clear();
    }

    /// Ends all connections, with the calls in them: nobody waits any longer. Gives how many there were.
    pub fn cut(&self) -> usize {
        self.cuts.fetch_add(1, Ordering::Relaxed);
        self.close_idle();
        let open = std::mem::take(&mut *self.open.lock());
        open.iter().filter_map(Weak::upgrade).map(|one| one.cut()).count()
    }

    fn put(&self, mut wire: Box<Wire>) {
        let mut idle = self.idle.lock();
        if idle.len() < MAX_IDLE {
            wire.shrink();
            idle.push(Idle { wire, since: Instant::now() });
        }
    }

    async fn connect(&self) -> Result<Box<Wire>, SendError> {
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
        let cut = Arc::new(Cut::default());
        let mut open = self.open.lock();
        open.retain(|one| one.strong_count() > 0);
        open.push(Arc::downgrade(&cut));
        Ok(Box::new(Wire::new(stream, cut)))
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

/// A connection with an answer in it. Given back when that is over, closed when dropped before: so the agent learns that
/// nobody waits any more.
pub struct Exchange {
    wire: Option<Box<Wire>>,
    upstream: Arc<Upstream>,
    /// What the agent said to lard.
    pub said: Said,
}

impl Exchange {
    /// The next part of the answer's body.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        self.wire.as_mut().map_or(Poll::Ready(None), |wire| wire.poll_part(cx))
    }

    /// Whether the call's time is up.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.wire.as_mut().map_or(Poll::Ready(()), |wire| wire.poll_late(cx))
    }

    /// Whether the answer is over.
    pub fn is_ended(&self) -> bool {
        self.wire.as_ref().is_none_or(|wire| wire.is_ended())
    }

    /// What is left of the answer's body, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        self.wire.as_ref().map_or(SizeHint::with_exact(0), |wire| wire.size_hint())
    }

    /// The connection, when it is the handler's from now on.
    pub fn into_upgraded(mut self) -> Option<impl AsyncRead + AsyncWrite + Send + Unpin + use<>> {
        self.wire.take().map(|wire| wire.into_upgraded())
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(wire) = self.wire.take_if(|wire| wire.is_reusable()) {
            self.upstream.put(wire);
        }
    }
}
