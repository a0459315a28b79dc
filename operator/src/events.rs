//! Events: one per transition of Ready, and one per package of a handler that no Zygote holds. They queue, have a rate of their own and may be lost; a status never waits for
//! them.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kube::{Client, Resource, ResourceExt as _};
use tokio::sync::mpsc;

use crate::failure;
use crate::metrics::Metrics;
use crate::throttle::Throttle;

/// A thousand handlers that become ready at once fit.
const QUEUE: usize = 1024;
const PER_SECOND: u32 = 20;
const BURST: u32 = 20;
/// The API takes 1 kB.
const NOTE_MAX: usize = 1000;

/// Where events are handed in.
#[derive(Clone, Debug)]
pub struct Events {
    queue: mpsc::Sender<(ObjectReference, Event)>,
    metrics: Metrics,
}

impl Events {
    /// Begins to send; ends when the last clone is dropped.
    pub fn start(client: Client, instance: &str, metrics: Metrics) -> Self {
        let reporter =
            Reporter { controller: "openlambda-operator".into(), instance: Some(instance.to_owned()) };
        let recorder = Recorder::new(client, reporter);
        let (queue, waiting) = mpsc::channel(QUEUE);
        tokio::spawn(send(recorder, waiting, metrics.clone()));
        Self { queue, metrics }
    }

    /// A transition of Ready.
    pub fn ready<K: Resource<DynamicType = ()>>(&self, object: &K, ready: bool, reason: &str, message: &str) {
        let type_ = if ready { EventType::Normal } else { EventType::Warning };
        self.hand_in(object, type_, if ready { "Ready" } else { reason }, message);
    }

    /// A handler imports a package itself at each cold start.
    pub fn not_cached<K: Resource<DynamicType = ()>>(&self, object: &K, message: &str) {
        self.hand_in(object, EventType::Warning, "PackageNotCached", message);
    }

    /// Hands one in; without room it is lost.
    fn hand_in<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        type_: EventType,
        reason: &str,
        message: &str,
    ) {
        let mut reference = object.object_ref(&());
        reference.resource_version = object.resource_version();
        let event = Event {
            type_,
            reason: reason.to_owned(),
            note: Some(cut(message)),
            action: "Reconcile".to_owned(),
            secondary: None,
        };
        if self.queue.try_send((reference, event)).is_err() {
            self.metrics.event("dropped");
        }
    }
}

async fn send(recorder: Recorder, mut waiting: mpsc::Receiver<(ObjectReference, Event)>, metrics: Metrics) {
    let throttle = Throttle::new(PER_SECOND, BURST);
    while let Some((reference, event)) = waiting.recv().await {
        throttle.turn().await;
        match recorder.publish(&event, &reference).await {
            Ok(()) => metrics.event("sent"),
            Err(error) => {
                metrics.event("failed");
                tracing::debug!(error = failure::text(&error), object = ?reference.name, "an event was refused");
            }
        }
    }
}

fn cut(message: &str) -> String {
    let mut end = message.len().min(NOTE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].to_owned()
}
