//! One call: tried on the agents in their ranking's order until one answers.
//!
//! A call is sent on only if it was in no sandbox, or may run twice: its verb is safe, or its handler says so. An agent
//! takes up a guarded call (any other) with `100 Continue`; a connection that dies before that, a refused connection,
//! and an agent's own `draining` or `no_capacity` mean that it was not taken. Silence means nothing: one that is frozen
//! or cut off may have the call, and run it later.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::header::{HeaderMap, HeaderName, HeaderValue, UPGRADE};
use hyper::{Method, Response, StatusCode, Uri};
use openlambda_api::{Component, ErrorBody, Reason, packages};
use openlambda_policy::balance::{Key, MoveReason, ServerId};
use tokio::time::Instant;

use crate::gate::Permit;
use crate::gateway::Gateway;
use crate::headers;
use crate::reply::{Failure, Relay, Reply};
use crate::settings::MAX_TRIES;
use crate::tail::{Replay, Tail, Taken};
use crate::targets::InFlight;
use crate::tunnel::{Tunnel, Upgrade};
use crate::upstream::{Exchange, SendError, Upstream};
use crate::wire::Outgoing;

/// The longest error of an agent that is read to learn its reason.
const ERROR_LIMIT: usize = 64 << 10;

/// A call, ready to be sent, more than once if need be.
pub struct Call {
    /// The handler's name.
    pub handler: String,
    /// The digest of the packages that it needs.
    pub packages: Option<u64>,
    /// The verb.
    pub method: Method,
    /// Whether it may run twice whatever the verb is.
    pub idempotent: bool,
    /// Path and query.
    pub uri: Uri,
    /// As the agent shall see them.
    pub headers: HeaderMap,
    /// More of them.
    pub added: Vec<(HeaderName, HeaderValue)>,
    /// The body, or as much of it as is kept.
    pub body: Bytes,
    /// The rest of it.
    pub tail: Option<Arc<Tail>>,
    /// What the client wants to do with its connection afterwards.
    pub upgrade: Option<Upgrade>,
    /// The call's id.
    pub id: HeaderValue,
    /// Its time.
    pub time: Duration,
    /// When that is up.
    pub deadline: Instant,
    /// Until when it may wait for an agent, if there is none.
    pub hold_until: Instant,
}

/// What one round over the agents came to.
enum Round {
    /// An answer for the client, or an error that is final.
    Ended(Result<Response<Reply>, Failure>),
    /// There is no agent, or each that was tried is going or gone. Another one, or its successor, may take the call.
    Nobody(Failure),
}

/// What an attempt came to.
enum Attempt {
    /// An answer for the client.
    Answered(Response<Reply>),
    /// The call was in no sandbox: the next agent may have it.
    Passed { reason: &'static str, detail: String },
    /// The call must not be tried again.
    Failed(Failure),
}

impl Call {
    /// What agents are ranked by for it.
    fn key(&self) -> Key<'_> {
        Key { handler: &self.handler, packages: self.packages }
    }

    fn guarded(&self) -> bool {
        // What cannot be sent twice anyhow is guarded whatever it is.
        self.tail.is_some()
            || !self.idempotent && !matches!(self.method, Method::GET | Method::HEAD | Method::OPTIONS)
    }

    /// Whether it may be sent once more after this; `was_taken`: whether it may have been in a sandbox.
    fn may_go_on(&self, error: &SendError, was_taken: bool) -> bool {
        let unsent = match error {
            SendError::Connect { .. } => return true,
            SendError::Late => return false,
            SendError::Broken { unsent, .. } | SendError::Silent { unsent, .. } => *unsent,
        };
        let begun = self.tail.as_ref().is_some_and(|tail| tail.is_begun());
        // Of one that is silent it is not known what it has got, nor what it does with it.
        !begun && (unsent || !self.guarded() || !was_taken && !error.is_silence())
    }

    /// The body for an attempt, and the flag that tells whether the agent took the call.
    fn body(&self) -> (Replay, Arc<Taken>) {
        let taken = Arc::new(Taken::default());
        let body = match &self.tail {
            Some(tail) => Replay::with_tail(self.body.clone(), tail, &taken),
            None => Replay::new(self.body.clone(), self.guarded()),
        };
        (body, taken)
    }
}

