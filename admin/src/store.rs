//! The registry of a cluster, as its configuration and the flags say.

use anyhow::{Context, Result, bail};
use openlambda_config::registry::{Keys, Place, Secret};
use openlambda_config::{ClusterDir, WorkerConfig, file, merge};
use openlambda_store::Store;
use serde_json::json;

use crate::args::RegistryArgs;
use crate::cluster;

/// An open registry with the cluster that it belongs to.
pub struct Opened {
    /// The cluster.
    pub cluster: ClusterDir,
    /// Its registry.
    pub store: Store,
    /// What a worker of it would have.
    pub config: WorkerConfig,
    runtime: tokio::runtime::Runtime,
}

impl Opened {
    /// Waits for something that the registry is asked.
    pub fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }
}

/// Opens it. Nothing is asked yet.
pub fn open(args: &RegistryArgs) -> Result<Opened> {
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
    let Some(registry) = &config.registry else {
        bail!(
            "this cluster has no registry: its handlers are the folders in {}. Start one with admin registry --cluster \
             {shown}, or name a directory with admin setconf --cluster {shown} '{{\"registry\": \"../store\"}}'",
            config.registry_dir.display()
        )
    };
    let mut place = registry.place.clone();
    if let (Place::S3(s3), Some(access), Some(secret)) =
        (&mut place, &args.keys.access_key, &args.keys.secret_key)
    {
        s3.keys = Some(Keys { access: access.clone(), secret: Secret::new(secret.clone()) });
    }
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")?;
    let store = Store::open(&place)?;
    Ok(Opened { cluster, store, config, runtime })
}
