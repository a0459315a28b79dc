//! A port of this machine that leads to a pod's, through the API server.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::explained;

/// The API server has so long to open a way.
const OPENS_WITHIN: Duration = Duration::from_secs(30);

/// Ends with this. Works while the runtime that it was started in does.
#[derive(Debug)]
pub struct Forward {
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Forward {
    /// Listens, once a first connection has shown that it may be done.
    pub async fn start(pods: Api<Pod>, pod: String, port: u16) -> Result<Self> {
        let first = open(&pods, &pod, port).await.with_context(|| {
            format!("no way to the registry's pod {pod}: kubectl describe pod {pod}; it takes the right to get the pod and to create pods/portforward, or --address")
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port")?;
        let address = listener.local_addr().context("no free port")?;
        let serving = tokio::spawn(async move {
            let mut next = Some(first);
            while let Ok((stream, _)) = listener.accept().await {
                let way = match next.take() {
                    Some(way) => Ok(way),
                    None => open(&pods, &pod, port).await,
                };
                // Without a way the connection is closed, which its client sees.
                if let Ok(way) = way {
                    tokio::spawn(pass(stream, way, port));
                }
            }
        });
        Ok(Self { address, serving })
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn open(pods: &Api<Pod>, pod: &str, port: u16) -> Result<Portforwarder> {
    let ports = [port];
    let opening = tokio::time::timeout(OPENS_WITHIN, pods.portforward(pod, &ports));
    let opened = opening.await.with_context(|| format!("no answer within {} s", OPENS_WITHIN.as_secs()))?;
    opened.map_err(|error| explained(&error))
}

async fn pass(mut stream: TcpStream, mut way: Portforwarder, port: u16) {
    let Some(mut there) = way.take_stream(port) else { return };
    // Who talks sees what broke.
    let _ = copy_bidirectional(&mut stream, &mut there).await;
    drop(there);
    let _ = way.join().await;
}
