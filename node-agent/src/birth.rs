//! A new instance for a call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use openlambda_api::{Component, Reason};

use crate::agent::Agent;
use crate::compile::{self, Proof};
use crate::functions::Function;
use crate::instance::Instance;
use crate::memory::Charge;
use crate::metrics::StartKind;
use crate::pool::Lease;
use crate::reply::Failure;
use crate::revision::Revision;
use crate::zygotes::{Born, NoSandbox};

/// Loading a handler for the first time in the child of a Zygote may take so long before it counts as hanging: what has to be imported
/// besides is little.
const PROOF: Duration = Duration::from_secs(10);

/// Forks a sandbox for the revision. One that is the first of its kind is loaded before it is called, so that a Zygote whose children are
/// broken costs no call: it starts from the root then.
pub async fn bear(
    agent: &Arc<Agent>,
    function: &Arc<Function>,
    revision: &Arc<Revision>,
    charge: Charge,
    deadline: Instant,
) -> Result<(Lease, StartKind), Failure> {
    let failed = |error: NoSandbox| {
        tracing::warn!(handler = &*function.name, %error, "no sandbox");
        Failure::new(Component::Sandbox, Reason::NoCapacity, error.to_string()).after(Duration::from_secs(1))
    };
    let adopt = |sandbox, charge| {
        let instance = Instance::new(sandbox, Arc::clone(revision), charge);
        agent.pool.adopt(Arc::clone(&function.name), function.key, instance)
    };
    let Born { sandbox, kind, hit, unproven } =
        agent.zygotes.fork(revision, deadline).await.map_err(failed)?;
    if let Some(hit) = hit {
        agent.metrics.zygote_hit(hit);
    }
    let lease = adopt(sandbox, charge);
    let Some(node) = unproven else { return Ok((lease, kind)) };
    let within = PROOF.min(revision.settings.timeout);
    let (first, lease) = compile::prove(agent, function, lease, Instant::now() + within).await;
    if first == Proof::Loads {
        agent.import_cache.proven(revision, node);
        return Ok((lease, kind));
    }
    let bare = async |lease: Lease| {
        let charge = lease.into_charge();
        Ok(adopt(agent.zygotes.fork_bare(revision, deadline).await.map_err(failed)?, charge))
    };
    let lease = bare(lease).await?;
    let (second, mut lease) = compile::prove(agent, function, lease, Instant::now() + within).await;
    if first.is_failure() && second == Proof::Loads {
        let why =
            format!("the handler {} does not load in its children, and loads without it", function.name);
        agent.import_cache.breaks_when_forked(revision, node, &why);
    }
    if second == Proof::Hangs {
        // What it says once it has loaded would be taken for the call's answer.
        lease = bare(lease).await?;
    }
    // It is the handler's own failure, if it is one, and the call says so.
    Ok((lease, StartKind::Cold))
}
