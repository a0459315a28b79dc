//! Compiles a handler's code once, in a sandbox of its own, so that later instances need not; or tries whether it can be
//! loaded.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use openlambda_sandbox::Exit;

use crate::agent::Agent;
use crate::call::{Call, End, Order};
use crate::frame::{Kind, Meta, Reply, Status};
use crate::functions::Function;
use crate::instance::{Instance, exit_of};
use crate::logs::Writer;
use crate::memory::Charge;
use crate::pool::Lease;
use crate::revision::Revision;
use crate::zygotes::NoSandbox;

/// How long it may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest compiled code that is kept.
const LIMIT: usize = 16 * 1024 * 1024;

/// Sees to it that the code is compiled, after the call that found it not to be.
pub fn want(agent: &Arc<Agent>, function: &Arc<Function>, revision: &Arc<Revision>) {
    let bundle = &revision.bundle;
    if bundle.code.get().is_some()
        || bundle.compiling.swap(true, Ordering::Relaxed)
        || agent.drain.has_begun()
    {
        return;
    }
    let (agent, function, revision) = (Arc::clone(agent), Arc::clone(function), Arc::clone(revision));
    tokio::spawn(async move { compile(&agent, &function, &revision).await });
}

async fn compile(agent: &Arc<Agent>, function: &Function, revision: &Arc<Revision>) {
    let deadline = Instant::now() + TIMEOUT;
    // Without the code compiled every instance compiles it itself: slower, no less right.
    let end = match start(agent, function, revision, deadline).await {
        Ok(lease) => ask(lease, function, Kind::Compile, deadline).await.0,
        Err(error) => {
            return tracing::warn!(handler = &*function.name, %error, "the code is not compiled ahead");
        }
    };
    if let Some(end) = keep(revision, end) {
        tracing::warn!(handler = &*function.name, ?end, "the code is not compiled ahead");
    }
}

/// Keeps what came of a compilation; back, if it came to nothing.
fn keep(revision: &Revision, end: End) -> Option<End> {
    let _ = match end {
        End::Reply(reply) if reply.status == Status::Ok => revision.bundle.code.set(Ok(reply.body)),
        End::Reply(reply) if reply.status == Status::LoadFailed => revision.bundle.code.set(Err(reply.meta)),
        end => return Some(end),
    };
    None
}

/// Tries whether a revision can be loaded, in a sandbox as its instances will have. None: it can. Otherwise how it went
/// instead, and how the process ended if it did so by itself.
pub async fn check(
    agent: &Arc<Agent>,
    function: &Function,
    revision: &Arc<Revision>,
) -> Result<Option<(End, Option<Exit>)>, NoSandbox> {
    let deadline = Instant::now() + TIMEOUT;
    let charge = room_for(agent, function, revision, deadline).await?;
    let born = agent.zygotes.fork(revision, deadline).await?;
    let unproven = born.unproven;
    let instance = Instance::new(born.sandbox, Arc::clone(revision), charge);
    let lease = agent.pool.adopt_trial(Arc::clone(&function.name), function.key, instance);
    let failed = check_in(agent, function, revision, lease).await;
    let Some(node) = unproven else { return Ok(failed) };
    let Some((end, exit)) = failed else {
        agent.import_cache.proven(revision, node);
        return Ok(None);
    };
    let proof = Proof::of(&end, exit.as_ref());
    // It may be the Zygote's fault.
    let lease = start(agent, function, revision, Instant::now() + TIMEOUT).await?;
    let again = check_in(agent, function, revision, lease).await;
    if again.is_none() && proof.is_failure() {
        let why =
            format!("the handler {} does not load in its children, and loads without it", function.name);
        agent.import_cache.breaks_when_forked(revision, node, &why);
    }
    Ok(again)
}

