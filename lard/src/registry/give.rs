//! What there is in the registry: names, the archive that serves, and what that says of itself.

use std::fs::{self, File};
use std::path::Path;

use hyper::StatusCode;
use openlambda_api::{HandlerName, Reason};
use openlambda_bundle::{BundleError, Digest, Manifest, unpack};
use openlambda_store::Store;
use serde_json::{Value, json};

use super::failure::{of_bundle, of_store};
use super::work::Work;
use super::{Answer, Download, Handlers, RegistryApi, unknown};
use crate::gateway::Gateway;
use crate::reply::Failure;

/// What an archive that was fetched is called in a working folder.
const FETCHED: &str = "fetched.tar.gz";

/// An archive that was fetched.
struct Fetched {
    digest: Digest,
    /// Its number in the handler's record, if that has it still.
    revision: Option<u64>,
}

/// The names of all.
pub async fn list(api: &RegistryApi) -> Result<Answer, Failure> {
    let (work, store, handlers) = (api.place()?, api.store.clone(), api.handlers.clone());
    let (listed, _work) = work
        .ask(async move |_: &Path| match handlers {
            Some(handlers) => handlers.list().await,
            None => {
                let all = store.handlers().await.map_err(|error| of_store(&error))?;
                Ok(all.into_iter().map(|one| one.name.as_str().to_owned()).collect())
            }
        })
        .await?;
    Ok(Answer::Json(StatusCode::OK, json!(listed?)))
}

/// Fetches and verifies the archive that serves, into a working folder.
async fn fetch(api: &RegistryApi, handler: HandlerName) -> Result<(Fetched, Work), Failure> {
    let (work, store, name) = (api.place()?, api.store.clone(), handler.clone());
    let handlers = api.handlers.clone();
    let (fetched, work) = work
        .ask(async move |folder: &Path| {
            let Some((key, digest)) = serving(handlers.as_ref(), &store, &name).await? else {
                return Ok(None);
            };
            let fetched = store.fetch(&key, &digest, &folder.join(FETCHED)).await;
            fetched.map_err(|error| of_store(&error))?;
            let record = store.record(&name).await.map_err(|error| of_store(&error))?;
            let mut all = record.iter().flat_map(|record| &record.revisions);
            let revision = all.find(|one| one.key == key).map(|one| one.number);
            Ok(Some(Fetched { digest, revision }))
        })
        .await?;
    let fetched = fetched?.ok_or_else(|| unknown(&handler))?;
    Ok((fetched, work))
}

/// What serves, as its key in the registry and its digest.
async fn serving(
    handlers: Option<&Handlers>,
    store: &Store,
    handler: &HandlerName,
) -> Result<Option<(String, Digest)>, Failure> {
    let Some(handlers) = handlers else {
        let record = store.record(handler).await.map_err(|error| of_store(&error))?;
        let serving = record.and_then(|record| record.serving().cloned());
        return Ok(serving.map(|serving| (serving.key, serving.digest)));
    };
    let Some((key, digest)) = handlers.bundle(handler).await? else { return Ok(None) };
    let digest = Digest::parse(&digest).map_err(|error| {
        Failure::new(
            Reason::Conflict,
            format!("the Handler \"{}\": spec.source.bundle: {error}", handler.as_str()),
        )
    })?;
    Ok(Some((key, digest)))
}

/// The archive that serves.
pub async fn archive(api: &RegistryApi, gateway: &Gateway, handler: HandlerName) -> Result<Answer, Failure> {
    let (_, work) = fetch(api, handler).await?;
    let download = Download::open(work, FETCHED, &gateway.settings).await;
    Ok(Answer::Archive(download.map_err(|error| of_bundle(&error))?))
}

/// What its `ol.yaml` says.
pub async fn manifest(api: &RegistryApi, handler: HandlerName) -> Result<Answer, Failure> {
    let (fetched, work) = fetch(api, handler.clone()).await?;
    let (read, _work) = work
        .block(|folder| {
            let (archive, unpacked) = (folder.join(FETCHED), folder.join("unpacked"));
            let local = |error| BundleError::io(folder, error);
            fs::create_dir(&unpacked).map_err(local)?;
            unpack(File::open(archive).map_err(local)?, &unpacked)?;
            Manifest::of(&unpacked)
        })
        .await?;
    let manifest = read.map_err(|error| of_bundle(&error))?;
    let mut value =
        json!({"handler": handler.as_str(), "revision": fetched.revision, "digest": fetched.digest});
    if let (Some(all), Ok(Value::Object(own))) = (value.as_object_mut(), serde_json::to_value(&manifest)) {
        all.extend(own);
    }
    Ok(Answer::Json(StatusCode::OK, value))
}
