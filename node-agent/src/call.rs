//! A call in an instance. It is one state machine that is polled: on the warm path a call is one write and one read of
//! the stream, without a task, a channel or a lock of its own.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::frame::{self, HEADER, Head, Kind, Reply, Violation};
use crate::instance::Instance;
use crate::logs::Writer;
use crate::pool::Lease;

/// A reply too long for the client is read and thrown away up to here, to keep the sandbox; beyond, it is killed.
const RESYNC: usize = 64 * 1024 * 1024;
/// An event up to here is copied behind its header: cheaper than a write of several pieces.
const COPIED: usize = 16 * 1024;
/// Room for a small reply.
const SMALL: usize = 4 * 1024;

/// What one call sends and may use.
#[derive(Debug)]
pub struct Order<'a> {
    /// The handler's name, for its logs.
    pub handler: &'a str,
    /// The call's id.
    pub id: &'a str,
    /// The HTTP verb.
    pub method: &'a str,
    /// Path and query as the client sent them.
    pub path: &'a str,
    /// The event; empty is `null`.
    pub event: Bytes,
    /// When the sandbox is killed.
    pub deadline: Instant,
    /// The longest body of a reply.
    pub response_limit: usize,
    /// The most bytes logged.
    pub log_limit: u64,
}

/// How a call ended.
#[derive(Debug)]
pub enum End {
    /// With a reply.
    Reply(Reply),
    /// With a reply of that many bytes, over the limit. The instance can be used again if it was read to its end.
    TooLarge {
        /// The length.
        length: usize,
        /// Whether it was read.
        skipped: bool,
    },
    /// The sandbox broke the protocol.
    Violation(Violation),
    /// The stream ended or failed.
    Closed,
    /// The sandbox was gone before it got anything: another may be asked.
    Refused,
    /// The deadline passed.
    TimedOut,
}

impl End {
    /// Whether the sandbox can serve another call.
    pub fn is_reusable(&self) -> bool {
        match self {
            // A module that failed to load half is in no defined state.
            Self::Reply(reply) => reply.status != frame::Status::LoadFailed,
            Self::TooLarge { skipped, .. } => *skipped,
            Self::Violation(_) | Self::Closed | Self::Refused | Self::TimedOut => false,
        }
    }
}

/// A call in an instance.
#[derive(Debug)]
pub struct Call {
    lease: Lease,
    /// Sent after `head` bytes of the instance's output.
    code: Bytes,
    head: usize,
    /// Sent after the rest of the output.
    event: Bytes,
    sent: usize,
    state: Reading,
    limit: usize,
}

#[derive(Debug)]
enum Reading {
    Head,
    Rest(Head),
    /// So many bytes of a reply over the limit are still to come; its length.
    Skip(usize, usize),
}

impl Call {
    /// Begins a call: code first, if the instance has none yet.
    pub fn begin(mut lease: Lease, order: Order<'_>) -> Self {
        lease.logs.begin(order.log_limit, order.handler);
        lease.output.clear();
        let code = if lease.loaded { Bytes::new() } else { put_load(&mut lease) };
        let head = lease.output.len();
        let instance = &mut *lease;
        instance.sequence = instance.sequence.wrapping_add(1);
        frame::put(&mut instance.output, instance.sequence, Kind::Call, order.event.len(), |out| {
            frame::put_call_meta(out, order.id, order.method, order.path);
        });
        let mut event = order.event;
        if event.len() <= COPIED {
            instance.output.extend_from_slice(&event);
            event = Bytes::new();
        }
        Self::start(lease, code, head, event, order.deadline, order.response_limit)
    }

    /// Begins something other than a call: the frame has the meta of a load, and `code` as its body.
    pub fn ask(mut lease: Lease, kind: Kind, code: Bytes, order: &Order<'_>) -> Self {
        lease.logs.begin(order.log_limit, order.handler);
        lease.output.clear();
        let instance = &mut *lease;
        instance.sequence = instance.sequence.wrapping_add(1);
        let Instance { output, sequence, revision, .. } = instance;
        frame::put(output, *sequence, kind, code.len(), |out| revision.put_load_meta(out));
        let head = lease.output.len();
        Self::start(lease, code, head, Bytes::new(), order.deadline, order.response_limit)
    }

    fn start(
        mut lease: Lease,
        code: Bytes,
        head: usize,
        event: Bytes,
        deadline: Instant,
        limit: usize,
    ) -> Self {
        // Moving the deadline of an armed timer to later costs no more than a store.
        lease.timer.as_mut().reset(deadline.into());
        lease.input.clear();
        Self { lease, code, head, event, sent: 0, state: Reading::Head, limit }
    }

