//! The watch against a mocked API server, up to what calls get; only the trial in a sandbox is played.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use kube::client::Body;
use openlambda_api::HandlerName;
use openlambda_api::{ConditionReason, HandlerState, Phase};
use openlambda_bundle::{Digest, pack_file};
use openlambda_config::registry::Place;
use openlambda_store::Store;
use openlambda_telemetry::{Drain, Registry};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower_test::mock;

use super::*;
use crate::bundles::Bundles;
use crate::functions::{NoFunction, Source};
use crate::gate::Gates;
use crate::metrics::Metrics;
use crate::packages::{Installed, Installer, Package, PackageError, Record, Requirements, locked};
use crate::registry::Archives;
use crate::reply::Failure;
use crate::revision::tests::defaults;
use crate::trouble::Trouble;

mod split;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(20);
const HANDLERS: &str = "/apis/openlambda.dev/v1alpha1/namespaces/n/handlers";
const CLUSTERS: &str = "/apis/openlambda.dev/v1alpha1/namespaces/n/lambdaclusters";
const CONFIG_MAPS: &str = "/api/v1/namespaces/n/configmaps";
const SECRETS: &str = "/api/v1/namespaces/n/secrets";

const YEAR: &str = "2026-01-01T00:00:00Z";

type Answer = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// The API server: lists, watches that a test feeds, and single objects.
#[derive(Clone, Default)]
struct Server {
    lists: Arc<Mutex<BTreeMap<String, Vec<Value>>>>,
    watches: Arc<Mutex<BTreeMap<String, UnboundedSender<Bytes>>>>,
}

impl Server {
    fn client(&self) -> Client {
        let (service, mut requests) = mock::pair::<Request<Body>, Answer>();
        let server = self.clone();
        tokio::spawn(async move {
            while let Some((request, answer)) = requests.next_request().await {
                answer.send_response(server.answer(&request));
            }
        });
        Client::new(service, "n")
    }

    fn answer(&self, request: &Request<Body>) -> Answer {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        if query.contains("watch=true") {
            let (sender, events) = unbounded();
            self.watches.lock().insert(path.to_owned(), sender);
            let frames = events.map(|event| Ok(Frame::data(event)));
            return Response::new(StreamBody::new(frames).boxed_unsync());
        }
        let lists = self.lists.lock();
        let text = |value: Value| Full::from(value.to_string()).boxed_unsync();
        if let Some(items) = lists.get(path) {
            return Response::new(text(json!({
                "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items
            })));
        }
        let (folder, name) = path.rsplit_once('/').unwrap();
        let found = lists.get(folder).and_then(|all| all.iter().find(|one| one["metadata"]["name"] == name));
        if let Some(found) = found {
            return Response::new(text(found.clone()));
        }
        let status = json!({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": "no"});
        let mut answer = Response::new(text(status));
        *answer.status_mut() = StatusCode::NOT_FOUND;
        answer
    }

    fn put(&self, path: &str, objects: &[Value]) {
        self.lists.lock().insert(path.to_owned(), objects.to_vec());
    }

    async fn event(&self, path: &str, kind: &str, object: &Value) {
        until(|| self.watches.lock().contains_key(path)).await;
        let line = format!("{}\n", json!({"type": kind, "object": object}));
        self.watches.lock()[path].unbounded_send(line.into()).unwrap();
    }
}

fn handler(name: &str, generation: i64, spec: Value) -> Value {
    json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler",
        "metadata": {
            "name": name, "namespace": "n", "uid": format!("uid-{name}"), "generation": generation,
            "resourceVersion": generation.to_string()
        },
        "spec": spec,
    })
}

fn inline(name: &str, generation: i64, code: &str) -> Value {
    handler(name, generation, json!({"source": {"inline": code}}))
}

fn cluster(name: &str, created: &str) -> Value {
    json!({
        "apiVersion": "openlambda.dev/v1alpha1", "kind": "LambdaCluster",
        "metadata": {"name": name, "namespace": "n", "resourceVersion": "1", "creationTimestamp": created},
    })
}

/// A handler that names no cluster.
fn made_at(name: &str, created: &str) -> Value {
    let mut handler = inline(name, 1, "1");
    handler["metadata"]["creationTimestamp"] = json!(created);
    handler
}

fn config_map(version: &str, code: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "code", "namespace": "n", "resourceVersion": version},
        "data": {"lambda_func.py": code},
    })
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.expect("what was waited for did not come");
}

