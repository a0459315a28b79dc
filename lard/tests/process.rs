//! The binary: it starts, says what is wrong, shows itself at the admin port, ends in order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::sync::Arc;

use hyper::Request;
use serde_json::{Value, json};
use support::process::{Process, change, command, start, targets, until_logged, until_targets, with_ports};
use support::{Agent, Kind, LONG, config, send, try_send, until};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::sync::Semaphore;

#[tokio::test]
async fn calls_in_flight_end_before_the_process_does() {
    let permits = Arc::new(Semaphore::new(0));
    let agent = Agent::start(Kind::Slow(Arc::clone(&permits))).await;
    let Process { mut child, address, admin, log: _log, .. } = start(config("LARD", &[agent.port])).await;
    let call = tokio::spawn(send(address, Request::post("/run/f").body("1".into()).unwrap()));
    until("the call is at the agent", || agent.calls() == 1).await;

    let targets = send(admin, Request::get("/debug/targets").body(Default::default()).unwrap()).await.json();
    assert_eq!(
        (&targets["servers"][0]["connections"], &targets["handlers"]["f"]),
        (&json!(1), &json!(["w0"]))
    );
    let metrics = send(admin, Request::get("/metrics").body(Default::default()).unwrap()).await.body;
    assert!(metrics.contains("openlambda_lb_agent_inflight{agent=\"w0\"} 1"), "{metrics}");
    for path in ["/livez", "/readyz"] {
        assert_eq!(
            send(admin, Request::get(path).body(Default::default()).unwrap()).await.status,
            200,
            "{path}"
        );
    }

    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().await.unwrap().success());
    let refused = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, refused).await.expect("lard still accepts");
    permits.add_permits(1);
    let answer = call.await.unwrap();
    assert_eq!((answer.status, answer.body.as_str()), (200, "slow"));
    let status = tokio::time::timeout(LONG, child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
}

#[tokio::test]
async fn a_changed_file_changes_the_policy_and_the_servers_of_a_running_lard() {
    let (a, b) = (Agent::start(Kind::Good("a")).await, Agent::start(Kind::Good("b")).await);
    let mut lard = start(config("RoundRobin", &[a.port, b.port])).await;
    let address = lard.address;
    let call = || send(address, Request::post("/run/f").body("1".into()).unwrap());
    let mut names = std::collections::HashSet::new();
    for _ in 0..2 {
        names.insert(call().await.body);
    }
    assert_eq!(names.len(), 2, "one after the other");
    assert_eq!(targets(&lard).await["handlers"], json!({}));

    change(&lard, "Policy", json!("CostAware"));
    until_targets("the policy is another", &lard, |targets| targets["policy"] == "CostAware").await;
    let home = call().await.body;
    for _ in 0..5 {
        assert_eq!(call().await.body, home, "the handler stays");
    }
    assert_eq!(targets(&lard).await["handlers"]["f"].as_array().unwrap().len(), 1);

    // What is wrong changes nothing; what is right afterwards does.
    change(&lard, "Policy", json!("Nearest"));
    until_logged(&mut lard, "the configuration stays as it was").await;
    assert_eq!(targets(&lard).await["policy"], "CostAware");
    change(&lard, "LoadHigh", json!(0.7));
    change(&lard, "Policy", json!("LARD/R"));
    until_targets("the load is another", &lard, |targets| targets["load_high"] == 0.7).await;
    assert_eq!(targets(&lard).await["policy"], "LARD/R");
    let servers = json!([{"Name": "w1", "Host": "127.0.0.1", "Port": b.port}]);
    change(&lard, "Servers", servers);
    change(&lard, "Policy", json!("LARD"));
    until_targets("one server is left", &lard, |targets| targets["servers"].as_array().unwrap().len() == 1)
        .await;
    assert_eq!(
        (call().await.body, targets(&lard).await["policy"].clone()),
        ("b 1".to_owned(), json!("LARD"))
    );
}

async fn fails(config: &Value) -> String {
    let (mut command, _file) = command(config);
    let output = tokio::time::timeout(LONG, command.output()).await.unwrap().unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

#[tokio::test]
async fn a_port_in_use_is_one_line_with_port_and_remedy() {
    for key in ["Port", "AdminPort"] {
        let config = with_ports(config("LARD", &[]));
        let (host, port) = (config["Host"].as_str().unwrap(), config[key].as_u64().unwrap());
        let _taken = std::net::TcpListener::bind(format!("{host}:{port}")).unwrap();
        let text = fails(&config).await;
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(text.contains(&format!("port {port} on {host} is in use")), "{text}");
        assert!(text.contains(&format!("set another {key}")), "{text}");
    }
}

#[tokio::test]
async fn a_wrong_configuration_names_its_keys() {
    let text = fails(&json!({"Polcy": "LARD"})).await;
    assert!(text.contains("Polcy") && text.contains("\"Policy\""), "{text}");
}

#[tokio::test]
async fn the_binary_ends_at_once_when_nothing_runs() {
    let Process { mut child, address, log: _log, .. } = start(config("RoundRobin", &[])).await;
    // An open connection without a call does not hold it up.
    let _open = TcpStream::connect(address).await.unwrap();
    let answer = try_send(address, Request::get("/status").body(Default::default()).unwrap()).await.unwrap();
    assert_eq!(answer.body, "ready\n");
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    assert_eq!(tokio::time::timeout(LONG, child.wait()).await.unwrap().unwrap().code(), Some(0));
}
