//! `--cluster k8s://[CONTEXT/]NAMESPACE/NAME`: a `LambdaCluster` in place of a cluster directory. What a command means there
//! is said by the modules below; here is how the cluster is found.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::Pod;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, Resource};
use openlambda_api::LambdaCluster;

mod bundles;
mod client;
mod forward;
mod make;
mod nodes;
mod show;
mod traffic;

pub use bundles::{Found, Reach};
pub use make::{end, new, set};
pub use nodes::workers;
pub use show::status;
pub use traffic::roll_back;

/// What a `--cluster` of Kubernetes begins with.
pub const SCHEME: &str = "k8s://";
/// Whose fields ours are.
const MANAGER: &str = "openlambda-admin";

/// Which `LambdaCluster`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The context of the kubeconfig; the current one if not given.
    pub context: Option<String>,
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl Place {
    /// That of a `--cluster`, if it is on Kubernetes.
    pub fn of(cluster: &Path) -> Result<Option<Self>> {
        let text = cluster.to_string_lossy();
        text.starts_with(SCHEME).then(|| Self::parse(&text)).transpose()
    }

    /// Reads what stands behind the scheme.
    pub fn parse(text: &str) -> Result<Self> {
        let rest = text.strip_prefix(SCHEME).unwrap_or(text);
        let parts: Vec<&str> = rest.rsplitn(3, '/').collect();
        let (name, namespace, context) = match parts[..] {
            [name, namespace] => (name, namespace, None),
            [name, namespace, context] => (name, namespace, Some(context.to_owned())),
            _ => {
                bail!("{text} is no cluster: write {SCHEME}NAMESPACE/NAME, or {SCHEME}CONTEXT/NAMESPACE/NAME")
            }
        };
        if name.is_empty() || namespace.is_empty() || context.as_deref() == Some("") {
            bail!("{text} is no cluster: write {SCHEME}NAMESPACE/NAME, or {SCHEME}CONTEXT/NAMESPACE/NAME");
        }
        Ok(Self { context, namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

/// The API server of a place.
#[derive(Clone)]
pub struct Connection {
    place: Place,
    client: Client,
    config: Config,
}

impl Connection {
    /// By the kubeconfig, or as a pod. Nothing is asked yet.
    async fn open(place: Place) -> Result<Self> {
        // Whoever installed one before has installed the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let options = KubeConfigOptions { context: place.context.clone(), ..KubeConfigOptions::default() };
        let config = match &place.context {
            Some(context) => {
                let file = Kubeconfig::read().context("cannot read the kubeconfig")?;
                let config = Config::from_custom_kubeconfig(file, &options).await;
                config.with_context(|| format!("the kubeconfig has no usable context {context}"))?
            }
            None => Config::infer().await.context("no way to reach a Kubernetes API server")?,
        };
        let client = Client::try_from(config.clone()).context("no client of the Kubernetes API server")?;
        Ok(Self { place, client, config })
    }

    /// The objects of a kind in the place's namespace.
    fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(self.client.clone(), &self.place.namespace)
    }

    /// The pods, for port-forwards.
    fn forwarding(&self) -> Result<Api<Pod>> {
        let client = client::prompt(self.config.clone());
        let client = client.context("no client of the Kubernetes API server")?;
        Ok(Api::namespaced(client, &self.place.namespace))
    }

    /// The `LambdaCluster`.
    async fn cluster(&self) -> Result<LambdaCluster> {
        let Place { name, namespace, .. } = &self.place;
        let found = self.api::<LambdaCluster>().get_opt(name).await.map_err(|error| explained(&error))?;
        if let Some(found) = found {
            return Ok(found);
        }
        // Without the definitions there is no such path either.
        let kind =
            self.api::<LambdaCluster>().list_metadata(&kube::api::ListParams::default().limit(1)).await;
        kind.map_err(|error| explained(&error))?;
        bail!(
            "there is no LambdaCluster {name} in the namespace {namespace}: admin new --cluster \
             {SCHEME}{namespace}/{name} makes it"
        )
    }
}

/// Waits for something on Kubernetes.
fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start a runtime")?.block_on(work)
}

/// An error of the API server with what may be done about it.
fn explained(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status)
            if status.code == 404
                && ["could not find the requested", "page not found"]
                    .iter()
                    .any(|text| status.message.contains(text)) =>
        {
            anyhow!(
                "this Kubernetes does not know LambdaCluster and Handler: install the chart openlambda-crds"
            )
        }
        kube::Error::Api(status) => anyhow!("the Kubernetes API server refuses: {}", status.message),
        other => anyhow!("the Kubernetes API server does not answer: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn places() {
        let place = |text: &str| Place::parse(text).map(|place| (place.context, place.namespace, place.name));
        assert_eq!(place("k8s://a/b").unwrap(), (None, "a".into(), "b".into()));
        let with_context = place("k8s://gke_x/eu/a/b").unwrap();
        assert_eq!(with_context, (Some("gke_x/eu".into()), "a".into(), "b".into()));
        for text in ["k8s://", "k8s://a", "k8s:///b", "k8s://a/", "k8s:///a/b"] {
            let error = place(text).unwrap_err().to_string();
            assert!(error.contains("k8s://NAMESPACE/NAME"), "{error}");
        }
        assert_eq!(Place::of(Path::new("my-cluster")).unwrap(), None);
        assert!(Place::of(Path::new("k8s://a")).is_err());
    }

    #[test]
    fn a_kubernetes_without_our_kinds_is_told_from_a_name_that_is_not_there() {
        let error = |message: &str| {
            explained(&kube::Error::Api(Status::failure(message, "NotFound").with_code(404).boxed()))
                .to_string()
        };
        for message in ["404 page not found", "the server could not find the requested resource"] {
            assert!(error(message).contains("install the chart openlambda-crds"), "{message}");
        }
        assert!(error("lambdaclusters \"x\" not found").contains("\"x\" not found"));
    }
}