struct World {
    server: Server,
    functions: Arc<Functions>,
    report: Arc<Report>,
    readiness: Readiness,
    trials: Arc<AtomicUsize>,
    /// The cluster's registry.
    store: Store,
    work: tempfile::TempDir,
}

impl World {
    fn start(server: Server) -> Self {
        server.lists.lock().entry(CLUSTERS.into()).or_insert_with(|| vec![cluster("demo", YEAR)]);
        let work = tempfile::tempdir().unwrap();
        let metrics = Arc::new(Metrics::new(&Registry::new("test").unwrap()).unwrap());
        let bundles = Bundles::open(work.path().join("bundles")).unwrap();
        let store = Store::open(&Place::Directory(work.path().join("store"))).unwrap();
        let archives = Arc::new(Archives::open(&work.path().join("kept"), 1 << 20).unwrap());
        let shelf = Shelf::new(store.clone(), bundles.clone(), archives, 1 << 20);
        let gates = Gates::new(1, 1, Duration::from_secs(1), Drain::new());
        let functions =
            Arc::new(Functions::new(Source::Pushed, bundles, gates, defaults(), installer(), metrics));
        let (report, readiness, trials) = (Arc::new(Report::default()), Readiness::new(), Arc::default());
        let client = server.client();
        let parts = Parts {
            functions: Arc::clone(&functions),
            pool: Pool::new(0, Duration::ZERO),
            report: Arc::clone(&report),
            objects: Objects::new(&client, "n"),
            trial: trial(Arc::clone(&trials)),
            shelf: Some(shelf),
        };
        let scope = Scope { cluster: "demo".into(), namespace: "n".into() };
        tokio::spawn(watch(client, scope, parts, Blockers::new(&readiness)));
        Self { server, functions, report, readiness, trials, store, work }
    }

    fn state(&self, name: &str) -> Option<HandlerState> {
        self.report.state().handlers.into_iter().find(|state| state.name == name)
    }

    async fn reaches(&self, name: &str, generation: i64, phase: Phase) -> HandlerState {
        let is = |state: &HandlerState| state.generation == generation && state.state == phase;
        until(|| self.state(name).as_ref().is_some_and(is)).await;
        self.state(name).unwrap()
    }

    /// A handler of an uploaded bundle.
    async fn bundle(&self, generation: i64, code: &str) -> Value {
        let archive = self.work.path().join("archive");
        fs::write(&archive, pack_file("lambda_func.py", code.as_bytes(), Vec::new()).unwrap()).unwrap();
        let (name, digest) = (HandlerName::parse("h").unwrap(), Digest::of_file(&archive).unwrap());
        let put = self.store.put(&name, &archive, &digest, &mut |_| {}).await.unwrap();
        handler("h", generation, json!({"source": {"bundle": {"key": put.key, "digest": digest}}}))
    }

    /// The code that serves.
    async fn code(&self, name: &str) -> Result<String, NoFunction> {
        self.code_of(name, "id").await
    }

    /// The code that answers the call of this id.
    async fn code_of(&self, name: &str, id: &str) -> Result<String, NoFunction> {
        let (_, revision) = self.functions.get(name, id).await?;
        Ok(fs::read_to_string(revision.bundle.path.join("lambda_func.py")).unwrap())
    }
}

/// Anything is `a==2`, unless something else is recorded; what has "none" in it cannot be had.
fn installer() -> Installer {
    Installer::new(|_, wanted, recorded| {
        let locked = recorded.unwrap_or_else(|| vec!["a==2".into()]);
        let package = |text: &String| {
            let (name, version) = text.split_once("==").unwrap();
            let (name, version, folder) = (name.to_owned(), version.to_owned(), text.replace("==", "-"));
            Arc::new(Package { name, version, folder, imports: vec![], bytes: 0 })
        };
        let set = locked.iter().map(package).collect();
        let record = Arc::new(Record { requirements: wanted.digest(), locked });
        let result = match wanted.text().contains("none") {
            true => Err(PackageError::lasting(ConditionReason::Unsatisfiable, "there is no none")),
            false => Ok(Installed { set, record: Some(record) }),
        };
        Box::pin(async move { result })
    })
}

