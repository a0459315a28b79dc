//! One connection to an agent, HTTP/1.1, driven by the task of the call that is in it.
//!
//! A general client gives each connection a task of its own, and passes requests, answers and parts of bodies between the
//! two; here they are not passed on at all, which is what a call saves. Heads are read by `httparse`, names and values
//! checked by `http`; what is ours is framing (`framing`), what goes out (`upload`), and the order of both.
//!
//! An agent that dies with bytes unread resets its connections. What it said before, that it takes a call, is still there
//! to be read: so nothing that fails to be written ends a connection, only what is read does.

mod framing;
mod head;
mod upload;

use std::future::Future as _;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use futures::task::AtomicWaker;
use http_body::SizeHint;
use hyper::header::HeaderValue;
use hyper::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use self::framing::Framing;
pub use self::head::{Outgoing, Said};
use self::upload::Upload;
use crate::tail::{Replay, Taken};

/// What is read at a time, at first and at most: twice as much each time that it was filled.
const READ: (usize, usize) = (8 << 10, 256 << 10);
/// The longest head of an answer.
const LONGEST_HEAD: usize = 256 << 10;

/// Ends what waits at a connection, from elsewhere.
#[derive(Debug, Default)]
pub struct Cut {
    is: AtomicBool,
    waiting: AtomicWaker,
}

impl Cut {
    /// Nobody shall wait any longer.
    pub fn cut(&self) {
        self.is.store(true, Ordering::Release);
        self.waiting.wake();
    }

    fn is(&self) -> bool {
        self.is.load(Ordering::Acquire)
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<io::Error> {
        self.waiting.register(cx.waker());
        if self.is() {
            return Poll::Ready(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                "nobody waits for it any longer",
            ));
        }
        Poll::Pending
    }
}

/// A connection, and how far the call in it is.
pub struct Wire {
    stream: TcpStream,
    read: BytesMut,
    /// What is read next time.
    size: usize,
    /// For where headers stand in what was read.
    places: Vec<head::Place>,
    upload: Upload,
    framing: Framing,
    /// Whether an answer to this request has no body whatever its head says (HEAD).
    bodiless: bool,
    /// Whether the agent leaves it open.
    keep: bool,
    cut: Arc<Cut>,
    /// When the call's time is up. Kept from call to call: to set it later costs next to nothing, another one does not.
    deadline: Pin<Box<Sleep>>,
}

impl Wire {
    /// With nothing in it.
    pub fn new(stream: TcpStream, cut: Arc<Cut>) -> Self {
        Self {
            stream,
            read: BytesMut::new(),
            size: READ.0,
            places: Vec::new(),
            upload: Upload::default(),
            framing: Framing::Length(0),
            bodiless: false,
            keep: true,
            cut,
            deadline: Box::pin(sleep_until(Instant::now())),
        }
    }

    /// Begins a request; nothing is written yet. `host` stands in for a `Host` that it does not have.
    pub fn begin(&mut self, request: &Outgoing<'_>, host: &HeaderValue, body: Replay, deadline: Instant) {
        self.bodiless = request.method == hyper::Method::HEAD;
        // Until its head is there the answer is not over.
        self.framing = Framing::Close { ended: false };
        self.upload.begin(request, host, body);
        self.deadline.as_mut().reset(deadline);
    }

    /// Whether the call's time is up.
    pub fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.deadline.as_mut().poll(cx)
    }

    /// Whether anything of the request was written.
    pub fn is_begun(&self) -> bool {
        self.upload.is_begun()
    }

    /// Writes what there is to write, and reads the head of the answer. `taken` learns of `100 Continue`.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        taken: &Taken,
    ) -> Poll<io::Result<(Response<()>, Said)>> {
        loop {
            self.write(cx)?;
            if head::is_continue(&mut self.read) {
                taken.set();
                continue;
            }
            if let Some(head) = head::parse(&mut self.read, &mut self.places)? {
                match head.response.status() {
                    StatusCode::CONTINUE => taken.set(),
                    status if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS => {}
                    _ => return Poll::Ready(Ok(self.answer(head))),
                }
                continue;
            }
            if self.read.len() > LONGEST_HEAD {
                return Poll::Ready(Err(invalid(format!("its head is over {LONGEST_HEAD} bytes"))));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "it was closed before the answer",
                )));
            }
        }
    }

    fn answer(&mut self, head: head::Head) -> (Response<()>, Said) {
        // One that ends with the connection leaves none.
        self.keep = head.keep && !matches!(head.framing, Framing::Close { .. });
        self.framing = if self.bodiless { Framing::Length(0) } else { head.framing };
        (head.response, head.said)
    }

    /// The next part of the answer's body; goes on with the request's as well, if that is not through.
    pub fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        loop {
            self.write(cx)?;
            if let Some(part) = self.framing.take(&mut self.read)? {
                return Poll::Ready(Some(Ok(part)));
            }
            if self.framing.is_ended() {
                return Poll::Ready(None);
            }
            if ready!(self.poll_read(cx))? == 0 {
                self.framing.closed()?;
            }
        }
    }

    /// Whether the answer is over.
    pub fn is_ended(&self) -> bool {
        self.framing.is_ended()
    }

    /// What is left of the answer's body, as far as it is known.
    pub fn size_hint(&self) -> SizeHint {
        self.framing.size_hint()
    }

    /// Whether another request can follow the one that was in it.
    pub fn is_reusable(&self) -> bool {
        let is_over = self.framing.is_ended() && self.upload.is_done() && self.read.is_empty();
        is_over && self.keep && !self.cut.is()
    }

    /// Whether it is still as it was left. What an agent says unasked is answered to nobody.
    pub fn is_open(&mut self) -> bool {
        let mut byte = [0];
        // Pending: nothing came, and it was not closed, as far as the runtime has heard.
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut self.stream).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Keeps no more memory than one that is not used may.
    pub fn shrink(&mut self) {
        self.upload.shrink();
        if self.size > READ.0 {
            (self.read, self.size) = (BytesMut::new(), READ.0);
        }
    }

    /// What is left when the protocol was changed: first what was read already.
    pub fn into_upgraded(self) -> impl AsyncRead + AsyncWrite + Send + Unpin {
        let (reader, writer) = self.stream.into_split();
        tokio::io::join(io::Cursor::new(self.read.freeze()).chain(reader), writer)
    }

    /// As much as can be written now.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.upload.poll(&mut self.stream, cx) {
            Poll::Ready(Err(error)) => Err(error),
            Poll::Ready(Ok(())) | Poll::Pending => Ok(()),
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(self.size);
        let room = self.read.capacity() - self.read.len();
        let Poll::Ready(count) = pin!(self.stream.read_buf(&mut self.read)).poll(cx)? else {
            return self.cut.poll(cx).map(Err);
        };
        if count == room && self.size < READ.1 {
            self.size *= 2;
        }
        Poll::Ready(Ok(count))
    }
}

fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

#[cfg(test)]
mod tests;
