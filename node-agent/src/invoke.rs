//! One call, from its headers to its answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use hyper::body::Incoming;
use openlambda_api::{Component, Reason};
use openlambda_config::durations;

use crate::agent::Agent;
use crate::birth;
use crate::births::Turn;
use crate::body;
use crate::call::{Call, Order};
use crate::compile;
use crate::functions::{Function, NoFunction};
use crate::gate::{Refusal, Slot};
use crate::inflight::{Ended, InFlight};
use crate::metrics::StartKind;
use crate::outcome::{self, Timing};
use crate::pool::Lease;
use crate::reply::{Answer, Failure, PACKAGES, RequestId, TIMEOUT};
use crate::revision::Revision;
use crate::room;
use crate::shared::{Busy, Job};

/// How long a fresh sandbox may take to be asked for.
const START: Duration = Duration::from_secs(10);
/// Instances that are tried when one turns out to be gone.
const ATTEMPTS: usize = 3;

/// Answers a call of the handler that the path names.
pub async fn answer(
    agent: &Arc<Agent>,
    parts: &Parts,
    mut body: Incoming,
    name: &str,
    id: &RequestId,
) -> Answer {
    let _counted = Inflight::enter(agent);
    let mut visit = Visit { agent, parts, id, arrived: Instant::now(), reading: false };
    match visit.run(&mut body, name).await {
        Ok(answer) => answer,
        Err(failure) => {
            // Code that cannot be loaded is the handler's failure: it is counted as an answer of the handler.
            if failure.component != Component::Function {
                agent.metrics.rejected(failure.reason);
            }
            // A client that is still sending would not read the answer.
            let silent = matches!(failure.reason, Reason::RequestTimeout | Reason::BadRequest);
            if !silent && (visit.reading || !body::is_held_back(&parts.headers)) {
                body::discard(&mut body).await;
            }
            failure.answer(id)
        }
    }
}

struct Inflight<'a>(&'a Agent);

impl<'a> Inflight<'a> {
    fn enter(agent: &'a Agent) -> Self {
        agent.metrics.inflight.inc();
        Self(agent)
    }
}

impl Drop for Inflight<'_> {
    fn drop(&mut self) {
        self.0.metrics.inflight.dec();
    }
}

struct Visit<'a> {
    agent: &'a Arc<Agent>,
    parts: &'a Parts,
    id: &'a RequestId,
    arrived: Instant,
    /// Whether the body has been asked for.
    reading: bool,
}

/// What is called.
#[derive(Clone, Copy)]
struct Target<'a> {
    function: &'a Arc<Function>,
    revision: &'a Arc<Revision>,
    own_deadline: Option<Instant>,
    granted: Instant,
}

/// An instance and a slot before the call has begun. Dropped, the instance is idle again, and then the slot free.
struct Prepared {
    lease: Option<Lease>,
    slot: Option<Slot>,
}

impl Prepared {
    fn take(mut self) -> Result<(Lease, Slot), Failure> {
        match (self.lease.take(), self.slot.take()) {
            (Some(lease), Some(slot)) => Ok((lease, slot)),
            _ => Err(Failure::agent(Reason::Internal, "the instance is gone")),
        }
    }
}

impl Drop for Prepared {
    fn drop(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.put_back();
        }
    }
}