/// Code that has "raise" in it does not load.
fn trial(trials: Arc<AtomicUsize>) -> Trial {
    Arc::new(move |_, revision| {
        trials.fetch_add(1, Ordering::Relaxed);
        let code = fs::read_to_string(revision.bundle.path.join("lambda_func.py")).unwrap();
        let failure = Failure::agent(openlambda_api::Reason::ImportFailed, "lambda_func.py, line 1: E: no");
        let result = if code.contains("raise") { Err(Trouble::code(failure)) } else { Ok(()) };
        Box::pin(async move { result })
    })
}

#[tokio::test]
async fn handlers_come_change_and_go() {
    let server = Server::default();
    server.put(HANDLERS, &[inline("a", 1, "1")]);
    let world = World::start(server);
    until(|| world.readiness.is_ready()).await;
    assert_eq!(world.code("a").await.unwrap(), "1");
    let first = world.reaches("a", 1, Phase::Ready).await;

    world.server.event(HANDLERS, "ADDED", &inline("b", 1, "2")).await;
    world.reaches("b", 1, Phase::Ready).await;
    assert_eq!(world.code("b").await.unwrap(), "2");
    world.server.event(HANDLERS, "MODIFIED", &inline("a", 2, "3")).await;
    let second = world.reaches("a", 2, Phase::Ready).await;
    assert_ne!(second.digest, first.digest);
    assert_eq!(world.code("a").await.unwrap(), "3");

    let before = world.trials.load(Ordering::Relaxed);
    let mut labelled = inline("a", 2, "3");
    labelled["metadata"]["resourceVersion"] = json!("77");
    world.server.event(HANDLERS, "MODIFIED", &labelled).await;
    world.server.event(HANDLERS, "DELETED", &inline("b", 1, "2")).await;
    until(|| world.state("b").is_none()).await;
    assert!(matches!(world.code("b").await, Err(NoFunction::NotApplied(_))));
    assert_eq!(world.trials.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn what_is_bad_leaves_the_old_serving_and_the_others_alone() {
    let server = Server::default();
    let other = handler("other", 1, json!({"cluster": "another", "source": {"inline": "1"}}));
    let ours = handler("ours", 1, json!({"cluster": "demo", "source": {"inline": "1"}}));
    let unreadable = handler("unreadable", 1, json!({"source": 7}));
    server.put(HANDLERS, &[unreadable, other, ours, inline("a", 1, "1"), inline("new", 1, "raise")]);
    let world = World::start(server);
    until(|| world.readiness.is_ready()).await;
    assert_eq!(world.reaches("unreadable", 1, Phase::Failed).await.reason, "Unreadable");
    world.reaches("ours", 1, Phase::Ready).await;
    assert!(world.state("other").is_none());
    assert!(matches!(world.code("other").await, Err(NoFunction::NotApplied(_))));
    let NoFunction::Failed(failure) = world.code("new").await.unwrap_err() else { panic!("not a failure") };
    assert_eq!(failure.message, "lambda_func.py, line 1: E: no");

    world.server.event(HANDLERS, "MODIFIED", &inline("a", 2, "raise")).await;
    let failed = world.reaches("a", 2, Phase::Failed).await;
    assert_eq!(
        (failed.reason.as_str(), failed.message.as_str()),
        ("ImportFailed", "lambda_func.py, line 1: E: no")
    );
    assert_eq!(failed.serving.map(|serving| serving.generation), Some(1));
    assert_eq!(world.code("a").await.unwrap(), "1");
    world.server.event(HANDLERS, "MODIFIED", &handler("a", 3, json!({"source": 7}))).await;
    assert_eq!(world.reaches("a", 3, Phase::Failed).await.reason, "Unreadable");
    assert_eq!(world.code("a").await.unwrap(), "1");
    world.server.event(HANDLERS, "MODIFIED", &inline("a", 4, "2")).await;
    world.reaches("a", 4, Phase::Ready).await;
    assert_eq!(world.code("a").await.unwrap(), "2");
}

#[tokio::test]
async fn with_two_clusters_each_handler_has_one() {
    let server = Server::default();
    let (demo, late) = (cluster("demo", YEAR), cluster("late", "2026-03-01T00:00:00Z"));
    let (old, new) = (made_at("old", "2026-02-01T00:00:00Z"), made_at("new", "2026-04-01T00:00:00Z"));
    server.put(CLUSTERS, std::slice::from_ref(&demo));
    server.put(HANDLERS, &[old.clone(), new.clone()]);
    let world = World::start(server);
    until(|| world.readiness.is_ready()).await;
    world.reaches("old", 1, Phase::Ready).await;
    world.reaches("new", 1, Phase::Ready).await;

    // A second one: what came before it stays, what came after it is nobody's.
    world.server.watches.lock().remove(HANDLERS);
    world.server.event(CLUSTERS, "ADDED", &late).await;
    until(|| world.state("new").is_none()).await;
    assert!(matches!(world.code("new").await, Err(NoFunction::NotApplied(_))));
    assert_eq!(world.code("old").await.unwrap(), "1");
    let before = world.trials.load(Ordering::Relaxed);
    world.server.event(HANDLERS, "ADDED", &made_at("newer", "2026-05-01T00:00:00Z")).await;
    let ours = handler("ours", 1, json!({"cluster": "demo", "source": {"inline": "1"}}));
    world.server.event(HANDLERS, "ADDED", &ours).await;
    world.reaches("ours", 1, Phase::Ready).await;
    assert!(world.state("newer").is_none());
    assert_eq!(world.trials.load(Ordering::Relaxed), before + 1, "what stayed was not made anew");

    // It goes again.
    world.server.put(HANDLERS, &[old, new, ours]);
    world.server.event(CLUSTERS, "DELETED", &late).await;
    world.reaches("new", 1, Phase::Ready).await;
    assert_eq!(world.code("old").await.unwrap(), "1");
}

#[tokio::test]
async fn a_config_map_is_followed() {
    let server = Server::default();
    server.put(HANDLERS, &[handler("a", 1, json!({"source": {"configMap": {"name": "code"}}}))]);
    server.put(CONFIG_MAPS, &[]);
    let world = World::start(server);
    let failed = world.reaches("a", 1, Phase::Failed).await;
    assert_eq!(failed.reason, "ReferenceNotFound");
    assert!(failed.message.contains("there is no ConfigMap code"), "{}", failed.message);

    world.server.put(CONFIG_MAPS, &[config_map("5", "1")]);
    world.server.event(CONFIG_MAPS, "ADDED", &config_map("5", "1")).await;
    world.reaches("a", 1, Phase::Ready).await;
    assert_eq!(world.code("a").await.unwrap(), "1");
    world.server.put(CONFIG_MAPS, &[config_map("6", "2")]);
    world.server.event(CONFIG_MAPS, "MODIFIED", &config_map("6", "2")).await;
    let (first, digest) = (world.state("a").unwrap().digest, || world.state("a").unwrap().digest);
    until(|| digest() != first).await;
    assert_eq!(world.code("a").await.unwrap(), "2");
}

#[tokio::test]
async fn variables_come_from_where_the_spec_says() {
    let server = Server::default();
    let spec = json!({
        "source": {"inline": "1"},
        "env": [
            {"name": "STAGE", "value": "test"},
            {"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}},
            {"name": "NONE", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none", "optional": true}}},
        ],
        "envFrom": [{"prefix": "C_", "configMapRef": {"name": "c"}}, {"secretRef": {"name": "x", "optional": true}}],
    });
    let lacking = json!({
        "source": {"inline": "1"},
        "env": [{"name": "T", "valueFrom": {"secretKeyRef": {"name": "s", "key": "none"}}}],
    });
    server.put(HANDLERS, &[handler("a", 1, spec), handler("b", 1, lacking)]);
    server.put(
        SECRETS,
        &[json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "resourceVersion": "1"},
            "data": {"token": "aGlkZGVu"},
        })],
    );
    server.put(
        CONFIG_MAPS,
        &[json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "resourceVersion": "1"},
            "data": {"ONE": "1", "STAGE": "x"},
        })],
    );
    let world = World::start(server);
    world.reaches("a", 1, Phase::Ready).await;
    let (_, revision) = world.functions.get("a", "id").await.unwrap();
    let want = [("C_ONE", "1"), ("C_STAGE", "x"), ("STAGE", "test"), ("TOKEN", "hidden")];
    assert_eq!(revision.settings.env, want.map(|(name, value)| (name.into(), value.into())).into());
    let lacking = world.reaches("b", 1, Phase::Failed).await;
    assert_eq!(lacking.message, "spec.env[T]: there is no key none in Secret s");
}

