//! Request bodies: the beginning is kept, so that a call can be sent again; the rest is passed on as it comes
//! ([`crate::tail`]).

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt as _;
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::time::{Instant, timeout_at};

use crate::settings::Settings;
use crate::tail::Tail;

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

/// What there is of a request's body once as much was read of it as is kept.
pub struct Gathered {
    /// All of it, or its beginning.
    pub data: Bytes,
    /// The rest, which is read as an agent takes it.
    pub tail: Option<Arc<Tail>>,
}

impl Gathered {
    /// All of it.
    pub fn whole(data: Bytes) -> Self {
        Self { data, tail: None }
    }
}

/// Reads a body of up to `limit` bytes: to its end, or as much of it as is kept to be sent again.
pub async fn gather(mut body: Incoming, limit: usize, settings: &Settings) -> Result<Gathered, BodyError> {
    if body.is_end_stream() {
        return Ok(Gathered::whole(Bytes::new()));
    }
    let declared = body.size_hint().exact();
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(BodyError::TooLarge(limit));
    }
    let end = Instant::now() + settings.body_timeout;
    let Some(first) = next(&mut body, settings, end).await? else {
        return Ok(Gathered::whole(Bytes::new()));
    };
    if first.len() > limit {
        return refuse(body, limit).await;
    }
    if body.is_end_stream() {
        return Ok(Gathered::whole(first));
    }
    let mut data = BytesMut::from(first);
    while data.len() < settings.replay_limit {
        let Some(part) = next(&mut body, settings, end).await? else {
            return Ok(Gathered::whole(data.freeze()));
        };
        if data.len() + part.len() > limit {
            return refuse(body, limit).await;
        }
        data.extend_from_slice(&part);
    }
    let tail = Tail::new(body, (limit, limit - data.len()), settings, end);
    Ok(Gathered { data: data.freeze(), tail: Some(Arc::new(tail)) })
}

/// The next part of a body, in time.
pub async fn next(
    body: &mut Incoming,
    settings: &Settings,
    end: Instant,
) -> Result<Option<Bytes>, BodyError> {
    loop {
        let frame = match body.frame().now_or_never() {
            // Mostly it is there: then nothing is timed.
            Some(frame) => frame,
            None => {
                let until = end.min(Instant::now() + settings.body_pause);
                timeout_at(until, body.frame()).await.map_err(|_| BodyError::TooSlow {
                    pause: settings.body_pause,
                    total: settings.body_timeout,
                })?
            }
        };
        // Trailers are dropped: no handler sees them.
        match frame.transpose()?.map(Frame::into_data) {
            None => return Ok(None),
            Some(Ok(data)) => return Ok(Some(data)),
            Some(Err(_)) => {}
        }
    }
}

async fn refuse(mut body: Incoming, limit: usize) -> Result<Gathered, BodyError> {
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
