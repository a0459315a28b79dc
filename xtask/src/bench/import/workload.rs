//! A synthetic workload: handlers over packages of known import time and memory, with a popularity that rotates. The same sequence
//! without and with the import cache.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde::Deserialize;
use serde_json::json;

use crate::bench::report::{Bound, Report};
use crate::bench::{Bench, work_folder};
use crate::cluster::LocalCluster;
use crate::http::{Connection, Request};
use crate::interrupt::{self, Cleanup};
use crate::ports;

const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = "xtask/anchors/synthetic_index.py";
const SEED: &str = "7";
const BUDGET: &str = "1Gi";
/// An installation may take so long.
const INSTALL: Duration = Duration::from_secs(60);

/// What the script has made.
#[derive(Deserialize)]
struct Workload {
    port: u16,
    /// The packages of each handler.
    handlers: Vec<Vec<String>>,
    /// Which handler is called, in order.
    calls: Vec<usize>,
}

/// Measures.
pub fn run(bench: &Bench, report: &mut Report) -> Result<()> {
    let (work, _folder) = work_folder("index")?;
    let mut script = Command::new(PYTHON);
    script.arg(bench.workspace.path(SCRIPT)).arg(&work).arg(SEED);
    let mut child =
        script.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start the index")?;
    let stdout = child.stdout.take();
    let _index = Cleanup::new(move || {
        interrupt::signal(child.id(), Signal::SIGKILL);
        if let Err(error) = child.wait() {
            eprintln!("cannot wait for the index: {error}");
        }
    });
    let mut line = String::new();
    BufReader::new(stdout.context("the index has no output")?).read_line(&mut line)?;
    let workload: Workload =
        serde_json::from_str(&line).with_context(|| format!("the index printed {line:?}"))?;

    let cluster = LocalCluster::new(&bench.built, "bench-workload")?;
    cluster.configure(&json!({
        "pip_mirror": format!("http://127.0.0.1:{}/simple", workload.port), "handler_cache_size": 0, "import_cache_size": 0,
        "limits": {"memory": "1Gi"}, "response_details": true
    }))?;
    deploy(&cluster, &workload)?;
    eprintln!("the workload: installing");
    let without = {
        let worker = cluster.workers(1, ports::free(8080, 1)?)?[0];
        for handler in 0..workload.handlers.len() {
            install(worker, handler)?;
        }
        eprintln!("the workload: without the import cache");
        calls(worker, &workload)?
    };
    cluster.admin("kill", &[] as &[&str])?;
    cluster.configure(&json!({"import_cache_size": BUDGET}))?;
    eprintln!("the workload: with it");
    let worker = cluster.workers(1, ports::free(8080, 1)?)?[0];
    let with = calls(worker, &workload)?;
    report.add("rotating workload, no import cache", "us", without);
    report.add("rotating workload, import cache", "us", with);
    report.ratio("rotating workload, import cache", "rotating workload, no import cache", Bound::AtMost(0.2));
    report.note(format!(
        "the rotating workload: {} handlers, {} calls, seed {SEED}, {BUDGET} for Zygotes; each call starts a sandbox; a call that fails ends the measurement",
        workload.handlers.len(),
        workload.calls.len()
    ));
    Ok(())
}

fn deploy(cluster: &LocalCluster, workload: &Workload) -> Result<()> {
    for (number, packages) in workload.handlers.iter().enumerate() {
        let folder = cluster.directory().join(format!("registry/h{number}"));
        fs::create_dir_all(&folder)?;
        let source = format!("import {}\ndef handler(event):\n    return {number}\n", packages.join(", "));
        fs::write(folder.join("lambda_func.py"), source)?;
        let requirements: String = packages.iter().map(|name| format!("{name}==1.0\n")).collect();
        fs::write(folder.join("requirements.txt"), requirements)?;
    }
    Ok(())
}

fn request(handler: usize) -> Request {
    Request::post(&format!("/runLambda/h{handler}"), "null")
}

fn install(worker: std::net::SocketAddr, handler: usize) -> Result<()> {
    let end = Instant::now() + INSTALL;
    loop {
        let response = Connection::open(worker)?.call(&request(handler))?;
        match response.status {
            200 => return Ok(()),
            503 if Instant::now() < end => {}
            status => bail!("handler h{handler} answered {status} {}", response.text()),
        }
    }
}

/// Makes the calls one after the other; microseconds of each.
fn calls(worker: std::net::SocketAddr, workload: &Workload) -> Result<Vec<f64>> {
    let mut connection = Connection::open(worker)?;
    let mut times = Vec::new();
    for handler in &workload.calls {
        let start = Instant::now();
        let response = connection.call(&request(*handler))?;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        ensure!(
            response.status == 200,
            "handler h{handler} answered {} {}",
            response.status,
            response.text()
        );
    }
    Ok(times)
}