impl Visit<'_> {
    /// An error is a call that reached no handler.
    async fn run(&mut self, body: &mut Incoming, name: &str) -> Result<Answer, Failure> {
        let agent = self.agent;
        if agent.drain.has_begun() {
            return Err(Failure::draining());
        }
        let own_deadline = own_deadline(&self.parts.headers, self.arrived)?;
        let (function, revision) = agent.functions.get(name, self.id.as_str()).await.map_err(no_function)?;
        let settings = &revision.settings;
        body::check_length(&self.parts.headers, settings.request)?;
        if let Some(Err(meta)) = revision.bundle.code.get() {
            let failure = outcome::load_failed(meta.clone(), &settings.entrypoint);
            agent.metrics.answered(
                &function.metrics,
                failure.reason.status(),
                self.arrived.elapsed().as_secs_f64(),
            );
            return Err(failure);
        }
        let mut slot = revision.gate.enter(own_deadline).await.map_err(refused)?;
        let granted = Instant::now();
        let mut event = None;
        for _ in 0..ATTEMPTS {
            let target = Target { function: &function, revision: &revision, own_deadline, granted };
            let (ended, timing, deadline) = if settings.runners > 1 {
                self.attempt_shared(target, slot, &mut event, body).await?
            } else {
                self.attempt(target, slot, &mut event, body).await?
            };
            match ended.verdict().await {
                Err(untouched) => {
                    tracing::warn!(handler = &*function.name, why = untouched.why, "a sandbox took no call");
                    slot = untouched.slot;
                }
                Ok((end, exit)) => {
                    compile::want(agent, &function, &revision);
                    let who = (&*function, &*revision);
                    let mut answer = outcome::answer(agent, who, self.id, (end, exit), timing, deadline);
                    if let Some((_, digest)) = &revision.set {
                        answer.headers_mut().insert(PACKAGES, digest.clone());
                    }
                    return Ok(answer);
                }
            }
        }
        let message = "sandboxes end before they take the call; the worker's log says why";
        Err(Failure::agent(Reason::NoCapacity, message).after(Duration::from_secs(1)))
    }

    /// Tries the call with an instance of its own.
    async fn attempt(
        &mut self,
        target: Target<'_>,
        slot: Slot,
        event: &mut Option<Bytes>,
        body: &mut Incoming,
    ) -> Result<(Ended, Timing, Instant), Failure> {
        let (lease, kind) = self.acquire(target).await?;
        let prepared = Prepared { lease: Some(lease), slot: Some(slot) };
        let ready = Instant::now();
        // Only now: a body that was not asked for can still go to another worker.
        let event = self.event(target.revision, event, body).await?;
        let timing = Timing::new(kind, self.arrived, target.granted, ready);
        let deadline = deadline(target, timing.sent);
        let (lease, slot) = prepared.take()?;
        let call = Call::begin(lease, self.order(target, event, deadline));
        let flight =
            InFlight::new(Arc::clone(self.agent), Arc::clone(target.function), self.id.clone(), call, slot);
        Ok((flight.await, timing, deadline))
    }

    /// Tries the call with an instance that may run others as well.
    async fn attempt_shared(
        &mut self,
        target: Target<'_>,
        slot: Slot,
        event: &mut Option<Bytes>,
        body: &mut Incoming,
    ) -> Result<(Ended, Timing, Instant), Failure> {
        let event = self.event(target.revision, event, body).await?;
        let start = Timing::new(StartKind::Warm, self.arrived, target.granted, Instant::now());
        let deadline = deadline(target, start.sent);
        let order = self.order(target, event, deadline);
        let (job, ended) = Job::new(&order, slot);
        let timing = match target.function.busy.join(target.revision, job) {
            Ok(()) => start,
            Err(job) => {
                let (lease, kind) = self.acquire(target).await?;
                Busy::start(self.agent, target.function, lease, &order, job);
                Timing::new(kind, self.arrived, target.granted, Instant::now())
            }
        };
        let lost = |_| Failure::agent(Reason::Internal, "the task that runs the call has ended");
        Ok((ended.await.map_err(lost)?, timing, deadline))
    }

    /// The event: read from the client at the first attempt.
    async fn event(
        &mut self,
        revision: &Revision,
        event: &mut Option<Bytes>,
        body: &mut Incoming,
    ) -> Result<Bytes, Failure> {
        if let Some(event) = event {
            return Ok(event.clone());
        }
        self.reading = true;
        let read = body::read(body, revision.settings.request).await?;
        *event = Some(read.clone());
        Ok(read)
    }

    /// An instance for the call: an idle one with the right code, or a fork of a Zygote.
    async fn acquire(&self, target: Target<'_>) -> Result<(Lease, StartKind), Failure> {
        let Target { function, revision, own_deadline, granted } = target;
        let agent = self.agent;
        let deadline = Instant::now() + agent.config.queue_timeout;
        let deadline = own_deadline.map_or(deadline, |own| own.min(deadline));
        loop {
            let free = || take(agent, function, revision);
            let (mut lease, leave) = match revision.births.turn(deadline, free).await {
                Turn::Free(idle) => (idle, None),
                Turn::Birth(leave) => {
                    room::wait(agent, deadline).await?;
                    let memory =
                        agent.memory.reserve(function.key, revision.settings.limits.memory, deadline);
                    match revision.births.unless_freed(memory, free).await {
                        Err(idle) => (idle, None),
                        Ok(charge) => {
                            let deadline = Instant::now() + START;
                            let deadline = own_deadline.map_or(deadline, |own| own.min(deadline));
                            let born = birth::bear(agent, function, revision, charge?, deadline).await?;
                            (born, Some(leave))
                        }
                    }
                }
                Turn::Late => return Err(late(granted)),
            };
            if let Some(leave) = leave {
                lease.0.first_call = Some(leave.born());
                return Ok(lease);
            }
            match lease.0.wake(deadline).await {
                Ok(true) => return Ok(lease),
                Ok(false) => {}
                Err(failure) => {
                    lease.0.put_back();
                    return Err(failure);
                }
            }
        }
    }

    fn order<'o>(&'o self, target: Target<'o>, event: Bytes, deadline: Instant) -> Order<'o> {
        let settings = &target.revision.settings;
        Order {
            handler: &target.function.name,
            id: self.id.as_str(),
            method: self.parts.method.as_str(),
            path: self.parts.uri.path_and_query().map_or("/", |path| path.as_str()),
            event,
            deadline,
            response_limit: settings.response,
            log_limit: settings.log,
        }
    }
}

