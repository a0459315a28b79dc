//! Request bodies on their way to agents: what is kept of one, again for each attempt, and then what is not kept, once.
//!
//! What is not kept is read only when the agent has taken the call (`100 Continue`), so that until then the call can
//! still go to another; and only for the latest attempt.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::body::{BodyError, discard};
use crate::settings::Settings;

/// A server that does not know `100 Continue` reads on without: it gets the rest after this time.
const WITHOUT_A_WORD: Duration = Duration::from_secs(1);

/// The rest of a body.
pub struct Tail {
    state: Mutex<State>,
    /// Whether anything of it was passed on: then nobody else can have the whole body.
    begun: AtomicBool,
    /// Who may read it.
    attempt: AtomicU32,
    /// All that is to come, as far as the client said.
    length: SizeHint,
}

struct State {
    /// Taken when it is over.
    body: Option<Incoming>,
    limit: usize,
    left: usize,
    pause: Duration,
    /// The time for all of it, and when that is up.
    total: Duration,
    end: Instant,
    sleep: Pin<Box<Sleep>>,
    error: Option<BodyError>,
}

impl Tail {
    /// What is left in `body`: of `limit` bytes in all `left` may come.
    pub fn new(body: Incoming, (limit, left): (usize, usize), settings: &Settings, end: Instant) -> Self {
        let (pause, total) = (settings.body_pause, settings.body_timeout);
        let (length, sleep) = (body.size_hint(), Box::pin(sleep_until(end.min(Instant::now() + pause))));
        let state = State { body: Some(body), limit, left, pause, total, end, sleep, error: None };
        Self { state: Mutex::new(state), begun: AtomicBool::new(false), attempt: AtomicU32::new(0), length }
    }

    /// Whether anything of it was passed on.
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Why it broke off, if it is the client's doing. One that writes before it reads is to see the answer all the same.
    pub async fn refused(&self) -> Option<BodyError> {
        let (error, body) = {
            let mut state = self.state.lock();
            (state.error.take()?, state.body.take())
        };
        if let (BodyError::TooLarge(_), Some(mut body)) = (&error, body) {
            discard(&mut body).await;
        }
        Some(error)
    }

    fn poll(&self, attempt: u32, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokenOff>>> {
        if self.attempt.load(Ordering::Relaxed) != attempt {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        self.begun.store(true, Ordering::Relaxed);
        let mut state = self.state.lock();
        if state.error.is_some() {
            return Poll::Ready(Some(Err(BrokenOff)));
        }
        match ready!(state.poll(cx)) {
            None => {
                state.body = None;
                Poll::Ready(None)
            }
            Some(Ok(part)) => Poll::Ready(Some(Ok(part))),
            Some(Err(error)) => {
                state.error = Some(error);
                Poll::Ready(Some(Err(BrokenOff)))
            }
        }
    }
}

impl State {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            let Some(body) = &mut self.body else { return Poll::Ready(None) };
            let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) else {
                ready!(self.sleep.as_mut().poll(cx));
                let (pause, total) = (self.pause, self.total);
                return Poll::Ready(Some(Err(BodyError::TooSlow { pause, total })));
            };
            self.sleep.as_mut().reset(self.end.min(Instant::now() + self.pause));
            match frame.transpose()?.map(Frame::into_data) {
                None => return Poll::Ready(None),
                Some(Ok(data)) => {
                    let Some(left) = self.left.checked_sub(data.len()) else {
                        return Poll::Ready(Some(Err(BodyError::TooLarge(self.limit))));
                    };
                    self.left = left;
                    return Poll::Ready(Some(Ok(data)));
                }
                // Trailers are dropped: no handler sees them.
                Some(Err(_)) => {}
            }
        }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        // Nobody wanted it. A client that writes before it reads is to see the answer all the same.
        if let (Some(mut body), Ok(runtime)) =
            (self.state.get_mut().body.take(), tokio::runtime::Handle::try_current())
        {
            runtime.spawn(async move { discard(&mut body).await });
        }
    }
}

/// The body does not go on.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the request's body broke off")]
pub struct BrokenOff;

/// Whether the agent has taken a call.
#[derive(Debug, Default)]
pub struct Taken {
    is: AtomicBool,
    waiting: AtomicWaker,
}

impl Taken {
    /// It has.
    pub fn set(&self) {
        self.is.store(true, Ordering::Release);
        self.waiting.wake();
    }

    /// Whether it has.
    pub fn is(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<()> {
        self.waiting.register(cx.waker());
        if self.is() { Poll::Ready(()) } else { Poll::Pending }
    }
}

/// A request's body on its way to an agent: one attempt.
pub struct Replay {
    data: Option<Bytes>,
    /// An empty body that is announced all the same (chunked), so that the agent answers `100 Continue` when it
    /// takes the call: only so can a call without a body be known not to have reached a sandbox.
    announced: bool,
    rest: Option<Rest>,
}

struct Rest {
    tail: Arc<Tail>,
    attempt: u32,
    taken: Arc<Taken>,
    /// Made when there is nothing else to do than to wait for the agent.
    patience: Option<Pin<Box<Sleep>>>,
    ended: bool,
}

impl Replay {
    /// A whole body; `guarded` if the agent is to say when it takes the call.
    pub fn new(data: Bytes, guarded: bool) -> Self {
        let announced = guarded && data.is_empty();
        Self { data: Some(data).filter(|d| !d.is_empty()), announced, rest: None }
    }

    /// The beginning of a body, and the rest of it when the agent has taken the call. Ends all attempts before.
    pub fn with_tail(data: Bytes, tail: &Arc<Tail>, taken: &Arc<Taken>) -> Self {
        let attempt = tail.attempt.fetch_add(1, Ordering::Relaxed) + 1;
        let (tail, taken) = (Arc::clone(tail), Arc::clone(taken));
        let rest = Rest { tail, attempt, taken, patience: None, ended: false };
        Self { rest: Some(rest), ..Self::new(data, false) }
    }
}

impl Rest {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        if self.taken.poll(cx).is_pending() {
            let start = || Box::pin(sleep_until(Instant::now() + WITHOUT_A_WORD));
            ready!(self.patience.get_or_insert_with(start).as_mut().poll(cx));
        }
        let next = ready!(self.tail.poll(self.attempt, cx));
        self.ended = next.is_none();
        Poll::Ready(next.map(|part| part.map(Frame::data)))
    }
}

impl Body for Replay {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        self.announced = false;
        match (self.data.take(), &mut self.rest) {
            (Some(data), _) => Poll::Ready(Some(Ok(Frame::data(data)))),
            (None, Some(rest)) => rest.poll(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_none() && !self.announced && self.rest.as_ref().is_none_or(|rest| rest.ended)
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.data.as_ref().map_or(0, |data| data.len() as u64);
        match &self.rest {
            // How much is left of what was begun nobody asks.
            Some(rest) => {
                rest.tail.length.exact().map_or_else(SizeHint::default, |n| SizeHint::with_exact(kept + n))
            }
            None if self.announced => SizeHint::default(),
            None => SizeHint::with_exact(kept),
        }
    }
}
