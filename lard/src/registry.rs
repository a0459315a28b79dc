//! The registry's HTTP API of today's OpenLambda, `/registry/…`, for a lard with workers of its own configuration:
//! uploads, deletes, lists and gives back, for whoever has the token.
//!
//! Off, it is a route that says so. On, nothing of it blocks calls: bodies go to a file as they come, and what packs,
//! unpacks, hashes or asks the registry has its own threads, [`AT_ONCE`] at most. What was sent in part leaves nothing behind.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, AUTHORIZATION, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use openlambda_api::look::Wanted;
use openlambda_api::{HandlerName, Reason};
use openlambda_bundle::Manifest;
use openlambda_config::RegistryApiConfig;
use openlambda_config::registry::Secret;
use openlambda_store::{Revision, Store};
use serde_json::{Value, json};
use subtle::ConstantTimeEq as _;
use tokio::sync::Semaphore;

use crate::body;
use crate::gateway::Gateway;
use crate::headers::X_REQUEST_ID;
use crate::reply::{Failure, Reply};
use crate::route::Resource;

mod download;
mod failure;
mod tell;
mod upload;
mod work;

pub use download::Download;
pub use failure::OpenError;
use failure::{of_bundle, of_store};
use work::Work;

/// Requests that are worked on at a time; more are told to come back.
pub const AT_ONCE: usize = 4;
/// After so long.
const COME_BACK: Duration = Duration::from_secs(2);
/// Who asks without the right token is told what is wanted.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"registry\"");

/// What stands before the token.
const SCHEME: &[u8] = b"Bearer ";
/// What an archive that was fetched is called in a working folder.
const FETCHED: &str = "fetched.tar.gz";

/// The registry, and who may use it.
pub struct RegistryApi {
    store: Store,
    token: Secret,
    places: Arc<Semaphore>,
}

/// What goes out besides errors: a status and a body.
enum Answer {
    Json(StatusCode, Value),
    Archive(Download),
}

impl RegistryApi {
    /// Reads the token, and where the registry is. The registry itself is not asked yet.
    pub fn open(config: &RegistryApiConfig) -> Result<Self, OpenError> {
        let token = config.token()?;
        let store = Store::open(&config.place()?)?;
        tracing::info!(place = store.place(), "takes uploads for the registry: /registry/<handler>");
        Ok(Self { store, token, places: Arc::new(Semaphore::new(AT_ONCE)) })
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
        let (scheme, token) = given.split_at_checked(SCHEME.len()).unwrap_or_default();
        scheme.eq_ignore_ascii_case(SCHEME) && bool::from(token.ct_eq(self.token.expose().as_bytes()))
    }

    fn place(&self) -> Result<Work, Failure> {
        let permit = Arc::clone(&self.places).try_acquire_owned().map_err(|_| Failure {
            retry_after: Some(COME_BACK),
            ..Failure::new(
                Reason::ConcurrencyExceeded,
                format!("{AT_ONCE} requests to the registry are worked on already: try again"),
            )
        })?;
        Work::new(permit).map_err(|error| of_bundle(&error))
    }
}

/// Answers a request for `/registry/…`.
pub async fn answer(
    gateway: &Gateway,
    id: &HeaderValue,
    resource: Resource,
    request: Request<Incoming>,
) -> Response<Reply> {
    let (head, mut incoming) = request.into_parts();
    let api = match admit(gateway, &resource, &head) {
        Ok(api) => api,
        Err(refusal) => return refuse(id, refusal, &head.headers, &mut incoming).await,
    };
    let answered = match (resource, head.method) {
        (Resource::Handler(handler), Method::POST) => {
            let uploaded = upload::run(api, gateway, &handler, &mut incoming).await;
            if uploaded.is_err() && !head.headers.contains_key(EXPECT) {
                body::discard(&mut incoming).await;
            }
            uploaded
        }
        (Resource::Handler(handler), Method::DELETE) => delete(api, gateway, handler).await,
        (Resource::Handler(handler), _) => archive(api, gateway, handler).await,
        (Resource::Config(handler), _) => manifest(api, handler).await,
        (Resource::All, _) => list(api).await,
    };
    answered.map_or_else(|failure| failure.response(id), |answer| answer.response(id))
}

impl Answer {
    fn response(self, id: &HeaderValue) -> Response<Reply> {
        let (status, kind, reply) = match self {
            Self::Json(status, value) => (status, "application/json", Reply::text(format!("{value}\n"))),
            Self::Archive(file) => (StatusCode::OK, "application/gzip", Reply::Download(Box::new(file))),
        };
        let mut response = Response::new(reply);
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response.headers_mut().insert(X_REQUEST_ID, id.clone());
        response
    }
}

/// Why a request is not even looked at, and the header that says what would do.
type Refusal = (Failure, Option<(HeaderName, HeaderValue)>);

