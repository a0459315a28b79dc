//! Answers: lard's own errors as JSON, and agents' answers streamed through.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use openlambda_api::{Component, ErrorBody, Reason};

use crate::body::BodyError;
use crate::connection::Stream;
use crate::gate::Permit;
use crate::headers::X_REQUEST_ID;
use crate::registry::Download;
use crate::targets::InFlight;
use crate::upstream::Exchange;

/// Why a call gets an error of lard's own.
#[derive(Debug)]
pub struct Failure {
    /// Why: gives the status.
    pub reason: Reason,
    /// For the caller to read.
    pub message: String,
    /// When to come back, for 429 and 503.
    pub retry_after: Option<Duration>,
    /// Whether the connection is unusable: its request was not read to the end.
    pub close: bool,
}

impl Failure {
    /// A failure.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let retry_after = matches!(reason.status(), 429 | 503).then_some(Duration::from_secs(1));
        Self { reason, message: message.into(), retry_after, close: false }
    }

    /// Of a body that cannot be had.
    pub fn of_body(error: &BodyError) -> Self {
        let reason = match error {
            BodyError::TooLarge(_) => Reason::PayloadTooLarge,
            BodyError::TooSlow { .. } => Reason::RequestTimeout,
            BodyError::Broken(_) => Reason::BadRequest,
        };
        Self { close: true, ..Self::new(reason, error.to_string()) }
    }

    /// The answer.
    pub fn response(self, id: &HeaderValue) -> Response<Reply> {
        let text = id.to_str().unwrap_or_default();
        let body = ErrorBody::new(Component::Balancer, self.reason, self.message, text);
        let mut response = Response::new(Reply::text(body.to_json()));
        *response.status_mut() =
            StatusCode::from_u16(self.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(X_REQUEST_ID, id.clone());
        if let Some(after) = self.retry_after {
            // Rounded up: 0 would mean at once.
            headers.insert(RETRY_AFTER, HeaderValue::from(after.as_millis().div_ceil(1000) as u64));
        }
        if self.close {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// Why an agent's answer breaks off.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The agent's connection broke.
    #[error("the agent's answer broke off: {0}")]
    Broken(#[source] std::io::Error),
    /// The call's time is up.
    #[error("the agent's answer was not complete when the call's time was up")]
    TimedOut,
    /// A file of this machine cannot be read.
    #[error("an archive cannot be read: {0}")]
    File(#[from] std::io::Error),
}

/// The body of an answer.
pub enum Reply {
    /// Held in memory.
    Text(Option<Bytes>),
    /// Streamed from an agent.
    Relay(Box<Relay>),
    /// Streamed from a file.
    Download(Box<Download>),
}

impl Reply {
    /// Keeps the client's connection from being taken for unused until it is through.
    pub fn hold(&mut self, stream: Stream) {
        match self {
            Self::Relay(relay) => relay._stream = Some(stream),
            Self::Download(download) => download.hold(stream),
            Self::Text(_) => {}
        }
    }

    /// One held in memory.
    pub fn text(bytes: impl Into<Bytes>) -> Self {
        Self::Text(Some(bytes.into()).filter(|b| !b.is_empty()))
    }
}

/// An agent's body on its way to the client.
pub struct Relay {
    exchange: Exchange,
    _in_flight: InFlight,
    _permit: Option<Permit>,
    _stream: Option<Stream>,
}

impl Relay {
    /// Holds what the call holds until the body is through.
    pub fn new(exchange: Exchange, in_flight: InFlight) -> Self {
        Self { exchange, _in_flight: in_flight, _permit: None, _stream: None }
    }

    /// Holds the call's place under `MaxConn` too.
    pub fn hold(&mut self, permit: Option<Permit>) {
        self._permit = permit;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        if let Poll::Ready(part) = self.exchange.poll_part(cx) {
            return Poll::Ready(part.map(|part| part.map(Frame::data).map_err(RelayError::Broken)));
        }
        self.exchange.poll_late(cx).map(|()| Some(Err(RelayError::TimedOut)))
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = RelayError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, RelayError>>> {
        match self.get_mut() {
            Self::Text(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Self::Relay(relay) => relay.poll(cx),
            Self::Download(download) => download.poll(cx).map(|next| next.map(|part| Ok(Frame::data(part?)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(bytes) => bytes.is_none(),
            Self::Relay(relay) => relay.exchange.is_ended(),
            Self::Download(download) => download.left() == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64)),
            Self::Relay(relay) => relay.exchange.size_hint(),
            Self::Download(download) => SizeHint::with_exact(download.left()),
        }
    }
}
