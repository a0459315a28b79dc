//! The two anchors as processes: the original's steps, and a bare hyper server.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Bench, work_folder};
use crate::command;
use crate::interrupt::{self, Cleanup};

const PYTHON: &str = "/usr/bin/python3";
const SCRIPT: &str = "xtask/anchors/original_steps.py";

/// Creates sandboxes with the original's steps.
pub struct OriginalSteps {
    script: PathBuf,
    work: PathBuf,
    _cleanup: Cleanup,
}

impl OriginalSteps {
    /// Composes the base root.
    pub fn new(bench: &Bench) -> Result<Self> {
        let (work, cleanup) = work_folder("anchor")?;
        let steps = Self { script: bench.workspace.path(SCRIPT), work, _cleanup: cleanup };
        steps.script("compose", &[])?;
        Ok(steps)
    }

    /// Creates one after the other, `gap_ms` apart: microseconds to the first byte of each, and how many per second
    /// with teardown.
    pub fn run(&self, count: u32, gap_ms: u64) -> Result<(Vec<f64>, f64)> {
        let result = self.script("run", &[count.to_string(), gap_ms.to_string()])?;
        let times = result["create_us"].as_array().context("the anchor gave no create_us")?;
        Ok((times.iter().filter_map(Value::as_f64).collect(), per_second(&result)?))
    }

    /// How many per second with teardown, with so many drivers at once.
    pub fn flight(&self, count: u32, drivers: u32) -> Result<f64> {
        per_second(&self.script("flight", &[count.to_string(), drivers.to_string()])?)
    }

    fn script(&self, mode: &str, args: &[String]) -> Result<Value> {
        let mut python = Command::new(PYTHON);
        let text = command::output(python.arg(&self.script).arg(mode).arg(&self.work).args(args))?;
        if text.trim().is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).with_context(|| format!("the anchor printed no JSON: {text:?}"))
    }
}

fn per_second(result: &Value) -> Result<f64> {
    result["per_second"].as_f64().context("the anchor gave no per_second")
}

/// A bare hyper server that runs as long as this lives.
pub struct HyperHello {
    /// Where it listens.
    pub address: SocketAddr,
    _cleanup: Cleanup,
}

impl HyperHello {
    /// Builds and starts it.
    pub fn start(bench: &Bench) -> Result<Self> {
        let mut server = Command::new(bench.example("xtask", "hyper-hello")?);
        let mut child =
            server.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start hyper-hello")?;
        let stdout = child.stdout.take();
        let cleanup = Cleanup::new(move || {
            interrupt::signal(child.id(), Signal::SIGKILL);
            if let Err(error) = child.wait() {
                eprintln!("cannot wait for hyper-hello: {error}");
            }
        });
        let mut line = String::new();
        BufReader::new(stdout.context("hyper-hello has no output")?).read_line(&mut line)?;
        let address =
            line.trim().parse().with_context(|| format!("hyper-hello printed {line:?}, no address"))?;
        Ok(Self { address, _cleanup: cleanup })
    }
}
