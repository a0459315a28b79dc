//! One question at an agent's admin port, on a connection of its own. Whoever asks says how long it waits.

use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::HOST;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// The longest answer.
const LONGEST: usize = 16 << 10;

/// Sends a request without a body, and reads the answer.
pub async fn exchange(
    (host, port): &(String, u16),
    method: Method,
    path: &str,
) -> io::Result<(StatusCode, Bytes)> {
    let stream = TcpStream::connect((host.as_str(), *port)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let request = Request::builder().method(method).uri(path).header(HOST, "agent");
    let request = request.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let asking = async move {
        let answer = sender.send_request(request).await.map_err(io::Error::other)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), LONGEST).collect().await.map_err(io::Error::other)?;
        Ok((status, body.to_bytes()))
    };
    let mut asking = std::pin::pin!(asking);
    tokio::select! {
        answer = asking.as_mut() => answer,
        // Its end is the end of the answer, which may have come whole.
        _ = connection => asking.await,
    }
}
