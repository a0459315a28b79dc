//! The admin port: `/metrics`, `/livez`, `/readyz` and what a binary adds.
//!
//! It runs on one thread with a runtime of its own, so a busy or stuck data path can still be looked at.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::thread::JoinHandle;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio_util::sync::CancellationToken;

use crate::metrics::{self, Registry};
use crate::readiness::Readiness;

/// How long open requests may take after the end was asked for.
const GRACE: Duration = Duration::from_secs(1);

/// Why the admin port could not be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve the admin port {address}: {source}")]
pub struct AdminError {
    address: String,
    source: io::Error,
}

/// The three standard paths; merge a binary's own with [`Router::merge`].
pub fn router(registry: Registry, readiness: Readiness) -> Router {
    Router::new()
        .route("/metrics", get(metrics_text).with_state(registry))
        .route("/livez", get(async || "ok\n"))
        .route("/readyz", get(ready).with_state(readiness))
}

async fn metrics_text(State(registry): State<Registry>) -> Response {
    match registry.encode() {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let pending = readiness.pending();
    if pending.is_empty() {
        return "ok\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready, waiting for: {}\n", pending.join(", ")))
        .into_response()
}

/// A served admin port; it ends when this is dropped.
#[derive(Debug)]
pub struct AdminServer {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl AdminServer {
    /// Serves `router` on `listener` (already bound, so that a port in use is the caller's error) from a thread of
    /// its own.
    pub fn start(listener: TcpListener, router: Router) -> Result<Self, AdminError> {
        let address = listener.local_addr().map_err(|source| failed("(unknown)", source))?;
        let name = address.to_string();
        let wrap = |source| failed(&name, source);
        listener.set_nonblocking(true).map_err(wrap)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrap)?;
        let listener = {
            let _entered = runtime.enter();
            tokio::net::TcpListener::from_std(listener).map_err(wrap)?
        };
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = std::thread::Builder::new()
            .name("admin".into())
            .spawn(move || runtime.block_on(serve(listener, router, token)))
            .map_err(wrap)?;
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Where it listens; tells the port when the listener was bound to port 0.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for AdminServer {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take() {
            // The thread ends at latest after GRACE; if it panicked it has said so itself.
            let _ = thread.join();
        }
    }
}

async fn serve(listener: tokio::net::TcpListener, router: Router, stop: CancellationToken) {
    let server = axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    let too_late = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = server => if let Err(error) = served {
            tracing::error!(%error, "the admin port ended");
        },
        () = too_late => {}
    }
}

fn failed(address: &str, source: io::Error) -> AdminError {
    AdminError { address: address.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn ask(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[test]
    fn standard_and_added_paths_answer() {
        let (registry, readiness) = (Registry::new("test").unwrap(), Readiness::new());
        let router = router(registry, readiness.clone()).route("/targets", get(async || "none"));
        let server = AdminServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), router).unwrap();
        let blockers = (readiness.block("root Zygote"), readiness.block("port"));
        let answer = ask(server.address(), "/readyz");
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(answer.ends_with("not ready, waiting for: root Zygote, port\n"), "{answer}");
        drop(blockers);
        assert!(ask(server.address(), "/readyz").starts_with("HTTP/1.1 200"));
        assert!(ask(server.address(), "/livez").ends_with("ok\n"));
        assert!(ask(server.address(), "/metrics").contains("openlambda_build_info{component=\"test\""));
        assert!(ask(server.address(), "/targets").ends_with("none"));
        assert!(ask(server.address(), "/nothing").starts_with("HTTP/1.1 404"));
    }

    #[test]
    fn dropping_frees_the_port_even_with_an_open_connection() {
        let registry = Registry::new("test").unwrap();
        let router = router(registry, Readiness::new());
        let server = AdminServer::start(TcpListener::bind("127.0.0.1:0").unwrap(), router).unwrap();
        let address = server.address();
        let _half_open = TcpStream::connect(address).unwrap();
        drop(server);
        assert!(TcpStream::connect(address).is_err());
    }
}
