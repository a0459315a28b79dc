//! Plain requests, answered without hyper's server.
//!
//! Nearly all calls are plain (`request`): they come whole, with a length, and are answered one after the other. These
//! are read and answered here, by the connection's own task, which costs a tenth less than a server that must be able to
//! do anything at any time. With the first request that is not plain the connection is hyper's, to its end.

mod answer;
mod request;

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body as _, Frame};
use hyper::Response;
use hyper::header::CONNECTION;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use self::request::{Plain, Seen};
use crate::connection::Client;
use crate::message::{Length, TOGETHER};
use crate::reply::{RelayError, Reply};
use crate::server::answer_plain;

/// What is read at a time.
const READ: usize = 8 << 10;
/// How long the rest of a request is waited for here. One that takes longer is hyper's, which has the limits for it.
const PATIENCE: Duration = Duration::from_millis(50);
/// So much is put together before it is written, if more is there already.
const FULL: usize = 32 << 10;

/// Why this is over.
pub enum End {
    /// The connection is to be closed.
    Closed,
    /// What was read is the beginning of something that is not plain.
    Other(Bytes),
}

/// Answers plain requests, as long as they are.
pub async fn serve(stream: &mut TcpStream, client: &Client) -> io::Result<End> {
    let mut waiting = Waiting {
        asked: false,
        begun: Box::pin(client.drain.begun()),
        timer: Box::pin(sleep_until(Instant::now())),
    };
    let (mut seen, mut buffer) = (Bytes::new(), Vec::new());
    loop {
        let plain = match waiting.request(stream, client, &mut seen).await? {
            Next::Plain(plain) => *plain,
            Next::End(end) => return Ok(end),
        };
        let Some(response) = call(stream, client, &mut seen, plain).await else { return Ok(End::Closed) };
        let close = response.headers().contains_key(CONNECTION) || client.drain.has_begun();
        write(stream, &mut seen, &mut buffer, response, close).await?;
        if close {
            return Ok(End::Closed);
        }
    }
}

enum Next {
    Plain(Box<Plain>),
    End(End),
}

/// What a connection has for the times between two requests.
struct Waiting<'a> {
    /// Whether the drain knows whom to wake.
    asked: bool,
    begun: Pin<Box<dyn Future<Output = ()> + Send + 'a>>,
    /// Kept from request to request: to set it later costs next to nothing, another one does not.
    timer: Pin<Box<Sleep>>,
}

impl Waiting<'_> {
    /// The next request, of which `seen` was read already.
    async fn request(
        &mut self,
        stream: &mut TcpStream,
        client: &Client,
        seen: &mut Bytes,
    ) -> io::Result<Next> {
        self.timer.as_mut().reset(Instant::now() + client.gateway.settings.header_timeout);
        let mut is_part = false;
        loop {
            if !seen.is_empty() {
                match request::read(seen) {
                    Seen::Whole(plain, rest) => {
                        *seen = rest;
                        return Ok(Next::Plain(plain));
                    }
                    // From its first bytes on: more of them make it no longer.
                    Seen::Part if !is_part => {
                        is_part = true;
                        self.timer.as_mut().reset(Instant::now() + PATIENCE);
                    }
                    Seen::Part => {}
                    Seen::Other => return Ok(Next::End(End::Other(std::mem::take(seen)))),
                }
            }
            match poll_fn(|cx| self.poll(stream, client, cx)).await? {
                Some(more) if seen.is_empty() => *seen = more,
                Some(more) => *seen = [&seen[..], &more[..]].concat().into(),
                // Its time is up, or its client sends nothing any more.
                None if !seen.is_empty() && !client.drain.has_begun() => {
                    return Ok(Next::End(End::Other(std::mem::take(seen))));
                }
                None => return Ok(Next::End(End::Closed)),
            }
        }
    }

    /// More bytes; none if there is no reason to wait for them any longer.
    fn poll(
        &mut self,
        stream: &mut TcpStream,
        client: &Client,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Option<Bytes>>> {
        if let Poll::Ready(bytes) = poll_read(stream, cx)? {
            return Poll::Ready(Ok(Some(bytes).filter(|bytes| !bytes.is_empty())));
        }
        // Once asked it wakes this task when it comes; to ask it each time would take locks.
        let begun = (!self.asked || client.drain.has_begun()) && self.begun.as_mut().poll(cx).is_ready();
        self.asked = true;
        if begun { Poll::Ready(Ok(None)) } else { self.timer.as_mut().poll(cx).map(|()| Ok(None)) }
    }
}

