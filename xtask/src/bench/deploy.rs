//! `bench deploy`: the same change of code by `admin upload` and by `kubectl apply` of inline code, on a Kubernetes of three
//! nodes with a registry inside, until every agent has answered with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::kubernetes::{Kubernetes, NAME, handler};
use super::report::{Bound, Report};
use super::{Bench, work_folder};
use crate::http::{Connection, Request};

const NODES: u8 = 3;
/// Changes of each kind in a round.
const CHANGES: u32 = 10;
/// Of a bundle, besides its code.
const DATA: usize = 10 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// The class of the registry's volume, and the folder that it is on a node.
const CLASS: &str = "bench";
const FOLDER: &str = "/var/lib/openlambda-cluster/volumes/bench";

struct Subject {
    kubernetes: Kubernetes,
    admin: PathBuf,
    folder: PathBuf,
    agents: Vec<String>,
}

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let registry = json!({"registry": {"embedded": {"size": "1Gi", "storageClassName": CLASS}}});
    let (folder, _cleanup) = work_folder("deploy")?;
    let kubernetes = Kubernetes::start_with(bench, NODES, &registry, |new| volume(new, &folder))?;
    let agents = kubernetes.pods("agent")?;
    ensure!(agents.len() == usize::from(NODES), "there are the agents {agents:?}");
    let subject = Subject { kubernetes, admin: bench.built.binary("admin"), folder, agents };
    let mut report = Report::new("deploy");
    let mut number = 0;
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        for (name, handler, change) in [
            (UPLOAD, "uploaded", &Subject::upload as &dyn Fn(&Subject, u32) -> Result<Command>),
            (WAITING, "uploaded", &Subject::upload_and_wait),
            (APPLY, "applied", &Subject::apply),
        ] {
            let mut times = Vec::new();
            for _ in 0..CHANGES {
                number += 1;
                times.push(subject.change(handler, number, change)?);
            }
            report.add(name, "ms", times);
        }
    }
    report.figure(UPLOAD, Bound::AtMost(300.0));
    report.figure(WAITING, Bound::None);
    report.figure(APPLY, Bound::None);
    report.ratio(UPLOAD, APPLY, Bound::None);
    report.note("All nodes, the API server, the registry and the client share the machine.".into());
    report.note("Each change is a process of its own; agents are asked through the API server.".into());
    Ok(report)
}

const UPLOAD: &str = "admin upload --no-wait: start to answers of 3 agents";
const WAITING: &str = "admin upload: start to answers of 3 agents";
const APPLY: &str = "kubectl apply: start to answers of 3 agents";

impl Subject {
    /// Milliseconds from the start of the command until every agent has answered with the new code.
    fn change(
        &self,
        handler: &str,
        number: u32,
        command: &dyn Fn(&Self, u32) -> Result<Command>,
    ) -> Result<f64> {
        let mut command = command(self, number)?;
        let mut api = self.kubernetes.api()?;
        let start = Instant::now();
        let status = command.stdout(Stdio::null()).status()?;
        ensure!(status.success(), "{command:?}: {status}");
        for agent in &self.agents {
            let path = format!("/api/v1/namespaces/{NAME}/pods/{agent}:8080/proxy/run/{handler}");
            await_answer(&mut api, &path, number, start)?;
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    }

    /// A folder with a handler that answers with its number, and data that does not compress.
    fn write(&self, number: u32) -> Result<PathBuf> {
        let folder = self.folder.join("uploaded");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("lambda_func.py"), code(number))?;
        let mut state = u64::from(number) | 1;
        let mut data = Vec::with_capacity(DATA);
        while data.len() < DATA {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            data.extend(state.to_le_bytes());
        }
        fs::write(folder.join("data"), data)?;
        Ok(folder)
    }

    fn upload(&self, number: u32) -> Result<Command> {
        let mut command = self.upload_and_wait(number)?;
        command.arg("--no-wait");
        Ok(command)
    }

    fn upload_and_wait(&self, number: u32) -> Result<Command> {
        let folder = self.write(number)?;
        let (cluster, file) = (format!("k8s://{NAME}/{NAME}"), folder.display().to_string());
        let arguments = ["upload", "--cluster", &cluster, "--handler", "uploaded", "--file", &file];
        Ok(self.kubernetes.command(&self.admin.to_string_lossy(), &arguments))
    }

    fn apply(&self, number: u32) -> Result<Command> {
        let file = self.folder.join("handler.json");
        fs::write(&file, handler("applied", &code(number)).to_string())?;
        let file = file.display().to_string();
        Ok(self.kubernetes.command("kubectl", &["--namespace", NAME, "apply", "-f", &file]))
    }
}

fn await_answer(api: &mut Connection, path: &str, number: u32, start: Instant) -> Result<()> {
    loop {
        let answer = api.call(&Request::post(path, "null"))?;
        if answer.status == 200 && answer.text() == number.to_string() {
            return Ok(());
        }
        ensure!(start.elapsed() < PATIENCE, "{path} answers {} {}", answer.status, answer.text());
        // Between two looks; it is part of what is measured.
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn code(number: u32) -> String {
    format!("def handler(event):\n    return {number}\n")
}

/// A volume for the registry: a folder of a node, which a pod makes writable for it.
fn volume(kubernetes: &Kubernetes, folder: &Path) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "volume"},
        "spec": {
            "restartPolicy": "Never",
            "containers": [{
                "name": "shell", "image": "localhost/openlambda-node-agent:dev", "imagePullPolicy": "IfNotPresent",
                "command": ["sh", "-c", "rm -rf /volume/* && chmod 777 /volume"],
                "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
            }],
            "volumes": [{"name": "volume", "hostPath": {"path": FOLDER, "type": "DirectoryOrCreate"}}],
        },
    });
    apply(kubernetes, folder, &pod)?;
    let done = "--for=jsonpath={.status.phase}=Succeeded";
    kubernetes.kubectl(&["wait", "pod/volume", done, "--timeout=60s"])?;
    let node = kubernetes.kubectl(&["get", "pod/volume", "-o", "jsonpath={.spec.nodeName}"])?;
    let volume = json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "bench"},
        "spec": {
            "storageClassName": CLASS, "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": FOLDER},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
            ]}]}},
        },
    });
    apply(kubernetes, folder, &volume)
}

fn apply(kubernetes: &Kubernetes, folder: &Path, object: &Value) -> Result<()> {
    let file = folder.join("object.json");
    fs::write(&file, object.to_string())?;
    kubernetes.kubectl(&["apply", "-f", &file.to_string_lossy()]).map(drop)
}
