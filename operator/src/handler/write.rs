//! Writes the statuses that differ: server-side apply, several at a time, below the rate limit.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{Patch, PatchParams};
use kube::core::{DeserializeGuard, PartialObjectMeta};
use openlambda_api::conditions::{self, ConditionReason, ConditionType, Verdict};
use openlambda_api::{Handler, HandlerStatus, labels};
use serde_json::json;

use super::view::HandlerView;
use crate::context::Context;
use crate::failure;

/// So many at a time.
const AT_ONCE: usize = 16;
/// An API server that does not answer within this is tried again in the next round.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A status that differs from what the object has.
pub struct Change {
    meta: ObjectMeta,
    old: HandlerStatus,
    new: HandlerStatus,
}

impl Change {
    /// Of this handler.
    pub fn new(handler: &HandlerView, old: HandlerStatus, new: HandlerStatus) -> Self {
        Self { meta: handler.metadata.clone(), old, new }
    }

    /// The status that is to be written.
    pub fn status(&self) -> &HandlerStatus {
        &self.new
    }
}

/// What was written.
#[derive(Default)]
pub struct Written {
    /// These.
    pub done: Vec<Done>,
    /// So many not.
    pub failed: usize,
}

/// A status that was written.
pub struct Done {
    /// The handler's uid.
    pub uid: String,
    /// The version that it was computed from.
    pub version: String,
    /// The status.
    pub status: HandlerStatus,
}

/// The object cannot be read as a `Handler`: says so in its status, the same each time.
pub fn unreadable(object: &DeserializeGuard<HandlerView>) -> Option<Change> {
    let invalid = object.0.as_ref().err()?;
    let meta = invalid.metadata.clone();
    let since = meta.creation_timestamp.clone().unwrap_or(Time(Timestamp::UNIX_EPOCH));
    let message = format!("this is no Handler: {}", invalid.error);
    let verdict = Verdict::no(ConditionType::Ready, ConditionReason::Unreadable, message);
    let new = HandlerStatus {
        conditions: conditions::next(&[], &[verdict], meta.generation, &since),
        ..HandlerStatus::default()
    };
    Some(Change { meta, old: HandlerStatus::default(), new })
}

/// Writes them all.
pub async fn all(context: &Context, changes: Vec<Change>) -> Written {
    let mut results = stream::iter(changes).map(|change| one(context, change)).buffer_unordered(AT_ONCE);
    let mut written = Written::default();
    while let Some(result) = results.next().await {
        match result {
            Some(done) => written.done.push(done),
            None => written.failed += 1,
        }
    }
    written
}

async fn one(context: &Context, change: Change) -> Option<Done> {
    context.throttle.turn().await;
    let (namespace, name) = (change.meta.namespace.clone()?, change.meta.name.clone()?);
    // Of the answer only the metadata is read: the code is large, and the object may be unreadable.
    let api: Api<PartialObjectMeta<Handler>> = Api::namespaced(context.client.clone(), &namespace);
    let body = json!({
        "apiVersion": format!("{}/{}", labels::GROUP, labels::VERSION),
        "kind": "Handler",
        "metadata": {"name": name, "namespace": namespace},
        "status": change.new,
    });
    let parameters = PatchParams::apply(labels::MANAGER_HANDLER_STATUS).force();
    let patch = Patch::Apply(&body);
    let request = api.patch_status(&name, &parameters, &patch);
    let result = match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(_)) => Ok(()),
        // It was deleted meanwhile.
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
        Ok(Err(error)) => Err(failure::text(&error)),
        Err(_) => Err(format!("no answer within {TIMEOUT:?}")),
    };
    context.metrics.wrote("handler status", result.is_ok());
    if let Err(error) = result {
        tracing::warn!(handler = name, namespace, error, "the status was not written");
        return None;
    }
    announce(context, &change);
    Some(Done {
        uid: change.meta.uid.unwrap_or_default(),
        version: change.meta.resource_version.unwrap_or_default(),
        status: change.new,
    })
}

/// An event for a transition of Ready: to True, or to another reason for False that is a result.
fn announce(context: &Context, change: &Change) {
    let ready = |status: &HandlerStatus| conditions::find(&status.conditions, ConditionType::Ready).cloned();
    let (before, Some(after)) = (ready(&change.old), ready(&change.new)) else { return };
    let same = before.is_some_and(|before| before.status == after.status && before.reason == after.reason);
    let is_result =
        after.status == "True" || conditions::is_true(&change.new.conditions, ConditionType::Stalled);
    if !same && is_result {
        let object = HandlerView { metadata: change.meta.clone(), spec: Default::default(), status: None };
        context.events.ready(&object, after.status == "True", &after.reason, &after.message);
    }
}
