//! What the operator is started with.

use std::net::SocketAddr;

use crate::scope::Scope;
use crate::settings::Settings;

/// Arguments of `openlambda-operator run`.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// The image of the agents
    #[arg(long, env = "AGENT_IMAGE", value_name = "IMAGE")]
    agent_image: String,
    /// The image of lard
    #[arg(long, env = "LARD_IMAGE", value_name = "IMAGE")]
    lard_image: String,
    /// The image of registries inside the cluster
    #[arg(long, env = "REGISTRY_IMAGE", value_name = "IMAGE")]
    registry_image: String,
    /// When the images are pulled: Always, IfNotPresent or Never
    #[arg(long, env = "IMAGE_PULL_POLICY", default_value = "IfNotPresent", value_parser = ["Always", "IfNotPresent", "Never"])]
    image_pull_policy: String,
    /// A secret of the cluster's namespace for the images' registry; may be given several times
    #[arg(long = "image-pull-secret", value_name = "NAME")]
    image_pull_secrets: Vec<String>,
    /// The operator's own namespace
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    namespace: String,
    /// This process's name among the replicas
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: String,
    /// The namespace to look after, or * for all; its own if not given
    #[arg(long, env = "WATCH_NAMESPACE", value_name = "NAMESPACE")]
    watch_namespace: Option<String>,
    /// The Lease that decides which replica acts
    #[arg(long, default_value = "openlambda-operator", value_name = "NAME")]
    pub lease: String,
    /// Where metrics and probes are
    #[arg(long, default_value = "0.0.0.0:9080", value_name = "ADDRESS")]
    pub admin_address: SocketAddr,
    /// Writes to the API server per second, at most
    #[arg(long, default_value_t = 500, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub writes_per_second: u32,
}

impl Args {
    /// What goes into children.
    pub fn settings(&self) -> Settings {
        Settings {
            agent_image: self.agent_image.clone(),
            lard_image: self.lard_image.clone(),
            registry_image: self.registry_image.clone(),
            image_pull_policy: self.image_pull_policy.clone(),
            image_pull_secrets: self.image_pull_secrets.clone(),
            namespace: self.namespace.clone(),
        }
    }

    /// The operator's own namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The namespaces to look after.
    pub fn scope(&self) -> Scope {
        let watched = self.watch_namespace.as_deref().filter(|text| !text.is_empty());
        Scope::parse(watched.unwrap_or(&self.namespace))
    }
}
