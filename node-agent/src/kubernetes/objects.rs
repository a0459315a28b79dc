//! ConfigMaps and Secrets that handlers name: read one by one, as they are needed.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::time::Duration;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::core::PartialObjectMeta;
use kube::{Api, Client, ResourceExt as _};
use openlambda_api::HandlerSpec;
use openlambda_api::conditions::ConditionReason;
use openlambda_api::revision::Kept;
use openlambda_api::source::ValueFrom;

use super::files::Files;
use super::spec::Reference;
use crate::trouble::Trouble;

/// How long the API server may take for one of them.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The version that an object was read in; none: there was no such object.
pub type Version = Option<String>;

/// Reads objects of the namespace.
#[derive(Clone, Debug)]
pub struct Objects {
    config_maps: Api<ConfigMap>,
    metadata: Api<PartialObjectMeta<ConfigMap>>,
    secrets: Api<Secret>,
    revisions: Api<ControllerRevision>,
}

/// The objects that one look at a handler needs, each read once, with their versions.
#[derive(Debug)]
pub struct Look<'a> {
    objects: &'a Objects,
    data: BTreeMap<Reference, Option<Files>>,
    /// What was read in which version.
    pub versions: BTreeMap<Reference, Version>,
}

impl Objects {
    /// Those of this namespace.
    pub fn new(client: &Client, namespace: &str) -> Self {
        Self {
            config_maps: Api::namespaced(client.clone(), namespace),
            metadata: Api::namespaced(client.clone(), namespace),
            secrets: Api::namespaced(client.clone(), namespace),
            revisions: Api::namespaced(client.clone(), namespace),
        }
    }

    /// The ConfigMaps without their data, to be watched.
    pub fn metadata(&self) -> Api<PartialObjectMeta<ConfigMap>> {
        self.metadata.clone()
    }

    /// Begins a look.
    pub fn look(&self) -> Look<'_> {
        Look { objects: self, data: BTreeMap::new(), versions: BTreeMap::new() }
    }

    /// The version of an object now.
    pub async fn version(&self, reference: &Reference) -> Result<Version, Trouble> {
        match reference {
            Reference::ConfigMap(name) => {
                let found = within(reference, self.config_maps.get_metadata_opt(name)).await?;
                Ok(found.and_then(|object| object.resource_version()))
            }
            Reference::Secret(name) => {
                let found = within(reference, self.secrets.get_metadata_opt(name)).await?;
                Ok(found.and_then(|object| object.resource_version()))
            }
        }
    }

    /// A revision that is kept of the handler with this uid.
    pub async fn revision(&self, name: &str, uid: &str) -> Result<Option<Kept>, Trouble> {
        let found = within(&format!("revision {name}"), self.revisions.get_opt(name)).await?;
        let kept = found.map(|object| Kept::read(object, uid)).transpose();
        kept.map_err(|error| Trouble::lasting(ConditionReason::InvalidSpec, format!("spec.traffic: {error}")))
    }

    async fn read(&self, reference: &Reference) -> Result<Option<(Files, Version)>, Trouble> {
        match reference {
            Reference::ConfigMap(name) => {
                let Some(found) = within(reference, self.config_maps.get_opt(name)).await? else {
                    return Ok(None);
                };
                let version = found.resource_version();
                let texts = found.data.unwrap_or_default().into_iter();
                let binary = found.binary_data.unwrap_or_default().into_iter();
                let data = texts.map(|(key, text)| (key, text.into_bytes()));
                Ok(Some((data.chain(binary.map(|(key, bytes)| (key, bytes.0))).collect(), version)))
            }
            Reference::Secret(name) => {
                let found = within(reference, self.secrets.get_opt(name)).await?;
                Ok(found.map(|found| {
                    let version = found.resource_version();
                    let data = found.data.unwrap_or_default().into_iter();
                    (data.map(|(key, bytes)| (key, bytes.0)).collect(), version)
                }))
            }
        }
    }
}

