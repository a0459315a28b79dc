//! What stands behind the balancers in `cargo xtask bench overhead`: so many servers on one thread. Each reads the body and answers
//! as a worker does, with a load report. It prints their addresses, one a line, and runs until it is killed.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the addresses are its only output")]

use std::convert::Infallible;
use std::io;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

const REPORT: HeaderValue = HeaderValue::from_static(
    "TEXT cpu_utilization=0.300, mem_utilization=0.400, named_metrics.inflight=0, named_metrics.queued=0, named_metrics.zygotes=0",
);

async fn answer(request: Request<Incoming>) -> hyper::Result<Response<Full<Bytes>>> {
    let body = request.into_body().collect().await?.to_bytes();
    let mut response = Response::new(Full::new(body));
    response.headers_mut().insert("endpoint-load-metrics", REPORT);
    Ok(response)
}

async fn serve(listener: TcpListener) -> io::Result<Infallible> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
        tokio::spawn(async move {
            // A client that goes away is no concern of an anchor.
            let _ = connection.await;
        });
    }
}

fn main() -> io::Result<()> {
    let count = std::env::args().nth(1).and_then(|count| count.parse().ok()).unwrap_or(1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut servers = tokio::task::JoinSet::new();
        for _ in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            println!("{}", listener.local_addr()?);
            servers.spawn(serve(listener));
        }
        match servers.join_next().await {
            Some(ended) => ended.map_err(io::Error::other)?.map(|never| match never {}),
            None => Ok(()),
        }
    })
}
