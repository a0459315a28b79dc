//! For tests: objects, settings, and an API server that keeps what it is sent.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use kube::Client;
use kube::client::Body;
use openlambda_api::LambdaCluster;
use openlambda_telemetry::Registry;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::context::Context;
use crate::events::Events;
use crate::metrics::Metrics;
use crate::settings::Settings;

/// A cluster of namespace `functions`.
pub fn cluster(name: &str, spec: Value) -> LambdaCluster {
    serde_json::from_value(json!({
        "apiVersion": "openlambda.dev/v1alpha1",
        "kind": "LambdaCluster",
        "metadata": {
            "name": name, "namespace": "functions", "uid": format!("uid-of-{name}"), "generation": 1,
            "resourceVersion": "1",
        },
        "spec": spec,
    }))
    .unwrap()
}

/// Settings as a chart might give them.
pub fn settings() -> Settings {
    Settings {
        agent_image: "example.com/openlambda-node-agent:1".into(),
        lard_image: "example.com/openlambda-lard:1".into(),
        registry_image: "example.com/openlambda-registry:1".into(),
        image_pull_policy: "IfNotPresent".into(),
        image_pull_secrets: vec![],
        namespace: "openlambda-system".into(),
    }
}

/// A context that talks to `server`.
pub fn context(server: &Server) -> Arc<Context> {
    let client = server.client();
    let metrics = Metrics::new(&Registry::new("test").unwrap()).unwrap();
    let events = Events::start(client.clone(), "test", metrics.clone());
    Arc::new(Context::new(client, settings(), metrics, events, 1000))
}

/// An API server for one namespace that keeps what it is sent and counts it.
#[derive(Clone, Default)]
pub struct Server {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    writes: Vec<String>,
    version: u64,
}

impl Server {
    /// A client of it.
    pub fn client(&self) -> Client {
        let server = self.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let server = server.clone();
            async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
        });
        Client::new(service, "functions")
    }

    /// `VERB path` of every write since the last call, without events.
    pub fn writes(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().writes)
    }

    /// The object at a path.
    pub fn object(&self, path: &str) -> Option<Value> {
        self.state.lock().objects.get(path).cloned()
    }

    /// Puts an object at a path behind everyone's back.
    pub fn put(&self, path: &str, object: Value) {
        self.state.lock().objects.insert(path.to_owned(), object);
    }

    /// Removes the object at a path behind everyone's back.
    pub fn remove(&self, path: &str) {
        self.state.lock().objects.remove(path);
    }

    /// Changes the object at a path behind everyone's back.
    pub fn edit(&self, path: &str, change: impl FnOnce(&mut Value)) {
        let mut state = self.state.lock();
        change(state.objects.get_mut(path).unwrap());
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path().to_owned();
        let bytes = body.collect().await.unwrap().to_bytes();
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if path.contains("/events") {
            return respond(StatusCode::CREATED, &body);
        }
        let mut state = self.state.lock();
        if parts.method != Method::GET {
            state.writes.push(format!("{} {path}", parts.method));
        }
        match parts.method {
            Method::GET if is_object(&path) => match state.objects.get(&path) {
                Some(object) => respond(StatusCode::OK, object),
                None => respond(
                    StatusCode::NOT_FOUND,
                    &json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound"}),
                ),
            },
            Method::GET => {
                let prefix = format!("{path}/");
                let inside = state.objects.iter().filter(|(key, _)| key.starts_with(&prefix));
                let items: Vec<Value> = inside.map(|(_, object)| object.clone()).collect();
                respond(
                    StatusCode::OK,
                    &json!({"kind": "List", "apiVersion": "v1", "metadata": {}, "items": items}),
                )
            }
            Method::PATCH => {
                state.version += 1;
                let mut object = body;
                object["metadata"]["resourceVersion"] = json!(state.version.to_string());
                // Like a server: fields that nobody sent appear.
                if let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) {
                    spec.insert("addedByTheServer".into(), json!(true));
                }
                state.objects.insert(path, object.clone());
                respond(StatusCode::OK, &object)
            }
            Method::POST => {
                state.version += 1;
                let (mut object, name) =
                    (body.clone(), body["metadata"]["name"].as_str().unwrap_or_default());
                object["metadata"]["uid"] = json!(format!("uid-{}", state.version));
                state.objects.insert(format!("{path}/{name}"), object.clone());
                respond(StatusCode::CREATED, &object)
            }
            Method::DELETE => {
                let gone = state.objects.remove(&path).unwrap_or_default();
                respond(StatusCode::OK, &gone)
            }
            _ => respond(StatusCode::METHOD_NOT_ALLOWED, &json!({})),
        }
    }
}

/// Whether a path is that of one object and not of a list.
fn is_object(path: &str) -> bool {
    path.rsplit_once("/namespaces/functions/").is_some_and(|(_, inside)| inside.contains('/'))
}

fn respond(status: StatusCode, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string().into_bytes())).unwrap()
}
