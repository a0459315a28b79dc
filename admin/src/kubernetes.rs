//! `--cluster k8s://[CONTEXT/]NAMESPACE/NAME`: the handlers of a `LambdaCluster`. Bundles go to the cluster's registry, and a
//! `Handler` says which of them serves.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret as KubernetesSecret;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use openlambda_api::cluster::S3;
use openlambda_api::{Handler, HandlerName, LambdaCluster};
use openlambda_config::registry::{Keys, S3Config, Secret};
use openlambda_store::Revision;
use serde_json::{Value, json};

/// What a `--cluster` of Kubernetes begins with.
pub const SCHEME: &str = "k8s://";
/// Whose fields ours are.
const MANAGER: &str = "openlambda-admin";
/// All agents may take so long to fetch, install and try.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at a status, which the operator writes some times a second at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

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

/// A `LambdaCluster` that was found.
pub struct Found {
    place: Place,
    client: Client,
    registry: S3,
}

impl Found {
    /// Looks it up.
    pub async fn find(place: Place) -> Result<Self> {
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
        let client = Client::try_from(config).context("no client of the Kubernetes API server")?;
        let clusters: Api<LambdaCluster> = Api::namespaced(client.clone(), &place.namespace);
        let cluster = clusters.get_opt(&place.name).await.map_err(|error| explained(&error))?;
        let cluster = cluster.with_context(|| {
            format!("there is no LambdaCluster {} in the namespace {}", place.name, place.namespace)
        })?;
        let registry = cluster.spec.registry.and_then(|registry| registry.s3).with_context(|| {
            format!(
                "the LambdaCluster {} has no spec.registry.s3, where bundles would go: set it",
                place.name
            )
        })?;
        Ok(Self { place, client, registry })
    }

    /// Its bucket, below the namespace's name, with the keys of its Secret, if it may be read.
    pub async fn bucket(&self) -> Result<S3Config> {
        let s3 = &self.registry;
        let keys = match &s3.credentials {
            Some(secret) => self.keys(&secret.secret_name).await?,
            None => None,
        };
        Ok(S3Config {
            endpoint: s3.endpoint.clone(),
            region: s3.region.clone(),
            bucket: s3.bucket.clone(),
            prefix: self.place.namespace.clone(),
            path_style: s3.endpoint.is_some(),
            ca: None,
            keys,
        })
    }

    async fn keys(&self, name: &str) -> Result<Option<Keys>> {
        let secrets: Api<KubernetesSecret> = Api::namespaced(self.client.clone(), &self.place.namespace);
        let secret = match secrets.get_opt(name).await {
            Ok(secret) => secret,
            // Who may upload need not be who may read Secrets: then the keys come from flags or the environment.
            Err(kube::Error::Api(status)) if status.code == 403 => return Ok(None),
            Err(error) => return Err(explained(&error)),
        };
        let data = secret.and_then(|secret| secret.data).unwrap_or_default();
        let text = |key: &str| {
            let bytes: Option<&ByteString> = data.get(key);
            bytes.and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        };
        Ok(text("accessKeyID")
            .zip(text("secretAccessKey"))
            .map(|(access, secret)| Keys { access, secret: Secret::new(secret) }))
    }

    fn handlers(&self) -> Api<Handler> {
        Api::namespaced(self.client.clone(), &self.place.namespace)
    }