/// What there is to read; nothing at the end. What is not used holds no buffer.
fn poll_read(stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
    let mut space = [const { MaybeUninit::uninit() }; READ];
    let mut read = ReadBuf::uninit(&mut space);
    Pin::new(stream).poll_read(cx, &mut read).map_ok(|()| Bytes::copy_from_slice(read.filled()))
}

/// Whether the client has gone. What it sends meanwhile, the next request, is put to `seen`: then it is not looked at again
/// until that is read.
fn poll_gone(stream: &mut TcpStream, seen: &mut Bytes, cx: &mut Context<'_>) -> Poll<()> {
    if !seen.is_empty() {
        return Poll::Pending;
    }
    match poll_read(stream, cx) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(bytes)) if !bytes.is_empty() => {
            *seen = bytes;
            Poll::Pending
        }
        Poll::Ready(_) => Poll::Ready(()),
    }
}

/// Answers a call; none if nobody is there any more.
async fn call(
    stream: &mut TcpStream,
    client: &Client,
    seen: &mut Bytes,
    plain: Plain,
) -> Option<Response<Reply>> {
    let Plain { handler, head, body } = plain;
    let mut answer = pin!(answer_plain(&client.gateway, &client.address, handler, head, body));
    poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Ready(response) => Poll::Ready(Some(response)),
        Poll::Pending => poll_gone(stream, seen, cx).map(|()| None),
    })
    .await
}

/// Writes an answer as it comes.
async fn write(
    stream: &mut TcpStream,
    seen: &mut Bytes,
    buffer: &mut Vec<u8>,
    response: Response<Reply>,
    close: bool,
) -> io::Result<()> {
    let (head, mut body) = response.into_parts();
    let length = answer::length(head.status, body.size_hint().exact());
    buffer.clear();
    answer::head(buffer, &head, length, close);
    while !body.is_end_stream() {
        let now = poll_fn(|cx| Poll::Ready(Pin::new(&mut body).poll_frame(cx))).await;
        let frame = match now {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                flush(stream, buffer).await?;
                poll_fn(|cx| next(stream, seen, &mut body, cx)).await?
            }
        };
        let Some(frame) = frame else { break };
        match frame {
            Ok(frame) => {
                // Trailers are dropped: no client has asked for them.
                let Ok(part) = frame.into_data() else { continue };
                push(stream, buffer, length, part).await?;
            }
            Err(error) => {
                // What there was of it goes out, and shows by its length that it is not all.
                flush(stream, buffer).await?;
                return Err(io::Error::other(error));
            }
        }
    }
    // Another call may have the agent's connection while this client still reads.
    drop(body);
    answer::end(buffer, length);
    flush(stream, buffer).await?;
    buffer.shrink_to(FULL);
    Ok(())
}

type Part = Option<Result<Frame<Bytes>, RelayError>>;

/// The next part of a body that someone waits for.
fn next(
    stream: &mut TcpStream,
    seen: &mut Bytes,
    body: &mut Reply,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Part>> {
    match Pin::new(body).poll_frame(cx) {
        Poll::Ready(frame) => Poll::Ready(Ok(frame)),
        Poll::Pending => poll_gone(stream, seen, cx).map(|()| Err(io::ErrorKind::UnexpectedEof.into())),
    }
}

async fn push(stream: &mut TcpStream, buffer: &mut Vec<u8>, length: Length, part: Bytes) -> io::Result<()> {
    if part.is_empty() {
        return Ok(());
    }
    answer::before(buffer, length, &part);
    if part.len() <= TOGETHER {
        buffer.extend_from_slice(&part);
    } else {
        stream.write_all_buf(&mut buffer.as_slice().chain(part)).await?;
        buffer.clear();
    }
    answer::after(buffer, length);
    if buffer.len() >= FULL { flush(stream, buffer).await } else { Ok(()) }
}

async fn flush(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> io::Result<()> {
    if !buffer.is_empty() {
        stream.write_all(buffer).await?;
        buffer.clear();
    }
    Ok(())
}
