//! A client's connection on which a small answer goes out as one piece.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// An answer up to this size is put together here: that costs less than to have the kernel gather its parts.
const SMALL: usize = 2 << 10;

/// The connection.
pub struct ClientStream {
    stream: TokioIo<TcpStream>,
    /// What was read of it before.
    seen: Bytes,
    /// A small answer.
    whole: Vec<u8>,
}

impl ClientStream {
    /// Of a connection, of which `seen` was read already.
    pub fn new(stream: TcpStream, seen: Bytes) -> Self {
        Self { stream: TokioIo::new(stream), seen, whole: Vec::new() }
    }
}

impl Read for ClientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.seen.is_empty() {
            let count = self.seen.len().min(buffer.remaining());
            buffer.put_slice(&self.seen.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let length: usize = buffers.iter().map(|buffer| buffer.len()).sum();
        if length > SMALL {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, buffers);
        }
        let Self { stream, whole, .. } = &mut *self;
        whole.clear();
        buffers.iter().for_each(|buffer| whole.extend_from_slice(buffer));
        Pin::new(stream).poll_write(cx, whole)
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

    use tokio::io::AsyncReadExt as _;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn parts_arrive_in_order_small_or_large() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        let (mut stream, mut client) = (ClientStream::new(stream, Bytes::new()), client);
        for size in [1, SMALL - 4, SMALL - 3, 2 * SMALL] {
            let body = vec![b'x'; size];
            let parts = [IoSlice::new(b"head"), IoSlice::new(&body)];
            let written = poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &parts)).await.unwrap();
            assert_eq!(written, 4 + size);
            let mut got = vec![0; written];
            client.read_exact(&mut got).await.unwrap();
            assert_eq!((&got[..4], &got[4..]), (&b"head"[..], &body[..]));
        }
    }
}
