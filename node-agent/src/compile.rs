//! Compiles a handler's code once, in a sandbox of its own, so that later instances need not.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::agent::Agent;
use crate::bundles::Bundle;
use crate::call::{Call, End};
use crate::frame::Status;
use crate::functions::Function;
use crate::instance::Instance;
use crate::logs::Writer;

/// How long it may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The longest compiled code that is kept.
const LIMIT: usize = 16 * 1024 * 1024;

/// Sees to it that the code is compiled, after the call that found it not to be.
pub fn want(agent: &Arc<Agent>, function: &Arc<Function>, bundle: &Arc<Bundle>) {
    if bundle.code.get().is_some()
        || bundle.compiling.swap(true, Ordering::Relaxed)
        || agent.drain.has_begun()
    {
        return;
    }
    let (agent, function, bundle) = (Arc::clone(agent), Arc::clone(function), Arc::clone(bundle));
    tokio::spawn(async move { compile(&agent, &function, &bundle).await });
}

async fn compile(agent: &Arc<Agent>, function: &Function, bundle: &Arc<Bundle>) {
    let deadline = Instant::now() + TIMEOUT;
    // Without the code compiled every instance compiles it itself: slower, no less right.
    let sandbox = match agent.zygotes.fork(bundle.path.clone(), deadline).await {
        Ok(sandbox) => sandbox,
        Err(error) => {
            return tracing::warn!(handler = &*function.name, %error, "the code is not compiled ahead");
        }
    };
    let instance = Instance::new(sandbox, Arc::clone(bundle));
    let lease = agent.pool.adopt_compiler(Arc::clone(&function.name), function.key, instance);
    let mut call = Call::compile(lease, &function.name, deadline, LIMIT);
    let writer = Writer { handler: &function.name, request: "-" };
    let end = poll_fn(|cx| call.poll(cx, writer)).await;
    let _ = match end {
        End::Reply(reply) if reply.status == Status::Ok => bundle.code.set(Ok(reply.body)),
        End::Reply(reply) if reply.status == Status::LoadFailed => bundle.code.set(Err(reply.meta)),
        end => return tracing::warn!(handler = &*function.name, ?end, "the code is not compiled ahead"),
    };
}
