//! Connections that were upgraded (WebSocket and whatever else the agent takes): bytes in both directions, until both
//! sides are done, one breaks, or nothing has passed for long.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderMap, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Version};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::{Instant, timeout};

use crate::gate::Permit;
use crate::targets::InFlight;
use crate::upstream::Exchange;

/// The client's side must have changed the protocol after this time.
const CHANGE: Duration = Duration::from_secs(10);
/// What is read at a time.
const CHUNK: usize = 16 << 10;

/// A client's wish to change the protocol.
pub struct Upgrade {
    protocol: HeaderValue,
    client: Mutex<Option<OnUpgrade>>,
}

impl Upgrade {
    /// What a request wants, if it wants that.
    pub fn of(request: &mut Request<Incoming>) -> Option<Self> {
        let named = |value: &HeaderValue| {
            let mut names = value.to_str().unwrap_or_default().split(',');
            names.any(|name| name.trim().eq_ignore_ascii_case("upgrade"))
        };
        let headers = request.headers();
        let protocol = headers.get(UPGRADE).filter(|_| request.version() == Version::HTTP_11)?;
        let protocol = headers.get_all(CONNECTION).iter().any(named).then(|| protocol.clone())?;
        Some(Self { protocol, client: Mutex::new(Some(hyper::upgrade::on(request))) })
    }

    /// Puts on headers what was taken off with all that belongs to one connection.
    pub fn announce(&self, headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, protocol.unwrap_or_else(|| self.protocol.clone()));
    }
}

/// Both ends of an upgraded connection. It goes with the answer to the client, whose server runs it.
#[derive(Clone)]
pub struct Tunnel(Arc<Mutex<Option<Ends>>>);

struct Ends {
    client: OnUpgrade,
    agent: Exchange,
    _in_flight: InFlight,
    _permit: Option<Permit>,
}

impl Tunnel {
    /// Between the client and the agent that answered `101`. Counts as a call as long as it is there.
    pub fn new(upgrade: &Upgrade, agent: Exchange, in_flight: InFlight, permit: Option<Permit>) -> Self {
        let ends = upgrade.client.lock().take();
        let ends = ends.map(|client| Ends { client, agent, _in_flight: in_flight, _permit: permit });
        Self(Arc::new(Mutex::new(ends)))
    }

    /// Passes on what comes until it is over.
    pub async fn run(self, idle: Duration) {
        let Some(ends) = self.0.lock().take() else { return };
        let Some(agent) = ends.agent.into_upgraded() else { return };
        match timeout(CHANGE, ends.client).await {
            Ok(Ok(client)) => {
                if let Err(error) = pass(TokioIo::new(client), agent, idle).await {
                    tracing::debug!(%error, "an upgraded connection ended");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "a connection was not upgraded"),
            Err(_) => tracing::debug!("a connection was not upgraded in time"),
        }
    }
}

async fn pass(
    client: impl AsyncRead + AsyncWrite,
    agent: impl AsyncRead + AsyncWrite,
    idle: Duration,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_agent, mut to_agent) = tokio::io::split(agent);
    let last = Mutex::new(Instant::now());
    let up = copy(&mut from_client, &mut to_agent, &last, idle);
    let down = copy(&mut from_agent, &mut to_client, &last, idle);
    tokio::try_join!(up, down).map(drop)
}

/// Copies to the end. `last` is when something passed in any direction.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    last: &Mutex<Instant>,
    idle: Duration,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let until = *last.lock() + idle;
        let count = match tokio::time::timeout_at(until, from.read(&mut buffer)).await {
            Ok(count) => count?,
            Err(_) if *last.lock() + idle > Instant::now() => continue,
            Err(_) => {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("nothing passed for {idle:?}")));
            }
        };
        if count == 0 {
            return to.shutdown().await;
        }
        *last.lock() = Instant::now();
        let write = async {
            to.write_all(&buffer[..count]).await?;
            to.flush().await
        };
        timeout(idle, write).await??;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_passes_in_one_direction_keeps_the_other_open() {
        let ((mut client, ours), (mut agent, theirs)) = (duplex(64), duplex(64));
        let idle = Duration::from_secs(10);
        let passing = tokio::spawn(pass(ours, theirs, idle));
        for _ in 0..3 {
            tokio::time::sleep(idle * 2 / 3).await;
            agent.write_all(b"x").await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), b'x');
        }
        client.write_all(b"y").await.unwrap();
        assert_eq!(agent.read_u8().await.unwrap(), b'y');
        let error = passing.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn one_side_that_is_done_leaves_the_other_open() {
        let ((mut client, ours), (mut agent, theirs)) = (duplex(64), duplex(64));
        let passing = tokio::spawn(pass(ours, theirs, Duration::from_secs(60)));
        client.shutdown().await.unwrap();
        assert_eq!(agent.read(&mut [0; 8]).await.unwrap(), 0);
        agent.write_all(b"late").await.unwrap();
        drop(agent);
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        assert_eq!(text, "late");
        passing.await.unwrap().unwrap();
    }
}
