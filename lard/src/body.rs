//! Request bodies: collected up to a limit, so that a call can be sent again, and replayed as often as needed.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::settings::Settings;

/// What is read of a refused body, so that a client that writes before it reads sees the answer.
const DISCARD_BYTES: u64 = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(2);

/// Why there is no body.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Over the limit.
    #[error(
        "the request's body is over the limit of {0} bytes (RequestLimit in lard's configuration, or the handler's own)"
    )]
    TooLarge(usize),
    /// The client paused too long or took too long in all.
    #[error(
        "the request's body did not arrive in time: at most {pause:?} between two parts, {total:?} in all"
    )]
    TooSlow {
        /// The longest pause.
        pause: Duration,
        /// The longest time.
        total: Duration,
    },
    /// It is malformed, or broke off.
    #[error("the request's body cannot be read: {0}")]
    Broken(#[from] hyper::Error),
}

/// Reads a body of up to `limit` bytes to its end.
pub async fn collect(mut body: Incoming, limit: usize, settings: &Settings) -> Result<Bytes, BodyError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge(limit));
    }
    let end = Instant::now() + settings.body_timeout;
    let Some(first) = next(&mut body, settings, end).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return refuse(body, limit).await;
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = BytesMut::from(first);
    while let Some(part) = next(&mut body, settings, end).await? {
        if whole.len() + part.len() > limit {
            return refuse(body, limit).await;
        }
        whole.extend_from_slice(&part);
    }
    Ok(whole.freeze())
}

async fn next(body: &mut Incoming, settings: &Settings, end: Instant) -> Result<Option<Bytes>, BodyError> {
    loop {
        let until = end.min(Instant::now() + settings.body_pause);
        let frame = timeout_at(until, body.frame())
            .await
            .map_err(|_| BodyError::TooSlow { pause: settings.body_pause, total: settings.body_timeout })?;
        // Trailers are dropped: no handler sees them.
        match frame.transpose()?.map(Frame::into_data) {
            None => return Ok(None),
            Some(Ok(data)) => return Ok(Some(data)),
            Some(Err(_)) => {}
        }
    }
}

async fn refuse(mut body: Incoming, limit: usize) -> Result<Bytes, BodyError> {
    discard(&mut body).await;
    Err(BodyError::TooLarge(limit))
}

/// Reads on for a while and forgets.
pub async fn discard(body: &mut Incoming) {
    let reading = async {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, |d| d.len() as u64);
            let Some(less) = left.checked_sub(length) else { break };
            left = less;
        }
    };
    // Time is up: the connection will be closed under the client's writes.
    let _ = tokio::time::timeout(DISCARD_TIME, reading).await;
}

/// A request's body on its way to an agent.
#[derive(Clone, Debug)]
pub struct Replay {
    data: Option<Bytes>,
    /// An empty body that is announced all the same (chunked), so that the agent answers `100 Continue` when it
    /// takes the call: only so can a call without a body be known not to have reached a sandbox.
    announced: bool,
}

impl Replay {
    /// A body; `guarded` if the agent is to say when it takes the call.
    pub fn new(data: Bytes, guarded: bool) -> Self {
        let announced = guarded && data.is_empty();
        Self { data: Some(data).filter(|d| !d.is_empty()), announced }
    }
}

impl Body for Replay {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.announced = false;
        Poll::Ready(self.data.take().map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.announced
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.data, self.announced) {
            (_, true) => SizeHint::default(),
            (data, false) => SizeHint::with_exact(data.as_ref().map_or(0, |d| d.len() as u64)),
        }
    }
}
