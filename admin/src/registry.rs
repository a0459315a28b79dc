//! `admin registry`: starts the registry's server in the background, and has workers take handlers from it.

use std::io::Write;

use anyhow::{Result, bail};
use openlambda_config::registry::{Keys, Secret, ServerConfig};
use openlambda_config::{ClusterDir, Process, WorkerConfig, file, merge};
use serde_json::json;

use crate::args::Registry;
use crate::process::{self, State};
use crate::{cluster, execute, launch, ports};

pub fn run(args: &Registry, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::open(&args.cluster)?;
    execute::find(execute::REGISTRY)?;
    let _lock = cluster::lock(&cluster)?;
    let shown = cluster.root().display();
    if let State::Runs(live) = process::find(&cluster, Process::Registry)? {
        bail!("the registry runs already (pid {}): end it first with admin kill --cluster {shown}", live.pid);
    }
    let keys = keys(&cluster, args)?;
    ports::require_free(&args.host.to_string(), args.port, "the registry", "choose another with --port")?;
    let value = ServerConfig::template(&cluster, args.host, args.port, &keys);
    let config = ServerConfig::from_value(&value, &cluster.config(Process::Registry))?;
    // Both files are right before either is written.
    let mut template = file::read(&cluster.template())?;
    let address = config.local_url().replace("http://", "");
    let patch = json!({
        "registry": "remote",
        "registry_server": address,
        "registry_access_key": keys.access,
        "registry_secret_key": keys.secret.expose(),
    });
    merge::merge(&mut template, &patch);
    WorkerConfig::check_template(&template, &cluster.template())?;
    file::write(&cluster.config(Process::Registry), &value)?;
    let mut launched = launch::start(&cluster, Process::Registry, config.local_url())?;
    if let Err(error) = launched.wait_ready() {
        launched.stop();
        return Err(error);
    }
    file::write(&cluster.template(), &template)?;
    let log = cluster.log(Process::Registry);
    let _ = writeln!(out, "registry pid {} at {} logs to {}", launched.pid(), launched.url, log.display());
    let _ = writeln!(out, "  it keeps everything in {}", config.directory.display());
    let _ = writeln!(out, "  workers that are started from now on take their handlers from it: admin upload");
    Ok(())
}

/// Those that were given, else those of the last start.
fn keys(cluster: &ClusterDir, args: &Registry) -> Result<Keys> {
    if let (Some(access), Some(secret)) = (&args.keys.access_key, &args.keys.secret_key) {
        let keys = Keys { access: access.clone(), secret: Secret::new(secret.clone()) };
        if let Some((name, message)) = keys.weaknesses().first() {
            bail!("--{} {message}", name.replace('_', "-"));
        }
        return Ok(keys);
    }
    let path = cluster.config(Process::Registry);
    let former = if path.exists() { ServerConfig::load(&path)?.keys } else { None };
    match former {
        Some(keys) => Ok(keys),
        None => bail!("the registry has no keys yet: give --access-key and --secret-key"),
    }
}