/// Whether it is on, who asks, and with which verb; in this order, so that strangers learn nothing.
fn admit<'a>(gateway: &'a Gateway, resource: &Resource, head: &Parts) -> Result<&'a RegistryApi, Refusal> {
    let api = gateway.registry.get().ok_or_else(|| (off(), None))?;
    if !api.knows(&head.headers) {
        return Err((stranger(), Some((WWW_AUTHENTICATE, CHALLENGE))));
    }
    let allowed = allowed(resource);
    if !allowed.split(", ").any(|verb| verb == head.method.as_str()) {
        let failure = wrong_verb(&head.method, allowed);
        return Err((failure, Some((ALLOW, HeaderValue::from_static(allowed)))));
    }
    Ok(api)
}

/// A client that sends a body all the same is to see the answer.
async fn refuse(
    id: &HeaderValue,
    (failure, header): Refusal,
    headers: &HeaderMap,
    incoming: &mut Incoming,
) -> Response<Reply> {
    if !headers.contains_key(EXPECT) {
        body::discard(incoming).await;
    }
    let mut response = failure.response(id);
    response.headers_mut().extend(header);
    response
}

fn off() -> Failure {
    let message = "the registry's API is off: admin load-balancer --registry-api turns it on, or RegistryApi in lard's \
                   configuration; admin upload does without it";
    Failure::new(Reason::NotFound, message)
}

fn stranger() -> Failure {
    let message = "the registry's API wants the header \"Authorization: Bearer TOKEN\", with the token of the file \
                   that RegistryApi.TokenFile names";
    Failure::new(Reason::Unauthorized, message)
}

fn allowed(resource: &Resource) -> &'static str {
    match resource {
        Resource::Handler(_) => "GET, POST, DELETE",
        Resource::All | Resource::Config(_) => "GET",
    }
}

fn wrong_verb(method: &Method, allowed: &str) -> Failure {
    Failure::new(Reason::MethodNotAllowed, format!("{method} is not allowed here: {allowed} are"))
}

fn unknown(handler: &HandlerName) -> Failure {
    let message = format!("the registry has no handler \"{}\": GET /registry/ lists them", handler.as_str());
    Failure::new(Reason::HandlerNotFound, message)
}

async fn list(api: &RegistryApi) -> Result<Answer, Failure> {
    let (work, store) = (api.place()?, api.store.clone());
    let (listed, _work) = work.ask(async move |_: &Path| store.handlers().await).await?;
    let names: Vec<_> = listed.map_err(|error| of_store(&error))?.into_iter().map(|one| one.name).collect();
    let names: Vec<_> = names.iter().map(HandlerName::as_str).collect();
    Ok(Answer::Json(StatusCode::OK, json!(names)))
}

async fn delete(api: &RegistryApi, gateway: &Gateway, handler: HandlerName) -> Result<Answer, Failure> {
    let (work, store, name) = (api.place()?, api.store.clone(), handler.clone());
    let (deleted, _work) = work.ask(async move |_: &Path| store.delete(&name).await).await?;
    if !deleted.map_err(|error| of_store(&error))? {
        return Err(unknown(&handler));
    }
    tracing::info!(handler = handler.as_str(), "deleted");
    let workers = tell::all(gateway, &handler, Wanted::Gone).await;
    Ok(Answer::Json(StatusCode::OK, json!({"handler": handler.as_str(), "workers": workers})))
}

/// Fetches and verifies the archive that serves, into a working folder.
async fn fetch(api: &RegistryApi, handler: HandlerName) -> Result<(Revision, Work), Failure> {
    let (work, store, name) = (api.place()?, api.store.clone(), handler.clone());
    let (fetched, work) = work
        .ask(async move |folder: &Path| {
            let Some(serving) = store.record(&name).await?.and_then(|record| record.serving().cloned())
            else {
                return Ok(None);
            };
            store.fetch(&serving.key, &serving.digest, &folder.join(FETCHED)).await?;
            Ok(Some(serving))
        })
        .await?;
    let revision = fetched.map_err(|error| of_store(&error))?.ok_or_else(|| unknown(&handler))?;
    Ok((revision, work))
}

async fn archive(api: &RegistryApi, gateway: &Gateway, handler: HandlerName) -> Result<Answer, Failure> {
    let (_, work) = fetch(api, handler).await?;
    let download = Download::open(work, FETCHED, gateway.settings.body_timeout).await;
    Ok(Answer::Archive(download.map_err(|error| of_bundle(&error))?))
}

async fn manifest(api: &RegistryApi, handler: HandlerName) -> Result<Answer, Failure> {
    let (revision, work) = fetch(api, handler.clone()).await?;
    let (read, _work) = work
        .block(|folder| {
            let (archive, unpacked) = (folder.join(FETCHED), folder.join("unpacked"));
            let local = |error| openlambda_bundle::BundleError::io(folder, error);
            std::fs::create_dir(&unpacked).map_err(local)?;
            openlambda_bundle::unpack(std::fs::File::open(archive).map_err(local)?, &unpacked)?;
            Manifest::of(&unpacked)
        })
        .await?;
    let manifest = read.map_err(|error| of_bundle(&error))?;
    let mut value =
        json!({"handler": handler.as_str(), "revision": revision.number, "digest": revision.digest});
    if let (Some(all), Ok(Value::Object(own))) = (value.as_object_mut(), serde_json::to_value(&manifest)) {
        all.extend(own);
    }
    Ok(Answer::Json(StatusCode::OK, value))
}