    /// Has a Handler say that this revision serves; makes it if there is none. Gives its generation.
    pub async fn point(&self, handler: &HandlerName, revision: &Revision) -> Result<i64> {
        let key = format!("{}/{}", self.place.namespace, revision.key);
        let bundle = json!({"key": key, "digest": revision.digest.as_str()});
        let api = self.handlers();
        let there = api.get_opt(handler.as_str()).await.map_err(|error| explained(&error))?;
        let written = match there {
            Some(there) => {
                let serves = there.spec.cluster.as_deref().is_none_or(|name| name == self.place.name);
                if !serves {
                    bail!(
                        "the Handler {} belongs to another LambdaCluster of the namespace",
                        handler.as_str()
                    );
                }
                api.patch(handler.as_str(), &PatchParams::default(), &Patch::Merge(&edit(&bundle))).await
            }
            None => {
                let object = json!({
                    "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": handler.as_str()},
                    "spec": {"cluster": self.place.name, "source": {"bundle": bundle}},
                });
                let object: Handler = serde_json::from_value(object)?;
                let parameters =
                    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                api.create(&parameters, &object).await
            }
        };
        let written = written.map_err(|error| explained(&error))?;
        Ok(written.metadata.generation.unwrap_or_default())
    }

    /// Removes the Handler.
    pub async fn remove(&self, handler: &HandlerName) -> Result<()> {
        match self.handlers().delete(handler.as_str(), &DeleteParams::background()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(explained(&error)),
        }
    }

    /// Waits until every agent serves a generation of the Handler, and says what its status says. Code 1 if it fails.
    pub async fn wait(
        &self,
        handler: &HandlerName,
        generation: i64,
        out: &mut dyn Write,
    ) -> Result<ExitCode> {
        let until = Instant::now() + READY_WITHIN;
        loop {
            let object = self.handlers().get(handler.as_str()).await.map_err(|error| explained(&error))?;
            let status = serde_json::to_value(object.status)?;
            match verdict(&status, generation) {
                Some(Ok(line)) => {
                    let _ = writeln!(out, "{line}");
                    return Ok(ExitCode::SUCCESS);
                }
                Some(Err(line)) => {
                    let _ = writeln!(out, "{line}");
                    return Ok(ExitCode::FAILURE);
                }
                None if Instant::now() >= until => {
                    bail!(
                        "not every agent serves it within {} s: kubectl describe handler {}",
                        READY_WITHIN.as_secs(),
                        handler.as_str()
                    )
                }
                // Between two looks.
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

/// The source is this bundle, and nothing else that it was.
fn edit(bundle: &Value) -> Value {
    json!({"spec": {"source": {"bundle": bundle, "inline": null, "files": null, "configMap": null, "http": null}}})
}

/// What a status says of a generation, once it says something final.
fn verdict(status: &Value, generation: i64) -> Option<Result<String, String>> {
    if status["observedGeneration"].as_i64()? < generation {
        return None;
    }
    let conditions = status["conditions"].as_array()?;
    let of = |kind: &str| conditions.iter().find(|condition| condition["type"] == kind);
    let text = |condition: &Value, key: &str| condition[key].as_str().unwrap_or_default().to_owned();
    let agents = status["agents"]["summary"].as_str().unwrap_or("no");
    if of("Ready")?["status"] == "True" {
        return Some(Ok(format!("{agents} agents serve it")));
    }
    let failed = conditions.iter().find(|one| one["status"] == "False" && one["type"] != "Ready");
    let stalled = of("Stalled").is_some_and(|stalled| stalled["status"] == "True");
    let failed = failed.or_else(|| of("Ready")).filter(|_| stalled)?;
    Some(Err(format!("{agents} agents serve it: {}: {}", text(failed, "reason"), text(failed, "message"))))
}

/// An error of the API server with what may be done about it.
fn explained(error: &kube::Error) -> anyhow::Error {
    match error {
        kube::Error::Api(status)
            if status.code == 404 && status.message.contains("could not find the requested") =>
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
    }

    #[test]
    fn only_what_is_final_ends_the_wait() {
        let condition =
            |kind: &str, status: &str| json!({"type": kind, "status": status, "reason": "R", "message": "m"});
        let status = |generation: i64, conditions: &[Value]| json!({"observedGeneration": generation, "agents": {"summary": "2/3"}, "conditions": conditions});
        assert_eq!(verdict(&json!(null), 2), None);
        assert_eq!(verdict(&status(1, &[condition("Ready", "True")]), 2), None);
        let ready = verdict(&status(2, &[condition("Ready", "True")]), 2);
        assert_eq!(ready, Some(Ok("2/3 agents serve it".into())));
        let under_way = [condition("Ready", "False"), condition("SourceResolved", "False")];
        assert_eq!(verdict(&status(2, &under_way), 2), None);
        let failed =
            [condition("Ready", "False"), condition("CodeLoads", "False"), condition("Stalled", "True")];
        assert_eq!(verdict(&status(3, &failed), 2), Some(Err("2/3 agents serve it: R: m".into())));
    }
}