#[tokio::test]
async fn what_is_recorded_overrules_what_was_resolved_here() {
    let server = Server::default();
    let spec = json!({"source": {"inline": "1"}, "requirements": ["a>=1"]});
    server.put(HANDLERS, &[handler("a", 1, spec.clone())]);
    let world = World::start(server);
    let said = |state: HandlerState| state.packages.map(|packages| packages.locked);
    assert_eq!(said(world.reaches("a", 1, Phase::Ready).await), Some(vec!["a==2".to_owned()]));

    let digest = Requirements::read(&["a>=1".to_owned()], None, None).unwrap().digest();
    let recorded = |requirements: &str, version: &str| {
        let mut object = handler("a", 1, spec.clone());
        object["status"] = json!({"packages": {"requirements": requirements, "locked": [version]}});
        object["metadata"]["resourceVersion"] = json!(version);
        object
    };
    // Of other requirements: nothing to us.
    world.server.event(HANDLERS, "MODIFIED", &recorded("other", "a==7")).await;
    world.server.event(HANDLERS, "MODIFIED", &recorded(&digest, "a==1")).await;
    until(|| said(world.state("a").unwrap()) == Some(vec!["a==1".to_owned()])).await;
    let (_, revision) = world.functions.get("a", "id").await.unwrap();
    assert_eq!(locked(&revision.packages), ["a==1"]);
    // It stands for the next edit of the code as well.
    let mut edited = recorded(&digest, "a==1");
    edited["metadata"]["generation"] = json!(2);
    edited["spec"]["source"] = json!({"files": {"lambda_func.py": "2"}});
    world.server.event(HANDLERS, "MODIFIED", &edited).await;
    assert_eq!(said(world.reaches("a", 2, Phase::Ready).await), Some(vec!["a==1".to_owned()]));
}

