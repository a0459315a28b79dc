//! `admin kill`: ends the load balancer, so that no new calls come, then the workers, then the registry.

use std::fs;
use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result};
use openlambda_config::{BalancerConfig, ClusterDir, Process, WorkerConfig};

use crate::args::Kill;
use crate::cluster;
use crate::process::{self, Live, State};

/// Beyond its drain timeout a process gets so long to clean up.
const CLEAN_UP: Duration = Duration::from_secs(10);
/// If the configuration cannot be read any more.
const DRAIN: Duration = Duration::from_secs(30);
/// After a SIGKILL.
const FORCED: Duration = Duration::from_secs(10);

pub fn run(args: &Kill, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::open(&args.cluster)?;
    let _lock = cluster::lock(&cluster)?;
    let started = cluster.started()?;
    if started.is_empty() {
        let _ = writeln!(out, "nothing was started");
    }
    let all = |wanted: fn(&Process) -> bool| started.iter().copied().filter(wanted).collect::<Vec<_>>();
    stop(&cluster, &all(|process| *process == Process::Balancer), out)?;
    stop(&cluster, &all(|process| matches!(process, Process::Worker(_))), out)?;
    stop(&cluster, &all(|process| *process == Process::Registry), out)
}

/// Asks all of them to end, then waits for each.
fn stop(cluster: &ClusterDir, processes: &[Process], out: &mut dyn Write) -> Result<()> {
    let mut live = Vec::new();
    for process in processes {
        match process::find(cluster, *process)? {
            State::Runs(running) => {
                running.terminate().with_context(|| format!("cannot end {process} (pid {})", running.pid))?;
                live.push((*process, running));
            }
            State::Ended | State::NotStarted => {
                let _ = writeln!(out, "{process} had ended already");
                forget(cluster, *process)?;
            }
        }
    }
    for (process, running) in live {
        let ended = wait(cluster, process, &running)?;
        let _ = writeln!(out, "{process} (pid {}) {ended}", running.pid);
        forget(cluster, process)?;
    }
    Ok(())
}

/// Waits for the end of a process that was asked to; says how it ended.
fn wait(cluster: &ClusterDir, process: Process, running: &Live) -> Result<String> {
    let patience = drain_timeout(cluster, process) + CLEAN_UP;
    if running.wait(patience)? {
        return Ok("ended".to_owned());
    }
    running.kill().with_context(|| format!("cannot kill {process} (pid {})", running.pid))?;
    let pid = running.pid;
    anyhow::ensure!(running.wait(FORCED)?, "{process} (pid {pid}) survives SIGKILL: it hangs in the kernel");
    let is_worker = matches!(process, Process::Worker(_));
    let rest = if is_worker { "; the next admin workers cleans up after it" } else { "" };
    Ok(format!("did not end within {}s and was killed with SIGKILL{rest}", patience.as_secs()))
}

fn drain_timeout(cluster: &ClusterDir, process: Process) -> Duration {
    let file = cluster.config(process);
    let configured = match process {
        Process::Balancer => BalancerConfig::load(file).map(|config| config.timeout),
        // Its requests are short.
        Process::Registry => return DRAIN,
        Process::Worker(_) => WorkerConfig::load(file).map(|config| config.drain_timeout),
    };
    configured.unwrap_or(DRAIN)
}

fn forget(cluster: &ClusterDir, process: Process) -> Result<()> {
    let file = cluster.pid(process);
    fs::remove_file(&file).with_context(|| format!("cannot remove {}", file.display()))
}
