//! An archive on its way to a client, a piece at a time. A client that takes nothing is given up, and with it its place,
//! whether its connection ends or not.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use openlambda_bundle::BundleError;
use tokio::fs::File;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::{Instant, timeout_at};

use super::work::Work;
use crate::connection::Stream;
use crate::settings::Settings;

/// What is read at a time.
const PIECE: usize = 64 << 10;

/// A file that is sent.
pub struct Download {
    pieces: Receiver<io::Result<Bytes>>,
    left: u64,
    _stream: Option<Stream>,
}

impl Download {
    /// Opens a file in the working folder.
    pub async fn open(work: Work, name: &str, settings: &Settings) -> Result<Self, BundleError> {
        let path = work.path().join(name);
        let local = |error| BundleError::io(&path, error);
        let file = File::open(&path).await.map_err(local)?;
        let left = file.metadata().await.map_err(local)?.len();
        let (sender, pieces) = channel(1);
        tokio::spawn(read(file, work, sender, (settings.unread_timeout, settings.body_timeout)));
        Ok(Self { pieces, left, _stream: None })
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
        let piece = ready!(self.pieces.poll_recv(cx)).unwrap_or_else(|| Err(io::ErrorKind::TimedOut.into()));
        self.left = self.left.saturating_sub(piece.as_ref().map_or(0, |piece| piece.len() as u64));
        Poll::Ready(Some(piece))
    }
}

/// Reads as fast as it is taken: each piece within a pause, all of it within a time.
async fn read(
    mut file: File,
    _work: Work,
    pieces: Sender<io::Result<Bytes>>,
    (pause, total): (Duration, Duration),
) {
    let end = Instant::now() + total;
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        let piece = match file.read_buf(&mut piece).await {
            Ok(0) => return,
            Ok(_) => Ok(piece.freeze()),
            Err(error) => Err(error),
        };
        let until = end.min(Instant::now() + pause);
        if !matches!(timeout_at(until, pieces.send(piece)).await, Ok(Ok(()))) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;

    use openlambda_config::BalancerConfig;
    use serde_json::json;
    use tokio::sync::Semaphore;

    use super::*;

    #[tokio::test]
    async fn who_takes_nothing_loses_its_place_and_who_takes_gets_all() {
        let config = BalancerConfig::from_value(&json!({}), "test.json".as_ref()).unwrap();
        let settings = Settings { unread_timeout: Duration::from_millis(20), ..Settings::from(&config) };
        let places = Arc::new(Semaphore::new(1));
        let begin = async || {
            let work = Work::new(Arc::clone(&places).acquire_owned().await.unwrap()).unwrap();
            std::fs::write(work.path().join("x"), vec![7; 5 * PIECE]).unwrap();
            Download::open(work, "x", &settings).await.unwrap()
        };
        let mut idle = begin().await;
        // The place is given back beside the client that holds its download.
        let mut taken = begin().await;
        let next = async |download: &mut Download| poll_fn(|cx| download.poll(cx)).await;
        assert!(next(&mut idle).await.unwrap().is_ok(), "what was read before is there");
        assert_eq!(next(&mut idle).await.unwrap().unwrap_err().kind(), io::ErrorKind::TimedOut);
        let mut length = 0;
        while let Some(piece) = next(&mut taken).await {
            length += piece.unwrap().len();
        }
        assert_eq!((length, taken.left()), (5 * PIECE, 0));
        drop(places.acquire().await.unwrap());
    }
}
