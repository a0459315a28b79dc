//! The registry's API at lard's port: who may use it, what it takes, what it refuses, and that nothing is left of that.
//! With real workers: `tests/tests/local/registry_api.rs`. In Kubernetes: `registry_handlers.rs`.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use http_body_util::Full;
use hyper::Request;
use openlambda_bundle::{MAX_ARCHIVE, pack_file};
use parking_lot::Mutex;
use serde_json::{Value, json};
use support::front::{Front, SCRIPT, TOKEN, archive, files};
use support::process::command;
use support::{Agent, Kind, LONG, config, until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[tokio::test]
async fn it_is_off_unless_it_is_enabled_and_says_how_that_is_done() {
    let lard = support::process::start(config("LARD", &[])).await;
    for (method, path) in [("GET", "/registry/"), ("POST", "/registry/h"), ("GET", "/registry/h/config")] {
        let request =
            Request::builder().method(method).uri(path).header("authorization", format!("Bearer {TOKEN}"));
        let answer = support::send(lard.address, request.body(Full::from("x")).unwrap()).await;
        assert_eq!((answer.status, answer.reason().as_str()), (404, "not_found"));
        assert!(answer.body.contains("--registry-api"), "{}", answer.body);
    }
}

#[tokio::test]
async fn only_who_has_the_token_is_heard() {
    let mut front = Front::start(&[]).await;
    let wrong =
        ["", "Bearer", "Bearer ", "Bearer a-token-of-the-test", "Bearer a-token-of-the-testsx", TOKEN];
    for given in wrong.into_iter().map(str::to_owned).chain([format!("Basic {TOKEN}")]) {
        for (method, path) in [("POST", "/registry/h"), ("GET", "/registry/"), ("PUT", "/registry/h")] {
            let request = Request::builder().method(method).uri(path).header("authorization", &given);
            let answer = front.send(request, SCRIPT).await;
            assert_eq!((answer.status, answer.error().1.as_str()), (401, "unauthorized"), "{given}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer realm=\"registry\"");
        }
    }
    let none = front.send(Request::builder().uri("/registry/"), "").await;
    assert_eq!(none.status, 401);
    assert_eq!(front.stored(), 0);
    // The scheme is told by its letters.
    let request = Request::builder().uri("/registry/").header("authorization", format!("bearer {TOKEN}"));
    assert_eq!(front.send(request, "").await.json(), json!([]));
    front.lard.child.start_kill().unwrap();
    while let Some(line) = front.lard.log.next_line().await.unwrap() {
        assert!(!line.contains(TOKEN), "{line}");
    }
}

#[tokio::test]
async fn other_verbs_are_told_which_there_are() {
    let front = Front::start(&[]).await;
    for (method, path, allowed) in [
        ("PUT", "/registry/h", "GET, POST, DELETE"),
        ("HEAD", "/registry/h", "GET, POST, DELETE"),
        ("POST", "/registry/", "GET"),
        ("DELETE", "/registry/h/config", "GET"),
    ] {
        let answer = front.ask(method, path, "").await;
        assert_eq!(
            (answer.status, answer.headers["allow"].to_str().unwrap()),
            (405, allowed),
            "{method} {path}"
        );
    }
    assert_eq!(front.ask("POST", "/registry/..", SCRIPT).await.error().1, "bad_name");
}

#[tokio::test]
async fn what_is_uploaded_is_there_and_every_worker_hears_of_it() {
    let words = Arc::new(Mutex::new("{}".to_owned()));
    let (one, two) =
        (Agent::start(Kind::Telling(words.clone())).await, Agent::start(Kind::Good("two")).await);
    let front = Front::start(&[one.port, two.port]).await;
    let first = front.ask("POST", "/registry/h", SCRIPT).await;
    let told = first.json();
    assert_eq!((first.status, &told["revision"], &told["new"]), (201, &json!(1), &json!(true)), "{told}");
    assert_eq!(told["bytes"], json!(archive(SCRIPT).len()));
    for agent in [&one, &two] {
        let seen =
            agent.log.seen.lock().iter().any(|seen| seen.method == "POST" && seen.target == "/registry/h");
        assert!(seen, "a worker was not told");
    }
    assert_eq!((&told["serves"], &told["workers"][0]["worker"]), (&json!(false), &json!("w0")));
    assert!(told["workers"][1]["message"].as_str().unwrap().contains("from elsewhere"), "{told}");

    *words.lock() = json!({"state": "Ready", "revision": 1, "digest": told["digest"]}).to_string();
    let again = front.ask("POST", "/registry/h", archive(SCRIPT)).await.json();
    assert_eq!((&again["revision"], &again["new"]), (&json!(1), &json!(false)));
    assert_eq!((&again["workers"][0]["ok"], &again["workers"][1]["ok"]), (&json!(true), &json!(false)));

    front.ask("POST", "/registry/a", SCRIPT).await;
    assert_eq!(front.ask("GET", "/registry/", "").await.json(), json!(["a", "h"]));
    let got = front.ask("GET", "/registry/h", "").await;
    assert_eq!((got.status, got.headers["content-type"].to_str().unwrap()), (200, "application/gzip"));
    assert_eq!(got.headers["content-length"].to_str().unwrap(), got.body.len().to_string());
    assert!(got.body == archive(SCRIPT), "another archive comes back");

    *words.lock() = json!({"state": "Missing"}).to_string();
    let deleted = front.ask("DELETE", "/registry/h", "").await;
    assert_eq!((deleted.status, &deleted.json()["workers"][0]["ok"]), (200, &json!(true)));
    for (method, path) in [("DELETE", "/registry/h"), ("GET", "/registry/h"), ("GET", "/registry/h/config")] {
        assert_eq!(front.ask(method, path, "").await.error().1, "handler_not_found", "{method} {path}");
    }
    front.nothing_is_left().await;
}

#[tokio::test]
async fn a_manifest_is_told_as_json() {
    let front = Front::start(&[]).await;
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("f.py"), "def f(event): return 1\n").unwrap();
    let manifest = "environment: {STAGE: test}\nlimits: {mem_mb: 64}\ntriggers: {cron: [{schedule: x}]}\n";
    fs::write(folder.path().join("ol.yaml"), manifest).unwrap();
    let packed = openlambda_bundle::pack(folder.path(), Vec::new()).unwrap();
    let told = front.ask("POST", "/registry/h", packed).await.json();
    assert!(told["notes"][0].as_str().unwrap().contains("triggers.cron"), "{told}");
    let config = front.ask("GET", "/registry/h/config", "").await.json();
    assert_eq!(config["notes"], told["notes"]);
    let wanted = json!({
        "handler": "h", "revision": 1, "digest": told["digest"], "environment": {"STAGE": "test"},
        "limits": {"mem_mb": 64}, "reuse-sandbox": true, "notes": told["notes"],
    });
    assert_eq!(config, wanted);
    front.nothing_is_left().await;
}

