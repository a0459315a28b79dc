//! What handlers write to stdout and stderr: read as it comes, logged line by line with handler and request, up to a
//! limit per call. Reading never stops, so that a handler is never blocked by its own output.

use std::mem::MaybeUninit;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::unix::pipe::Receiver;

/// The longest piece that is logged as one line.
const MAX_LINE: usize = 8 * 1024;
/// Read at once; also on the stack of whoever reads.
const CHUNK: usize = 16 * 1024;
/// The same where there is mostly nothing to read: it is cleared each time.
const SMALL_CHUNK: usize = 2 * 1024;
/// What one poll reads at most, so that a handler that only writes does not keep the thread from others.
const PER_POLL: usize = 256 * 1024;
/// What is read after a reply: two full pipes.
const PER_DRAIN: usize = 128 * 1024;
/// A line costs more than its bytes: of the limit, each takes at least this much.
const LINE_COST: u64 = 16;

/// Whose output it is.
#[derive(Clone, Copy, Debug)]
pub struct Writer<'a> {
    /// The handler.
    pub handler: &'a str,
    /// The request id, or `-` between calls.
    pub request: &'a str,
}

/// The two pipes of a sandbox.
#[derive(Debug)]
pub struct Logs {
    streams: [Stream; 2],
    budget: Budget,
}

#[derive(Debug)]
struct Stream {
    name: &'static str,
    pipe: Option<Receiver>,
    line: Vec<u8>,
}

#[derive(Debug, Default)]
struct Budget {
    left: u64,
    dropped: u64,
}

impl Logs {
    /// Takes over a sandbox's pipes.
    pub fn new(stdout: Receiver, stderr: Receiver) -> Self {
        let stream = |name, pipe| Stream { name, pipe: Some(pipe), line: Vec::new() };
        Self { streams: [stream("stdout", stdout), stream("stderr", stderr)], budget: Budget::default() }
    }

    /// A call begins: it may log `limit` bytes. What came since the last one belongs to no call.
    pub fn begin(&mut self, limit: u64, handler: &str) {
        self.budget = Budget { left: limit, dropped: 0 };
        let nobody = Writer { handler, request: "-" };
        for stream in &mut self.streams {
            stream.read_ready(nobody, &mut self.budget);
            stream.flush(nobody, &mut self.budget);
        }
        self.budget = Budget { left: limit, dropped: 0 };
    }

    /// Reads what there is and asks to be woken for more. Never ready: the call's reply ends it.
    pub fn poll(&mut self, cx: &mut Context<'_>, writer: Writer<'_>) {
        for stream in &mut self.streams {
            stream.poll(cx, writer, &mut self.budget);
        }
    }

    /// A call ends: what it wrote before its reply is still its own. Gives the number of bytes that were not logged.
    pub fn end(&mut self, writer: Writer<'_>) -> u64 {
        for stream in &mut self.streams {
            stream.read_now(writer, &mut self.budget);
            stream.flush(writer, &mut self.budget);
        }
        let dropped = std::mem::take(&mut self.budget.dropped);
        if dropped > 0 {
            let Writer { handler, request } = writer;
            tracing::warn!(
                target: "handler", handler, request, dropped,
                "output over the limit per call was dropped; raise limits.log in the worker's configuration"
            );
        }
        dropped
    }
}

