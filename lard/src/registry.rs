//! The registry's HTTP API of today's OpenLambda, `/registry/…`: uploads, deletes, lists and gives back, for whoever has
//! the token. Workers of lard's own configuration are told; in Kubernetes Handlers are what it makes, changes and deletes, and
//! what they name is what there is ([`Handlers`]).
//!
//! Off, it is a route that says so. On, nothing of it blocks calls: bodies go to a file as they come, and what packs,
//! unpacks, hashes or asks the registry has its own threads, [`AT_ONCE`] at most. What was sent in part leaves nothing behind.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, EXPECT, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use openlambda_api::{HandlerName, Reason};
use openlambda_config::RegistryApiConfig;
use openlambda_store::Store;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;

use crate::body;
use crate::gateway::Gateway;
use crate::headers::X_REQUEST_ID;
use crate::reply::{Failure, Reply};
use crate::route::Resource;

mod delete;
mod download;
mod failure;
mod folder;
mod give;
mod handlers;
mod tell;
mod token;
mod upload;
mod work;

pub use download::Download;
pub use failure::OpenError;
use failure::of_bundle;
pub use handlers::Handlers;
use token::Token;
use work::Work;

/// Requests that are worked on at a time; more are told to come back.
pub const AT_ONCE: usize = 4;
/// After so long.
const COME_BACK: Duration = Duration::from_secs(2);
/// Who asks without the right token is told what is wanted.
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer realm=\"registry\"");

/// The registry, and who may use it.
pub struct RegistryApi {
    store: Store,
    token: Token,
    places: Arc<Semaphore>,
    /// In Kubernetes.
    handlers: Option<Handlers>,
}

/// What goes out besides errors: a status and a body.
enum Answer {
    Json(StatusCode, Value),
    Archive(Download),
}

impl RegistryApi {
    /// Reads the token, and where the registry is. The registry itself is not asked yet. In Kubernetes (`handlers`) the token may
    /// come later: calls do not wait for a Secret.
    pub fn open(config: &RegistryApiConfig, handlers: Option<Handlers>) -> Result<Self, OpenError> {
        let token = Token::open(config.clone(), handlers.is_some())?;
        let store = Store::open(&config.place()?)?;
        tracing::info!(place = store.place(), "takes uploads for the registry: /registry/<handler>");
        Ok(Self { store, token, places: Arc::new(Semaphore::new(AT_ONCE)), handlers })
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

/// Removes what a lard that was killed has left, and follows the token for ever.
pub async fn follow(gateway: Arc<Gateway>) {
    let Some(api) = gateway.registry.get() else { return };
    // If it panicked it has said so itself.
    let _ = spawn_blocking(folder::sweep).await;
    loop {
        tokio::time::sleep(token::EVERY).await;
        api.token.look().await;
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
        (Resource::Handler(handler), Method::DELETE) => delete::run(api, gateway, handler).await,
        (Resource::Handler(handler), _) => give::archive(api, gateway, handler).await,
        (Resource::Config(handler), _) => give::manifest(api, handler).await,
        (Resource::All, _) => give::list(api).await,
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
    if !api.token.is_there() {
        return Err((closed(), None));
    }
    if !api.token.is_in(&head.headers) {
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
                   configuration, or in Kubernetes spec.loadBalancer.registryAPI of the LambdaCluster; admin upload does \
                   without it";
    Failure::new(Reason::NotFound, message)
}

fn closed() -> Failure {
    let message = "the registry's API has no token, so nobody can use it: its file is missing or wrong, lard's log says how; \
                   in Kubernetes the Secret of spec.loadBalancer.registryAPI.token must have it under the key token";
    Failure::new(Reason::RegistryUnavailable, message)
}

fn stranger() -> Failure {
    let message = "the registry's API wants the header \"Authorization: Bearer TOKEN\", with the token of the file \
                   that RegistryApi.TokenFile names, in Kubernetes of the Secret of spec.loadBalancer.registryAPI.token";
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