/// Places a call and gives its answer.
pub async fn place(
    gateway: &Gateway,
    call: &Call,
    mut permit: Option<Permit>,
) -> Result<Response<Reply>, Failure> {
    let mut place = None;
    loop {
        let seen = gateway.hold.now();
        let failure = match round(gateway, call, &mut permit).await {
            Round::Ended(result) => return result,
            Round::Nobody(failure) => failure,
        };
        if place.is_none() {
            place = gateway.hold.place();
        }
        match &place {
            Some(place) if place.wait(seen, call.hold_until).await => {}
            _ => {
                gateway.metrics.rejections.with_label_values(&["no_agent"]).inc();
                return Err(failure);
            }
        }
    }
}

/// Tries the agents in their ranking's order.
async fn round(gateway: &Gateway, call: &Call, permit: &mut Option<Permit>) -> Round {
    let ranking = gateway.targets.rank(&call.key());
    gateway.metrics.ranked(ranking.choice);
    let tries = ranking.candidates.len().min(MAX_TRIES);
    if tries == 0 {
        let message = format!("lard has no agents: {}", gateway.settings.without_agents);
        return Round::Nobody(Failure::new(Reason::NoCapacity, message));
    }
    let (mut details, mut full) = (Vec::new(), false);
    for (number, server) in ranking.candidates.into_iter().take(tries).enumerate() {
        match attempt(gateway, call, server, permit).await {
            Attempt::Answered(response) => {
                if number > 0 && gateway.targets.took_over(&call.key(), server) {
                    gateway.metrics.moved(MoveReason::Failover);
                }
                return Round::Ended(Ok(response));
            }
            Attempt::Failed(failure) => return Round::Ended(Err(failure)),
            Attempt::Passed { reason, detail } => {
                tracing::warn!(request_id = ?call.id, handler = call.handler, reason, "passed over an agent: {detail}");
                if number + 1 < tries {
                    gateway.metrics.retries.with_label_values(&[reason]).inc();
                }
                full |= reason == Reason::NoCapacity.as_str();
                details.push(detail);
            }
        }
    }
    let message = format!("no agent took the call; tried {tries}: {}", details.join("; "));
    let failure = Failure::new(Reason::NoCapacity, message);
    // One that has no room has a queue of its own: to wait for it here would only add to it.
    if full { Round::Ended(Err(failure)) } else { Round::Nobody(failure) }
}

async fn attempt(gateway: &Gateway, call: &Call, server: ServerId, permit: &mut Option<Permit>) -> Attempt {
    let Some(upstream) = gateway.targets.upstream(server) else {
        return Attempt::Passed { reason: "connect", detail: "the agent is gone".into() };
    };
    let in_flight = InFlight::begin(&gateway.targets, server);
    let response = match send(gateway, call, server, &upstream).await {
        Ok(response) => response,
        Err(attempt) => return attempt,
    };
    hear(gateway, call, server, &upstream, &response);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return upgraded(call, &upstream, response, in_flight, permit);
    }
    let (mut head, exchange) = response.into_parts();
    headers::to_client(&mut head.headers, &call.id);
    let mut relay = Relay::new(exchange, in_flight);
    if head.status != StatusCode::SERVICE_UNAVAILABLE {
        relay.hold(permit.take());
        return Attempt::Answered(Response::from_parts(head, Reply::Relay(Box::new(relay))));
    }
    match refusal(gateway, call, server, &upstream, relay).await {
        Ok(body) => Attempt::Answered(Response::from_parts(head, Reply::text(body))),
        Err(attempt) => attempt,
    }
}

/// Takes in what an agent says with its answer: how loaded it is, and which packages the handler has.
fn hear(
    gateway: &Gateway,
    call: &Call,
    server: ServerId,
    upstream: &Upstream,
    response: &Response<Exchange>,
) {
    let said = &response.body().said;
    gateway.targets.observe(server, said.load.as_ref().and_then(|value| upstream.report.read(value)));
    let packages = said.packages.as_ref().and_then(|value| packages::parse(std::str::from_utf8(value).ok()?));
    // Only an answer of the handler says that it has none.
    if packages.is_some() || response.status().is_success() {
        gateway.limits.learn(&call.handler, packages);
    }
}