impl Stream {
    fn poll(&mut self, cx: &mut Context<'_>, writer: Writer<'_>, budget: &mut Budget) {
        let mut room = [const { MaybeUninit::<u8>::uninit() }; CHUNK];
        let mut total = 0;
        while let Some(pipe) = &mut self.pipe {
            let mut buffer = ReadBuf::uninit(&mut room);
            match std::pin::Pin::new(pipe).poll_read(cx, &mut buffer) {
                Poll::Pending => return,
                Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                    total += buffer.filled().len();
                    self.take(buffer.filled(), writer, budget);
                    if total >= PER_POLL {
                        cx.waker().wake_by_ref();
                        return;
                    }
                }
                // The handler closed it, or it is gone: the call itself will tell.
                Poll::Ready(_) => self.pipe = None,
            }
        }
    }

    /// Reads what the runtime knows to be there: no system call if that is nothing.
    fn read_ready(&mut self, writer: Writer<'_>, budget: &mut Budget) {
        self.read(writer, budget, |pipe, room| pipe.try_read(room));
    }

    /// Reads what is there, whether the runtime has heard of it or not: the reply may have overtaken the news.
    fn read_now(&mut self, writer: Writer<'_>, budget: &mut Budget) {
        self.read(writer, budget, |pipe, room| Ok(rustix::io::read(pipe, room)?));
    }

    fn read(
        &mut self,
        writer: Writer<'_>,
        budget: &mut Budget,
        read: impl Fn(&Receiver, &mut [u8]) -> std::io::Result<usize>,
    ) {
        let mut room = [0; SMALL_CHUNK];
        let mut total = 0;
        while total < PER_DRAIN {
            let Some(pipe) = &self.pipe else { return };
            match read(pipe, &mut room) {
                Ok(0) => self.pipe = None,
                Ok(count) => {
                    total += count;
                    self.take(&room[..count], writer, budget);
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, mut bytes: &[u8], writer: Writer<'_>, budget: &mut Budget) {
        if budget.left == 0 && self.line.is_empty() {
            budget.dropped += bytes.len() as u64;
            return;
        }
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.append(&bytes[..end], writer, budget);
            self.emit(writer, budget, 1);
            bytes = &bytes[end + 1..];
        }
        self.append(bytes, writer, budget);
    }

    fn append(&mut self, mut bytes: &[u8], writer: Writer<'_>, budget: &mut Budget) {
        while self.line.len() + bytes.len() > MAX_LINE {
            let (now, later) = bytes.split_at(MAX_LINE - self.line.len());
            self.line.extend_from_slice(now);
            self.emit(writer, budget, 0);
            bytes = later;
        }
        self.line.extend_from_slice(bytes);
    }

    fn flush(&mut self, writer: Writer<'_>, budget: &mut Budget) {
        if !self.line.is_empty() {
            self.emit(writer, budget, 0);
        }
    }

    /// Logs the line so far if the limit allows it whole, as much of it as the limit has left otherwise.
    fn emit(&mut self, writer: Writer<'_>, budget: &mut Budget, newline: u64) {
        let length = self.line.len() as u64;
        let shown = length.min(budget.left);
        budget.dropped += length - shown + if budget.left == 0 { newline } else { 0 };
        if budget.left > 0 {
            let text = String::from_utf8_lossy(&self.line[..shown as usize]);
            let Writer { handler, request } = writer;
            tracing::info!(target: "handler", handler, request, stream = self.name, "{text}");
        }
        budget.left = budget.left.saturating_sub((shown + newline).max(LINE_COST));
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream { name: "stdout", pipe: None, line: Vec::new() }
    }

    const WHO: Writer<'_> = Writer { handler: "h", request: "r" };

    #[test]
    fn what_is_over_the_limit_is_counted() {
        let (mut stream, mut budget) = (stream(), Budget { left: 100, dropped: 0 });
        stream.take(&[b'x'; 60], WHO, &mut budget);
        stream.take(b"\n", WHO, &mut budget);
        assert_eq!((budget.left, budget.dropped), (39, 0));
        stream.take(&[b'y'; 60], WHO, &mut budget);
        stream.take(b"\n", WHO, &mut budget);
        assert_eq!((budget.left, budget.dropped), (0, 21));
        stream.take(&[b'z'; 1000], WHO, &mut budget);
        assert_eq!((budget.dropped, stream.line.len()), (1021, 0));
    }

    #[test]
    fn a_line_without_end_is_cut_and_never_grows() {
        let (mut stream, mut budget) = (stream(), Budget { left: 20_000, dropped: 0 });
        for _ in 0..100 {
            stream.take(&[b'x'; 1000], WHO, &mut budget);
            assert!(stream.line.len() <= MAX_LINE);
        }
        stream.flush(WHO, &mut budget);
        assert_eq!(budget.left, 0);
        assert_eq!(budget.dropped, 100_000 - 20_000);
    }

    #[test]
    fn empty_lines_are_not_free() {
        let (mut stream, mut budget) = (stream(), Budget { left: 160, dropped: 0 });
        stream.take(&[b'\n'; 100], WHO, &mut budget);
        assert_eq!((budget.left, budget.dropped), (0, 90));
    }

    #[tokio::test]
    async fn what_was_written_before_the_end_is_read() {
        let (mut sender, receiver) = tokio::net::unix::pipe::pipe().unwrap();
        let (_other, quiet) = tokio::net::unix::pipe::pipe().unwrap();
        let mut logs = Logs::new(receiver, quiet);
        logs.begin(10, "h");
        tokio::io::AsyncWriteExt::write_all(&mut sender, &[b'x'; 50]).await.unwrap();
        assert_eq!(logs.end(WHO), 40);
    }
}
