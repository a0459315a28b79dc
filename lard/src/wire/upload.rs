//! A request on its way out: its head, and its body as there is of it.

use std::io::{self, IoSlice, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use http_body::Body as _;
use hyper::Method;
use hyper::header::HeaderValue;
use tokio::io::AsyncWrite;
use tokio::net::TcpStream;

use super::head::Outgoing;
use crate::message::{Length, TOGETHER};
use crate::tail::Replay;

/// What is to be written.
#[derive(Default)]
pub struct Upload {
    /// Heads, small parts, and what stands between parts.
    buffer: Vec<u8>,
    /// How much of it is written.
    written: usize,
    /// A large part, after it.
    part: Bytes,
    rest: Rest,
    chunked: bool,
    /// Whether the line of a chunk is to be ended before anything else is written.
    open_line: bool,
    begun: bool,
    /// What is to come goes nowhere.
    broken: bool,
}

/// What is not yet taken.
#[derive(Default)]
enum Rest {
    #[default]
    None,
    /// The mark that ends a chunked body.
    End,
    Body(Replay),
}

impl Upload {
    /// Takes a request.
    pub fn begin(&mut self, request: &Outgoing<'_>, host: &HeaderValue, body: Replay) {
        let is_empty = body.is_end_stream();
        let length = match body.size_hint().exact() {
            _ if is_empty && matches!(*request.method, Method::GET | Method::HEAD) => Length::None,
            Some(length) => Length::Exact(length),
            None => Length::Chunked,
        };
        request.write(&mut self.buffer, host, length);
        self.rest = if is_empty { Rest::None } else { Rest::Body(body) };
        (self.begun, self.chunked, self.open_line) = (false, length == Length::Chunked, false);
    }

    /// Whether any of it was written.
    pub fn is_begun(&self) -> bool {
        self.begun
    }

    /// Whether all of it was written.
    pub fn is_done(&self) -> bool {
        matches!(self.rest, Rest::None) && !self.is_pending() && !self.broken
    }

    /// Keeps no more memory than a small request needs.
    pub fn shrink(&mut self) {
        self.buffer.shrink_to(2 * TOGETHER);
    }

    /// Writes on. That the agent takes nothing any more is no error: what it said before is still to be read.
    pub fn poll(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_pending() || !matches!(self.rest, Rest::None) {
            let filled = self.fill(cx)?;
            ready!(self.flush(stream, cx))?;
            ready!(filled);
        }
        Poll::Ready(Ok(()))
    }

    fn is_pending(&self) -> bool {
        !self.buffer.is_empty() || !self.part.is_empty()
    }

    /// Takes as much of the body as is written at once.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.part.is_empty() && self.buffer.len() < TOGETHER {
            let body = match &mut self.rest {
                Rest::None => break,
                Rest::End => {
                    self.end_line();
                    self.buffer.extend_from_slice(b"0\r\n\r\n");
                    self.rest = Rest::None;
                    break;
                }
                Rest::Body(body) => body,
            };
            let frame = ready!(Pin::new(&mut *body).poll_frame(cx)).transpose().map_err(io::Error::other)?;
            if frame.is_none() || body.is_end_stream() {
                self.rest = if self.chunked { Rest::End } else { Rest::None };
            }
            // Trailers are dropped: no handler sees them.
            if let Some(data) = frame.and_then(|frame| frame.into_data().ok()).filter(|data| !data.is_empty())
            {
                self.push(data);
            }
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) {
        self.end_line();
        if self.chunked {
            // A Vec takes all that it is given.
            let _ = write!(self.buffer, "{:x}\r\n", data.len());
            self.open_line = true;
        }
        if data.len() <= TOGETHER {
            self.buffer.extend_from_slice(&data);
        } else {
            self.part = data;
        }
    }

    fn end_line(&mut self) {
        if self.open_line {
            self.buffer.extend_from_slice(b"\r\n");
            self.open_line = false;
        }
    }

    fn flush(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.is_pending() {
            let (stream, head) = (Pin::new(&mut *stream), &self.buffer[self.written..]);
            let written = ready!(if self.part.is_empty() {
                stream.poll_write(cx, head)
            } else {
                stream.poll_write_vectored(cx, &[IoSlice::new(head), IoSlice::new(&self.part)])
            });
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => self.advance(count),
                Err(error) if is_reset(&error) => {
                    *self = Self { begun: self.begun, broken: true, ..Self::default() };
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    fn advance(&mut self, count: usize) {
        self.begun = true;
        let of_buffer = count.min(self.buffer.len() - self.written);
        self.written += of_buffer;
        self.part.advance(count - of_buffer);
        if self.written == self.buffer.len() {
            self.buffer.clear();
            self.written = 0;
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
