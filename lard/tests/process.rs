//! The binary: it starts, says what is wrong, shows itself at the admin port, ends in order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic, in its helpers too")]

mod support;

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use hyper::Request;
use serde_json::{Value, json};
use support::{Agent, Kind, LONG, config, send, try_send, until};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};
use tokio::sync::Semaphore;

fn command(config: &Value) -> (Command, NamedTempFile) {
    let mut file = NamedTempFile::with_suffix(".json").unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_openlambda-lard"));
    command.arg("--config").arg(file.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    (command, file)
}

/// Gives a configuration two ports of a loopback address that no other test uses. (Binding port 0 and releasing it
/// is no way to find free ones: a process that another test just forks still holds it.)
fn with_ports(mut config: Value) -> Value {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let last = NEXT.fetch_add(1, Ordering::Relaxed);
    let pid = std::process::id();
    let bytes = pid.to_be_bytes();
    config["Host"] = json!(Ipv4Addr::new(127, bytes[2] | 0x80, bytes[3], last).to_string());
    config["Port"] = json!(20_000 + pid % 5_000);
    config["AdminPort"] = json!(25_000 + pid % 5_000);
    config
}

/// A running lard; its first line tells where.
struct Process {
    child: Child,
    address: SocketAddr,
    admin: SocketAddr,
    /// Read to its end, or lard could not write any more.
    _log: Lines<BufReader<ChildStdout>>,
}

async fn start(config: Value) -> Process {
    let (mut command, _file) = command(&with_ports(config));
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let line =
        tokio::time::timeout(LONG, log.next_line()).await.expect("lard says nothing").unwrap().unwrap();
    let field = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
    };
    Process { child, address: field("address="), admin: field("admin="), _log: log }
}

#[tokio::test]
async fn calls_in_flight_end_before_the_process_does() {
    let permits = Arc::new(Semaphore::new(0));
    let agent = Agent::start(Kind::Slow(Arc::clone(&permits))).await;
    let Process { mut child, address, admin, _log } = start(config("LARD", &[agent.port])).await;
    let call = tokio::spawn(send(address, Request::post("/run/f").body("1".into()).unwrap()));
    until("the call is at the agent", || agent.calls() == 1).await;

    let targets = send(admin, Request::get("/debug/targets").body(Default::default()).unwrap()).await.json();
    assert_eq!((&targets["servers"][0]["connections"], &targets["handlers"]["f"]), (&json!(1), &json!("w0")));
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
    let Process { mut child, address, _log, .. } = start(config("RoundRobin", &[])).await;
    // An open connection without a call does not hold it up.
    let _open = TcpStream::connect(address).await.unwrap();
    let answer = try_send(address, Request::get("/status").body(Default::default()).unwrap()).await.unwrap();
    assert_eq!(answer.body, "ready\n");
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().await.unwrap().success());
    assert_eq!(tokio::time::timeout(LONG, child.wait()).await.unwrap().unwrap().code(), Some(0));
}
