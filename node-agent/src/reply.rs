//! What goes back to the client: request ids, error bodies, the headers every response has.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::Full;
use openlambda_api::{Component, ErrorBody, Reason, headers};

/// A response whose body is one piece: header and body leave in one write.
pub type Answer = Response<Full<Bytes>>;

/// `X-Request-Id`.
pub const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);
/// `X-Timeout`.
pub const TIMEOUT: HeaderName = HeaderName::from_static(headers::TIMEOUT);
/// The digest of the handler's packages.
pub const PACKAGES: HeaderName = HeaderName::from_static(headers::PACKAGES);
const LOAD_METRICS: HeaderName = HeaderName::from_static(headers::LOAD_METRICS);
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A call's id: printable ASCII of a bounded length.
#[derive(Clone, Debug)]
pub struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own if it is fit, a new one otherwise.
    pub fn of(headers: &HeaderMap) -> Self {
        match headers.get(&REQUEST_ID) {
            Some(value) if is_fit(value.as_bytes()) => Self(value.clone()),
            _ => Self::mint(),
        }
    }

    fn mint() -> Self {
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text: &str = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
        Self(HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("-")))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("-")
    }
}

fn is_fit(bytes: &[u8]) -> bool {
    (1..=headers::REQUEST_ID_MAX).contains(&bytes.len()) && bytes.iter().all(u8::is_ascii_graphic)
}

/// Why a call has no result: becomes the error body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whose failure it is.
    pub component: Component,
    /// Which.
    pub reason: Reason,
    /// What happened.
    pub message: String,
    /// The handler's exception.
    pub error_type: Option<String>,
    /// The handler's traceback.
    pub traceback: Option<String>,
    /// When to try again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure of ours.
    pub fn agent(reason: Reason, message: impl Into<String>) -> Self {
        Self::new(Component::Agent, reason, message)
    }

    /// A failure with no more than a message.
    pub fn new(component: Component, reason: Reason, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { component, reason, message, error_type: None, traceback: None, retry_after: None }
    }

    /// The worker is shutting down.
    pub fn draining() -> Self {
        Self::agent(Reason::Draining, "this worker is shutting down; another one serves the call")
            .after(Duration::from_secs(1))
    }

    /// With a time to try again.
    pub fn after(mut self, retry_after: Duration) -> Self {
        self.retry_after = Some(retry_after);
        self
    }

    /// As a response, but for the headers every response has.
    pub fn answer(self, id: &RequestId) -> Answer {
        let mut body = ErrorBody::new(self.component, self.reason, self.message, id.as_str());
        body.error_type = self.error_type;
        body.traceback = self.traceback;
        let status = StatusCode::from_u16(self.reason.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut answer = json(status, body.to_json().into());
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: "0" would mean at once.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            answer.headers_mut().insert(RETRY_AFTER, seconds.max(1).into());
        }
        if self.reason == Reason::Draining {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }
}

/// A JSON response.
pub fn json(status: StatusCode, body: Bytes) -> Answer {
    with_type(status, JSON, body)
}

/// A text response.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    with_type(status, TEXT, body.into())
}

fn with_type(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.reserve(6);
    headers.insert(CONTENT_TYPE, content_type);
    answer
}

/// Adds what every response has.
pub fn seal(mut answer: Answer, id: RequestId, load: HeaderValue) -> Answer {
    let headers = answer.headers_mut();
    headers.insert(REQUEST_ID, id.0);
    headers.insert(LOAD_METRICS, load);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fit_ids_are_honoured_and_others_replaced() {
        let id_of = |value: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(value).unwrap());
            RequestId::of(&headers).as_str().to_owned()
        };
        assert_eq!(id_of(b"abc-1"), "abc-1");
        assert_eq!(id_of(&[b'x'; 128]).len(), 128);
        for bad in [&[b'x'; 129][..], b"", b"a b", b"\xff"] {
            assert_eq!(id_of(bad).len(), 36, "{bad:?} was honoured");
        }
        assert_ne!(RequestId::of(&HeaderMap::new()).as_str(), RequestId::of(&HeaderMap::new()).as_str());
    }

    #[test]
    fn a_failure_is_status_body_and_when_to_try_again() {
        let id = RequestId::mint();
        let failure = Failure::agent(Reason::ConcurrencyExceeded, "full").after(Duration::from_millis(1500));
        let answer = failure.answer(&id);
        assert_eq!(answer.status(), 429);
        assert_eq!(answer.headers()[RETRY_AFTER], "2");
        assert!(!answer.headers().contains_key(CONNECTION));
        assert_eq!(Failure::draining().answer(&id).headers()[CONNECTION], "close");
    }
}
