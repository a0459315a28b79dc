//! `admin workers`: starts workers in the background.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;

use anyhow::{Context, Result, bail, ensure};
use openlambda_config::{ClusterDir, Process, WorkerConfig, file, worker};
use serde_json::{Value, json};

use crate::args::Workers;
use crate::launch::{self, Launched};
use crate::process::{self, State};
use crate::{balancer, cluster, execute, ports};

pub fn run(args: &Workers, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::open(&args.cluster)?;
    require_root()?;
    execute::find(execute::WORKER)?;
    let _lock = cluster::lock(&cluster)?;
    let template = file::read(&cluster.template())?;
    WorkerConfig::check_template(&template, &cluster.template())?;
    let plans = plan(&cluster, &template, args)?;
    check(&cluster, &plans)?;
    let launched = start_all(&cluster, &plans)?;
    for worker in &launched {
        let log = cluster.log(worker.process);
        let _ = writeln!(
            out,
            "{} pid {} at {} logs to {}",
            worker.process,
            worker.pid(),
            worker.url,
            log.display()
        );
    }
    balancer::hint(&cluster, out);
    Ok(())
}

/// Sandboxes are made of namespaces, mounts and cgroups, and those are made as root.
fn require_root() -> Result<()> {
    let user = rustix::process::geteuid();
    ensure!(
        user.is_root(),
        "workers need root for the namespaces, mounts and cgroups of sandboxes, and this is user {}: call it with sudo",
        user.as_raw()
    );
    Ok(())
}

/// A worker that is to be started.
struct Plan {
    process: Process,
    value: Value,
    config: WorkerConfig,
}

/// The configurations of all workers: the template with the keys of each.
fn plan(cluster: &ClusterDir, template: &Value, args: &Workers) -> Result<Vec<Plan>> {
    let from_template = |key: &str| {
        let value = template.get(key)?;
        value.as_u64().or_else(|| value.as_str()?.parse().ok()).and_then(|port| u16::try_from(port).ok())
    };
    let first = args.port.or_else(|| from_template("worker_port")).unwrap_or(worker::DEFAULT_PORT);
    let admin = from_template("admin_port").filter(|port| *port != 0);
    let mut plans = Vec::new();
    for number in 0..args.num_workers.unwrap_or(1) {
        let process = Process::Worker(number);
        let shift = |port: u16| {
            let shifted = u16::try_from(number).ok().and_then(|number| port.checked_add(number));
            shifted.with_context(|| {
                format!("{process} would have a port over 65535: lower --port or --num-workers")
            })
        };
        let mut value = template.clone();
        value["worker_port"] = json!(shift(first)?);
        value["worker_dir"] = json!(format!("../workers/{process}"));
        if let Some(admin) = admin {
            value["admin_port"] = json!(shift(admin)?);
        }
        if value.get("cluster_name").is_none() {
            value["cluster_name"] = json!(cluster.root().to_string_lossy());
        }
        let config = WorkerConfig::from_value(&value, &cluster.config(process))?;
        plans.push(Plan { process, value, config });
    }
    Ok(plans)
}

/// Fails if one of them runs already or a port is not free, before anything is started.
fn check(cluster: &ClusterDir, plans: &[Plan]) -> Result<()> {
    let shown = cluster.root().display();
    let mut taken = BTreeMap::new();
    for Plan { process, config, .. } in plans {
        if let State::Runs(live) = process::find(cluster, *process)? {
            bail!(
                "{process} runs already (pid {}): end it first with admin kill --cluster {shown}",
                live.pid
            );
        }
        for (address, change) in [
            (config.listen, "choose other ports with --port"),
            (config.admin, "set another admin_port with admin setconf"),
        ] {
            if let Some(other) = taken.insert(address.port(), process) {
                bail!("{process} and {other} would both have port {}: {change}", address.port());
            }
            ports::require_free(&address.ip().to_string(), address.port(), &process.to_string(), change)?;
        }
    }
    Ok(())
}

/// Starts all, then waits for each; if one fails, those that were started end again.
fn start_all(cluster: &ClusterDir, plans: &[Plan]) -> Result<Vec<Launched>> {
    let mut launched = Vec::new();
    match start_each(cluster, plans, &mut launched) {
        Ok(()) => Ok(launched),
        Err(error) => {
            launched.into_iter().for_each(Launched::stop);
            Err(error)
        }
    }
}

fn start_each(cluster: &ClusterDir, plans: &[Plan], launched: &mut Vec<Launched>) -> Result<()> {
    for Plan { process, value, config } in plans {
        file::write(&cluster.config(*process), value)?;
        // There already after a restart.
        fs::create_dir_all(&config.worker_dir)
            .with_context(|| format!("cannot make {}", config.worker_dir.display()))?;
        launched.push(launch::start(cluster, *process, config.local_url())?);
    }
    launched.iter_mut().try_for_each(Launched::wait_ready)
}
