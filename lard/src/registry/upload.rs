//! An upload: from the client into a file, looked into as every worker will, to the registry, and then the workers are told,
//! or in Kubernetes the Handler is.

use std::fs::File;
use std::io::BufReader;

use http_body::Body as _;
use hyper::StatusCode;
use hyper::body::Incoming;
use openlambda_api::look::Wanted;
use openlambda_api::{HandlerName, Reason};
use openlambda_bundle::{BundleError, MAX_ARCHIVE, ORIGINAL, Packed};
use openlambda_store::Uploaded;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::failure::{of_bundle, of_store};
use super::handlers::Pointed;
use super::work::Work;
use super::{Answer, RegistryApi, tell};
use crate::body::{self, BodyError};
use crate::gateway::Gateway;
use crate::reply::Failure;

/// What arrives, in the working folder.
const ARRIVED: &str = "arrived";

/// Takes what is uploaded. Once the registry is asked it goes on even if the client leaves.
pub async fn run(
    api: &RegistryApi,
    gateway: &Gateway,
    handler: &HandlerName,
    incoming: &mut Incoming,
) -> Result<Answer, Failure> {
    if incoming.size_hint().exact().is_some_and(|length| length > MAX_ARCHIVE) {
        return Err(too_large());
    }
    let work = api.place()?;
    receive(gateway, incoming, &work).await?;
    let (packed, work) = work
        .block(|folder| {
            let arrived = folder.join(ARRIVED);
            let file = File::open(&arrived).map_err(|error| BundleError::io(&arrived, error))?;
            let packed = Packed::stream(&mut BufReader::new(file), ORIGINAL.0, folder)?;
            // If they stay they go with the folder.
            let _ = std::fs::remove_dir_all(&packed.unpacked);
            Ok::<_, BundleError>(packed)
        })
        .await?;
    let packed = packed.map_err(|error| of_bundle(&error))?;
    let notes = packed.manifest.notes.clone();
    let ((uploaded, pointed), _work) = keep(api, handler.clone(), packed, work).await?;
    let revision = uploaded.revision;
    let digest = revision.digest.as_str();
    tracing::info!(handler = handler.as_str(), revision = revision.number, digest, "uploaded");
    let mut answer = json!({
        "handler": handler.as_str(), "revision": revision.number, "new": uploaded.is_new, "digest": digest,
        "bytes": revision.bytes,
    });
    let came_of_it = match api.handlers.as_ref().zip(pointed) {
        Some((handlers, pointed)) => {
            let told = handlers.wait(handler, &pointed).await;
            json!({"serves": told.serves, "agents": told.agents, "message": told.message})
        }
        None => {
            let workers = tell::all(gateway, handler, Wanted::Serves(digest)).await;
            let serves = workers.iter().all(|worker| worker["ok"] == Value::Bool(true));
            json!({"serves": serves, "workers": workers})
        }
    };
    for (key, value) in came_of_it.as_object().into_iter().flatten() {
        answer[key] = value.clone();
    }
    answer["notes"] = json!(notes);
    Ok(Answer::Json(StatusCode::CREATED, answer))
}

/// Has the registry keep it, and in Kubernetes the Handler name it: one without the other would be half an upload.
async fn keep(
    api: &RegistryApi,
    handler: HandlerName,
    packed: Packed,
    work: Work,
) -> Result<((Uploaded, Option<Pointed>), Work), Failure> {
    let (store, handlers) = (api.store.clone(), api.handlers.clone());
    let (kept, work) = work
        .ask(async move |_| {
            if let Some(handlers) = &handlers {
                handlers.may_take(&handler).await?;
            }
            let uploaded = store.upload(&handler, &packed.archive, &packed.digest, &mut |_| {}).await;
            let uploaded = uploaded.map_err(|error| of_store(&error))?;
            let Some(handlers) = &handlers else { return Ok((uploaded, None)) };
            let pointed = handlers.point(&store, &handler, &uploaded.revision).await;
            let pointed = pointed.map_err(|failure| half_done(failure, uploaded.revision.number))?;
            Ok((uploaded, Some(pointed)))
        })
        .await?;
    Ok((kept?, work))
}

/// The API server went away, or refused, in between.
fn half_done(failure: Failure, number: u64) -> Failure {
    if !matches!(failure.reason, Reason::ApiServerUnavailable | Reason::ApiServerRefused) {
        return failure;
    }
    let message = format!(
        "{}; the registry has revision {number}, which the Handler does not name, and what served goes on: send it again \
         once that is over",
        failure.message
    );
    Failure { message, ..failure }
}

/// Writes the body to a file as it comes.
async fn receive(gateway: &Gateway, incoming: &mut Incoming, work: &Work) -> Result<(), Failure> {
    let path = work.path().join(ARRIVED);
    let local = |error| of_bundle(&BundleError::io(&path, error));
    let mut file = tokio::fs::File::create_new(&path).await.map_err(local)?;
    let (settings, mut length) = (&gateway.settings, 0);
    let end = Instant::now() + settings.body_timeout;
    let failed = |error: BodyError| Failure::of_body(&error);
    while let Some(part) = body::next(incoming, settings, end).await.map_err(failed)? {
        length += part.len() as u64;
        if length > MAX_ARCHIVE {
            return Err(too_large());
        }
        file.write_all(&part).await.map_err(local)?;
    }
    file.flush().await.map_err(local)
}

fn too_large() -> Failure {
    let most = MAX_ARCHIVE >> 20;
    let message = format!("an archive may have {most} MiB: leave out what the handler does not need");
    Failure { close: true, ..Failure::new(Reason::PayloadTooLarge, message) }
}
