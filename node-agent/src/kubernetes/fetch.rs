//! Fetches code from URLs, within bounds of size and time, and compares its digest before anything looks into it.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::LOCATION;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use openlambda_api::conditions::ConditionReason;
use openlambda_api::source::HttpSource;
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256};

use crate::trouble::Trouble;

/// The largest archive.
const MAX_ARCHIVE: u64 = 128 * 1024 * 1024;
/// Time for all of it.
const WHOLE: Duration = Duration::from_secs(120);
/// Time to connect.
const CONNECT: Duration = Duration::from_secs(10);
/// Redirections that are followed.
const REDIRECTIONS: usize = 5;

type Https = Client<HttpsConnector<HttpConnector>, Empty<Bytes>>;

/// Fetches.
#[derive(Debug, Default)]
pub struct Fetcher {
    /// Made at the first use: most namespaces have no handler from a URL.
    client: OnceLock<Https>,
}

/// A fetched file; it is removed when this is dropped.
#[derive(Debug)]
pub struct Fetched(PathBuf);

impl Fetched {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fetched {
    fn drop(&mut self) {
        // If it was never made there is nothing to remove; at the worker's end the whole directory goes.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Fetcher {
    /// Fetches into the file `to`, which does not exist yet, and verifies.
    pub async fn fetch(&self, source: &HttpSource, to: PathBuf) -> Result<Fetched, Trouble> {
        let fetched = Fetched(to);
        let digest = tokio::time::timeout(WHOLE, self.download(&source.url, &fetched.0))
            .await
            .map_err(|_| failed(&source.url, format!("not fetched within {} s", WHOLE.as_secs())))??;
        if digest != source.digest.as_str() {
            let message = format!(
                "{} has the digest {digest}, not {}: correct the digest, or what is at the URL",
                source.url, source.digest
            );
            return Err(Trouble::passing(ConditionReason::DigestMismatch, message));
        }
        Ok(fetched)
    }

    async fn download(&self, url: &str, to: &Path) -> Result<String, Trouble> {
        let mut body = self.get(url).await?.into_body();
        let local = |error: std::io::Error| {
            Trouble::passing(ConditionReason::AgentFailed, format!("{}: {error}", to.display()))
        };
        let mut file = File::create_new(to).map_err(local)?;
        let (mut digest, mut length) = (Sha256::new(), 0);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| failed(url, error))?;
            let Some(data) = frame.data_ref() else { continue };
            length += data.len() as u64;
            if length > MAX_ARCHIVE {
                let message = format!("{url} has more than {} MiB; make it smaller", MAX_ARCHIVE >> 20);
                return Err(Trouble::lasting(ConditionReason::InvalidSource, message));
            }
            digest.update(data);
            // On the thread that serves no calls.
            file.write_all(data).map_err(local)?;
        }
        let hex: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("sha256:{hex}"))
    }

    /// Follows redirections to an answer with a body.
    async fn get(&self, url: &str) -> Result<Response<Incoming>, Trouble> {
        let mut uri: Uri = url.parse().map_err(|error| failed(url, error))?;
        for _ in 0..=REDIRECTIONS {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = uri.clone();
            request.headers_mut().insert(http::header::USER_AGENT, HeaderValue::from_static("openlambda"));
            let response =
                self.client().request(request).await.map_err(|error| failed(url, chain(&error)))?;
            if response.status().is_success() {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).filter(|_| response.status().is_redirection());
            let Some(target) = target else { return Err(failed(url, response.status())) };
            uri = follow(&uri, target).ok_or_else(|| failed(url, "it redirects to what is no URL"))?;
        }
        Err(failed(url, format!("it redirects more than {REDIRECTIONS} times")))
    }

    fn client(&self) -> &Https {
        self.client.get_or_init(|| {
            let mut connector = HttpConnector::new();
            connector.set_connect_timeout(Some(CONNECT));
            connector.enforce_http(false);
            let builder = match HttpsConnectorBuilder::new().with_native_roots() {
                Ok(builder) => builder,
                Err(error) => {
                    tracing::warn!(%error, "no certificate authorities: https URLs cannot be fetched");
                    let nobody = ClientConfig::builder().with_root_certificates(RootCertStore::empty());
                    HttpsConnectorBuilder::new().with_tls_config(nobody.with_no_client_auth())
                }
            };
            let connector = builder.https_or_http().enable_http1().wrap_connector(connector);
            Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector)
        })
    }
}

fn failed(url: &str, why: impl std::fmt::Display) -> Trouble {
    Trouble::passing(ConditionReason::FetchFailed, format!("cannot fetch {url}: {why}"))
}

/// An error with its causes, which is where the interesting part is.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// Where a redirection leads: to a URL, or to a path of the same server.
fn follow(from: &Uri, target: &HeaderValue) -> Option<Uri> {
    let target: Uri = target.to_str().ok()?.parse().ok()?;
    if target.scheme().is_some() {
        return Some(target);
    }
    let path = target.path_and_query().filter(|path| path.as_str().starts_with('/'))?.clone();
    let mut parts = from.clone().into_parts();
    parts.path_and_query = Some(path);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    /// Answers each connection with the next of the given texts; gives its URL.
    fn server(answers: Vec<String>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/code.py", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.push(byte[0]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        url
    }

    fn ok(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    }

    async fn fetch(url: String, digest: &str) -> Result<String, Trouble> {
        // Where nobody has installed one yet. Another test may have.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let work = tempfile::tempdir().unwrap();
        let source = HttpSource { url, digest: digest.into() };
        let fetched = Fetcher::default().fetch(&source, work.path().join("f")).await?;
        Ok(std::fs::read_to_string(fetched.path()).unwrap())
    }

    /// That of "abc".
    const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[tokio::test]
    async fn what_has_the_digest_is_taken_also_from_elsewhere() {
        assert_eq!(fetch(server(vec![ok("abc")]), ABC).await.unwrap(), "abc");
        let elsewhere =
            "HTTP/1.1 302 Found\r\nlocation: /other\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(fetch(server(vec![elsewhere.into(), ok("abc")]), ABC).await.unwrap(), "abc");
    }

    #[tokio::test]
    async fn what_has_not_is_refused_and_what_is_not_there_is_said() {
        let other = fetch(server(vec![ok("abd")]), ABC).await.unwrap_err();
        assert_eq!(other.reason, ConditionReason::DigestMismatch);
        assert!(other.message.contains(ABC), "{other}");
        let missing = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        let missing = fetch(server(vec![missing.into()]), ABC).await.unwrap_err();
        assert_eq!(missing.reason, ConditionReason::FetchFailed);
        assert!(missing.message.contains("404 Not Found") && missing.passing, "{missing}");
        let nobody = fetch("http://127.0.0.1:1/x.py".into(), ABC).await.unwrap_err();
        assert!(nobody.message.contains("refused"), "{nobody}");
    }
}
