//! Programs that a benchmark starts; they end with it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Bench;
use crate::cluster::local;
use crate::http::{Connection, Request};
use crate::interrupt::{self, Cleanup};
use crate::ports;

/// A server must listen after this time.
const START: Duration = Duration::from_secs(10);

/// A server that runs as long as this lives.
pub struct Running {
    /// Where it listens.
    pub address: SocketAddr,
    pid: u32,
    _cleanup: Cleanup,
}

impl Running {
    /// Starts it; what it says goes to a file named after it in `folder`.
    pub fn start(mut command: Command, name: &str, address: SocketAddr, folder: &Path) -> Result<Self> {
        let file = folder.join(format!("{name}.log"));
        let log = fs::File::create(&file)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let pid = child.id();
        let ready = await_port(&mut child, address)
            .with_context(|| format!("{name}: {}", fs::read_to_string(&file).unwrap_or_default()));
        let running = Self { address, pid, _cleanup: ends(child) };
        ready.map(|()| running)
    }

    /// The CPU time that it has taken so far.
    pub fn cpu(&self) -> Result<Duration> {
        let tasks = format!("/proc/{}/task", self.pid);
        let mut nanos = 0;
        for task in fs::read_dir(&tasks).with_context(|| format!("cannot read {tasks}"))? {
            let text = fs::read_to_string(task?.path().join("schedstat"))?;
            let first = text.split_whitespace().next().unwrap_or_default();
            nanos += first.parse::<u64>().with_context(|| format!("schedstat has {text:?}"))?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The memory that it holds, in MiB.
    pub fn resident(&self) -> Result<f64> {
        resident(self.pid)
    }
}

fn resident(pid: u32) -> Result<f64> {
    let file = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .with_context(|| format!("no VmRSS in {file}"))?;
    Ok(kib.trim().parse::<f64>()? / 1024.0)
}

/// lard with this configuration, on a port of its own.
pub fn lard(bench: &Bench, mut config: Value, folder: &Path) -> Result<Running> {
    let port = ports::free(7079, 1)?;
    (config["Host"], config["Port"]) = (json!("127.0.0.1"), json!(port));
    let file = folder.join("lard.json");
    fs::write(&file, config.to_string()).with_context(|| format!("cannot write {}", file.display()))?;
    let mut command = Command::new(bench.built.binary("openlambda-lard"));
    command.arg("--config").arg(&file);
    Running::start(command, "openlambda-lard", local(port), folder)
}

/// Gives a lard that was started with `config` another policy, and waits until it has it.
pub fn change_policy(lard: &Running, mut config: Value, policy: &str, folder: &Path) -> Result<()> {
    let (port, file) = (lard.address.port(), folder.join("lard.json"));
    (config["Host"], config["Port"], config["Policy"]) = (json!("127.0.0.1"), json!(port), json!(policy));
    let new = file.with_extension("new");
    fs::write(&new, config.to_string())
        .and_then(|()| fs::rename(&new, &file))
        .with_context(|| format!("cannot write {}", file.display()))?;
    let (admin, end) = (local(port + 1000), Instant::now() + START);
    while Instant::now() < end {
        let targets = Connection::open(admin)?.call(&Request::json("GET", "/debug/targets", ""))?;
        if serde_json::from_slice::<Value>(&targets.body)?["policy"] == policy {
            return Ok(());
        }
        // It looks at its file once a second.
        thread::sleep(Duration::from_millis(100));
    }
    bail!("lard does not take up the policy {policy}")
}

/// An agent whose sandboxes are timed: `lard/examples/timed-agent.rs`.
pub struct TimedAgent {
    /// Where it takes calls.
    pub address: SocketAddr,
    admin: SocketAddr,
    pid: u32,
    _cleanup: Cleanup,
}

impl TimedAgent {
    /// Builds the program and starts so many, with these arguments.
    pub fn start(bench: &Bench, count: usize, arguments: &[String]) -> Result<Vec<Self>> {
        let program = bench.example("openlambda-lard", "timed-agent")?;
        (0..count).map(|_| Self::one(&program, arguments)).collect()
    }

    fn one(program: &Path, arguments: &[String]) -> Result<Self> {
        let mut agent = Command::new(program);
        agent.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = agent.spawn().context("cannot start timed-agent")?;
        let (pid, stdout) = (child.id(), child.stdout.take());
        let cleanup = ends(child);
        let mut line = String::new();
        BufReader::new(stdout.context("timed-agent has no output")?).read_line(&mut line)?;
        let addresses = line.trim().split_once(' ').map(|(calls, admin)| (calls.parse(), admin.parse()));
        let Some((Ok(address), Ok(admin))) = addresses else {
            bail!("timed-agent printed {line:?}, no addresses")
        };
        Ok(Self { address, admin, pid, _cleanup: cleanup })
    }

    /// As lard is told of it.
    pub fn server(&self, max_conn: Option<u32>) -> Value {
        json!({
            "Host": self.address.ip().to_string(), "Port": self.address.port(), "AdminPort": self.admin.port(),
            "MaxConn": max_conn.map_or(-1, i64::from)
        })
    }

    /// Ends it, without a word.
    pub fn kill(&self) {
        interrupt::signal(self.pid, Signal::SIGKILL);
    }

    /// The memory that it holds, in MiB.
    pub fn resident(&self) -> Result<f64> {
        resident(self.pid)
    }
}

/// Kills it when this is dropped.
pub fn ends(mut child: Child) -> Cleanup {
    Cleanup::new(move || {
        interrupt::signal(child.id(), Signal::SIGKILL);
        if let Err(error) = child.wait() {
            eprintln!("cannot wait for process {}: {error}", child.id());
        }
    })
}

fn await_port(child: &mut Child, address: SocketAddr) -> Result<()> {
    let end = Instant::now() + START;
    while TcpStream::connect(address).is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("it ended at once: {status}");
        }
        if Instant::now() > end {
            bail!("it does not listen on {address} after {START:?}");
        }
        // Between two looks.
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
