//! `admin status`: one line per process that was started.

use std::io::Write;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use openlambda_config::registry::ServerConfig;
use openlambda_config::{BalancerConfig, ClusterDir, ConfigError, Process, WorkerConfig};
use serde_json::Value;

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
        for line in handlers(&cluster, process) {
            let _ = writeln!(out, "  {line}");
        }
    }
    Ok(if all_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The base URL of a process by its configuration.
pub fn local_url(cluster: &ClusterDir, process: Process) -> Result<String, ConfigError> {
    let file = cluster.config(process);
    match process {
        Process::Balancer => BalancerConfig::load(file).map(|config| config.local_url()),
        Process::Registry => ServerConfig::load(file).map(|config| config.local_url()),
        Process::Worker(_) => WorkerConfig::load(file).map(|config| config.local_url()),
    }
}

/// A line for each handler of a worker that has packages, or cannot have them. A worker that does not say has none.
fn handlers(cluster: &ClusterDir, process: Process) -> Vec<String> {
    worker_state(cluster, process).map(|state| described(&state)).unwrap_or_default()
}

/// The URL of a worker's admin port.
pub fn admin_url(cluster: &ClusterDir, process: Process) -> Option<String> {
    let Process::Worker(_) = process else { return None };
    let config = WorkerConfig::load(cluster.config(process)).ok()?;
    Some(format!("http://{}", SocketAddr::new(config.local_ip(), config.admin.port())))
}

/// What a worker says of itself; none from what is no worker or does not answer.
pub fn worker_state(cluster: &ClusterDir, process: Process) -> Option<Value> {
    let url = format!("{}/debug/state", admin_url(cluster, process)?);
    let answer = ping::get(&url, ANSWER_WITHIN).ok()?;
    serde_json::from_str(&answer.body).ok()
}

fn described(state: &Value) -> Vec<String> {
    let away = state["registry"]["trouble"].as_str().map(|why| format!("registry: {why}"));
    let handlers = state["handlers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |handler: &Value| {
        let name = handler["name"].as_str()?;
        let packages = handler["packages"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let packages: Vec<_> = packages.collect();
        match handler["trouble"].as_str() {
            Some(trouble) => Some(format!("{name}: {trouble}")),
            None if packages.is_empty() => None,
            None => Some(format!("{name}: {}", packages.join(" "))),
        }
    };
    away.into_iter().chain(handlers.iter().filter_map(line)).collect()
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_there_is_to_say_of_handlers() {
        let state = json!({"handlers": [
            {"name": "a", "packages": ["idna==3.10", "six==1"], "trouble": null},
            {"name": "b", "packages": [], "trouble": "NoWheel: x"},
            {"name": "c", "packages": [], "trouble": null},
        ]});
        assert_eq!(described(&state), ["a: idna==3.10 six==1", "b: NoWheel: x"]);
        assert!(described(&json!({})).is_empty());
        let away = json!({"registry": {"trouble": "it is away"}});
        assert_eq!(described(&away), ["registry: it is away"]);
    }
}
