//! A new revision is tried before it serves: loaded in a sandbox, as for a call.

use std::sync::Arc;

use futures::future::BoxFuture;
use openlambda_api::conditions::ConditionReason;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use crate::call::End;
use crate::compile;
use crate::frame::Status;
use crate::functions::Function;
use crate::outcome;
use crate::revision::{Revision, entry_file};
use crate::trouble::{Trouble, closed};

/// Tries to load a revision.
pub type Trial =
    Arc<dyn Fn(Arc<Function>, Arc<Revision>) -> BoxFuture<'static, Result<(), Trouble>> + Send + Sync>;

/// The trial that counts: in a sandbox, by the runtime that serves calls.
pub fn in_sandbox(agent: Arc<Agent>, data: Handle) -> Trial {
    Arc::new(move |function, revision| {
        let agent = Arc::clone(&agent);
        let tried = data.spawn(async move { try_in_sandbox(&agent, &function, &revision).await });
        let mut tried = Ending(tried);
        Box::pin(async move { (&mut tried.0).await.map_err(closed)? })
    })
}

/// A task that ends when nobody waits for it any more.
struct Ending<T>(JoinHandle<T>);

impl<T> Drop for Ending<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn try_in_sandbox(
    agent: &Arc<Agent>,
    function: &Function,
    revision: &Arc<Revision>,
) -> Result<(), Trouble> {
    let checked = compile::check(agent, function, revision).await;
    let agent_failed = |why: String| Trouble::passing(ConditionReason::AgentFailed, why);
    let Some((end, exit)) = checked.map_err(|error| agent_failed(error.to_string()))? else { return Ok(()) };
    let import_failed = |what: String| {
        let message = format!("{}: {what}", entry_file(&revision.settings.entrypoint));
        Trouble::lasting(ConditionReason::ImportFailed, message)
    };
    Err(match end {
        End::Reply(reply) if reply.status == Status::LoadFailed => {
            Trouble::code(outcome::load_failed(reply.meta, &revision.settings.entrypoint))
        }
        End::Refused => agent_failed("the sandbox for the trial ended before it was asked".into()),
        End::Closed if exit.as_ref().is_some_and(|exit| exit.failure.is_some()) => {
            agent_failed(outcome::closed(exit, revision.settings.limits.memory).message)
        }
        End::Closed => {
            let failure = outcome::closed(exit, revision.settings.limits.memory);
            import_failed(format!("while it was loaded, {}", failure.message))
        }
        End::TimedOut => import_failed("loading it did not end in time".into()),
        End::TooLarge { length, .. } => import_failed(format!("its compiled code has {length} bytes")),
        End::Reply(_) | End::Violation(_) => {
            import_failed("while it was loaded, it wrote to file descriptors that it has not opened".into())
        }
    })
}