/// The answer to a client whose connection is the handler's from now on.
fn upgraded(
    call: &Call,
    upstream: &Upstream,
    response: Response<Exchange>,
    in_flight: InFlight,
    permit: &mut Option<Permit>,
) -> Attempt {
    let Some(upgrade) = &call.upgrade else {
        let message = format!("agent {} changes the protocol and nobody asked for it", upstream.name);
        return Attempt::Failed(Failure::new(Reason::AgentUnreachable, message));
    };
    let (mut head, exchange) = response.into_parts();
    let tunnel = Tunnel::new(upgrade, exchange, in_flight, permit.take());
    let protocol = head.headers.get(UPGRADE).cloned();
    headers::to_client(&mut head.headers, &call.id);
    upgrade.announce(&mut head.headers, protocol);
    head.extensions.insert(tunnel);
    Attempt::Answered(Response::from_parts(head, Reply::text(Bytes::new())))
}

/// Sends a call to one agent. A connection that was kept open may have been closed by the agent in the same moment:
/// then once more on a new one.
async fn send(
    gateway: &Gateway,
    call: &Call,
    server: ServerId,
    upstream: &Arc<Upstream>,
) -> Result<Response<Exchange>, Attempt> {
    let request = Outgoing {
        method: &call.method,
        uri: &call.uri,
        headers: &call.headers,
        added: &call.added,
        asks: call.guarded(),
    };
    let mut fresh = false;
    loop {
        let (body, taken) = call.body();
        let error = match upstream.send(&request, body, (&taken, call.deadline), fresh).await {
            Ok(response) => return Ok(response),
            Err(error) => error,
        };
        // It is the client that broke off.
        if let Some(tail) = &call.tail
            && let Some(error) = tail.refused().await
        {
            return Err(Attempt::Failed(Failure::of_body(&error)));
        }
        let was_taken = !call.guarded() || taken.is();
        if matches!(error, SendError::Late) {
            if !was_taken {
                gateway.targets.failed(server);
            }
            return Err(Attempt::Failed(too_late(call, upstream)));
        }
        if !call.may_go_on(&error, was_taken) {
            let message = format!("agent {} went away during the call: {error}", upstream.name);
            return Err(Attempt::Failed(Failure::new(Reason::AgentUnreachable, message)));
        }
        if error.is_of_reused() && !fresh {
            fresh = true;
            continue;
        }
        gateway.targets.failed(server);
        // What else is open to it is most likely as dead: the next try shall not have to find that out.
        upstream.close_idle();
        let detail = format!("agent {}: {error}", upstream.name);
        return Err(Attempt::Passed { reason: error.reason(), detail });
    }
}

fn too_late(call: &Call, upstream: &Upstream) -> Failure {
    let message = format!(
        "agent {} did not answer within the {:?} that lard gives a call of this handler",
        upstream.name, call.time
    );
    Failure::new(Reason::FunctionTimeout, message)
}

/// Reads a 503 to its end: the agent's own refusal lets the call go on, anything else is the answer.
async fn refusal(
    gateway: &Gateway,
    call: &Call,
    server: ServerId,
    upstream: &Upstream,
    relay: Relay,
) -> Result<Bytes, Attempt> {
    let body = Limited::new(Reply::Relay(Box::new(relay)), ERROR_LIMIT).collect().await;
    let body = match body {
        Ok(body) => body.to_bytes(),
        Err(error) => {
            let message = format!("the answer 503 of agent {} cannot be read: {error}", upstream.name);
            return Err(Attempt::Failed(Failure::new(Reason::AgentUnreachable, message)));
        }
    };
    if call.method == Method::HEAD {
        // Without a body the reason cannot be known, and a HEAD may be sent again whatever it was.
        let detail = format!("agent {}: 503", upstream.name);
        return Err(Attempt::Passed { reason: Reason::NoCapacity.as_str(), detail });
    }
    match serde_json::from_slice::<ErrorBody>(&body) {
        Ok(ErrorBody { component: Component::Agent, reason, message, .. })
            if matches!(reason, Reason::Draining | Reason::NoCapacity) =>
        {
            if reason == Reason::Draining {
                gateway.targets.failed(server);
            }
            let detail = format!("agent {}: {} ({message})", upstream.name, reason.as_str());
            Err(Attempt::Passed { reason: reason.as_str(), detail })
        }
        _ => Ok(body),
    }
}
