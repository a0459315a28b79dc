//! The worker's port: connections, paths, and the small pages of the original.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::ALLOW;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use openlambda_api::Reason;
use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpStream};

use crate::agent::Agent;
use crate::invoke;
use crate::load::Memory;
use crate::reply::{Answer, Failure, RequestId, seal, text};

/// A client has so long for its headers; an idle connection lives so long as well.
const HEADERS: Duration = Duration::from_secs(10);
/// A client that takes nothing of an answer for so long, in milliseconds, loses it with its connection.
const UNREAD_MS: u32 = 30_000;
/// When no connection can be taken (out of descriptors), the next try is after this.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);
/// Lines of `/history`, as many as the original has.
const HISTORY: usize = 4;
const USAGE: &str = "usage: /rid?query=<letters>, one line each: m free memory in bytes, p processors, i idle CPU in percent\n";

/// Takes connections until the drain begins.
pub async fn serve(agent: Arc<Agent>, listener: TcpListener) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADERS);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = agent.drain.begun() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                agent.drain.spawn(connection(Arc::clone(&agent), builder.clone(), stream));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection(agent: Arc<Agent>, builder: http1::Builder, stream: TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection without TCP_NODELAY");
    }
    if let Err(error) = sockopt::set_tcp_user_timeout(&stream, UNREAD_MS) {
        tracing::debug!(%error, "a connection without a limit for answers that nobody takes");
    }
    let service = service_fn(|request: Request<Incoming>| {
        let agent = &agent;
        async move { Ok::<_, Infallible>(respond(agent, request).await) }
    });
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut begun = pin!(agent.drain.begun());
    let (mut watching, mut draining) = (false, false);
    let result = poll_fn(|cx| {
        // The waker is this task's for good: once it is left there, a look at the flag is enough.
        let begins = if watching { agent.drain.has_begun() } else { begun.as_mut().poll(cx).is_ready() };
        watching = true;
        if begins && !draining {
            draining = true;
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(cx) {
            Poll::Ready(result) => Poll::Ready(result),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    if let Err(error) = result {
        tracing::debug!(%error, "a connection failed");
    }
}

async fn respond(agent: &Arc<Agent>, request: Request<Incoming>) -> Answer {
    let (parts, body) = request.into_parts();
    let id = RequestId::of(&parts.headers);
    let answer = match handler_of(parts.uri.path()) {
        Some(name) => invoke::answer(agent, &parts, body, name, &id).await,
        None => page(agent, &parts.method, parts.uri.path(), parts.uri.query())
            .unwrap_or_else(|failure| failure.answer(&id)),
    };
    seal(answer, id, agent.load.header())
}

/// The handler's name in a path. Nothing is decoded: a name has no character that would need it.
fn handler_of(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/runLambda").or_else(|| path.strip_prefix("/run"))?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest.split_once('/').map_or(rest, |(name, _)| name)),
        None => rest.is_empty().then_some(""),
    }
}

fn page(agent: &Agent, method: &Method, path: &str, query: Option<&str>) -> Result<Answer, Failure> {
    if !matches!(path, "/status" | "/rid" | "/history") {
        let message = format!(
            "there is no {path:?}: call /run/<handler>, /runLambda/<handler>, /status, /rid or /history"
        );
        return Err(Failure::agent(Reason::NotFound, message));
    }
    if *method == Method::OPTIONS {
        let mut answer = text(StatusCode::OK, "");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        return Ok(answer);
    }
    if *method != Method::GET && *method != Method::HEAD {
        return Err(Failure::agent(Reason::MethodNotAllowed, format!("{path} answers GET, not {method}")));
    }
    Ok(match path {
        "/status" => match agent.status() {
            Ok(()) => text(StatusCode::OK, "ready\n"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/rid" => rid(agent, query),
        _ => text(StatusCode::OK, history(agent)),
    })
}

/// Resources in demand: what the original's `/rid` tells.
fn rid(agent: &Agent, query: Option<&str>) -> Answer {
    let letters = query.and_then(|query| query.split('&').find_map(|pair| pair.strip_prefix("query=")));
    let mut lines = String::new();
    for letter in letters.unwrap_or("?").chars() {
        let line = match letter {
            'm' => Memory::now().map_or(0, |memory| memory.available).to_string(),
            'p' => std::thread::available_parallelism().map_or(1, std::num::NonZero::get).to_string(),
            'i' => format!("{:.1}", agent.load.idle() * 100.0),
            _ => return text(StatusCode::BAD_REQUEST, USAGE),
        };
        lines.push_str(&line);
        lines.push('\n');
    }
    if lines.is_empty() {
        return text(StatusCode::BAD_REQUEST, USAGE);
    }
    text(StatusCode::OK, lines)
}

/// The instances used last: handler, and whether a call runs in it now.
fn history(agent: &Agent) -> String {
    let mut lines: Vec<String> = agent
        .pool
        .view()
        .into_iter()
        .take(HISTORY)
        .map(|view| format!("{},{}\n", view.handler, u8::from(view.state == "running")))
        .collect();
    lines.resize(HISTORY, "[cold],0\n".into());
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_from_both_paths_and_not_decoded() {
        for (path, name) in [
            ("/runLambda/hello", Some("hello")),
            ("/run/hello/sub/path", Some("hello")),
            ("/run/../status", Some("..")),
            ("/run/a%00", Some("a%00")),
            ("/run/", Some("")),
            ("/run", Some("")),
            ("/runLambda", Some("")),
            ("/running/x", None),
            ("/runLambdas", None),
            ("/status", None),
        ] {
            assert_eq!(handler_of(path), name, "{path}");
        }
    }
}
