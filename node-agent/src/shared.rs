//! `max_runners` over one: an instance that runs several calls at a time. A task owns the instance as long as there are
//! calls in it; calls reach the task through a channel. Not the warm path of the default configuration.

use std::collections::HashMap;
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Buf, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};

use crate::agent::Agent;
use crate::call::{End, Order, put_load};
use crate::frame::{self, HEADER, Kind, Reply, Violation};
use crate::functions::Function;
use crate::gate::Slot;
use crate::inflight::Ended;
use crate::instance::Instance;
use crate::logs::Writer;
use crate::pool::Lease;
use crate::revision::Revision;

/// The instances of a handler that have calls in them.
#[derive(Debug, Default)]
pub struct Busy {
    list: Mutex<Vec<Seats>>,
}

/// One of them.
#[derive(Debug)]
struct Seats {
    revision: Arc<Revision>,
    jobs: mpsc::UnboundedSender<Job>,
    taken: u32,
}

/// A call for such an instance.
#[derive(Debug)]
pub struct Job {
    /// Its id, for the logs.
    pub id: String,
    /// Its call frame but for the sequence number.
    pub frame: Vec<u8>,
    /// When the instance is killed.
    pub deadline: Instant,
    /// Its slot.
    pub slot: Slot,
    /// Where it is told how it ended. Nobody listens if the client has gone away; the call runs on all the same.
    pub done: oneshot::Sender<Ended>,
}

impl Job {
    /// A call as the order says.
    pub fn new(order: &Order<'_>, slot: Slot) -> (Self, oneshot::Receiver<Ended>) {
        let mut frame = Vec::new();
        frame::put(&mut frame, 0, Kind::Call, order.event.len(), |out| {
            frame::put_call_meta(out, order.id, order.method, order.path);
        });
        frame.extend_from_slice(&order.event);
        let (done, ended) = oneshot::channel();
        (Self { id: order.id.to_owned(), frame, deadline: order.deadline, slot, done }, ended)
    }
}

impl Busy {
    /// Gives the call to an instance that has room; back, if there is none.
    pub fn join(&self, revision: &Arc<Revision>, job: Job) -> Result<(), Job> {
        let mut list = self.list.lock();
        let room = list.iter_mut().find(|seats| {
            seats.taken < revision.settings.runners
                && Arc::ptr_eq(&seats.revision, revision)
                && !seats.jobs.is_closed()
        });
        let Some(seats) = room else { return Err(job) };
        seats.taken += 1;
        seats.jobs.send(job).map_err(|error| error.0)
    }

    /// Begins to serve calls with an instance.
    pub fn start(
        agent: &Arc<Agent>,
        function: &Arc<Function>,
        mut lease: Lease,
        order: &Order<'_>,
        job: Job,
    ) {
        let (jobs, receiver) = mpsc::unbounded_channel();
        let revision = Arc::clone(&lease.revision);
        function.busy.list.lock().push(Seats { revision, jobs: jobs.clone(), taken: 1 });
        lease.output.clear();
        lease.input.clear();
        let mut unsent = BytesMut::new();
        if !lease.loaded {
            let code = put_load(&mut lease);
            unsent.extend_from_slice(&lease.output);
            unsent.extend_from_slice(&code);
            lease.loaded = true;
        }
        let limit = order.response_limit;
        let mut driver = Driver {
            agent: Arc::clone(agent),
            function: Arc::clone(function),
            jobs,
            calls: HashMap::new(),
            unsent,
            log: order.log_limit,
            limit,
            broken: false,
        };
        driver.take(&mut lease, job);
        agent.drain.spawn(driver.run(lease, receiver));
    }
}

/// Why the instance is lost.
#[derive(Clone, Copy)]
enum Lost {
    Closed,
    TimedOut,
    Violation(Violation),
}

struct Driver {
    agent: Arc<Agent>,
    function: Arc<Function>,
    /// Its own sender: tells it from the others in the list.
    jobs: mpsc::UnboundedSender<Job>,
    calls: HashMap<u32, Job>,
    unsent: BytesMut,
    /// Bytes logged per call; calls that run at once share what one may.
    log: u64,
    limit: usize,
    /// Whether the code failed to load: each call that is on its way is told so, and no other comes.
    broken: bool,
}

impl Driver {
    async fn run(mut self, mut lease: Lease, mut receiver: mpsc::UnboundedReceiver<Job>) {
        let lost = loop {
            match self.step(&mut lease, &mut receiver).await {
                Ok(()) if self.calls.is_empty() && self.leave(&mut receiver) => break None,
                Ok(()) => {}
                Err(lost) => break Some(lost),
            }
        };
        match lost {
            None if !self.broken && self.function.keeps(&mut lease) => lease.put_back(),
            None => {}
            Some(lost) => {
                self.end_logs(&mut lease);
                self.fail(lease, receiver, lost);
            }
        }
    }

    fn end_logs(&self, instance: &mut Instance) {
        let writer = Writer { handler: &self.function.name, request: self.request() };
        self.agent.metrics.log_bytes_dropped.inc_by(instance.logs.end(writer));
    }

