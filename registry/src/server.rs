//! The port: who may come in, and how long they may take.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use openlambda_config::registry::Keys;
use openlambda_telemetry::Drain;
use s3s::auth::{SecretKey, SimpleAuth};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{Body, HttpError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::bucket::Bucket;

/// Connections at a time; more wait to be taken.
const CONNECTIONS: usize = 512;
/// Time for a request's head, and between two requests.
const HEAD: Duration = Duration::from_secs(30);
/// Time for a request with its body.
const REQUEST: Duration = Duration::from_secs(300);
/// After a failure to take a connection, as when there are no descriptors left.
const BREATH: Duration = Duration::from_millis(100);

/// The service of a bucket, for who has the keys.
pub fn service(bucket: Bucket, keys: &Keys) -> S3Service {
    let mut builder = S3ServiceBuilder::new(bucket);
    let secret = SecretKey::from(keys.secret.expose());
    builder.set_auth(SimpleAuth::from_single(keys.access.clone(), secret));
    builder.build()
}

/// Serves until the drain begins; connections then end after the request that they are at.
pub async fn serve(listener: TcpListener, service: S3Service, drain: Drain) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = drain.begun() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let (service, ends) = (service.clone(), drain.clone());
                drain.spawn(async move {
                    connection(stream, service, ends).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(BREATH).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, service: S3Service, drain: Drain) {
    let answer = service_fn(move |request| answer(service.clone(), request));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), answer));
    tokio::select! {
        // A client that went away is no news.
        _ = connection.as_mut() => return,
        () = drain.begun() => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}

type Answer = Response<http_body_util::combinators::UnsyncBoxBody<Bytes, s3s::StdError>>;

async fn answer(service: S3Service, request: Request<Incoming>) -> Result<Answer, Infallible> {
    if request.method() == Method::GET && request.uri().path() == "/status" {
        return Ok(plain(200, "ready\n"));
    }
    let answered = tokio::time::timeout(REQUEST, service.call(request.map(Body::from))).await;
    Ok(match answered {
        Ok(Ok(response)) => response.map(|body| body.map_err(Into::into).boxed_unsync()),
        Ok(Err(error)) => {
            tracing::warn!(error = %shown(&error), "a request failed");
            plain(500, "the registry failed\n")
        }
        Err(_) => plain(408, "the request took too long\n"),
    })
}

fn shown(error: &HttpError) -> String {
    format!("{error:?}")
}

fn plain(status: u16, text: &'static str) -> Answer {
    let body = Full::new(Bytes::from_static(text.as_bytes()));
    let mut response = Response::new(body.map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    response
}
