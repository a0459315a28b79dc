//! A cluster directory with real workers and a real lard, started by the real `admin`, and taken down with proof.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::books;
use crate::http::{Request, Response};
use crate::leaks::Traces;
use crate::wait::until;

/// Ports are taken from here on, each with the admin port 1000 above free as well.
static NEXT_PORT: AtomicU16 = AtomicU16::new(21_000);

/// Kills what a test started, also when it fails.
#[derive(Debug)]
pub struct Cluster {
    dir: tempfile::TempDir,
    port: u16,
    balancer_port: u16,
    registry_port: u16,
    seen: Mutex<Seen>,
}

/// What its workers had and what was done to them, for the proof at the end.
#[derive(Debug, Default)]
struct Seen {
    cgroups: BTreeSet<PathBuf>,
    killed: BTreeSet<u16>,
}

/// Workers that a test may start.
const MOST_WORKERS: u16 = 4;

/// The keys of [`Cluster::start_registry`].
const ACCESS_KEY: &str = "access-key";
const SECRET_KEY: &str = "secret-key-of-tests";

/// The path of one of our binaries.
pub fn binary(name: &str) -> Result<PathBuf> {
    let dir = std::env::var("OPENLAMBDA_BIN_DIR")
        .context("OPENLAMBDA_BIN_DIR is not set; run `cargo xtask test`")?;
    Ok(Path::new(&dir).join(name))
}

fn free_ports(count: u16) -> Result<u16> {
    let free = |port| TcpListener::bind(("0.0.0.0", port)).is_ok();
    for _ in 0..200 {
        let port = NEXT_PORT.fetch_add(count, Ordering::Relaxed);
        if (port..port + count).all(|port| free(port) && free(port + 1000)) {
            return Ok(port);
        }
    }
    bail!("no free ports")
}

impl Cluster {
    /// `admin new`, and `admin setconf` with `conf` on top of what the tests want anyway.
    pub fn new(conf: &Value) -> Result<Self> {
        Self::new_with(conf, &[])
    }

