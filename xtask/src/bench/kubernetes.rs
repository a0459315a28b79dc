//! What the benchmarks on Kubernetes share: a cluster with one release of the charts in it, and its API through
//! `kubectl proxy`, which spares each measured write the start of a kubectl.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::Bench;
use crate::build::Profile;
use crate::http::{Connection, Request, Response};
use crate::interrupt::{self, Cleanup};
use crate::{command, kube};

/// Of most benchmarks.
const NODES: u8 = 2;
const TAG: &str = "dev";
/// The namespace, the release and the LambdaCluster.
pub const NAME: &str = "bench";
/// What handlers are called with.
pub const EVENT: &str = r#"{"name": "Alice"}"#;
const PATIENCE: Duration = Duration::from_secs(120);

/// A cluster with a LambdaCluster that is Ready. It goes when this is dropped.
pub struct Kubernetes {
    variables: Vec<(&'static str, OsString)>,
    api: SocketAddr,
    node: String,
    // In the order of their end.
    _proxy: Cleanup,
    _down: Cleanup,
}

impl Kubernetes {
    /// Builds images, starts the cluster, installs the charts. The LambdaCluster has this spec, and a load balancer with a NodePort.
    pub fn start(bench: &Bench, spec: &Value) -> Result<Self> {
        Self::start_with(bench, NODES, spec, |_| Ok(()))
    }

    /// The same with so many nodes, and with something to be done before the charts are installed.
    pub fn start_with(
        bench: &Bench,
        nodes: u8,
        spec: &Value,
        prepare: impl FnOnce(&Self) -> Result<()>,
    ) -> Result<Self> {
        let cluster = kube::Cluster::choose(&bench.workspace)?;
        let images = kube::images::images(&bench.workspace, &[], TAG, Profile::Release)?;
        kube::tools(&bench.workspace, &["helm"])?;
        let down = cluster.up(nodes)?;
        cluster.load(&images)?;
        let variables = cluster.variables();
        let (api, proxy) = proxy(&variables)?;
        let mut this = Self { variables, api, node: String::new(), _proxy: proxy, _down: down };
        prepare(&this)?;
        this.install(bench, spec)?;
        let path = "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}";
        this.node = this.kubectl(&["get", "nodes", "-o", path])?;
        Ok(this)
    }

    fn install(&self, bench: &Bench, spec: &Value) -> Result<()> {
        let chart = |name: &str| bench.workspace.path("charts").join(name).display().to_string();
        self.run("helm", &["install", "openlambda-crds", &chart("openlambda-crds"), "--wait"])?;
        let mut spec = spec.clone();
        spec["loadBalancer"] = json!({"service": {"type": "NodePort"}});
        let spec = format!("cluster.spec={spec}");
        let tag = format!("image.tag={TAG}");
        let place = ["--namespace", NAME, "--create-namespace", "--wait", "--timeout", "120s"];
        let values = [
            "--set",
            "cluster.create=true",
            "--set",
            "cluster.name=bench",
            "--set",
            &tag,
            "--set-json",
            &spec,
        ];
        let chart = chart("openlambda");
        self.run("helm", &[&["install", NAME, &chart][..], &place, &values].concat())?;
        let ready = ["wait", "lambdacluster/bench", "--for=condition=Ready", "--timeout=120s"];
        self.kubectl(&[&["--namespace", NAME][..], &ready].concat()).map(drop)
    }

    /// kubectl, which must end well.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.run("kubectl", arguments)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        command::output(&mut self.command(program, arguments))
    }