#[tokio::test]
async fn what_is_no_bundle_is_refused_and_nothing_of_it_is_kept() {
    let front = Front::start(&[]).await;
    let good = archive(SCRIPT);
    for (body, part) in [
        (good[..good.len() - 6].to_vec(), "cannot be unpacked"),
        (archive(&vec![0; 257 << 20]), "256 MiB"),
        (pack_file("main.py", SCRIPT, Vec::new()).unwrap(), "neither lambda_func.py nor f.py"),
        (b"\x7fELF\0".to_vec(), "nor a Python file"),
        (Vec::new(), "is empty"),
    ] {
        let (status, reason, message) = front.ask("POST", "/registry/h", body).await.error();
        assert_eq!((status, reason.as_str()), (400, "bad_bundle"), "{message}");
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(front.stored(), 0);
    front.nothing_is_left().await;
}

async fn status_of(stream: &mut TcpStream) -> String {
    let mut start = vec![0; 12];
    tokio::time::timeout(LONG, stream.read_exact(&mut start)).await.expect("no answer in time").unwrap();
    String::from_utf8(start).unwrap()
}

#[tokio::test]
async fn what_is_too_long_is_refused_whether_it_says_so_or_not() {
    let front = Front::start(&[]).await;
    let long = format!("content-length: {}\r\nexpect: 100-continue", MAX_ARCHIVE + 1);
    assert_eq!(status_of(&mut front.begin(&long, b"").await).await, "HTTP/1.1 413");
    let mut endless = front.begin("transfer-encoding: chunked", b"").await;
    let chunk = [&b"100000\r\n"[..], &vec![0x1f; 1 << 20], b"\r\n"].concat();
    for _ in 0..=MAX_ARCHIVE >> 20 {
        endless.write_all(&chunk).await.unwrap();
    }
    assert_eq!(status_of(&mut endless).await, "HTTP/1.1 413");
    assert_eq!(front.stored(), 0);
    front.nothing_is_left().await;
}

#[tokio::test]
async fn a_client_that_leaves_leaves_nothing_and_only_a_few_are_served_at_once() {
    let front = Front::start(&[]).await;
    let mut clients = Vec::new();
    for _ in 0..openlambda_lard::registry::AT_ONCE {
        clients.push(front.begin("content-length: 100000", &[0x1f, 0x8b, 8, 0]).await);
    }
    until("they are all in the middle", || front.temporary() == clients.len()).await;
    let (status, reason, _) = front.ask("POST", "/registry/h", SCRIPT).await.error();
    assert_eq!((status, reason.as_str()), (429, "concurrency_exceeded"));
    let refused = front.ask("GET", "/registry/", "").await;
    assert_eq!((refused.status, refused.headers["retry-after"].to_str().unwrap()), (429, "2"));
    drop(clients);
    front.nothing_is_left().await;
    assert_eq!(front.stored(), 0);
    assert_eq!(front.ask("POST", "/registry/h", SCRIPT).await.status, 201);
}

#[tokio::test]
async fn what_a_lard_that_was_killed_has_left_goes_and_what_another_works_in_stays() {
    let mut front = Front::start(&[]).await;
    let upload = front.begin("content-length: 100000", &[0x1f, 0x8b, 8, 0]).await;
    until("the upload has begun", || front.temporary() == 1).await;
    let other = front.another().await;
    // It has looked once it takes up another token, which it does after that.
    let token = front.directory.path().join("token");
    let asked = async |token: &str| {
        let request = Request::builder().uri("/registry/").header("authorization", format!("Bearer {token}"));
        support::send(other.address, request.body(Full::default()).unwrap()).await.status
    };
    fs::write(&token, "another-token-of-the-tests").unwrap();
    let taken_up = async {
        while asked("another-token-of-the-tests").await != 200 {
            // Between two looks; the whole has a deadline.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, taken_up).await.expect("the token is not taken up");
    assert_eq!((asked(TOKEN).await, front.temporary()), (401, 1));
    front.lard.child.kill().await.unwrap();
    drop(upload);
    assert_eq!(front.temporary(), 1, "who is killed removes nothing");
    let _third = front.another().await;
    front.nothing_is_left().await;
}

#[tokio::test]
async fn a_registry_that_is_away_is_said_to_be() {
    let front = Front::with_registry("./store", &[]).await;
    // A file where the folder was: a disk that is gone.
    fs::remove_dir_all(front.directory.path().join("store")).unwrap();
    fs::write(front.directory.path().join("store"), "").unwrap();
    for (method, path) in [("POST", "/registry/h"), ("GET", "/registry/h")] {
        let (status, reason, message) = front.ask(method, path, SCRIPT).await.error();
        assert_eq!((status, reason.as_str()), (503, "registry_unavailable"), "{message}");
    }
    front.nothing_is_left().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_key_is_said_at_the_start() {
    let directory = tempfile::tempdir().unwrap();
    let mut config = files(directory.path(), "./store", &[]);
    let fails = async |config: &Value| {
        let (mut command, _file) = command(config);
        let output = tokio::time::timeout(LONG, command.output()).await.unwrap().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!said.contains(TOKEN), "{said}");
        said
    };
    fs::set_permissions(directory.path().join("token"), fs::Permissions::from_mode(0o644)).unwrap();
    let said = fails(&config).await;
    assert!(said.contains("mode 644") && said.contains("chmod 600"), "{said}");
    fs::set_permissions(directory.path().join("token"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(directory.path().join("template.json"), r#"{"registry_dir": "r", "worker_dir": "w"}"#).unwrap();
    let said = fails(&config).await;
    assert!(said.contains("names no registry") && said.contains("admin registry"), "{said}");
    config["RegistryApi"] = json!({"Token": TOKEN});
    let said = fails(&config).await;
    assert!(said.contains("RegistryApi.Token: unknown key"), "{said}");
}
