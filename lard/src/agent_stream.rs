//! A connection to an agent that is heard to its end even when nothing can be said to it any more.
//!
//! An agent that dies with bytes unread resets its connections. What it said before, that it takes a call, is still there
//! to be read; if the failed write ended the connection, lard would not learn it, and send the call to another agent.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The connection. What is written once it is broken goes nowhere; that it is over the reader learns.
pub struct AgentStream {
    stream: TokioIo<TcpStream>,
    broken: bool,
}

impl AgentStream {
    /// Of a connection.
    pub fn new(stream: TcpStream) -> Self {
        Self { stream: TokioIo::new(stream), broken: false }
    }

    /// Lets a reset pass for a write of `length` bytes.
    fn written(&mut self, result: io::Result<usize>, length: usize) -> Poll<io::Result<usize>> {
        match result {
            Err(error) if is_reset(&error) => {
                self.broken = true;
                Poll::Ready(Ok(length))
            }
            other => Poll::Ready(other),
        }
    }
}

fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

impl Read for AgentStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for AgentStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        if self.broken {
            return Poll::Ready(Ok(buffer.len()));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write(cx, buffer));
        self.written(result, buffer.len())
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length = buffers.iter().map(|buffer| buffer.len()).sum();
        if self.broken {
            return Poll::Ready(Ok(length));
        }
        let result = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, buffers));
        self.written(result, length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use hyper::rt::ReadBuf;
    use rustix::net::sockopt;
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn what_was_said_before_a_reset_is_heard() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut agent, _) = listener.accept().await.unwrap();
        agent.write_all(b"taken").await.unwrap();
        // Closes with a reset.
        sockopt::set_socket_linger(&agent, Some(std::time::Duration::ZERO)).unwrap();
        drop(agent);
        client.ready(tokio::io::Interest::ERROR).await.unwrap();
        let mut stream = AgentStream::new(client);
        for _ in 0..2 {
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, b"body")).await;
            assert_eq!(written.unwrap(), 4);
        }
        assert!(stream.broken);
        let mut bytes = [0; 16];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, buffer.unfilled())).await.unwrap();
        assert_eq!(buffer.filled(), b"taken");
        let end = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, buffer.unfilled())).await;
        assert!(end.is_err() || buffer.filled() == b"taken", "it is over");
    }
}