/// An idle instance with the right code.
fn take(agent: &Agent, function: &Function, revision: &Arc<Revision>) -> Option<(Lease, StartKind)> {
    while let Some(mut lease) = agent.pool.take(function.key) {
        if lease.becomes(revision) {
            let kind = if lease.is_asleep() { StartKind::Unpaused } else { StartKind::Warm };
            return Some((lease, kind));
        }
        // Another revision serves: none of the idle ones is of it.
        drop(lease);
        agent.pool.evict(function.key);
    }
    None
}

fn late(since: Instant) -> Failure {
    let waited = since.elapsed().as_millis();
    let message = format!("no instance of the handler became free or could be started in {waited} ms");
    Failure::agent(Reason::NoCapacity, message).after(Duration::from_secs(1))
}

/// When a call that is sent now is given up.
fn deadline(target: Target<'_>, sent: Instant) -> Instant {
    let deadline = sent + target.revision.settings.timeout;
    target.own_deadline.map_or(deadline, |own| own.min(deadline))
}

/// The caller's own deadline.
fn own_deadline(headers: &HeaderMap, arrived: Instant) -> Result<Option<Instant>, Failure> {
    let Some(value) = headers.get(&TIMEOUT) else { return Ok(None) };
    let text = value.to_str().unwrap_or("(not ASCII)");
    match durations::parse(text) {
        Ok(limit) => Ok(arrived.checked_add(limit)),
        Err(error) => {
            Err(Failure::agent(Reason::BadRequest, format!("the header X-Timeout: {text:?} {error}")))
        }
    }
}

fn no_function(error: NoFunction) -> Failure {
    let message = error.to_string();
    let reason = match error {
        NoFunction::Failed(failure) => return failure,
        NoFunction::Pending(_) => {
            return Failure::agent(Reason::NoCapacity, message).after(Duration::from_secs(1));
        }
        NoFunction::Name(_) => Reason::BadName,
        NoFunction::NotInDirectory(_) | NoFunction::NotInRegistry(_) | NoFunction::NotApplied(_) => {
            Reason::HandlerNotFound
        }
        NoFunction::Packages(_, error) => {
            let failure = Failure::agent(Reason::InstallFailed, message);
            return if error.passing { failure.after(Duration::from_secs(1)) } else { failure };
        }
        NoFunction::Installing(_) => {
            return Failure::agent(Reason::NoCapacity, message).after(Duration::from_secs(2));
        }
        NoFunction::Tree(_, tree) if tree.is_ours() => Reason::Internal,
        NoFunction::Tree(..) => Reason::ImportFailed,
    };
    Failure::agent(reason, message)
}

fn refused(refusal: Refusal) -> Failure {
    match refusal {
        Refusal::Draining => Failure::draining(),
        Refusal::Full(reason, after) => Failure::agent(
            Reason::ConcurrencyExceeded,
            format!(
                "all instances of the handler are busy and its queue is full ({}): raise max_instances or queue_length",
                reason.as_str()
            ),
        )
        .after(after),
        Refusal::Expired(waited) => Failure::agent(
            Reason::FunctionTimeout,
            format!("the call waited {} ms for an instance of the handler, and none became free", waited.as_millis()),
        ),
    }
}
