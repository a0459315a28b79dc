//! A call on its way through a sandbox. If the client goes away meanwhile, the call runs on by itself, to its end or to
//! its deadline, so that the sandbox can be used again; slot and sandbox are never lost. A call whose sandbox is not up yet is given up
//! with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use openlambda_sandbox::{Exit, SandboxHandle};

use crate::agent::Agent;
use crate::call::{Call, End};
use crate::functions::Function;
use crate::gate::Slot;
use crate::instance::exit_of;
use crate::logs::Writer;
use crate::reply::RequestId;

/// A call that has begun.
#[derive(Debug)]
#[must_use = "nothing happens unless it is polled"]
pub struct InFlight {
    agent: Arc<Agent>,
    function: Arc<Function>,
    id: RequestId,
    /// Some until it has ended.
    call: Option<Call>,
    slot: Option<Slot>,
}

/// A call that is over.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub end: End,
    /// The sandbox, if it cannot be used again.
    pub handle: Option<SandboxHandle>,
    /// The slot, if it may be that the call has not begun and can be tried with another instance.
    pub slot: Option<Slot>,
}

/// A call that no handler has seen, and why.
#[derive(Debug)]
pub struct Untouched {
    /// Its slot.
    pub slot: Slot,
    /// What became of the sandbox.
    pub why: String,
}

impl Ended {
    /// Finds out whether the call can be tried again; if not, how it ended, and how the process did if that is known.
    pub async fn verdict(self) -> Result<(End, Option<Exit>), Untouched> {
        let Self { end, handle, slot } = self;
        let exit = match (&end, &handle) {
            (End::Closed, Some(handle)) => exit_of(handle).await,
            _ => None,
        };
        let failure = exit.as_ref().and_then(|exit| exit.failure.clone());
        let why = if matches!(end, End::Refused) { Some("it had ended".to_owned()) } else { failure };
        match (why, slot) {
            (Some(why), Some(slot)) => Err(Untouched { slot, why }),
            _ => Ok((end, exit)),
        }
    }
}

impl InFlight {
    /// Takes charge of a call.
    pub fn new(agent: Arc<Agent>, function: Arc<Function>, id: RequestId, call: Call, slot: Slot) -> Self {
        Self { agent, function, id, call: Some(call), slot: Some(slot) }
    }

    fn settle(&mut self, end: End) -> Ended {
        let Some(call) = self.call.take() else {
            return Ended { end, handle: None, slot: self.slot.take() };
        };
        let (mut lease, dropped) = call.end(self.writer());
        self.agent.metrics.log_bytes_dropped.inc_by(dropped);
        let handle = if !end.is_reusable() {
            let handle = lease.handle().clone();
            // One whose stream has ended is ending: how, is worth waiting for.
            if !matches!(end, End::Closed) {
                handle.kill();
            }
            Some(handle)
        } else {
            if lease.revision.settings.reuse && self.function.keeps(&mut lease) {
                lease.put_back();
            }
            None
        };
        // After the instance is back: the next in the queue finds it.
        let slot = self.slot.take().filter(|_| matches!(end, End::Refused | End::Closed));
        Ended { end, handle, slot }
    }

    fn writer(&self) -> Writer<'_> {
        Writer { handler: &self.function.name, request: self.id.as_str() }
    }
}

impl Future for InFlight {
    type Output = Ended;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Ended> {
        let Self { function, id, call, .. } = &mut *self;
        let end = match call {
            Some(call) => ready!(call.poll(cx, Writer { handler: &function.name, request: id.as_str() })),
            // Polled after its end, which no caller does.
            None => return Poll::Pending,
        };
        Poll::Ready(self.settle(end))
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        tracing::debug!(
            handler = &*self.function.name,
            request = self.id.as_str(),
            "the client has gone away"
        );
        // It waits for its sandbox to come up: that is given up instead, so that the handler never sees it.
        if !call.has_begun() {
            return;
        }
        let mut alone = Self {
            agent: Arc::clone(&self.agent),
            function: Arc::clone(&self.function),
            id: self.id.clone(),
            call: Some(call),
            slot: self.slot.take(),
        };
        if tokio::runtime::Handle::try_current().is_ok() {
            self.agent.drain.spawn(async move {
                (&mut alone).await;
            });
        } else {
            // The worker is at its end: the call is dropped, and its sandbox with it.
            alone.call = None;
        }
    }
}
