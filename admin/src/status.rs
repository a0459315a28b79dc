//! `admin status`: one line per process that was started.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use openlambda_config::{BalancerConfig, ClusterDir, ConfigError, Process, WorkerConfig};

use crate::args::Status;
use crate::process::{self, State};
use crate::{cluster, ping};

/// A process that takes longer than this for its status is not well.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

pub fn run(args: &Status, out: &mut dyn Write) -> Result<ExitCode> {
    let cluster = cluster::open(&args.cluster)?;
    let started = cluster.started()?;
    if started.is_empty() {
        let shown = cluster.root().display();
        let _ = writeln!(out, "nothing was started: admin workers --cluster {shown}");
        return Ok(ExitCode::FAILURE);
    }
    let mut all_well = true;
    for process in started {
        let (well, line) = line(&cluster, process);
        all_well &= well;
        let _ = writeln!(out, "{line}");
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The base URL of a process by its configuration.
pub fn local_url(cluster: &ClusterDir, process: Process) -> Result<String, ConfigError> {
    let file = cluster.config(process);
    match process {
        Process::Balancer => BalancerConfig::load(file).map(|config| config.local_url()),
        Process::Worker(_) => WorkerConfig::load(file).map(|config| config.local_url()),
    }
}

fn line(cluster: &ClusterDir, process: Process) -> (bool, String) {
    let url = match local_url(cluster, process) {
        Ok(url) => url,
        Err(error) => return (false, format!("{process} => {error}")),
    };
    let shown = ping::url(&url);
    // By the pid first: another program may answer on the port of one that has ended.
    if !matches!(process::find(cluster, process), Ok(State::Runs(_))) {
        let log = cluster.log(process);
        return (false, format!("{shown} => {process} has ended; see {}", log.display()));
    }
    match ping::ask(&url, ANSWER_WITHIN) {
        Ok(answer) => (answer.status == 200, format!("{shown} => {} [{}]", answer.body, answer.status_line)),
        Err(error) => {
            (false, format!("{shown} => no answer: {error}; see {}", cluster.log(process).display()))
        }
    }
}
