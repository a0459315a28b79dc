//! Agents that are silent are asked: a report comes with each answer, so one that gets no calls would say nothing, and
//! could never show that it has become idle, or which Zygotes it has.
//!
//! What is heard so changes what is known of an agent's load, never whether it takes calls: another thread answers at
//! the admin port.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use openlambda_api::load::LOAD_PATH;
use openlambda_policy::backoff::Backoff;
use openlambda_policy::balance::{Report, ServerId};
use tokio::net::TcpStream;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::gateway::Gateway;
use crate::report;

/// An answer must have come after this time.
const PATIENCE: Duration = Duration::from_millis(700);
/// The longest answer.
const LONGEST: usize = 16 << 10;
/// Agents that are asked at a time.
const AT_ONCE: usize = 16;

/// Asks for ever.
pub async fn follow(gateway: Arc<Gateway>) {
    let every = gateway.settings.poll_every;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Those that do not answer are asked less often: there may be nothing that could.
    let mut backoffs: HashMap<ServerId, Backoff> = HashMap::new();
    loop {
        ticks.tick().await;
        let now = gateway.targets.now();
        let silent: Vec<_> = gateway
            .targets
            .silent(every)
            .into_iter()
            .filter(|(server, _)| backoffs.get(server).is_none_or(|backoff| !backoff.is_open(now)))
            .collect();
        let asking = silent.into_iter().map(|(server, address)| async move { (server, ask(&address).await) });
        let mut answers = futures::stream::iter(asking).buffer_unordered(AT_ONCE);
        while let Some((server, answer)) = answers.next().await {
            match answer {
                Ok(report) => {
                    backoffs.remove(&server);
                    gateway.targets.hear(server, report);
                }
                Err(error) => {
                    tracing::debug!(%error, ?server, "a silent agent does not say how loaded it is");
                    backoffs.entry(server).or_default().fail(gateway.targets.now());
                }
            }
        }
        backoffs.retain(|server, _| gateway.targets.upstream(*server).is_some());
    }
}

/// What the agent whose admin port is at `address` says.
async fn ask(address: &(String, u16)) -> io::Result<Report> {
    timeout(PATIENCE, get(address)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn get((host, port): &(String, u16)) -> io::Result<Report> {
    let stream = TcpStream::connect((host.as_str(), *port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let asking = async move {
        let request = Request::get(LOAD_PATH).header(HOST, "agent").body(Empty::<Bytes>::new());
        let answer =
            sender.send_request(request.map_err(io::Error::other)?).await.map_err(io::Error::other)?;
        if answer.status() != StatusCode::OK {
            return Err(io::Error::other(format!("{LOAD_PATH} is answered with {}", answer.status())));
        }
        let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(io::Error::other)?;
        let body = body.to_bytes();
        let text = std::str::from_utf8(&body).map_err(io::Error::other)?;
        report::parse(text).ok_or_else(|| io::Error::other("the answer is no load report"))
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        report = asking.as_mut() => report,
        // Its end is the end of the answer, which may have come whole.
        _ = connection => asking.await,
    }
}
