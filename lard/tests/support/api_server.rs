//! An API server on a port of its own: it keeps Handlers of the namespace `n`, counts their generations, and plays the operator,
//! which writes into each status what came of it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

const HANDLERS: &str = "/apis/openlambda.dev/v1alpha1/namespaces/n/handlers";

#[derive(Default)]
pub struct State {
    pub handlers: BTreeMap<String, Value>,
    /// What fails, instead of being Ready: a condition, a reason and a message.
    pub fails: Option<[&'static str; 3]>,
    /// So many changes are refused, for somebody else changed the object a moment before.
    pub conflicts: u32,
    /// It refuses who asks.
    pub forbids: bool,
    version: u64,
}

pub struct ApiServer {
    pub state: Arc<Mutex<State>>,
    /// For a client of it.
    pub kubeconfig: String,
    serving: JoinHandle<()>,
}

impl ApiServer {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = format!("http://{}", listener.local_addr().unwrap());
        let kubeconfig = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": {"server": server}}],
            "users": [{"name": "c", "user": {}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "c", "namespace": "n"}}],
        });
        let state = Arc::new(Mutex::new(State::default()));
        let serving = tokio::spawn(serve(listener, Arc::clone(&state)));
        Self { state, kubeconfig: kubeconfig.to_string(), serving }
    }

    /// Nobody answers any more.
    pub fn end(&self) {
        self.serving.abort();
    }

    /// A Handler that somebody else has made.
    pub fn has(&self, name: &str, spec: &Value) {
        let object = json!({"metadata": {"name": name}, "spec": spec});
        self.state.lock().write(object);
    }

    pub fn handler(&self, name: &str) -> Option<Value> {
        self.state.lock().handlers.get(name).cloned()
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    // Its connections end with it.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| answer(request, Arc::clone(&state)));
        connections.spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if head.uri.query().is_some_and(|query| query.contains("watch=true")) {
        std::future::pending::<()>().await;
    }
    let (status, value) = state.lock().answer(&head.method, head.uri.path(), body);
    let response = Response::builder().status(status).header("content-type", "application/json");
    Ok(response.body(Full::from(value.to_string())).unwrap())
}

fn refusal(code: u16, message: &str) -> (StatusCode, Value) {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        _ => "Conflict",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": message,
        "reason": reason,
    });
    (StatusCode::from_u16(code).unwrap(), status)
}

impl State {
    fn answer(&mut self, method: &Method, path: &str, body: Value) -> (StatusCode, Value) {
        let list = |kind: &str, items: Vec<Value>| {
            let list = json!({"kind": kind, "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items});
            (StatusCode::OK, list)
        };
        if path.ends_with("/endpointslices") {
            return list("EndpointSliceList", Vec::new());
        }
        if self.forbids {
            return refusal(403, "handlers is forbidden");
        }
        let name = path.strip_prefix(HANDLERS).unwrap_or_else(|| panic!("{path}")).trim_start_matches('/');
        let there = self.handlers.get(name).cloned();
        match (method.as_str(), there) {
            ("GET", _) if name.is_empty() => list("HandlerList", self.handlers.values().cloned().collect()),
            ("POST", _) if self.handlers.contains_key(body["metadata"]["name"].as_str().unwrap()) => {
                refusal(409, "already exists")
            }
            ("POST" | "PATCH", _) if std::mem::take(&mut self.conflicts) > 0 => {
                refusal(409, "the object has been modified")
            }
            ("POST", _) => (StatusCode::CREATED, self.write(body)),
            (_, None) => refusal(404, "not found"),
            ("GET", Some(object)) => (StatusCode::OK, object),
            ("DELETE", Some(_)) => (StatusCode::OK, self.handlers.remove(name).unwrap()),
            ("PATCH", Some(mut object)) => {
                let wanted = &body["metadata"]["resourceVersion"];
                if !wanted.is_null() && *wanted != object["metadata"]["resourceVersion"] {
                    return refusal(409, "the object has been modified");
                }
                merge(&mut object, &body);
                (StatusCode::OK, self.write(object))
            }
            other => panic!("{other:?} {path}"),
        }
    }

    /// Keeps an object with the next generation, and the status of that.
    fn write(&mut self, mut object: Value) -> Value {
        self.version += 1;
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let generation = object["metadata"]["generation"].as_i64().unwrap_or_default() + 1;
        object["apiVersion"] = json!("openlambda.dev/v1alpha1");
        object["kind"] = json!("Handler");
        let meta = &mut object["metadata"];
        meta["generation"] = json!(generation);
        meta["resourceVersion"] = json!(self.version.to_string());
        meta["uid"] = json!(format!("uid-of-{name}"));
        let condition = |kind: &str, status: &str, reason: &str, message: &str| json!({"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"});
        let conditions = match self.fails {
            None => vec![condition("Ready", "True", "AsExpected", "")],
            Some([kind, reason, message]) => vec![
                condition("Ready", "False", reason, message),
                condition(kind, "False", reason, message),
                condition("Stalled", "True", reason, message),
            ],
        };
        let ready = if self.fails.is_none() { 2 } else { 0 };
        object["status"] = json!({
            "observedGeneration": generation, "conditions": conditions,
            "agents": {"desired": 2, "ready": ready, "summary": format!("{ready}/2")},
        });
        self.handlers.insert(name, object.clone());
        object
    }
}

/// RFC 7396.
fn merge(all: &mut Value, change: &Value) {
    let Value::Object(change) = change else {
        *all = change.clone();
        return;
    };
    if !all.is_object() {
        *all = json!({});
    }
    let all = all.as_object_mut().unwrap();
    for (key, value) in change {
        if value.is_null() {
            all.remove(key);
        } else {
            merge(all.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}
