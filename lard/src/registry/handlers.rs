//! In Kubernetes what is uploaded serves once a Handler names it: what the API server is asked for that.
//!
//! A Handler may have a MiB of code in it: one that need not have been uploaded is read where that may block. Every question
//! has a deadline, and none is asked by a call.

use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client, ResourceExt};
use openlambda_api::source::BundleSource;
use openlambda_api::uploaded::{self, Told};
use openlambda_api::{Handler, HandlerName, HandlerStatus, Reason};
use openlambda_store::{Revision, Store};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::json;
use tokio::time::{Instant, sleep, timeout};

use super::failure::{of_api, of_store};
use crate::kubernetes::Scope;
use crate::reply::Failure;

/// The API server has so long for one answer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(10);
/// The agents have so long to fetch, install and try what was uploaded before the client is told that it goes on by itself.
const SERVES_WITHIN: Duration = Duration::from_secs(30);
/// Between two looks at a status.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// A Handler that others write at the same time, such as the operator its status, is read again so often.
const ATTEMPTS: u32 = 20;
/// Handlers that are listed at a time: their code comes along, and is not to fill the memory.
const PAGE: u32 = 50;
/// Whose fields those of a new Handler are.
const MANAGER: &str = "openlambda-lard";

/// The Handlers of a `LambdaCluster`.
#[derive(Clone)]
pub struct Handlers {
    client: Client,
    scope: Scope,
}

/// What is looked at of one.
#[derive(kube::Resource, Clone, Debug, Deserialize)]
#[resource(inherit = "Handler")]
pub struct View {
    metadata: ObjectMeta,
    spec: SpecView,
    #[serde(default)]
    status: Option<HandlerStatus>,
}

#[derive(Clone, Debug, Deserialize)]
struct SpecView {
    cluster: Option<String>,
    #[serde(default)]
    source: SourceView,
}

/// Where its code is; of all but a bundle only whether it is there.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SourceView {
    bundle: Option<BundleSource>,
    inline: Option<IgnoredAny>,
    files: Option<IgnoredAny>,
    config_map: Option<IgnoredAny>,
    http: Option<IgnoredAny>,
}

/// A Handler that names a bundle, and the generation that does.
pub struct Pointed {
    generation: i64,
    bundle: BundleSource,
}

impl View {
    /// Where its code is if it was not uploaded.
    pub fn elsewhere(&self) -> Option<&'static str> {
        let source = &self.spec.source;
        let forms = [
            ("inline", &source.inline),
            ("files", &source.files),
            ("configMap", &source.config_map),
            ("http", &source.http),
        ];
        forms.into_iter().find_map(|(name, form)| form.as_ref().map(|_| name))
    }
}