    /// The same, with more arguments for `admin new`.
    pub fn new_with(conf: &Value, arguments: &[&str]) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (port, balancer_port, registry_port) =
            (free_ports(MOST_WORKERS)?, free_ports(1)?, free_ports(1)?);
        let cluster = Self { dir, port, balancer_port, registry_port, seen: Mutex::default() };
        cluster.admin("new", arguments)?;
        cluster.admin("setconf", &[&json!({"response_details": true}).to_string()])?;
        if conf.as_object().is_some_and(|conf| !conf.is_empty()) {
            cluster.admin("setconf", &[&conf.to_string()])?;
        }
        Ok(cluster)
    }

    /// One worker, up.
    pub fn with_worker(conf: &Value) -> Result<Self> {
        let cluster = Self::new(conf)?;
        cluster.start_workers(1)?;
        Ok(cluster)
    }

    /// The cluster directory.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("my-cluster")
    }

    /// Runs `admin COMMAND --cluster DIR …`; an error shows what it printed.
    pub fn admin(&self, command: &str, arguments: &[&str]) -> Result<String> {
        let output = self.try_admin(command, arguments)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "admin {command} {arguments:?}: {}\n{text}{errors}", output.status);
        Ok(text)
    }

    /// The same, whatever comes of it.
    pub fn try_admin(&self, command: &str, arguments: &[&str]) -> Result<Output> {
        let mut admin = Command::new(binary("admin")?);
        admin.arg(command).arg("--cluster").arg(self.path()).args(arguments);
        admin.output().context("run admin")
    }

    /// `admin workers`.
    pub fn start_workers(&self, count: u16) -> Result<()> {
        drop(self.note());
        self.admin("workers", &["--num-workers", &count.to_string(), "--port", &self.port.to_string()])?;
        self.note().killed.clear();
        Ok(())
    }

    /// Starts one worker of several again, as its foreground command does.
    pub fn restart_worker(&self, index: u16) -> Result<()> {
        drop(self.note());
        let config = self.path().join(format!("config/worker-{index}.json"));
        let log = File::options().append(true).open(self.path().join(format!("logs/worker-{index}.out")))?;
        let mut admin = Command::new(binary("admin")?);
        admin.args(["worker-exec", "--detached", "--config"]).arg(&config);
        let mut child = admin.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        fs::write(self.path().join(format!("logs/worker-{index}.pid")), child.id().to_string())?;
        // It is ours, so that nobody else takes note of its end.
        std::thread::spawn(move || child.wait());
        until("the worker", || {
            let answer = Request::get("/status").send(self.worker_port(index));
            Ok(answer.is_ok_and(|answer| answer.status == 200).then_some(()))
        })?;
        self.note().killed.remove(&index);
        Ok(())
    }

    /// `admin load-balancer`.
    pub fn start_balancer(&self) -> Result<()> {
        self.admin("load-balancer", &["--port", &self.balancer_port.to_string()])?;
        Ok(())
    }

    /// The port of a worker.
    pub fn worker_port(&self, index: u16) -> u16 {
        self.port + index
    }

    /// The port of lard.
    pub fn balancer_port(&self) -> u16 {
        self.balancer_port
    }

    /// `admin registry`, on a port of its own.
    pub fn start_registry(&self) -> Result<()> {
        let port = self.registry_port.to_string();
        self.admin("registry", &["--port", &port, "--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY])?;
        Ok(())
    }

    /// The pid of the registry's server.
    pub fn registry_pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(self.path().join("logs/registry.pid"))?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// `admin upload` of a folder with these files; gives what it printed.
    pub fn upload(&self, handler: &str, files: &[(&str, &str)]) -> Result<String> {
        let folder = self.folder(files)?;
        self.admin("upload", &["--handler", handler, "--file", &folder.path().to_string_lossy()])
    }

    /// A folder with these files.
    pub fn folder(&self, files: &[(&str, &str)]) -> Result<tempfile::TempDir> {
        let folder = tempfile::tempdir_in(self.dir.path())?;
        for (name, text) in files {
            fs::write(folder.path().join(name), text)?;
        }
        Ok(folder)
    }

    /// Deploys a handler as a user would, all at once.
    pub fn handler(&self, name: &str, source: &str) -> Result<()> {
        let dir = self.path().join("registry").join(name);
        fs::create_dir_all(&dir)?;
        let new = self.dir.path().join("new.py");
        fs::write(&new, source)?;
        fs::rename(&new, dir.join("lambda_func.py"))?;
        Ok(())
    }

    /// Puts another file into a handler's folder.
    pub fn file(&self, handler: &str, name: &str, text: &str) -> Result<()> {
        let dir = self.path().join("registry").join(handler);
        fs::create_dir_all(&dir)?;
        let new = self.dir.path().join("new");
        fs::write(&new, text)?;
        Ok(fs::rename(&new, dir.join(name))?)
    }

    /// Calls a handler on the first worker.
    pub fn call(&self, handler: &str, event: &Value) -> Result<Response> {
        Request::call(handler, event).send(self.port)
    }

    /// Sends a request to the first worker.
    pub fn send(&self, request: &Request) -> Result<Response> {
        request.send(self.port)
    }

    /// The state document of a worker.
    pub fn state(&self, index: u16) -> Result<Value> {
        Request::get("/debug/state").send(self.worker_port(index) + 1000)?.ok()
    }

    /// The instances of a handler on the first worker, as its state document has them.
    pub fn instances(&self, handler: &str) -> Result<Vec<Value>> {
        let state = self.state(0)?;
        let all = state["instances"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|instance| instance["handler"] == handler).collect())
    }

    /// The metrics of the first worker.
    pub fn metrics(&self) -> Result<String> {
        Ok(Request::get("/metrics").send(self.port + 1000)?.text())
    }

    /// The log of a worker.
    pub fn log(&self, index: u16) -> Result<String> {
        Ok(fs::read_to_string(self.path().join(format!("logs/worker-{index}.out")))?)
    }

    /// The pid of a worker.
    pub fn worker_pid(&self, index: u16) -> Result<Pid> {
        let text = fs::read_to_string(self.path().join(format!("logs/worker-{index}.pid")))?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// The pid of lard.
    pub fn balancer_pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(self.path().join("logs/load_balancer.pid"))?;
        Ok(Pid::from_raw(text.trim().parse()?))
    }

    /// Sends a signal to a worker.
    pub fn signal_worker(&self, index: u16, signal: Signal) -> Result<()> {
        if signal == Signal::SIGKILL {
            self.note().killed.insert(index);
        }
        Ok(kill(self.worker_pid(index)?, signal)?)
    }

    /// Notes the cgroup folders of the workers, which the next start of each would have forgotten.
    fn note(&self) -> std::sync::MutexGuard<'_, Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.cgroups.extend((0..MOST_WORKERS).flat_map(|index| self.cgroups(index).unwrap_or_default()));
        seen
    }

    /// What is to be gone when all of its processes have ended.
    pub fn traces(&self) -> Traces {
        let seen = self.note();
        Traces { directory: self.path(), cgroups: seen.cgroups.clone(), killed: seen.killed.clone() }
    }

    /// The cgroup folders a worker says it has.
    pub fn cgroups(&self, index: u16) -> Result<Vec<PathBuf>> {
        let record = self.path().join(format!("workers/worker-{index}/cgroups"));
        Ok(fs::read_to_string(record)?.lines().map(PathBuf::from).collect())
    }

    /// The processes in a worker's cgroups: its Zygotes and sandboxes.
    pub fn sandboxed_processes(&self, index: u16) -> Result<Vec<i32>> {
        let mut found = Vec::new();
        for root in self.cgroups(index)? {
            for entry in fs::read_dir(&root).into_iter().flatten().flatten() {
                let procs = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
                found.extend(procs.lines().filter_map(|pid| pid.parse::<i32>().ok()));
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }

    /// Takes the cluster down. Before, the books of each worker that lives must balance; after, nothing of it may be left: no
    /// process, mount, cgroup, socket or file of a sandbox.
    pub fn stop(self) -> Result<()> {
        for index in 0..MOST_WORKERS {
            if self.lives(index) {
                books::settled(&self, index)?;
            }
        }
        self.end()
    }

    /// The same for a cluster that is not at rest.
    pub fn end(self) -> Result<()> {
        let traces = self.traces();
        self.admin("kill", &[])?;
        traces.are_gone()
    }

    /// Whether a worker is there and answers.
    fn lives(&self, index: u16) -> bool {
        let is_there = self.worker_pid(index).is_ok_and(|pid| kill(pid, None).is_ok());
        is_there && Request::get("/livez").send(self.worker_port(index) + 1000).is_ok()
    }

    /// Processes whose command line names this cluster.
    pub fn processes(&self) -> Result<Vec<String>> {
        let ours = self.path().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")?.flatten() {
            let Ok(command) = fs::read(entry.path().join("cmdline")) else { continue };
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            if command.contains(&ours) {
                found.push(command);
            }
        }
        Ok(found)
    }

    /// Waits until a worker's process is gone.
    pub fn wait_for_worker_end(&self, pid: Pid) -> Result<()> {
        // One that is waited for by nobody is a zombie, and has let go of everything once its other threads have ended too.
        until(&format!("the end of process {pid}"), || {
            let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
            Ok((state.is_empty() || (state.contains(") Z ") && threads <= 1)).then_some(()))
        })
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failed test; `stop` has done it otherwise.
        if self.path().join("config").exists() {
            let _ = self.try_admin("kill", &[]);
        }
    }
}