#[tokio::test]
async fn packages_that_cannot_be_had_leave_the_old_revision_serving() {
    let server = Server::default();
    let files = |requirements: &str| json!({"source": {"files": {"lambda_func.py": "1", "requirements.txt": requirements}}});
    server.put(HANDLERS, &[handler("a", 1, files("a")), handler("b", 1, files("-r x"))]);
    let world = World::start(server);
    world.reaches("a", 1, Phase::Ready).await;
    assert_eq!(world.reaches("b", 1, Phase::Failed).await.reason, "InvalidRequirements");
    let NoFunction::Failed(failure) = world.code("b").await.unwrap_err() else { panic!("not a failure") };
    assert_eq!(failure.reason, openlambda_api::Reason::InstallFailed);
    assert!(failure.message.contains("requirements.txt, line 1"), "{}", failure.message);

    world.server.event(HANDLERS, "MODIFIED", &handler("a", 2, files("none"))).await;
    let failed = world.reaches("a", 2, Phase::Failed).await;
    assert_eq!((failed.reason.as_str(), failed.message.as_str()), ("Unsatisfiable", "there is no none"));
    assert_eq!(failed.serving.map(|serving| serving.generation), Some(1));
    assert_eq!(world.code("a").await.unwrap(), "1");
}

#[tokio::test]
async fn bundles_of_the_registry_serve_and_one_that_cannot_be_had_leaves_the_old() {
    let server = Server::default();
    server.put(HANDLERS, &[]);
    let world = World::start(server);
    let one = world.bundle(1, "1").await;
    world.server.event(HANDLERS, "ADDED", &one).await;
    world.reaches("h", 1, Phase::Ready).await;
    assert_eq!(world.code("h").await.unwrap(), "1");

    let mut wrong = world.bundle(2, "2").await;
    wrong["spec"]["source"]["bundle"]["digest"] = json!(format!("sha256:{}", "0".repeat(64)));
    world.server.event(HANDLERS, "MODIFIED", &wrong).await;
    assert_eq!(world.reaches("h", 2, Phase::Failed).await.reason, "DigestMismatch");
    let mut away = world.bundle(3, "3").await;
    away["spec"]["source"]["bundle"]["key"] = json!("bundles/h/none");
    world.server.event(HANDLERS, "MODIFIED", &away).await;
    assert_eq!(world.reaches("h", 3, Phase::Failed).await.reason, "FetchFailed");
    assert_eq!(world.code("h").await.unwrap(), "1");

    world.server.event(HANDLERS, "MODIFIED", &world.bundle(4, "4").await).await;
    world.reaches("h", 4, Phase::Ready).await;
    assert_eq!(world.code("h").await.unwrap(), "4");
    // The registry is away: who has the bundle does not notice.
    fs::remove_dir_all(world.work.path().join("store")).unwrap();
    let mut again = one.clone();
    again["metadata"]["generation"] = json!(5);
    world.server.event(HANDLERS, "MODIFIED", &again).await;
    world.reaches("h", 5, Phase::Ready).await;
    assert_eq!(world.code("h").await.unwrap(), "1");
}
