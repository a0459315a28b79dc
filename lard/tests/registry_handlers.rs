//! The registry's API in Kubernetes: an upload becomes a Handler, and what there is is what Handlers name. Against an API server in this
//! process; with real agents: `tests/tests/kubernetes/registry_api.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::fs;
use std::time::Duration;

use serde_json::{Value, json};
use support::LONG;
use support::api_server::ApiServer;
use support::front::{Front, SCRIPT, archive};

const OTHER: &[u8] = b"def handler(event):\n    return 2\n";

async fn start() -> (ApiServer, Front) {
    let server = ApiServer::start().await;
    let front = Front::in_kubernetes(&server.kubeconfig, |_| {}).await;
    (server, front)
}

fn bundle(server: &ApiServer, name: &str) -> Value {
    server.handler(name).unwrap()["spec"]["source"]["bundle"].clone()
}

#[tokio::test]
async fn an_upload_becomes_a_handler_and_goes_with_it() {
    let (server, front) = start().await;
    let first = front.ask("POST", "/registry/h", SCRIPT).await;
    let told = first.json();
    assert_eq!((first.status, &told["revision"], &told["serves"]), (201, &json!(1), &json!(true)), "{told}");
    assert_eq!(told["agents"], json!({"desired": 2, "ready": 2, "summary": "2/2"}));
    assert_eq!((&told["message"], &told["workers"]), (&json!("2/2 agents serve it"), &Value::Null));
    let made = server.handler("h").unwrap();
    assert_eq!((&made["spec"]["cluster"], &made["spec"]["source"]["inline"]), (&json!("demo"), &Value::Null));
    let named = bundle(&server, "h");
    assert!(named["key"].as_str().unwrap().starts_with("n/bundles/h/") && named["digest"] == told["digest"]);

    // The same again is no new revision, and changes nothing.
    let again = front.ask("POST", "/registry/h", archive(SCRIPT)).await.json();
    assert_eq!(
        (&again["revision"], &again["new"], &bundle(&server, "h")),
        (&json!(1), &json!(false), &named)
    );
    let second = front.ask("POST", "/registry/h", OTHER).await.json();
    assert_eq!((&second["revision"], &second["digest"]), (&json!(2), &bundle(&server, "h")["digest"]));
    assert_eq!(front.ask("GET", "/registry/", "").await.json(), json!(["h"]));
    assert!(front.ask("GET", "/registry/h", "").await.body == archive(OTHER), "another archive comes back");
    let config = front.ask("GET", "/registry/h/config", "").await.json();
    assert_eq!((&config["revision"], &config["digest"]), (&json!(2), &second["digest"]));

    // What the Handler names is what there is, whoever wrote it.
    let back = json!({"cluster": "demo", "source": {"bundle": named}});
    server.has("h", &back);
    assert!(front.ask("GET", "/registry/h", "").await.body == archive(SCRIPT), "not what the Handler names");
    assert_eq!(front.ask("GET", "/registry/h/config", "").await.json()["revision"], 1);

    // Of somebody who writes the code into it by hand it stays.
    server.has("h", &json!({"source": {"inline": "code"}}));
    assert_eq!(front.ask("DELETE", "/registry/h", "").await.error().1, "conflict");
    server.has("h", &back);
    let deleted = front.ask("DELETE", "/registry/h", "").await;
    assert_eq!((deleted.status, deleted.json()), (200, json!({"handler": "h"})));
    assert_eq!((server.handler("h"), front.stored()), (None, 0));
    for (method, path) in [("DELETE", "/registry/h"), ("GET", "/registry/h"), ("GET", "/registry/h/config")] {
        assert_eq!(front.ask(method, path, "").await.error().1, "handler_not_found", "{method} {path}");
    }
    front.nothing_is_left().await;
}

#[tokio::test]
async fn what_comes_of_an_upload_is_what_the_status_says() {
    let (server, front) = start().await;
    server.state.lock().fails =
        Some(["CodeLoads", "ImportFailed", "not today; the former revision keeps serving"]);
    let told = front.ask("POST", "/registry/h", SCRIPT).await;
    assert_eq!(
        (told.status, &told.json()["serves"], &told.json()["agents"]["ready"]),
        (201, &json!(false), &json!(0))
    );
    let message = told.json()["message"].as_str().unwrap().to_owned();
    assert_eq!(message, "0/2 agents serve it: ImportFailed: not today; the former revision keeps serving");
}