    /// Waits for what comes next and does it. An error is the end of the instance.
    async fn step(
        &mut self,
        lease: &mut Lease,
        receiver: &mut mpsc::UnboundedReceiver<Job>,
    ) -> Result<(), Lost> {
        let deadline = self.calls.values().map(|job| job.deadline).min();
        let name = Arc::clone(&self.function.name);
        let request = self.request().to_owned();
        let writer = Writer { handler: &name, request: &request };
        let Instance { stream, logs, input, .. } = &mut **lease;
        let (mut reader, mut sink) = stream.split();
        input.reserve(HEADER * 256);
        let unsent = &mut self.unsent;
        tokio::select! {
            Some(job) = receiver.recv() => self.take(lease, job),
            read = reader.read_buf(input) => match read {
                Ok(0) | Err(_) => return Err(Lost::Closed),
                Ok(_) => self.answer(lease)?,
            },
            written = async { if unsent.is_empty() { pending().await } else { sink.write(unsent).await } } => {
                match written {
                    Ok(count) => self.unsent.advance(count),
                    // What it has answered before can still be read.
                    Err(_) => self.unsent.clear(),
                }
            }
            () = poll_fn(|cx| { logs.poll(cx, writer); Poll::Pending }) => {}
            () = until(deadline) => return Err(Lost::TimedOut),
        }
        Ok(())
    }

    fn take(&mut self, instance: &mut Instance, mut job: Job) {
        if self.calls.is_empty() {
            instance.logs.begin(self.log, &self.function.name);
        }
        instance.sequence = instance.sequence.wrapping_add(1);
        frame::set_sequence(&mut job.frame, instance.sequence);
        self.unsent.extend_from_slice(&std::mem::take(&mut job.frame));
        self.calls.insert(instance.sequence, job);
    }

    /// Hands out the replies that have come whole.
    fn answer(&mut self, instance: &mut Instance) -> Result<(), Lost> {
        while let Some(bytes) = instance.input.first_chunk::<HEADER>() {
            let sequence = frame::sequence(bytes);
            let head = frame::parse_head(bytes, sequence).map_err(Lost::Violation)?;
            if !self.calls.contains_key(&sequence) {
                return Err(Lost::Violation(Violation::Sequence { got: sequence, want: instance.sequence }));
            }
            if head.body_len > self.limit {
                self.finish(sequence, End::TooLarge { length: head.body_len, skipped: false });
                return Err(Lost::Closed);
            }
            let total = HEADER + head.meta_len + head.body_len;
            if instance.input.len() < total {
                return Ok(());
            }
            let mut whole: Bytes = instance.input.split_to(total).freeze();
            let body = whole.split_off(HEADER + head.meta_len);
            let meta = frame::parse_meta(&whole[HEADER..]).map_err(Lost::Violation)?;
            instance.calls += 1;
            if self.calls.len() == 1 {
                self.end_logs(instance);
            }
            if head.status == frame::Status::LoadFailed && !self.broken {
                self.broken = true;
                self.unlist();
            }
            self.finish(sequence, End::Reply(Reply { status: head.status, meta, body }));
        }
        Ok(())
    }

    /// A call is over. Its place is free before its slot is, so that the next one finds it.
    fn finish(&mut self, sequence: u32, end: End) {
        let Some(Job { slot, done, .. }) = self.calls.remove(&sequence) else { return };
        if let Some(seats) =
            self.function.busy.list.lock().iter_mut().find(|s| s.jobs.same_channel(&self.jobs))
        {
            seats.taken = seats.taken.saturating_sub(1);
        }
        drop(slot);
        // Nobody listens if the client has gone away.
        let _ = done.send(Ended { end, handle: None, slot: None });
    }

    /// Takes the instance out of the list if no call is on its way to it.
    fn leave(&self, receiver: &mut mpsc::UnboundedReceiver<Job>) -> bool {
        let mut list = self.function.busy.list.lock();
        if !receiver.is_empty() {
            return false;
        }
        list.retain(|seats| !seats.jobs.same_channel(&self.jobs));
        true
    }

    /// No call comes from now on, but for those on their way.
    fn unlist(&self) {
        self.function.busy.list.lock().retain(|seats| !seats.jobs.same_channel(&self.jobs));
    }

    /// The instance is lost, and with it all calls in it; the one that is to blame is told so.
    fn fail(mut self, lease: Lease, mut receiver: mpsc::UnboundedReceiver<Job>, lost: Lost) {
        self.unlist();
        let handle = lease.handle().clone();
        if !matches!(lost, Lost::Closed) {
            handle.kill();
        }
        let now = Instant::now();
        for (_, job) in self.calls.drain() {
            let end = match lost {
                Lost::TimedOut if job.deadline <= now => End::TimedOut,
                Lost::Violation(violation) => End::Violation(violation),
                _ => End::Closed,
            };
            let _ = job.done.send(Ended { end, handle: Some(handle.clone()), slot: Some(job.slot) });
        }
        receiver.close();
        while let Ok(job) = receiver.try_recv() {
            let _ = job.done.send(Ended { end: End::Refused, handle: None, slot: Some(job.slot) });
        }
    }

    /// Whose output it is, if that can be told.
    fn request(&self) -> &str {
        match self.calls.len() {
            0 => "-",
            1 => self.calls.values().next().map_or("-", |job| job.id.as_str()),
            _ => "several",
        }
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
