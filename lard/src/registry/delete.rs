//! The end of a handler in the registry, and with it at the workers.

use std::path::Path;

use hyper::StatusCode;
use openlambda_api::HandlerName;
use openlambda_api::look::Wanted;
use openlambda_store::Store;
use serde_json::json;

use super::failure::of_store;
use super::handlers::not_uploaded;
use super::{Answer, Handlers, RegistryApi, tell, unknown};
use crate::gateway::Gateway;
use crate::reply::Failure;

/// Removes it with all revisions.
pub async fn run(api: &RegistryApi, gateway: &Gateway, handler: HandlerName) -> Result<Answer, Failure> {
    let (work, store, name) = (api.place()?, api.store.clone(), handler.clone());
    let handlers = api.handlers.clone();
    let (deleted, _work) = work
        .ask(async move |_: &Path| match handlers {
            Some(handlers) => remove(&handlers, &store, &name).await,
            None => store.delete(&name).await.map_err(|error| of_store(&error)),
        })
        .await?;
    if !deleted? {
        return Err(unknown(&handler));
    }
    tracing::info!(handler = handler.as_str(), "deleted");
    let mut answer = json!({"handler": handler.as_str()});
    if api.handlers.is_none() {
        answer["workers"] = json!(tell::all(gateway, &handler, Wanted::Gone).await);
    }
    Ok(Answer::Json(StatusCode::OK, answer))
}

/// Deletes a Handler, then what the registry has of it; whether there was one of both. Both are asked before: if one does
/// not answer, the other stays as it is.
async fn remove(handlers: &Handlers, store: &Store, handler: &HandlerName) -> Result<bool, Failure> {
    let found = handlers.find(handler).await?;
    store.record(handler).await.map_err(|error| of_store(&error))?;
    if let Some(view) = &found {
        if !handlers.is_ours(view) {
            return Ok(false);
        }
        if view.elsewhere().is_some() {
            return Err(not_uploaded(handler, view));
        }
        handlers.remove(handler, view).await?;
    }
    let deleted = store.delete(handler).await.map_err(|error| of_store(&error))?;
    Ok(deleted || found.is_some())
}