#[tokio::test]
async fn a_handler_that_was_not_uploaded_is_said_to_be_and_only_an_upload_takes_it_over() {
    let (server, front) = start().await;
    server.has("h", &json!({"source": {"inline": "code"}, "idempotent": true}));
    server.has("theirs", &json!({"cluster": "other", "source": {"inline": "code"}}));
    assert_eq!(front.ask("GET", "/registry/", "").await.json(), json!([]));
    for (method, path) in [("GET", "/registry/h"), ("GET", "/registry/h/config"), ("DELETE", "/registry/h")] {
        let (status, reason, message) = front.ask(method, path, "").await.error();
        assert_eq!((status, reason.as_str()), (409, "conflict"), "{method} {path}");
        assert!(message.contains("was not uploaded, its code is in spec.source.inline"), "{message}");
    }
    assert_eq!(front.ask("POST", "/registry/h", SCRIPT).await.status, 201);
    let spec = server.handler("h").unwrap()["spec"].clone();
    assert!(
        spec["source"]["inline"].is_null()
            && spec["source"]["bundle"].is_object()
            && spec["idempotent"] == true
    );

    let stored = front.stored();
    let (status, reason, message) = front.ask("POST", "/registry/theirs", SCRIPT).await.error();
    assert_eq!((status, reason.as_str()), (409, "conflict"), "{message}");
    assert!(message.contains("belongs to another LambdaCluster"), "{message}");
    for method in ["GET", "DELETE"] {
        assert_eq!(front.ask(method, "/registry/theirs", "").await.error().1, "handler_not_found");
    }
    assert_eq!((front.stored(), server.handler("theirs").is_some()), (stored, true));
}

#[tokio::test]
async fn without_the_api_server_nothing_is_half_done() {
    let (server, front) = start().await;
    assert_eq!(front.ask("POST", "/registry/h", SCRIPT).await.status, 201);
    let (before, stored) = (server.handler("h"), front.stored());
    let all =
        [("POST", "/registry/h"), ("GET", "/registry/h"), ("GET", "/registry/"), ("DELETE", "/registry/h")];
    server.state.lock().forbids = true;
    for (method, path) in all {
        let (status, reason, message) = front.ask(method, path, OTHER).await.error();
        assert_eq!((status, reason.as_str()), (502, "api_server_refused"), "{method} {path}: {message}");
        assert!(message.contains("handlers is forbidden"), "{message}");
    }
    server.end();
    for (method, path) in all {
        let answer = front.ask(method, path, OTHER).await;
        assert_eq!(
            (answer.status, answer.error().1.as_str()),
            (503, "api_server_unavailable"),
            "{method} {path}"
        );
        assert_eq!(answer.headers["retry-after"], "1");
    }
    assert_eq!((server.handler("h"), front.stored()), (before, stored));
    front.nothing_is_left().await;
}

#[tokio::test]
async fn uploads_at_once_and_other_writers_end_with_the_last_upload() {
    let (server, front) = start().await;
    server.state.lock().conflicts = 1;
    let (one, two) =
        tokio::join!(front.ask("POST", "/registry/h", SCRIPT), front.ask("POST", "/registry/h", OTHER));
    let told = [one, two].map(|answer| (answer.status, answer.json()));
    let last = told.iter().find(|(status, told)| *status == 201 && told["revision"] == 2);
    let (_, last) = last.unwrap_or_else(|| panic!("{told:?}"));
    assert_eq!(bundle(&server, "h")["digest"], last["digest"], "{told:?}");
    // The other one served for a moment, or is told that it never will.
    for (status, told) in &told {
        assert!(*status == 201 || (*status == 409 && told["reason"] == "conflict"), "{status} {told}");
    }
}

#[tokio::test]
async fn a_secret_may_come_after_lard() {
    let server = ApiServer::start().await;
    let away = |folder: &std::path::Path| fs::rename(folder.join("token"), folder.join("later")).unwrap();
    let front = Front::in_kubernetes(&server.kubeconfig, away).await;
    let (status, reason, message) = front.ask("GET", "/registry/", "").await.error();
    assert_eq!((status, reason.as_str()), (503, "registry_unavailable"));
    assert!(message.contains("spec.loadBalancer.registryAPI.token"), "{message}");
    let folder = front.directory.path();
    fs::rename(folder.join("later"), folder.join("token")).unwrap();
    let comes = async {
        while front.ask("GET", "/registry/", "").await.status != 200 {
            // Between two looks; the whole has a deadline.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, comes).await.expect("the token is not taken up");
}
