//! What the agents say they have: each is asked for all its handlers at once, all of them side by side.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;
use openlambda_api::state::{Excluded, RegistryState, STATE_PATH};
use openlambda_api::{AgentState, HandlerState, labels};

use crate::context::Key;
use crate::metrics::Metrics;

/// An agent that does not answer within this has its last answer stand.
const TIMEOUT: Duration = Duration::from_secs(2);
/// So many are asked at a time.
const AT_ONCE: usize = 64;
/// The largest document: 10,000 handlers with long messages.
const DOCUMENT_MAX: usize = 32 << 20;

/// A pod of an agent, as far as it is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentPod {
    /// Its uid.
    pub uid: String,
    /// The cluster that it belongs to.
    pub cluster: Key,
    /// The node that it is on.
    pub node: String,
    /// Its address.
    pub address: String,
    /// Whether it serves: ready and not about to end.
    pub ready: bool,
}

impl AgentPod {
    /// Of a pod with an address.
    pub fn of(pod: &Pod) -> Option<Self> {
        let status = pod.status.as_ref()?;
        let conditions = status.conditions.as_deref().unwrap_or_default();
        let ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
        Some(Self {
            uid: pod.uid()?,
            cluster: (pod.namespace()?, pod.labels().get(labels::CLUSTER)?.clone()),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default(),
            address: status.pod_ip.clone().filter(|ip| !ip.is_empty())?,
            ready: ready && pod.metadata.deletion_timestamp.is_none(),
        })
    }
}

/// The handlers of one agent by name.
pub type States = HashMap<String, HandlerState>;

/// All agents and what they said last.
pub struct Agents {
    client: Client<HttpConnector, Empty<Bytes>>,
    known: HashMap<String, Known>,
    excluded: Vec<(Key, Excluded)>,
}

/// An agent and what it said last.
#[derive(Clone, Debug, PartialEq)]
pub struct Known {
    /// The pod.
    pub pod: AgentPod,
    /// What it said last; none before its first answer.
    pub states: Option<Arc<States>>,
    /// What it said last of its registry.
    pub registry: Option<RegistryState>,
}

/// What an agent said.
#[derive(Clone, Debug, Default)]
struct Said {
    states: Arc<States>,
    registry: Option<RegistryState>,
}

impl Agents {
    /// None yet.
    pub fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            known: HashMap::new(),
            excluded: Vec::new(),
        }
    }

    /// The agents.
    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    /// The packages that were said, at the last asking, to be in no Zygote, with the cluster of the agent.
    pub fn excluded(&self) -> &[(Key, Excluded)] {
        &self.excluded
    }

    /// Asks the ready ones; whether anything is other than before.
    pub async fn poll(&mut self, pods: &[AgentPod], metrics: &Metrics) -> bool {
        let client = &self.client;
        let asked = pods.iter().filter(|pod| pod.ready);
        let mut answers = stream::iter(asked)
            .map(async |pod| (pod, ask(client, url_of(pod)).await))
            .buffer_unordered(AT_ONCE);
        let (mut heard, mut excluded) = (HashMap::new(), Vec::new());
        while let Some((pod, answer)) = answers.next().await {
            metrics.polled(answer.is_ok());
            match answer {
                Ok(state) => {
                    excluded.extend(state.excluded.into_iter().map(|one| (pod.cluster.clone(), one)));
                    let states = state.handlers.into_iter().map(|handler| (handler.name.clone(), handler));
                    let states = Arc::new(states.collect());
                    heard.insert(pod.uid.clone(), Said { states, registry: state.registry });
                }
                Err(error) => tracing::debug!(%error, "an agent did not say what it has"),
            }
        }
        drop(answers);
        self.excluded = excluded;
        self.take(pods, heard)
    }

    /// Keeps the last word of who did not answer and forgets who is gone.
    fn take(&mut self, pods: &[AgentPod], mut heard: HashMap<String, Said>) -> bool {
        let mut moved = pods.len() != self.known.len();
        let mut next = HashMap::with_capacity(pods.len());
        for pod in pods {
            let old = self.known.remove(&pod.uid);
            let new = match (heard.remove(&pod.uid), &old) {
                (Some(said), _) => {
                    Known { pod: pod.clone(), states: Some(said.states), registry: said.registry }
                }
                (None, Some(old)) => Known { pod: pod.clone(), ..old.clone() },
                (None, None) => Known { pod: pod.clone(), states: None, registry: None },
            };
            moved |= old.is_none_or(|old| old != new);
            next.insert(pod.uid.clone(), new);
        }
        self.known = next;
        moved
    }
}

