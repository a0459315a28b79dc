//! Agents from EndpointSlices, against a mocked API server: they come, go and are gone all of a sudden.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use openlambda_lard::kubernetes::{self, Scope};
use openlambda_telemetry::Readiness;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Agent, Kind, Lard, config, dead, until};
use tower_test::mock;

type Events = Arc<Mutex<Option<UnboundedSender<Bytes>>>>;

/// An API server with one list and one watch.
fn api_server(slice: Value) -> (Client, Events) {
    let (service, mut requests) = mock::pair::<Request<Body>, Response<UnsyncBoxBody<Bytes, Infallible>>>();
    let events = Events::default();
    let watch = Arc::clone(&events);
    tokio::spawn(async move {
        while let Some((request, answer)) = requests.next_request().await {
            let query = request.uri().query().unwrap_or_default();
            assert!(query.contains("labelSelector=kubernetes.io%2Fservice-name%3Ddemo-agent"), "{query}");
            if query.contains("watch=true") {
                let (sender, events) = unbounded();
                *watch.lock() = Some(sender);
                let frames = events.map(|event| Ok(Frame::data(event)));
                answer.send_response(Response::new(StreamBody::new(frames).boxed_unsync()));
            } else {
                let list = json!({
                    "kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
                    "metadata": {"resourceVersion": "1"}, "items": [slice],
                });
                answer.send_response(Response::new(Full::from(list.to_string()).boxed_unsync()));
            }
        }
    });
    (Client::new(service, "n"), events)
}

fn slice(port: u16, ready: bool) -> Value {
    json!({
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": "demo-agent-x", "namespace": "n", "resourceVersion": "1"},
        "addressType": "IPv4", "ports": [{"name": "http", "port": port}],
        "endpoints": [{
            "addresses": ["127.0.0.1"], "nodeName": "one", "conditions": {"ready": ready},
            "targetRef": {"kind": "Pod", "name": "demo-agent-1"}
        }],
    })
}

async fn tell(events: &Events, object: &Value) {
    until("the watch", || events.lock().is_some()).await;
    let line = format!("{}\n", json!({"type": "MODIFIED", "object": object}));
    events.lock().as_ref().unwrap().unbounded_send(line.into()).unwrap();
}

#[tokio::test]
async fn agents_are_those_of_the_slices() {
    let (first, second) = (Agent::start(Kind::Good("one")).await, Agent::start(Kind::Good("two")).await);
    let lard = Lard::start(config("LARD", &[])).await;
    let (client, events) = api_server(slice(first.port, true));
    let readiness = Readiness::new();
    let scope = Scope { cluster: "demo".into(), namespace: "n".into() };
    let gateway = Arc::clone(&lard.gateway);
    tokio::spawn(kubernetes::follow_agents(client, &scope, gateway, readiness.clone()));
    assert_eq!(readiness.pending(), ["EndpointSlices of Service demo-agent"]);
    until("an agent", || readiness.is_ready()).await;
    assert_eq!(lard.post("/run/f", "1").await.body, "one 1");

    tell(&events, &slice(second.port, true)).await;
    let port = second.port.to_string();
    until("the other agent", || lard.gateway.targets.view()[0].address.ends_with(&port)).await;
    assert_eq!(lard.post("/run/f", "1").await.body, "two 1");
    assert_eq!(lard.gateway.targets.view()[0].name, "one");

    tell(&events, &slice(second.port, false)).await;
    until("no agent", || lard.gateway.targets.view().is_empty()).await;
    assert_eq!(readiness.pending(), ["an agent"]);
    assert_eq!(lard.post("/run/f", "1").await.status, 503);
}

#[tokio::test]
async fn one_that_is_gone_before_its_slice_is_set_aside_at_once() {
    let (gone, there) = (dead(), Agent::start(Kind::Good("there")).await);
    let lard = Lard::start(config("LARD", &[])).await;
    let mut both = slice(there.port, true);
    both["metadata"]["name"] = json!("other");
    both["endpoints"][0]["nodeName"] = json!("two");
    both["endpoints"][0]["targetRef"]["name"] = json!("demo-agent-2");
    let (client, events) = api_server(slice(gone.port, true));
    let scope = Scope { cluster: "demo".into(), namespace: "n".into() };
    let gateway = Arc::clone(&lard.gateway);
    tokio::spawn(kubernetes::follow_agents(client, &scope, gateway, Readiness::new()));
    tell(&events, &both).await;
    until("both agents", || lard.gateway.targets.view().len() == 2).await;
    let began = Instant::now();
    for handler in ["a", "b", "c", "d"] {
        assert_eq!(lard.post(&format!("/run/{handler}"), "1").await.body, "there 1");
    }
    assert!(began.elapsed().as_secs() < 1);
}