impl Handlers {
    /// Those that this lard's `LambdaCluster` serves.
    pub fn new(client: Client, scope: Scope) -> Self {
        Self { client, scope }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + DeserializeOwned
            + std::fmt::Debug,
    {
        Api::namespaced(self.client.clone(), &self.scope.namespace)
    }

    /// Whether it is one of this `LambdaCluster`'s.
    pub fn is_ours(&self, view: &View) -> bool {
        uploaded::is_of(view.spec.cluster.as_deref(), &self.scope.cluster)
    }

    /// The one of this name, whoever serves it.
    pub async fn find(&self, handler: &HandlerName) -> Result<Option<View>, Failure> {
        ask(self.api::<View>().get_opt(handler.as_str())).await?.map_err(|error| of_api(&error))
    }

    /// Whether an upload may serve under this name. Asked before anything is kept of it.
    pub async fn may_take(&self, handler: &HandlerName) -> Result<(), Failure> {
        self.takeable(handler).await.map(drop)
    }

    async fn takeable(&self, handler: &HandlerName) -> Result<Option<View>, Failure> {
        let found = self.find(handler).await?;
        if found.as_ref().is_some_and(|view| !self.is_ours(view)) {
            let name = handler.as_str();
            let message = format!(
                "the Handler \"{name}\" belongs to another LambdaCluster of the namespace: upload under another name"
            );
            return Err(Failure::new(Reason::Conflict, message));
        }
        Ok(found)
    }

    /// The bundle that a Handler of ours names, as its key below the namespace and its digest.
    pub async fn bundle(&self, handler: &HandlerName) -> Result<Option<(String, String)>, Failure> {
        let found = self.find(handler).await?;
        let Some(view) = found.filter(|view| self.is_ours(view)) else { return Ok(None) };
        let bundle = view.spec.source.bundle.as_ref();
        let key = bundle.and_then(|bundle| uploaded::key(&self.scope.namespace, bundle).zip(Some(bundle)));
        let Some((key, bundle)) = key else { return Err(not_uploaded(handler, &view)) };
        Ok(Some((key.to_owned(), bundle.digest.as_str().to_owned())))
    }

    /// The names of those of ours that were uploaded.
    pub async fn list(&self) -> Result<Vec<String>, Failure> {
        let (api, mut names) = (self.api::<View>(), Vec::new());
        let mut page = ListParams::default().limit(PAGE);
        loop {
            let list = ask(api.list(&page)).await?.map_err(|error| of_api(&error))?;
            let ours = list.items.iter().filter(|one| self.is_ours(one) && one.spec.source.bundle.is_some());
            names.extend(ours.map(ResourceExt::name_any));
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break,
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Has a Handler name this revision; makes it if there is none. Of uploads at the same time, at whichever lard, the last
    /// one in the registry's record wins: so the Handler must still be what it was when the record was read.
    pub async fn point(
        &self,
        store: &Store,
        handler: &HandlerName,
        revision: &Revision,
    ) -> Result<Pointed, Failure> {
        let bundle = uploaded::source(&self.scope.namespace, &revision.key, revision.digest.as_str());
        for _ in 0..ATTEMPTS {
            let found = self.takeable(handler).await?;
            let record = store.record(handler).await.map_err(|error| of_store(&error))?;
            let wanted = record.as_ref().and_then(|record| record.serving());
            if wanted.is_none_or(|wanted| wanted.number != revision.number) {
                return Err(overtaken(handler, revision));
            }
            match self.write(handler, found.as_ref(), &bundle).await? {
                Ok(generation) => return Ok(Pointed { generation, bundle }),
                // Somebody else was faster: with the Handler, or with its end.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(of_api(&error)),
            }
        }
        let message =
            format!("the Handler \"{}\" kept changing while it was written: try again", handler.as_str());
        Err(Failure::new(Reason::ApiServerUnavailable, message))
    }

    async fn write(
        &self,
        handler: &HandlerName,
        found: Option<&View>,
        bundle: &BundleSource,
    ) -> Result<Result<i64, kube::Error>, Failure> {
        let written = match found {
            Some(found) => {
                let mut edit = uploaded::edit(bundle);
                edit["metadata"] = json!({"resourceVersion": found.metadata.resource_version});
                let (api, parameters) = (self.api::<View>(), PatchParams::default());
                let written = ask(api.patch(handler.as_str(), &parameters, &Patch::Merge(&edit))).await?;
                written.map(|view| view.metadata)
            }
            None => {
                let object = uploaded::object(handler.as_str(), &self.scope.cluster, bundle);
                let object: Handler = serde_json::from_value(object)
                    .map_err(|error| Failure::new(Reason::Internal, format!("no Handler: {error}")))?;
                let parameters =
                    PostParams { field_manager: Some(MANAGER.to_owned()), ..PostParams::default() };
                let written = ask(self.api::<Handler>().create(&parameters, &object)).await?;
                written.map(|handler| handler.metadata)
            }
        };
        Ok(written.map(|metadata| metadata.generation.unwrap_or_default()))
    }

    /// Deletes one that was found, and not another that has come in its place.
    pub async fn remove(&self, handler: &HandlerName, found: &View) -> Result<(), Failure> {
        let same = Preconditions { uid: found.metadata.uid.clone(), resource_version: None };
        let parameters = DeleteParams::background().preconditions(same);
        match ask(self.api::<View>().delete(handler.as_str(), &parameters)).await? {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(of_api(&error)),
        }
    }

    /// Waits until a status says what came of it, and tells that; or what it says when the time is up.
    pub async fn wait(&self, handler: &HandlerName, pointed: &Pointed) -> Told {
        let until = Instant::now() + SERVES_WITHIN;
        loop {
            let so_far = match self.find(handler).await {
                Ok(Some(view)) if view.spec.source.bundle.as_ref() != Some(&pointed.bundle) => {
                    return Told { serves: false, message: MEANWHILE.to_owned(), ..uploaded::so_far(None) };
                }
                Ok(Some(view)) => match uploaded::told(view.status.as_ref(), pointed.generation) {
                    Some(told) => return told,
                    None => uploaded::so_far(view.status.as_ref()),
                },
                Ok(None) => return Told { message: DELETED.to_owned(), ..uploaded::so_far(None) },
                Err(failure) => Told { message: failure.message, ..uploaded::so_far(None) },
            };
            if Instant::now() + LOOK_EVERY >= until {
                let within = SERVES_WITHIN.as_secs();
                let message =
                    format!("is not done within {within} s, and goes on by itself: {}", so_far.message);
                return Told { message, ..so_far };
            }
            sleep(LOOK_EVERY).await;
        }
    }
}

const MEANWHILE: &str = "the Handler names other code by now";
const DELETED: &str = "the Handler was deleted meanwhile";

async fn ask<T>(question: impl Future<Output = T>) -> Result<T, Failure> {
    let within = ANSWERS_WITHIN.as_secs();
    timeout(ANSWERS_WITHIN, question).await.map_err(|_| {
        let message = format!("the Kubernetes API server does not answer within {within} s");
        Failure::new(Reason::ApiServerUnavailable, message)
    })
}

/// Its code is not in the registry.
pub fn not_uploaded(handler: &HandlerName, view: &View) -> Failure {
    let name = handler.as_str();
    let place = match view.elsewhere() {
        Some(form) => format!("its code is in spec.source.{form}"),
        None => "its bundle is not one of this namespace's uploads".to_owned(),
    };
    let message = format!(
        "the Handler \"{name}\" was not uploaded, {place}: kubectl get handler {name} -o yaml shows it"
    );
    Failure::new(Reason::Conflict, message)
}

fn overtaken(handler: &HandlerName, revision: &Revision) -> Failure {
    let (name, number) = (handler.as_str(), revision.number);
    let message = format!(
        "revision {number} of \"{name}\" does not serve: somebody uploaded, went back or deleted meanwhile"
    );
    Failure::new(Reason::Conflict, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_code_is_is_told_without_reading_it() {
        let of = |source: serde_json::Value| {
            let value = json!({
                "apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": "h"},
                "spec": {"source": source},
            });
            let view: View = serde_json::from_value(value).unwrap();
            not_uploaded(&HandlerName::parse("h").unwrap(), &view).message
        };
        for (source, part) in [
            (json!({"inline": "x"}), "its code is in spec.source.inline"),
            (json!({"files": {"f.py": "x"}}), "spec.source.files"),
            (json!({"configMap": {"name": "c"}}), "spec.source.configMap"),
            (json!({"http": {"url": "u", "digest": "d"}}), "spec.source.http"),
            (json!({"bundle": {"key": "elsewhere/x", "digest": "d"}}), "not one of this namespace's uploads"),
        ] {
            let said = of(source);
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
