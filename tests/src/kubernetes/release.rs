//! The operator, installed by helm, with a LambdaCluster of its own.

use std::net::SocketAddr;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Namespace, chart, helm, image_tag};
use crate::load::Connection;
use crate::wait::until;
use crate::{Request, Response};

/// The LambdaCluster of a release.
pub const CLUSTER: &str = "demo";
const SELECT: &str = "openlambda.dev/cluster=demo,app.kubernetes.io/component=";

/// An operator and a LambdaCluster in a namespace of their own; helm takes the first away when this is dropped, the
/// namespace's end the rest.
#[derive(Debug)]
pub struct Release {
    name: String,
    /// Where it is.
    pub namespace: Namespace,
}

impl Release {
    /// Installs both charts as a user does and waits until the LambdaCluster is Ready.
    pub fn install(name: &str) -> Result<Self> {
        Self::install_with(name, &json!({}))
    }

    /// The same with more of the LambdaCluster's spec.
    pub fn install_with(name: &str, spec: &Value) -> Result<Self> {
        install_crds()?;
        let release = Self { name: name.to_owned(), namespace: Namespace::new(name)? };
        release.upgrade(spec, &[])?;
        release.namespace.wait_ready(&format!("lambdacluster/{CLUSTER}"))?;
        Ok(release)
    }

    /// The operator alone.
    pub fn without_cluster(name: &str) -> Result<Self> {
        install_crds()?;
        let release = Self { name: name.to_owned(), namespace: Namespace::new(name)? };
        release.upgrade(&json!({}), &["--set", "cluster.create=false"])?;
        Ok(release)
    }

    /// `helm upgrade --install`, with more of the LambdaCluster's spec and more arguments.
    pub fn upgrade(&self, spec: &Value, arguments: &[&str]) -> Result<()> {
        let mut whole = json!({"loadBalancer": {"service": {"type": "NodePort"}}});
        merge(&mut whole, spec);
        let spec = format!("cluster.spec={whole}");
        let tag = format!("image.tag={}", image_tag());
        let chart = chart("openlambda");
        let base =
            ["upgrade", "--install", &self.name, &chart, "--namespace", self.namespace.name(), "--wait"];
        let more = ["--timeout", "120s", "--set", "cluster.create=true", "--set", "cluster.name=demo"];
        let values = ["--set", &tag, "--set-json", &spec];
        helm(&[&base[..], &more, &values, arguments].concat()).map(drop)
    }

    /// `helm uninstall`.
    pub fn uninstall(&self) -> Result<()> {
        helm(&["uninstall", &self.name, "--namespace", self.namespace.name(), "--wait"]).map(drop)
    }

    /// The release's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// lard's Service, as NodePort.
    pub fn lard(&self) -> Result<SocketAddr> {
        self.namespace.node_port(CLUSTER)
    }

    /// Calls a handler through lard's Service.
    pub fn call(&self, handler: &str, event: &Value) -> Result<Response> {
        Request::call(handler, event).send_to(self.lard()?)
    }

    /// Applies a Handler, waits until it is Ready.
    pub fn deploy(&self, handler: &str, code: &str) -> Result<()> {
        self.namespace.handler(handler, code)?;
        self.namespace.wait_ready(&format!("handler/{handler}"))
    }

    /// The agents' pods.
    pub fn agents(&self) -> Result<Vec<String>> {
        self.namespace.pods_of(&format!("{SELECT}agent"))
    }

    /// lard's pods.
    pub fn balancers(&self) -> Result<Vec<String>> {
        self.namespace.pods_of(&format!("{SELECT}lard"))
    }

    /// The instances of a handler on all agents.
    pub fn instances(&self, handler: &str) -> Result<Vec<Value>> {
        let mut found = Vec::new();
        for pod in self.agents()? {
            let state = self.namespace.admin(&pod, "/debug/state")?;
            let all = state["instances"].as_array().cloned().unwrap_or_default();
            found.extend(all.into_iter().filter(|instance| instance["handler"] == handler));
        }
        Ok(found)
    }

    /// Waits until a handler gives this answer through lard.
    pub fn wait_for_answer(&self, handler: &str, event: &Value, answer: &Value) -> Result<()> {
        let (lard, request) = (self.lard()?, Request::call(handler, event));
        until(&format!("the answer {answer} of {handler}"), || {
            let response = Connection::open(lard).and_then(|mut connection| connection.send(&request));
            Ok(response.is_ok_and(|response| response.json().is_ok_and(|json| json == *answer)).then_some(()))
        })
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let _ = helm(&["uninstall", &self.name, "--namespace", self.namespace.name(), "--ignore-not-found"]);
    }
}

/// `helm upgrade --install` of the definitions.
pub fn install_crds() -> Result<()> {
    let chart = chart("openlambda-crds");
    helm(&["upgrade", "--install", "openlambda-crds", &chart, "--namespace", "default", "--wait"])?;
    let names = ["crd/handlers.openlambda.dev", "crd/lambdaclusters.openlambda.dev"];
    let wait = [&["wait"], &names[..], &["--for=condition=Established", "--timeout=30s"]].concat();
    super::kubectl(&wait).map(drop)
}

/// Puts what `more` has into `all`, object by object.
fn merge(all: &mut Value, more: &Value) {
    match (all, more) {
        (Value::Object(all), Value::Object(more)) => {
            for (key, value) in more {
                merge(all.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (all, more) => *all = more.clone(),
    }
}