async fn check_in(
    agent: &Agent,
    function: &Function,
    revision: &Arc<Revision>,
    mut lease: Lease,
) -> Option<(End, Option<Exit>)> {
    let deadline = Instant::now() + revision.settings.timeout.max(TIMEOUT);
    if revision.bundle.code.get().is_none() {
        // Before anything of the handler has run, so that what comes back is the compiler's.
        let (end, back) = ask(lease, function, Kind::Compile, deadline).await;
        if let Some(end) = keep(revision, end) {
            return Some(with_exit(end, &back).await);
        }
        lease = back;
    }
    if let Some(Err(meta)) = revision.bundle.code.get() {
        let reply = Reply { status: Status::LoadFailed, meta: meta.clone(), body: Bytes::new() };
        return Some((End::Reply(reply), None));
    }
    match ask(lease, function, Kind::Check, deadline).await {
        (End::Reply(Reply { status: Status::Ok, meta, .. }), _) => {
            if let Some(imported) = meta.imported {
                agent.import_cache.observed(revision, &imported);
            }
            None
        }
        (end, lease) => Some(with_exit(end, &lease).await),
    }
}

/// What came of loading a revision in a new sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// It loads.
    Loads,
    /// It does not.
    Fails,
    /// It does not within the time, or sends what it must not: nothing more can be asked of the sandbox.
    Hangs,
    /// The sandbox did not come to be, or somebody has killed it: that says nothing.
    Unknown,
}

impl Proof {
    fn of(end: &End, exit: Option<&Exit>) -> Self {
        match (end, exit) {
            (End::Reply(Reply { status: Status::Ok, .. }), _) => Self::Loads,
            (End::Refused, _) => Self::Unknown,
            (End::Closed, Some(exit)) if exit.failure.is_some() || exit.is_kill() && !exit.oom_killed => {
                Self::Unknown
            }
            (End::TimedOut | End::Violation(_) | End::TooLarge { .. }, _) => Self::Hangs,
            _ => Self::Fails,
        }
    }

    /// Whether it does not load.
    pub const fn is_failure(self) -> bool {
        matches!(self, Self::Fails | Self::Hangs)
    }
}

/// Loads a revision in a new instance, before it is called, to see whether that can be done. The instance can be called in any case: if
/// not, the call is told why.
pub async fn prove(agent: &Agent, function: &Function, lease: Lease, deadline: Instant) -> (Proof, Lease) {
    let (end, lease) = ask(lease, function, Kind::Prove, deadline).await;
    let (end, exit) = with_exit(end, &lease).await;
    let proof = Proof::of(&end, exit.as_ref());
    if let End::Reply(Reply { meta: Meta { imported: Some(imported), .. }, .. }) = &end {
        agent.import_cache.observed(&lease.revision, imported);
    }
    (proof, lease)
}

async fn start(
    agent: &Arc<Agent>,
    function: &Function,
    revision: &Arc<Revision>,
    deadline: Instant,
) -> Result<Lease, NoSandbox> {
    let charge = room_for(agent, function, revision, deadline).await?;
    let sandbox = agent.zygotes.fork_bare(revision, deadline).await?;
    let instance = Instance::new(sandbox, Arc::clone(revision), charge);
    Ok(agent.pool.adopt_trial(Arc::clone(&function.name), function.key, instance))
}

async fn room_for(
    agent: &Agent,
    function: &Function,
    revision: &Revision,
    deadline: Instant,
) -> Result<Charge, NoSandbox> {
    let room = agent.memory.reserve(function.key, revision.settings.limits.memory, deadline).await;
    room.map_err(|failure| NoSandbox::NoRoom(failure.message))
}

async fn ask(lease: Lease, function: &Function, kind: Kind, deadline: Instant) -> (End, Lease) {
    let code = match (kind, lease.revision.bundle.code.get()) {
        (Kind::Check | Kind::Prove, Some(Ok(code))) => code.clone(),
        _ => Bytes::new(),
    };
    let log_limit = lease.revision.settings.log;
    let order = Order {
        handler: &function.name,
        id: "-",
        method: "",
        path: "",
        event: Bytes::new(),
        deadline,
        response_limit: LIMIT,
        log_limit,
    };
    let mut call = Call::ask(lease, kind, code, &order);
    let writer = Writer { handler: &function.name, request: "-" };
    let end = poll_fn(|cx| call.poll(cx, writer)).await;
    (end, call.end(writer).0)
}

async fn with_exit(end: End, instance: &Instance) -> (End, Option<Exit>) {
    let exit = match end {
        End::Closed => exit_of(instance.handle()).await,
        _ => None,
    };
    (end, exit)
}
