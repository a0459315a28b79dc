//! Agents from EndpointSlices, against a mocked API server: they come, go and are gone all of a sudden.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt as _;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::Client;
use kube::client::Body;
use openlambda_lard::Settings;
use openlambda_lard::kubernetes::{self, Scope};
use openlambda_telemetry::Readiness;
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::{Agent, Kind, Lard, config, dead, until};
use tokio::sync::Semaphore;
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
    until("the other agent", || lard.servers()[0].address.ends_with(&port)).await;
    assert_eq!(lard.post("/run/f", "1").await.body, "two 1");
    assert_eq!(lard.servers()[0].name, "one");

    tell(&events, &slice(second.port, false)).await;
    until("no agent", || lard.servers().is_empty()).await;
    assert!(readiness.is_ready(), "calls would wait here for the next");
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
    until("both agents", || lard.servers().len() == 2).await;
    let began = Instant::now();
    for handler in ["a", "b", "c", "d"] {
        assert_eq!(lard.post(&format!("/run/{handler}"), "1").await.body, "there 1");
    }
    assert!(began.elapsed().as_secs() < 1);
}

/// As in Kubernetes: agents come and go by themselves.
async fn lard(tweak: impl FnOnce(&mut Settings)) -> Arc<Lard> {
    let lard = Lard::start_with(config("LARD", &[]), |settings| {
        *settings = settings.clone().in_kubernetes();
        tweak(settings);
    });
    Arc::new(lard.await)
}

fn call(lard: &Arc<Lard>) -> tokio::task::JoinHandle<support::Answer> {
    let lard = Arc::clone(lard);
    tokio::spawn(async move { lard.post("/run/f", "1").await })
}

fn follow(lard: &Lard, client: Client) {
    let scope = Scope { cluster: "demo".into(), namespace: "n".into() };
    let gateway = Arc::clone(&lard.gateway);
    tokio::spawn(kubernetes::follow_agents(client, &scope, gateway, Readiness::new()));
}

#[tokio::test]
async fn calls_wait_for_the_first_agent() {
    let agent = Agent::start(Kind::Good("one")).await;
    let lard = lard(|_| {}).await;
    let (first, second) = (call(&lard), call(&lard));
    until("both to wait", || lard.gateway.hold.waiting() == 2).await;
    let (client, _events) = api_server(slice(agent.port, true));
    follow(&lard, client);
    assert_eq!((first.await.unwrap().body, second.await.unwrap().body), ("one 1".into(), "one 1".into()));
    assert_eq!(lard.gateway.hold.waiting(), 0);
}

#[tokio::test]
async fn the_only_agent_is_replaced_and_no_call_fails() {
    let (old, new) = (Agent::start(Kind::Refusing("draining")).await, Agent::start(Kind::Good("new")).await);
    let lard = lard(|_| {}).await;
    let (client, events) = api_server(slice(old.port, true));
    follow(&lard, client);
    until("the old one", || lard.servers().len() == 1).await;
    // It has been told to end, and nobody has said so yet.
    let early = call(&lard);
    until("a call to wait", || lard.gateway.hold.waiting() == 1).await;
    tell(&events, &slice(old.port, false)).await;
    until("no agent", || lard.servers().is_empty()).await;
    let late = call(&lard);
    until("both to wait", || lard.gateway.hold.waiting() == 2).await;
    assert!(!early.is_finished());
    tell(&events, &slice(new.port, true)).await;
    assert_eq!((early.await.unwrap().body, late.await.unwrap().body), ("new 1".into(), "new 1".into()));
}

#[tokio::test]
async fn not_too_many_wait_and_none_too_long() {
    let lard = lard(|settings| {
        settings.queue_length = 1;
        settings.queue_timeout = Duration::from_secs(2);
    })
    .await;
    let first = call(&lard);
    until("one to wait", || lard.gateway.hold.waiting() == 1).await;
    let refused = lard.post("/run/f", "1").await;
    assert_eq!((refused.status, refused.reason().as_str()), (503, "no_capacity"));
    assert!(!first.is_finished(), "who was there first goes on to wait");
    let first = first.await.unwrap();
    assert_eq!((first.status, first.reason().as_str()), (503, "no_capacity"));
    assert!(first.headers.contains_key("retry-after"));
    assert_eq!(lard.gateway.hold.waiting(), 0);
}

#[tokio::test]
async fn an_agent_without_room_is_not_waited_for() {
    let full = Agent::start(Kind::Refusing("no_capacity")).await;
    let lard = lard(|_| {}).await;
    let (client, _events) = api_server(slice(full.port, true));
    follow(&lard, client);
    until("an agent", || lard.servers().len() == 1).await;
    assert_eq!(lard.post("/run/f", "1").await.status, 503);
    assert_eq!(lard.gateway.hold.waiting(), 0);
}

#[tokio::test]
async fn an_agent_has_no_more_calls_than_it_may() {
    let permits = Arc::new(Semaphore::new(0));
    let slow = Agent::start(Kind::Slow(Arc::clone(&permits))).await;
    let other = Agent::start(Kind::Good("other")).await;
    let lard = Lard::start(json!({
        "Policy": "LARD", "Servers": [], "Host": "127.0.0.1", "MaxConnPerServer": 2, "QueueLength": 1
    }));
    let lard = Arc::new(lard.await);
    let (client, events) = api_server(slice(slow.port, true));
    follow(&lard, client);
    until("an agent", || lard.servers().len() == 1).await;
    assert_eq!(lard.servers()[0].max_conn, Some(2));
    let running = [call(&lard), call(&lard)];
    until("two calls", || slow.calls() == 2).await;
    let waiting = call(&lard);
    until("one to wait", || lard.gateway.gate.counts() == (2, 1)).await;
    let refused = lard.post("/run/f", "1").await;
    assert_eq!((refused.status, refused.reason().as_str()), (429, "concurrency_exceeded"));
    // Another agent makes room, and takes what the first may not.
    let mut both = slice(other.port, true);
    both["metadata"]["name"] = json!("other");
    both["endpoints"][0]["nodeName"] = json!("two");
    both["endpoints"][0]["targetRef"]["name"] = json!("demo-agent-2");
    tell(&events, &both).await;
    assert_eq!(waiting.await.unwrap().body, "other 1");
    permits.add_permits(2);
    for call in running {
        assert_eq!(call.await.unwrap().body, "slow");
    }
    assert_eq!(slow.calls(), 2);
}