/// Why an agent's document is not to be had.
#[derive(Debug, thiserror::Error)]
enum AskError {
    #[error("{0}: no answer within {TIMEOUT:?}")]
    Timeout(String),
    #[error("{0}: {1}")]
    Http(String, hyper_util::client::legacy::Error),
    #[error("{0}: status {1}")]
    Status(String, u16),
    #[error("{0}: {1}")]
    Body(String, Box<dyn std::error::Error + Send + Sync>),
}

/// Where an agent's document is.
fn url_of(pod: &AgentPod) -> String {
    let host = if pod.address.contains(':') { format!("[{}]", pod.address) } else { pod.address.clone() };
    format!("http://{host}:{}{STATE_PATH}", labels::ADMIN_PORT)
}

async fn ask(client: &Client<HttpConnector, Empty<Bytes>>, url: String) -> Result<AgentState, AskError> {
    let body = |error: Box<dyn std::error::Error + Send + Sync>| AskError::Body(url.clone(), error);
    let answer = async {
        let uri = url.parse::<http::Uri>().map_err(|error| body(error.into()))?;
        let response = client.get(uri).await.map_err(|error| AskError::Http(url.clone(), error))?;
        if !response.status().is_success() {
            return Err(AskError::Status(url.clone(), response.status().as_u16()));
        }
        let bytes =
            Limited::new(response.into_body(), DOCUMENT_MAX).collect().await.map_err(body)?.to_bytes();
        serde_json::from_slice(&bytes).map_err(|error| body(error.into()))
    };
    tokio::time::timeout(TIMEOUT, answer).await.map_err(|_| AskError::Timeout(url.clone()))?
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(uid: &str) -> AgentPod {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": uid, "namespace": "n", "labels": {"openlambda.dev/cluster": "demo"}},
            "spec": {"nodeName": "node1", "containers": []},
            "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]},
        }))
        .unwrap();
        AgentPod::of(&pod).unwrap()
    }

    #[test]
    fn the_last_word_stands_until_the_pod_is_gone() {
        let mut agents = Agents::new();
        let said = || HashMap::from([("a".to_owned(), Said::default())]);
        assert!(agents.take(&[pod("a"), pod("b")], said()));
        assert!(!agents.take(&[pod("a"), pod("b")], HashMap::new()), "nothing moved");
        assert!(agents.known["a"].states.is_some() && agents.known["b"].states.is_none());
        assert!(agents.take(&[pod("b")], HashMap::new()));
        assert_eq!(agents.all().count(), 1);
    }

    #[test]
    fn addresses_of_both_kinds() {
        assert_eq!(url_of(&pod("a")), "http://10.0.0.1:9080/debug/handlers");
        let six = AgentPod { address: "fd00::1".into(), ..pod("a") };
        assert_eq!(url_of(&six), "http://[fd00::1]:9080/debug/handlers");
    }

    /// Answers one request with the given status line and body; gives the URL.
    async fn answering(status: &'static str, body: &'static str) -> String {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/debug/handlers", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 1024]).await.unwrap();
            let text = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
            stream.write_all(text.as_bytes()).await.unwrap();
        });
        url
    }

    #[tokio::test]
    async fn a_document_is_read_and_anything_else_is_an_error() {
        let client = Agents::new().client;
        let document = r#"{"handlers":[{"name":"a","generation":2,"digest":"sha256:0","state":"Ready"}]}"#;
        let state = ask(&client, answering("200 OK", document).await).await.unwrap();
        assert_eq!(state.handlers[0].generation, 2);
        for (status, body) in
            [("404 Not Found", ""), ("200 OK", "{"), ("200 OK", r#"{"handlers":[{"name":"a"}]}"#)]
        {
            let url = answering(status, body).await;
            let error = ask(&client, url.clone()).await.unwrap_err().to_string();
            assert!(error.starts_with(&url), "{error}");
        }
        assert!(ask(&client, "http://127.0.0.1:1/".to_owned()).await.is_err());
    }
}
