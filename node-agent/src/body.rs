//! Reads the body of a request: up to a limit, within a time, and only when there is someone to give it to.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, EXPECT};
use http_body::Body;
use openlambda_api::Reason;

use crate::reply::Failure;

/// A client that sends nothing for so long is given up.
const STALL: Duration = Duration::from_secs(10);
/// And one that has not sent all of it after so long.
const WHOLE: Duration = Duration::from_secs(60);
/// What is read and thrown away of a body that nobody wants, so that the client reads the answer: beyond, the
/// connection is closed under it.
const UNWANTED: (usize, Duration) = (64 * 1024 * 1024, Duration::from_secs(5));

/// Refuses a request that says it is too long, before any of its body is read.
pub fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), Failure> {
    let length = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    match length.and_then(|length| length.parse::<u64>().ok()) {
        Some(length) if length > limit => Err(too_large(&format!("has {length} bytes"), limit)),
        _ => Ok(()),
    }
}

/// Reads the whole body. The first poll of it is what makes hyper send `100 Continue`.
pub async fn read<B>(body: &mut B, limit: u64) -> Result<Bytes, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let deadline = Instant::now() + WHOLE;
    let mut whole = Whole::None;
    while let Some(piece) = next(body, deadline).await? {
        whole.push(piece);
        if whole.len() as u64 > limit {
            return Err(too_large("goes on", limit));
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(whole.into_bytes())
}

/// Whether the client waits for leave to send its body: as long as nobody has read, it has sent nothing.
pub fn is_held_back(headers: &HeaderMap) -> bool {
    headers.contains_key(EXPECT)
}

/// Throws away what is left of a body before an error is answered.
pub async fn discard<B: Body<Data = Bytes> + Unpin>(body: &mut B) {
    if body.is_end_stream() {
        return;
    }
    let all = async {
        let mut left = UNWANTED.0;
        while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 || body.is_end_stream() {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(UNWANTED.1, all).await;
}

/// Most bodies are one piece, which is passed on as it is.
enum Whole {
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Whole {
    fn push(&mut self, piece: Bytes) {
        *self = match std::mem::replace(self, Self::None) {
            Self::None => Self::One(piece),
            Self::One(first) => {
                let mut many = BytesMut::from(first);
                many.extend_from_slice(&piece);
                Self::Many(many)
            }
            Self::Many(mut many) => {
                many.extend_from_slice(&piece);
                Self::Many(many)
            }
        };
    }

    fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(piece) => piece.len(),
            Self::Many(many) => many.len(),
        }
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Self::None => Bytes::new(),
            Self::One(piece) => piece,
            Self::Many(many) => many.freeze(),
        }
    }
}

/// The next piece. What has already come is taken without arming a timer.
async fn next<B>(body: &mut B, deadline: Instant) -> Result<Option<Bytes>, Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx));
    let ready = poll_fn(|cx| std::task::Poll::Ready(Pin::new(&mut frame).poll(cx))).await;
    let result = match ready {
        std::task::Poll::Ready(result) => result,
        std::task::Poll::Pending => {
            let until = deadline.min(Instant::now() + STALL);
            tokio::time::timeout_at(until.into(), frame).await.map_err(|_| {
                let message = format!(
                    "the request's body did not come: nothing for {} s, or not all of it within {} s",
                    STALL.as_secs(),
                    WHOLE.as_secs()
                );
                Failure::agent(Reason::RequestTimeout, message)
            })?
        }
    };
    match result {
        None => Ok(None),
        // Trailers are no part of the event.
        Some(Ok(frame)) => Ok(Some(frame.into_data().unwrap_or_default())),
        Some(Err(_)) => Err(Failure::agent(Reason::BadRequest, "the request's body is malformed or cut off")),
    }
}

fn too_large(what: &str, limit: u64) -> Failure {
    Failure::agent(
        Reason::PayloadTooLarge,
        format!("the request's body {what}, over the limit of {limit}; send less, or raise limits.request"),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::task::{Context, Poll};

    use http_body::Frame;
    use http_body_util::{Empty, Full};

    use super::*;

    struct Pieces(VecDeque<&'static [u8]>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            if self.0.front() == Some(&&b"stall"[..]) {
                return Poll::Pending;
            }
            Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(Bytes::from_static(piece)))))
        }
    }

    #[tokio::test]
    async fn whole_bodies() {
        assert_eq!(read(&mut Empty::new(), 0).await.unwrap(), "");
        assert_eq!(read(&mut Full::from("abc"), 3).await.unwrap(), "abc");
        assert_eq!(read(&mut Pieces([&b"ab"[..], b"c", b"d"].into()), 4).await.unwrap(), "abcd");
    }

    #[tokio::test]
    async fn over_the_limit() {
        let reason = |result: Result<Bytes, Failure>| result.unwrap_err().reason;
        assert_eq!(reason(read(&mut Full::from("abcd"), 3).await), Reason::PayloadTooLarge);
        assert_eq!(reason(read(&mut Pieces([&b"ab"[..], b"cd"].into()), 3).await), Reason::PayloadTooLarge);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_LENGTH, 4.into());
        assert!(check_length(&headers, 4).is_ok());
        assert_eq!(check_length(&headers, 3).unwrap_err().reason, Reason::PayloadTooLarge);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stalled_body_is_given_up() {
        let error = read(&mut Pieces([&b"ab"[..], b"stall", b"c"].into()), 3).await.unwrap_err();
        assert_eq!(error.reason, Reason::RequestTimeout);
    }
}