    /// Drives the call. The handler's output is read all the while.
    pub fn poll(&mut self, cx: &mut Context<'_>, writer: Writer<'_>) -> Poll<End> {
        self.lease.logs.poll(cx, writer);
        if let Poll::Ready(Err(_)) = self.poll_send(cx) {
            if self.sent == 0 {
                return Poll::Ready(End::Refused);
            }
            // A sandbox may answer and go before it has taken all; if it did not, the read below tells.
            self.sent = self.total();
        }
        if let Poll::Ready(end) = self.poll_reply(cx) {
            return Poll::Ready(end);
        }
        ready!(self.lease.timer.as_mut().poll(cx));
        Poll::Ready(End::TimedOut)
    }

    /// Whether a handler may have seen it.
    pub fn has_begun(&self) -> bool {
        self.lease.handle().is_born()
    }

    /// Ends the call; gives the instance back, and how many bytes of its output were not logged.
    pub fn end(mut self, writer: Writer<'_>) -> (Lease, u64) {
        let dropped = self.lease.logs.end(writer);
        self.lease.calls += 1;
        self.lease.loaded = true;
        (self.lease, dropped)
    }

    fn total(&self) -> usize {
        self.lease.output.len() + self.code.len() + self.event.len()
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.total() {
            let instance = &mut *self.lease;
            let stream = Pin::new(&mut instance.stream);
            let simple = self.code.is_empty() && self.event.is_empty();
            let written = if simple {
                ready!(stream.poll_write(cx, &instance.output[self.sent..]))?
            } else {
                let (load, call) = instance.output.split_at(self.head);
                let mut parts = [load, &self.code[..], call, &self.event[..]];
                skip(&mut parts, self.sent);
                ready!(stream.poll_write_vectored(cx, &parts.map(IoSlice::new)))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_reply(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            if let Some(end) = self.advance() {
                return Poll::Ready(end);
            }
            let Instance { stream, input, .. } = &mut *self.lease;
            if let Reading::Skip(..) = self.state {
                input.clear();
            }
            let want = match &self.state {
                Reading::Rest(head) => HEADER + head.meta_len + head.body_len - input.len(),
                Reading::Head => 1,
                Reading::Skip(..) => SMALL * 16,
            };
            // One more than wanted: a read that fills its room says nothing about whether there is more.
            input.reserve(want.saturating_add(1).max(SMALL));
            match ready!(pin!(stream.read_buf(input)).poll(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(End::Closed),
                Ok(_) => {}
            }
        }
    }

    /// Goes as far as the bytes that are there allow.
    fn advance(&mut self) -> Option<End> {
        let Instance { input, sequence, .. } = &mut *self.lease;
        if let Reading::Head = self.state {
            let bytes: &[u8; HEADER] = input.first_chunk()?;
            let head = match frame::parse_head(bytes, *sequence) {
                Ok(head) => head,
                Err(violation) => return Some(End::Violation(violation)),
            };
            let length = head.body_len;
            self.state = if length <= self.limit {
                Reading::Rest(head)
            } else if length <= RESYNC {
                Reading::Skip(HEADER + head.meta_len + length, length)
            } else {
                return Some(End::TooLarge { length, skipped: false });
            };
        }
        match &mut self.state {
            Reading::Head => None,
            Reading::Skip(left, length) => {
                *left = left.checked_sub(input.len()).unwrap_or(usize::MAX);
                match *left {
                    0 => Some(End::TooLarge { length: *length, skipped: true }),
                    usize::MAX => Some(End::TooLarge { length: *length, skipped: false }),
                    _ => None,
                }
            }
            Reading::Rest(head) => {
                let head = *head;
                take_reply(input, head)
            }
        }
    }
}

/// Puts the load frame but for its body, which is given back: the compiled code, or nothing if there is none yet.
pub fn put_load(instance: &mut Instance) -> Bytes {
    let code = match instance.revision.bundle.code.get() {
        Some(Ok(code)) => code.clone(),
        _ => Bytes::new(),
    };
    instance.sequence = instance.sequence.wrapping_add(1);
    let Instance { output, sequence, revision, .. } = instance;
    frame::put(output, *sequence, Kind::Load, code.len(), |out| revision.put_load_meta(out));
    code
}

/// Takes a whole reply out of `input`, once it is there.
fn take_reply(input: &mut BytesMut, head: Head) -> Option<End> {
    let total = HEADER + head.meta_len + head.body_len;
    if input.len() < total {
        return None;
    }
    if input.len() > total {
        return Some(End::Violation(Violation::Trailing(input.len() - total)));
    }
    let mut bytes = input.split().freeze();
    let body = bytes.split_off(HEADER + head.meta_len);
    Some(match frame::parse_meta(&bytes[HEADER..]) {
        Ok(meta) => End::Reply(Reply { status: head.status, meta, body }),
        Err(violation) => End::Violation(violation),
    })
}

/// Cuts `sent` bytes from the front of the parts.
fn skip(parts: &mut [&[u8]], mut sent: usize) {
    for part in parts {
        let cut = sent.min(part.len());
        *part = &part[cut..];
        sent -= cut;
    }
}
