//! The handlers of a `LambdaCluster`. Bundles go to the cluster's registry, and a `Handler` says which of them serves.

use std::io::Write;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret as KubernetesSecret};
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use openlambda_api::cluster::S3;
use openlambda_api::labels::{self, children};
use openlambda_api::{Handler, HandlerName, uploaded};
use openlambda_config::registry::{Keys, S3Config, Secret};
use openlambda_store::Revision;
use tempfile::NamedTempFile;

use super::forward::Forward;
use super::{Connection, MANAGER, Place, explained};

/// All agents may take so long to fetch, install and try.
const READY_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks at a status, which the operator writes some times a second at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// A `LambdaCluster` that was found.
pub struct Found {
    connection: Connection,
    registry: S3,
    /// Leads to a registry inside the cluster.
    forward: Option<Forward>,
    /// The certificates of its registry.
    ca: Option<NamedTempFile>,
}

/// How its registry is reached, as flags say.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Under another address than the cluster itself uses.
    pub address: Option<String>,
    /// With these keys, not with those of its Secret.
    pub keys: Option<Keys>,
}

impl Found {
    /// Looks it up, and has the way to its registry ready.
    pub async fn find(place: Place, reach: &Reach) -> Result<Self> {
        let connection = Connection::open(place).await?;
        let cluster = connection.cluster().await?;
        let Place { name, namespace, .. } = &connection.place;
        let is_embedded = cluster.spec.registry.as_ref().is_some_and(|registry| registry.embedded.is_some());
        let registry = cluster.spec.registry.and_then(|registry| registry.bucket(namespace, name));
        let registry = registry.with_context(|| {
            format!(
                "the LambdaCluster {name} has no spec.registry, where bundles would go: admin setconf --cluster \
                 k8s://{namespace}/{name} '{{\"registry\": {{\"embedded\": {{}}}}}}' makes one inside the cluster"
            )
        })?;
        let pod = format!("{}-0", children::registry(name));
        let forward = match is_embedded && reach.address.is_none() {
            true => Some(Forward::start(connection.forwarding()?, pod, labels::REGISTRY_PORT).await?),
            false => None,
        };
        let ca = match &registry.ca {
            Some(ca) => Some(certificates(&connection.api(), &ca.config_map.name).await?),
            None => None,
        };
        Ok(Self { connection, registry, forward, ca })
    }

    /// Its bucket, below the namespace's name, with the keys of its Secret, if there are no others and it may be read.
    pub async fn bucket(&self, reach: &Reach) -> Result<S3Config> {
        let s3 = &self.registry;
        let keys = match (&reach.keys, &s3.credentials) {
            (Some(keys), _) => Some(keys.clone()),
            (None, Some(secret)) => self.keys(&secret.secret_name).await?,
            (None, None) => None,
        };
        if let Some(secret) = s3.credentials.as_ref().filter(|_| self.forward.is_some()) {
            ensure!(
                keys.is_some(),
                "the Secret {} with the registry's keys may not be read by you: give --access-key and --secret-key",
                secret.secret_name
            );
        }
        // Inside the cluster it may have another name.
        let address = reach.address.as_ref().map(|address| match address.contains("://") {
            true => address.clone(),
            false => format!("http://{address}"),
        });
        let forwarded = self.forward.as_ref().map(Forward::url);
        let endpoint = address.or(forwarded).or_else(|| s3.endpoint.clone());
        Ok(S3Config {
            path_style: endpoint.is_some(),
            endpoint,
            region: s3.region.clone(),
            bucket: s3.bucket.clone(),
            prefix: self.connection.place.namespace.clone(),
            ca: self.ca.as_ref().map(|file| file.path().to_owned()),
            keys,
        })
    }

    async fn keys(&self, name: &str) -> Result<Option<Keys>> {
        let secret = match self.connection.api::<KubernetesSecret>().get_opt(name).await {
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
        Ok(text(children::ACCESS_KEY)
            .zip(text(children::SECRET_KEY))
            .map(|(access, secret)| Keys { access, secret: Secret::new(secret) }))
    }

    fn handlers(&self) -> Api<Handler> {
        self.connection.api()
    }

    /// Has a Handler say that this revision serves; makes it if there is none. Gives its generation.
    pub async fn point(&self, handler: &HandlerName, revision: &Revision) -> Result<i64> {
        let Place { name, namespace, .. } = &self.connection.place;
        let bundle = uploaded::source(namespace, &revision.key, revision.digest.as_str());
        let api = self.handlers();
        let there = api.get_opt(handler.as_str()).await.map_err(|error| explained(&error))?;
        let written = match there {
            Some(there) => {
                if !uploaded::is_of(there.spec.cluster.as_deref(), name) {
                    bail!(
                        "the Handler {} belongs to another LambdaCluster of the namespace",
                        handler.as_str()
                    );
                }
                api.patch(handler.as_str(), &PatchParams::default(), &Patch::Merge(&uploaded::edit(&bundle)))
                    .await
            }
            None => {
                let object: Handler =
                    serde_json::from_value(uploaded::object(handler.as_str(), name, &bundle))?;
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
        await_status(&self.connection, handler, generation, out).await
    }
}

/// Waits until every agent serves a generation of the Handler, and says what its status says. Code 1 if it fails.
pub(super) async fn await_status(
    connection: &Connection,
    handler: &HandlerName,
    generation: i64,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let (api, until) = (connection.api::<Handler>(), Instant::now() + READY_WITHIN);
    loop {
        let object = api.get(handler.as_str()).await.map_err(|error| explained(&error))?;
        match uploaded::told(object.status.as_ref(), generation) {
            Some(told) => {
                let _ = writeln!(out, "{}", told.message);
                return Ok(if told.serves { ExitCode::SUCCESS } else { ExitCode::FAILURE });
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

/// The certificates in a ConfigMap, as a file.
async fn certificates(api: &Api<ConfigMap>, name: &str) -> Result<NamedTempFile> {
    let map = api.get_opt(name).await.map_err(|error| explained(&error))?;
    let pem = map.and_then(|map| map.data?.remove(children::CA_FILE)).with_context(|| {
        format!(
            "there is no ConfigMap {name} with the key {}, where spec.registry.s3.ca is",
            children::CA_FILE
        )
    })?;
    let mut file = NamedTempFile::new().context("no room for temporary files")?;
    file.write_all(pem.as_bytes()).context("no room for temporary files")?;
    Ok(file)
}
