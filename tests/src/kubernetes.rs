//! A Kubernetes cluster as its users see it: kubectl, helm, and the ports of its nodes.
//!
//! `cargo xtask test` starts the cluster and sets `KUBECONFIG`, `OPENLAMBDA_IMAGE_TAG` and `OPENLAMBDA_CLUSTER_SCRIPTS`.

mod bucket;
mod nodes;
mod release;
mod volume;

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

pub use bucket::Bucket;
pub use nodes::{Emptied, Node, ingress, node_ip, part, secure_ingress};
pub use release::{Release, install_crds};
pub use volume::Volume;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("/"))
}

/// The tag of the images that are loaded into the nodes.
pub fn image_tag() -> String {
    std::env::var("OPENLAMBDA_IMAGE_TAG").unwrap_or_else(|_| "dev".to_owned())
}

/// What a command wrote, and whether it went well.
#[derive(Debug)]
pub struct Outcome {
    /// Whether it ended with 0.
    pub success: bool,
    /// Both streams.
    pub text: String,
}

/// Runs a program with something at its standard input, whatever comes of it.
pub fn attempt(program: &str, arguments: &[&str], input: &str) -> Result<Outcome> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child =
        command.spawn().with_context(|| format!("cannot run {program}; run `cargo xtask test`"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that fails early does not read it.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    Ok(Outcome { success: output.status.success(), text: text.into_owned() })
}

/// Runs a program that must end well; gives its standard output alone.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {program}; run `cargo xtask test`"))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {errors}", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// kubectl.
pub fn kubectl(arguments: &[&str]) -> Result<String> {
    run("kubectl", arguments)
}

/// `admin`, whatever comes of it.
pub fn admin(arguments: &[&str]) -> Result<Outcome> {
    let program = crate::cluster::binary("admin")?;
    attempt(&program.to_string_lossy(), arguments, "")
}

/// helm.
pub fn helm(arguments: &[&str]) -> Result<String> {
    run("helm", arguments)
}

/// One of the charts.
pub fn chart(name: &str) -> String {
    repository().join("charts").join(name).display().to_string()
}

/// A namespace of this test's own, that of its Handlers. It goes when this is dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes it; one that an earlier run left is removed first.
    pub fn new(name: &str) -> Result<Self> {
        kubectl(&["delete", "namespace", name, "--ignore-not-found", "--wait", "--timeout=120s"])?;
        kubectl(&["create", "namespace", name])?;
        Ok(Self { name: name.to_owned() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// kubectl in it.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// kubectl in it, whatever comes of it.
    pub fn attempt(&self, arguments: &[&str], input: &str) -> Result<Outcome> {
        attempt("kubectl", &[&["--namespace", &self.name], arguments].concat(), input)
    }

    /// `kubectl apply -f -`; gives the refusal if there is one.
    pub fn try_apply(&self, manifest: &str) -> Result<Outcome> {
        self.attempt(&["apply", "-f", "-"], manifest)
    }

    /// `kubectl apply -f -`.
    pub fn apply(&self, manifest: &str) -> Result<()> {
        let outcome = self.try_apply(manifest)?;
        ensure!(outcome.success, "kubectl apply: {}\n{manifest}", outcome.text);
        Ok(())
    }

    /// `kubectl wait --for=condition=Ready`.
    pub fn wait_ready(&self, object: &str) -> Result<()> {
        let waited = self.kubectl(&["wait", object, "--for=condition=Ready", "--timeout=90s"]);
        if let Err(error) = waited {
            let status = self.kubectl(&["get", object, "-o", "jsonpath={.status}"]).unwrap_or_default();
            bail!("{error:#}\n{object} has the status {status}\n{}", self.pods());
        }
        Ok(())
    }

    /// An object.
    pub fn get(&self, object: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.kubectl(&["get", object, "-o", "json"])?)?)
    }

    /// All objects of a kind.
    pub fn list(&self, kind: &str) -> Result<Vec<Value>> {
        let list: Value = serde_json::from_str(&self.kubectl(&["get", kind, "-o", "json"])?)?;
        Ok(list["items"].as_array().cloned().unwrap_or_default())
    }

    /// A condition of an object, or null.
    pub fn condition(&self, object: &str, kind: &str) -> Result<Value> {
        let conditions = self.get(object)?["status"]["conditions"].take();
        let all = conditions.as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().find(|condition| condition["type"] == kind).unwrap_or_default())
    }

    /// A Handler with its code inline.
    pub fn handler(&self, name: &str, code: &str) -> Result<()> {
        self.apply(&handler(name, code).to_string())
    }

    /// The NodePort of a Service, on the first node.
    pub fn node_port(&self, service: &str) -> Result<SocketAddr> {
        let path = "jsonpath={.spec.ports[0].nodePort}";
        let port = self.kubectl(&["get", "service", service, "-o", path])?;
        Ok(SocketAddr::new(node_ip(1)?, port.parse().with_context(|| format!("no NodePort: {port:?}"))?))
    }

    /// What an admin port of a pod says, through the API server.
    pub fn admin(&self, pod: &str, path: &str) -> Result<Value> {
        let proxy = format!("/api/v1/namespaces/{}/pods/{pod}:9080/proxy{path}", self.name);
        let text = kubectl(&["get", "--raw", &proxy])?;
        serde_json::from_str(&text).with_context(|| format!("{pod}{path}: {text}"))
    }

    /// The names of the pods with these labels that are not about to go.
    pub fn pods_of(&self, selector: &str) -> Result<Vec<String>> {
        let list: Value =
            serde_json::from_str(&self.kubectl(&["get", "pods", "-l", selector, "-o", "json"])?)?;
        let pods = list["items"].as_array().cloned().unwrap_or_default();
        let stay = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        Ok(stay.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)).collect())
    }

    /// For the message of a failure: the pods, and what happened.
    pub fn pods(&self) -> String {
        let show = |arguments: &[&str]| self.kubectl(arguments).unwrap_or_default();
        let events = show(&["get", "events", "--sort-by=.lastTimestamp"]);
        let last: Vec<&str> = events.lines().rev().take(15).collect();
        show(&["get", "pods", "-o", "wide"]) + &last.into_iter().rev().collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if std::thread::panicking() && std::env::var_os("OPENLAMBDA_KEEP").is_some() {
            return;
        }
        let _ = kubectl(&["delete", "namespace", &self.name, "--ignore-not-found", "--wait=false"]);
    }
}

/// The manifest of a Handler with its code inline.
pub fn handler(name: &str, code: &str) -> Value {
    serde_json::json!({
        "apiVersion": "openlambda.dev/v1alpha1",
        "kind": "Handler",
        "metadata": {"name": name},
        "spec": {"source": {"inline": code}},
    })
}

/// A script of tests/cluster.
fn script(name: &str) -> Result<PathBuf> {
    let folder = std::env::var("OPENLAMBDA_CLUSTER_SCRIPTS")
        .context("OPENLAMBDA_CLUSTER_SCRIPTS is not set; run `cargo xtask test`")?;
    Ok(Path::new(&folder).join(name))
}