    /// A program that talks to the cluster.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        command
    }

    /// A connection to the API.
    pub fn api(&self) -> Result<Connection> {
        Connection::open(self.api)
    }

    /// Where a Service of type NodePort answers.
    pub fn node_port(&self, service: &str) -> Result<SocketAddr> {
        let text = self.kubectl(&["--namespace", NAME, "get", "service", service, "-o", "json"])?;
        self.at(&serde_json::from_str(&text)?)
    }

    /// The same of a Service that was read already.
    pub fn at(&self, service: &Value) -> Result<SocketAddr> {
        let port = &service["spec"]["ports"][0]["nodePort"];
        format!("{}:{port}", self.node)
            .parse()
            .with_context(|| format!("the Service has no NodePort: {service}"))
    }

    /// What a pod's admin port says.
    pub fn admin(&self, pod: &str, path: &str) -> Result<String> {
        self.kubectl(&["get", "--raw", &format!("/api/v1/namespaces/{NAME}/pods/{pod}:9080/proxy{path}")])
    }

    /// The names of the pods of a part: operator, agent or lard.
    pub fn pods(&self, part: &str) -> Result<Vec<String>> {
        let select = format!("app.kubernetes.io/component={part}");
        let path = "jsonpath={.items[*].metadata.name}";
        let names = self.kubectl(&["--namespace", NAME, "get", "pods", "-l", &select, "-o", path])?;
        Ok(names.split_whitespace().map(str::to_owned).collect())
    }

    /// Waits until the LambdaCluster says that so many Handlers of so many are Ready.
    pub fn wait_for_handlers(&self, count: usize) -> Result<()> {
        let (mut api, wanted) = (self.api()?, format!("{count}/{count}"));
        let end = Instant::now() + PATIENCE;
        loop {
            let cluster = get(&mut api, &format!("{}/{NAME}", objects("lambdaclusters")))?;
            if cluster["status"]["handlers"]["summary"] == *wanted {
                return Ok(());
            }
            if Instant::now() > end {
                bail!("after {PATIENCE:?} the handlers are {}", cluster["status"]["handlers"]);
            }
            // Between two looks.
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The path of our objects of a kind.
pub fn objects(kind: &str) -> String {
    format!("/apis/openlambda.dev/v1alpha1/namespaces/{NAME}/{kind}")
}

/// A Handler with inline code.
pub fn handler(name: &str, code: &str) -> Value {
    json!({"apiVersion": "openlambda.dev/v1alpha1", "kind": "Handler", "metadata": {"name": name},
        "spec": {"source": {"inline": code}}})
}

/// Creates an object; `path` is that of its kind.
pub fn create(api: &mut Connection, path: &str, object: &Value) -> Result<()> {
    taken(&api.call(&Request::json("POST", path, &object.to_string()))?, path)
}

/// Deletes an object.
pub fn delete(api: &mut Connection, path: &str) -> Result<()> {
    taken(&api.call(&Request::json("DELETE", path, r#"{"propagationPolicy":"Background"}"#))?, path)
}

/// An object.
pub fn get(api: &mut Connection, path: &str) -> Result<Value> {
    let response = api.call(&Request::json("GET", path, ""))?;
    taken(&response, path)?;
    Ok(serde_json::from_slice(&response.body)?)
}

/// Milliseconds of one call on a connection of its own.
pub fn first_call(lard: SocketAddr, name: &str) -> Result<f64> {
    let request = Request::post(&format!("/run/{name}"), EVENT);
    let start = Instant::now();
    let response = Connection::open(lard)?.call(&request)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    if response.status != 200 {
        bail!("{name} answered {} {}", response.status, response.text());
    }
    Ok(time)
}

fn taken(response: &Response, path: &str) -> Result<()> {
    if response.status >= 300 {
        bail!("the API server answered {} for {path}: {}", response.status, response.text());
    }
    Ok(())
}

fn proxy(variables: &[(&'static str, OsString)]) -> Result<(SocketAddr, Cleanup)> {
    let mut proxy = Command::new("kubectl");
    proxy
        .args(["proxy", "--port=0", "--reject-paths=^$"])
        .envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child =
        proxy.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start kubectl proxy")?;
    let stdout = child.stdout.take();
    let cleanup = Cleanup::new(move || {
        interrupt::signal(child.id(), Signal::SIGKILL);
        if let Err(error) = child.wait() {
            eprintln!("cannot wait for kubectl proxy: {error}");
        }
    });
    let mut line = String::new();
    BufReader::new(stdout.context("kubectl proxy has no output")?).read_line(&mut line)?;
    let address = line.trim().rsplit(' ').next().unwrap_or_default();
    Ok((address.parse().with_context(|| format!("kubectl proxy said {line:?}"))?, cleanup))
}
