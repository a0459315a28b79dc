//! An archive on its way to a client, a piece at a time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use openlambda_bundle::BundleError;
use tokio::fs::File;
use tokio::io::{AsyncRead as _, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::work::Work;
use crate::connection::Stream;

/// What is read at a time.
const PIECE: usize = 64 << 10;

/// A file that is sent, with the folder that it lies in.
pub struct Download {
    file: File,
    left: u64,
    buffer: Box<[u8]>,
    /// The time for all of it.
    sleep: Pin<Box<Sleep>>,
    _work: Work,
    _stream: Option<Stream>,
}

impl Download {
    /// Opens a file in the working folder.
    pub async fn open(work: Work, name: &str, within: Duration) -> Result<Self, BundleError> {
        let path = work.path().join(name);
        let local = |error| BundleError::io(&path, error);
        let file = File::open(&path).await.map_err(local)?;
        let left = file.metadata().await.map_err(local)?.len();
        let (buffer, sleep) = (vec![0; PIECE].into_boxed_slice(), Box::pin(sleep(within)));
        Ok(Self { file, left, buffer, sleep, _work: work, _stream: None })
    }

    /// Bytes that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Keeps the client's connection from being taken for unused.
    pub fn hold(&mut self, stream: Stream) {
        self._stream = Some(stream);
    }

    /// The next piece; none at the end.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.sleep.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Some(Err(io::ErrorKind::TimedOut.into())));
        }
        let mut piece = ReadBuf::new(&mut self.buffer);
        if let Err(error) = ready!(Pin::new(&mut self.file).poll_read(cx, &mut piece)) {
            return Poll::Ready(Some(Err(error)));
        }
        let piece = piece.filled();
        if piece.is_empty() {
            return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
        }
        self.left = self.left.saturating_sub(piece.len() as u64);
        Poll::Ready(Some(Ok(Bytes::copy_from_slice(piece))))
    }
}
