//! `admin load-balancer`: starts lard in the background, in front of the workers of this cluster.

use std::io::Write;

use anyhow::{Result, bail};
use openlambda_config::{BalancerConfig, ClusterDir, Process, Server, WorkerConfig, file};
use serde_json::{Value, json};

use crate::args::LoadBalancer;
use crate::process::{self, State};
use crate::{cluster, execute, launch, ports};

mod registry_api;

pub fn run(args: &LoadBalancer, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::open(&args.cluster)?;
    execute::find(execute::BALANCER)?;
    let _lock = cluster::lock(&cluster)?;
    if let State::Runs(live) = process::find(&cluster, Process::Balancer)? {
        let shown = cluster.root().display();
        bail!(
            "the load balancer runs already (pid {}): end it first with admin kill --cluster {shown}",
            live.pid
        );
    }
    let config = configure(&cluster, args)?;
    for (port, change) in [
        (config.port, "choose another with --port"),
        (config.admin_port, "set another AdminPort in config/load_balancer.json"),
    ] {
        ports::require_free(&config.host, port, "the load balancer", change)?;
    }
    let mut launched = launch::start(&cluster, Process::Balancer, config.local_url())?;
    if let Err(error) = launched.wait_ready() {
        launched.stop();
        return Err(error);
    }
    let log = cluster.log(Process::Balancer);
    let _ =
        writeln!(out, "load balancer pid {} at {} logs to {}", launched.pid(), launched.url, log.display());
    let _ = describe(&config.servers, out);
    if let Some(api) = &config.registry_api {
        let _ = registry_api::describe(&config, api, out);
    }
    Ok(())
}

fn describe(servers: &[Server], out: &mut dyn Write) -> std::io::Result<()> {
    if servers.is_empty() {
        writeln!(out, "it has no servers yet: start workers, then end it and start it again")?;
    }
    servers.iter().try_for_each(|s| writeln!(out, "  {} at http://{}:{}", s.name, s.host, s.port))
}

/// Writes port, servers and what else was asked for into the file, and gives the checked result back.
fn configure(cluster: &ClusterDir, args: &LoadBalancer) -> Result<BalancerConfig> {
    let path = cluster.config(Process::Balancer);
    let mut value = file::read(&path)?;
    let before = BalancerConfig::from_value(&value, &path)?;
    if let Some(port) = args.port {
        value["Port"] = json!(port);
    }
    if filled_by_admin(&before.servers) {
        value["Servers"] = servers(cluster, &value)?;
    }
    if args.registry_api {
        registry_api::enable(&mut value);
    }
    let config = BalancerConfig::from_value(&value, &path)?;
    if let Some(api) = &config.registry_api {
        registry_api::prepare(api)?;
    }
    file::write(&path, &value)?;
    Ok(config)
}

/// Whether every server has a name that admin gives, and is on this machine. True for no servers.
fn filled_by_admin(servers: &[Server]) -> bool {
    servers.iter().all(|server| {
        let local = server.host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        local && matches!(Process::parse(&server.name), Some(Process::Worker(_)))
    })
}

/// The workers of this cluster as servers: those that run, or all that are configured if none does. What somebody
/// added to an entry, such as `MaxConn`, stays.
fn servers(cluster: &ClusterDir, old: &Value) -> Result<Value> {
    let mut workers = cluster.configured_workers()?;
    let mut running = Vec::new();
    for worker in &workers {
        if let State::Runs(_) = process::find(cluster, *worker)? {
            running.push(*worker);
        }
    }
    if !running.is_empty() {
        workers = running;
    }
    let old = old.get("Servers").and_then(Value::as_array).cloned().unwrap_or_default();
    let mut servers = Vec::new();
    for worker in workers {
        let config = WorkerConfig::load(cluster.config(worker))?;
        let same = |entry: &&Value| entry["Name"] == json!(worker.to_string());
        let mut entry =
            old.iter().find(same).cloned().unwrap_or_else(|| json!({"Scheme": "http", "MaxConn": -1}));
        entry["Name"] = json!(worker.to_string());
        entry["Host"] = json!(config.local_ip().to_string());
        entry["Port"] = json!(config.listen.port());
        entry["AdminPort"] = json!(config.admin.port());
        servers.push(entry);
    }
    Ok(Value::Array(servers))
}

/// After workers were started: says what to do if a balancer runs that does not know them.
pub fn hint(cluster: &ClusterDir, out: &mut dyn Write) {
    let runs = matches!(process::find(cluster, Process::Balancer), Ok(State::Runs(_)));
    let Ok(config) = BalancerConfig::load(cluster.config(Process::Balancer)) else { return };
    let Ok(workers) = cluster.configured_workers() else { return };
    let known = |worker: &Process| config.servers.iter().any(|server| server.name == worker.to_string());
    if runs && filled_by_admin(&config.servers) && !workers.iter().all(known) {
        let shown = cluster.root().display();
        let _ = writeln!(
            out,
            "the load balancer does not know all of them: admin kill, then start all again (--cluster {shown})"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(name: &str, host: &str) -> Server {
        Server { name: name.into(), host: host.into(), port: 1, admin_port: None, max_conn: None }
    }

    #[test]
    fn only_names_and_places_that_admin_gives_are_its_own() {
        assert!(filled_by_admin(&[]));
        assert!(filled_by_admin(&[server("worker-0", "127.0.0.1"), server("worker-1", "127.0.0.1")]));
        assert!(!filled_by_admin(&[server("worker-0", "127.0.0.1"), server("big", "127.0.0.1")]));
        assert!(!filled_by_admin(&[server("worker-0", "10.0.0.1")]));
        assert!(!filled_by_admin(&[server("worker-0", "localhost")]));
    }
}
