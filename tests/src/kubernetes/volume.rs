//! A volume for who asks for its class: a folder of one node, for a cluster without a provisioner of volumes.

use anyhow::{Context as _, Result};
use serde_json::json;

use super::{attempt, image_tag, kubectl};

/// Where such folders are on a node: what the test cluster itself takes away.
const FOLDER: &str = "/var/lib/openlambda-cluster/volumes";

/// A PersistentVolume of a class of its own; it goes when this is dropped.
#[derive(Debug)]
pub struct Volume {
    class: String,
}

impl Volume {
    /// Makes it, empty and for anybody to write to.
    pub fn new(class: &str) -> Result<Self> {
        let volume = Self { class: class.to_owned() };
        let node = volume.on_node("rm -rf /volume/* && chmod 777 /volume")?;
        let manifest = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": class},
            "spec": {
                "storageClassName": class, "capacity": {"storage": "10Gi"}, "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": volume.path()},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]},
                ]}]}},
            },
        });
        let made = attempt("kubectl", &["apply", "-f", "-"], &manifest.to_string())?;
        anyhow::ensure!(made.success, "{}", made.text);
        Ok(volume)
    }

    fn path(&self) -> String {
        format!("{FOLDER}/{}", self.class)
    }

    /// Runs a command as root in a pod with the folder at /volume; gives the node it ran on.
    fn on_node(&self, command: &str) -> Result<String> {
        let pod = format!("volume-{}", self.class);
        let manifest = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": pod},
            "spec": {
                "restartPolicy": "Never",
                "containers": [{
                    "name": "shell", "image": format!("localhost/openlambda-node-agent:{}", image_tag()),
                    "imagePullPolicy": "IfNotPresent", "command": ["sh", "-c", command],
                    "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
                }],
                "volumes": [{"name": "volume", "hostPath": {"path": self.path(), "type": "DirectoryOrCreate"}}],
            },
        });
        let name = format!("pod/{pod}");
        kubectl(&["delete", &name, "--ignore-not-found", "--wait"])?;
        let made = attempt("kubectl", &["apply", "-f", "-"], &manifest.to_string())?;
        anyhow::ensure!(made.success, "{}", made.text);
        kubectl(&["wait", &name, "--for=jsonpath={.status.phase}=Succeeded", "--timeout=60s"])?;
        let node =
            kubectl(&["get", &name, "-o", "jsonpath={.spec.nodeName}"]).context("the volume's node")?;
        kubectl(&["delete", &name, "--wait=false"])?;
        Ok(node)
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = kubectl(&["delete", "persistentvolume", &self.class, "--ignore-not-found", "--wait=false"]);
    }
}
