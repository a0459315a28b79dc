//! `LambdaCluster`: dereference → validate → keys → build → apply → status. Validating and building have no client.

use std::sync::Arc;
use std::time::Duration;

use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::{Resource as _, ResourceExt as _};
use openlambda_api::LambdaCluster;

use crate::context::Context;
use crate::failure;

mod apply;
mod build;
mod children;
mod dereference;
mod keys;
mod status;
mod validate;

pub use dereference::children_selector;

/// Also without any event everything is looked at again after this time.
const RESYNC: Duration = Duration::from_secs(300);

/// Why a cluster could not be reconciled: one variant per step.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The objects it is made of could not be read.
    #[error("read what there is: {0}")]
    Dereference(#[from] dereference::Error),
    /// A child could not be written.
    #[error("{0}")]
    Apply(#[from] apply::Error),
    /// The status could not be written.
    #[error("write the status: {}", failure::text(.0))]
    Status(#[source] kube::Error),
}

impl Error {
    /// A name out of a closed set, for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            Self::Dereference(_) => "dereference",
            Self::Apply(_) => "apply",
            Self::Status(_) => "status",
        }
    }
}

/// Brings one cluster to what its spec says.
pub async fn reconcile(
    object: Arc<DeserializeGuard<LambdaCluster>>,
    context: Arc<Context>,
) -> Result<Action, Error> {
    let timer = context.metrics.reconcile("LambdaCluster");
    let result = match &object.0 {
        Ok(cluster) if cluster.meta().deletion_timestamp.is_some() => Ok(Action::await_change()),
        Ok(cluster) => pipeline(cluster, &context).await,
        Err(invalid) => status::unreadable(&context, &invalid.metadata, &invalid.error)
            .await
            .map(|()| Action::await_change())
            .map_err(Error::Status),
    };
    timer.done(result.as_ref().err().map(Error::category));
    if result.is_ok() {
        context.succeeded(&object.uid().unwrap_or_default());
    }
    result
}

async fn pipeline(cluster: &LambdaCluster, context: &Context) -> Result<Action, Error> {
    let found = dereference::fetch(context, cluster).await?; // client required
    let outcome = match validate::validate(cluster) {
        // no client required
        Ok(mut valid) => {
            let applied = async {
                valid.registry_keys = keys::ensure(context, &valid).await?; // client required
                let wanted = build::build(&valid, &context.settings); // no client required
                apply::apply(context, cluster, wanted, &found.children).await // client required
            };
            match applied.await {
                Ok(applied) => status::Outcome::Applied(Box::new(applied)),
                Err(error) => {
                    let outcome = status::Outcome::Refused(error.to_string());
                    status::update(context, cluster, &found, &outcome).await.map_err(Error::Status)?;
                    return Err(error.into());
                }
            }
        }
        Err(problems) => status::Outcome::Invalid(problems),
    };
    status::update(context, cluster, &found, &outcome).await.map_err(Error::Status)?; // client required
    Ok(Action::requeue(RESYNC))
}

/// When a failed one is tried again: pauses that double, each object its own.
pub fn error_policy(
    object: Arc<DeserializeGuard<LambdaCluster>>,
    error: &Error,
    context: Arc<Context>,
) -> Action {
    let pause = context.failed(&object.uid().unwrap_or_default());
    tracing::warn!(cluster = %object.name_any(), namespace = ?object.namespace(), %error, ?pause, "not reconciled");
    Action::requeue(pause)
}

#[cfg(test)]
mod tests;
