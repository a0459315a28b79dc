//! The registry of a cluster, as its configuration and the flags say; and the cluster that is to serve what is in it.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use openlambda_api::HandlerName;
use openlambda_api::look::Wanted;
use openlambda_config::registry::{Keys, Place, Secret};
use openlambda_config::{ClusterDir, WorkerConfig, file, merge};
use openlambda_store::{Revision, Store};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::args::RegistryArgs;
use crate::cluster;
use crate::deploy;
use crate::kubernetes::{Found, Place as Named, Reach};

/// An open registry.
pub struct Opened {
    /// Who serves what is in it.
    pub target: Target,
    /// It.
    pub store: Store,
    /// The interpreter that its handlers run on, if this machine has it.
    pub python: PathBuf,
    runtime: Runtime,
}

/// Who serves.
pub enum Target {
    /// The workers of a cluster directory.
    Local(ClusterDir),
    /// The agents of a `LambdaCluster`.
    Kubernetes(Box<Found>),
}

impl Opened {
    /// Waits for something that the registry is asked.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Has a revision, which the registry has, serve everywhere, and says how that goes. Code 1 if it does not.
    pub fn serve(
        &self,
        handler: &HandlerName,
        revision: &Revision,
        no_wait: bool,
        out: &mut dyn Write,
    ) -> Result<ExitCode> {
        match &self.target {
            Target::Local(_) if no_wait => Ok(ExitCode::SUCCESS),
            Target::Local(cluster) => {
                deploy::run(cluster, handler, Wanted::Serves(revision.digest.as_str()), out)
            }
            Target::Kubernetes(found) => self.wait(async {
                let generation = found.point(handler, revision).await?;
                if no_wait { Ok(ExitCode::SUCCESS) } else { found.wait(handler, generation, out).await }
            }),
        }
    }

    /// Has a handler, which the registry has no more, serve nowhere.
    pub fn end(&self, handler: &HandlerName, no_wait: bool, out: &mut dyn Write) -> Result<ExitCode> {
        match &self.target {
            Target::Local(_) if no_wait => Ok(ExitCode::SUCCESS),
            Target::Local(cluster) => deploy::run(cluster, handler, Wanted::Gone, out),
            Target::Kubernetes(found) => self.wait(found.remove(handler)).map(|()| ExitCode::SUCCESS),
        }
    }
}

/// Opens it. A local one is not asked anything yet.
pub fn open(args: &RegistryArgs) -> Result<Opened> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start a runtime")?;
    let (target, place, python) = match Named::of(&args.cluster.cluster)? {
        Some(place) => on_kubernetes(&runtime, place, args)?,
        None => local(args)?,
    };
    let store = Store::open(&place)?;
    Ok(Opened { target, store, python, runtime })
}

fn on_kubernetes(runtime: &Runtime, place: Named, args: &RegistryArgs) -> Result<(Target, Place, PathBuf)> {
    let reach = Reach { address: args.address.clone(), keys: keys(args) };
    let (found, bucket) = runtime.block_on(async {
        let found = Found::find(place, &reach).await?;
        let bucket = found.bucket(&reach).await?;
        anyhow::Ok((found, bucket))
    })?;
    Ok((Target::Kubernetes(Box::new(found)), Place::S3(bucket), PathBuf::from("python3")))
}

fn keys(args: &RegistryArgs) -> Option<Keys> {
    let (access, secret) = args.keys.access_key.clone().zip(args.keys.secret_key.clone())?;
    Some(Keys { access, secret: Secret::new(secret) })
}

fn local(args: &RegistryArgs) -> Result<(Target, Place, PathBuf)> {
    let cluster = cluster::open(&args.cluster)?;
    let path = cluster.template();
    let mut template = file::read(&path)?;
    if let Some(address) = &args.address {
        let kind = match template.get("registry").and_then(|value| value.as_str()) {
            Some(url) if url.starts_with("s3://") => url.to_owned(),
            _ => "remote".to_owned(),
        };
        merge::merge(&mut template, &json!({"registry": kind, "registry_server": address}));
    }
    let config = WorkerConfig::of_template(&template, &path)?;
    let shown = cluster.root().display();
    let Some(registry) = config.registry else {
        bail!(
            "this cluster has no registry: its handlers are the folders in {}. Start one with admin registry --cluster \
             {shown}, or name a directory with admin setconf --cluster {shown} '{{\"registry\": \"../store\"}}'",
            config.registry_dir.display()
        )
    };
    let mut place = registry.place;
    if let (Place::S3(s3), Some(keys)) = (&mut place, keys(args)) {
        s3.keys = Some(keys);
    }
    Ok((Target::Local(cluster), place, config.python))
}
