//! A package index inside the cluster, with the wheels that the machine's pip finds.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::bench::kubernetes::{Kubernetes, NAME};
use crate::bench::work_folder;
use crate::command;

/// Where it answers.
pub const URL: &str = "http://index/simple";

/// The agents' image has a Python and is on the nodes already. A folder's listing is a page of PEP 503.
const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: index, labels: {app: index}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
    - name: index
      image: localhost/openlambda-node-agent:dev
      command: [/usr/bin/python3, -m, http.server, "8000", --directory, /files]
      readinessProbe: {tcpSocket: {port: 8000}, periodSeconds: 1}
      volumeMounts: [{name: files, mountPath: /files}]
  volumes: [{name: files, emptyDir: {}}]
---
apiVersion: v1
kind: Service
metadata: {name: index}
spec: {selector: {app: index}, ports: [{port: 80, targetPort: 8000}]}
"#;
const UNPACK: &str =
    "import sys, tarfile; tarfile.open(fileobj=sys.stdin.buffer, mode='r|').extractall('/files')";

/// Starts it with these requirements and all that they need.
pub fn start(kubernetes: &Kubernetes, requirements: &[&str]) -> Result<()> {
    let (folder, _cleanup) = work_folder("wheels")?;
    let simple = folder.join("simple");
    fs::create_dir(&simple)?;
    let mut pip = Command::new("/usr/bin/python3");
    // That of the agents' image.
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--only-binary",
        ":all:",
        "--python-version",
        "3.11",
        "--dest",
    ]);
    command::run(pip.arg(&folder).args(requirements))?;
    for entry in fs::read_dir(&folder)? {
        let entry = entry?;
        let file = entry.file_name().to_string_lossy().into_owned();
        if file.ends_with(".whl") {
            let project = file.split('-').next().unwrap_or_default().to_lowercase().replace(['_', '.'], "-");
            fs::create_dir_all(simple.join(&project))?;
            fs::rename(entry.path(), simple.join(&project).join(&file))?;
        }
    }
    let manifest = folder.join("index.yaml");
    fs::write(&manifest, POD)?;
    kubernetes.kubectl(&["--namespace", NAME, "apply", "-f", &manifest.display().to_string()])?;
    kubernetes.kubectl(&[
        "--namespace",
        NAME,
        "wait",
        "pod/index",
        "--for=condition=Ready",
        "--timeout=120s",
    ])?;
    let mut tar = Command::new("tar");
    tar.arg("--create").arg("--directory").arg(&folder).arg("simple");
    let mut tar = tar.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("cannot start tar")?;
    let arguments = ["--namespace", NAME, "exec", "--stdin", "index", "--", "/usr/bin/python3", "-c", UNPACK];
    let mut unpack = kubernetes.command("kubectl", &arguments);
    let unpacked = unpack.stdin(tar.stdout.take().context("tar has no output")?).status();
    // Closes its output: it ends then, whatever became of the other side.
    drop(unpack);
    let packed = tar.wait()?;
    let unpacked = unpacked.context("cannot start kubectl exec")?;
    if !(packed.success() && unpacked.success()) {
        bail!("the wheels did not get to the index: tar ended with {packed}, kubectl exec with {unpacked}");
    }
    Ok(())
}