/// What came of a request, in time.
async fn within<T>(
    what: &impl Display,
    request: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, Trouble> {
    let failed =
        |why: String| Trouble::passing(ConditionReason::FetchFailed, format!("{what} cannot be read: {why}"));
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(Ok(found)) => Ok(found),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed(format!("the API server did not answer within {} s", TIMEOUT.as_secs()))),
    }
}

impl Look<'_> {
    /// The keys of an object; none if there is no such object.
    async fn data(&mut self, reference: Reference) -> Result<Option<&Files>, Trouble> {
        if !self.data.contains_key(&reference) {
            let (data, version) = self.objects.read(&reference).await?.unzip();
            self.versions.insert(reference.clone(), version.flatten());
            self.data.insert(reference.clone(), data);
        }
        Ok(self.data.get(&reference).and_then(Option::as_ref))
    }

    /// The files of a ConfigMap.
    pub async fn files(&mut self, name: &str) -> Result<Files, Trouble> {
        let found = self.data(Reference::ConfigMap(name.to_owned())).await?;
        found
            .cloned()
            .ok_or_else(|| missing("spec.source.configMap", &format!("no ConfigMap {name} in the namespace")))
    }

    /// The variables of a handler. `env` wins over `envFrom`, and there a later one over an earlier one.
    pub async fn env(&mut self, spec: &HandlerSpec) -> Result<BTreeMap<String, String>, Trouble> {
        let mut env = BTreeMap::new();
        for (index, from) in spec.env_from.iter().enumerate() {
            let field = format!("spec.envFrom[{index}]");
            let (reference, optional) = match (&from.config_map_ref, &from.secret_ref) {
                (Some(one), _) => (Reference::ConfigMap(one.name.clone()), one.optional),
                (None, Some(one)) => (Reference::Secret(one.name.clone()), one.optional),
                (None, None) => continue,
            };
            let Some(data) = self.data(reference.clone()).await? else {
                if optional {
                    continue;
                }
                return Err(missing(&field, &format!("no {reference} in the namespace")));
            };
            for (key, value) in data {
                insert(&mut env, format!("{}{key}", from.prefix), text(&field, &reference, key, value)?);
            }
        }
        for variable in &spec.env {
            let value = match &variable.value_from {
                None => Some(variable.value.clone().unwrap_or_default()),
                Some(from) => self.value(&format!("spec.env[{}]", variable.name), from).await?,
            };
            if let Some(value) = value {
                insert(&mut env, variable.name.clone(), value);
            }
        }
        Ok(env)
    }

    async fn value(&mut self, field: &str, from: &ValueFrom) -> Result<Option<String>, Trouble> {
        let (reference, key) = match (&from.config_map_key_ref, &from.secret_key_ref) {
            (Some(key), _) => (Reference::ConfigMap(key.name.clone()), key),
            (None, Some(key)) => (Reference::Secret(key.name.clone()), key),
            (None, None) => return Ok(None),
        };
        let data = self.data(reference.clone()).await?;
        let there = data.is_some();
        match data.and_then(|data| data.get(&key.key)) {
            Some(value) => text(field, &reference, &key.key, value).map(Some),
            None if key.optional => Ok(None),
            None if there => Err(missing(field, &format!("no key {} in {reference}", key.key))),
            None => Err(missing(field, &format!("no {reference} in the namespace"))),
        }
    }
}

/// A name that cannot be a variable's is left out, as Kubernetes does.
fn insert(env: &mut BTreeMap<String, String>, name: String, value: String) {
    if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
        return tracing::warn!(name, "not a variable that a process can have; it is left out");
    }
    env.insert(name, value);
}

fn text(field: &str, reference: &Reference, key: &str, value: &[u8]) -> Result<String, Trouble> {
    match std::str::from_utf8(value) {
        Ok(text) => Ok(text.to_owned()),
        Err(_) => {
            let message = format!("{field}: key {key} of {reference} is no UTF-8 text");
            Err(Trouble::passing(ConditionReason::InvalidSpec, message))
        }
    }
}

fn missing(field: &str, what: &str) -> Trouble {
    let message = format!("{field}: there is {what}");
    Trouble::passing(ConditionReason::ReferenceNotFound, message)
}
