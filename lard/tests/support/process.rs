//! lard as a process of its own.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::sync::atomic::{AtomicU8, Ordering};

use hyper::Request;
use serde_json::{Value, json};
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use super::{LONG, send};

pub fn command(config: &Value) -> (Command, NamedTempFile) {
    let mut file = NamedTempFile::with_suffix(".json").unwrap();
    file.write_all(config.to_string().as_bytes()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_openlambda-lard"));
    command.arg("--config").arg(file.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    (command, file)
}

/// Gives a configuration two ports of a loopback address that no other test uses. (Binding port 0 and releasing it
/// is no way to find free ones: a process that another test just forks still holds it.)
pub fn with_ports(mut config: Value) -> Value {
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
pub struct Process {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    /// Its configuration.
    pub file: NamedTempFile,
    /// Read to its end, or lard could not write any more.
    pub log: Lines<BufReader<ChildStdout>>,
}

pub async fn start(config: Value) -> Process {
    run(command(&with_ports(config))).await
}

/// Starts what was prepared, and waits until it listens.
pub async fn run((mut command, file): (Command, NamedTempFile)) -> Process {
    let mut child = command.spawn().unwrap();
    let mut log = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = loop {
        let line = tokio::time::timeout(LONG, log.next_line()).await.expect("lard says nothing");
        let line = line.unwrap().unwrap();
        if line.contains("address=") {
            break line;
        }
    };
    let field = |name: &str| {
        let value = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        value.unwrap_or_else(|| panic!("no {name} in {line}")).parse().unwrap()
    };
    Process { child, address: field("address="), admin: field("admin="), file, log }
}

pub async fn targets(lard: &Process) -> Value {
    send(lard.admin, Request::get("/debug/targets").body(Default::default()).unwrap()).await.json()
}

/// Changes the file of a running lard, as an editor does: another file in its place.
pub fn change(lard: &Process, key: &str, value: Value) {
    let mut config: Value = serde_json::from_slice(&std::fs::read(lard.file.path()).unwrap()).unwrap();
    config[key] = value;
    let new = lard.file.path().with_extension("new");
    std::fs::write(&new, config.to_string()).unwrap();
    std::fs::rename(&new, lard.file.path()).unwrap();
}

pub async fn until_targets(what: &str, lard: &Process, is: impl Fn(&Value) -> bool) {
    let waiting = async {
        while !is(&targets(lard).await) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub async fn until_logged(lard: &mut Process, part: &str) {
    let waiting = async { while !lard.log.next_line().await.unwrap().expect("lard ended").contains(part) {} };
    tokio::time::timeout(LONG, waiting).await.unwrap_or_else(|_| panic!("never logged: {part}"));
}
