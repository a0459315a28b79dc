//! The nodes, and taking them away.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result};

use super::{kubectl, run, script};

/// The address of a node, counted from 1.
pub fn node_ip(number: usize) -> Result<IpAddr> {
    let path = "jsonpath={.items[*].status.addresses[?(@.type=='InternalIP')].address}";
    let all = kubectl(&["get", "nodes", "-o", path])?;
    let ip = all.split_whitespace().nth(number - 1);
    ip.with_context(|| format!("there is no node {number}"))?.parse().context("the address of a node")
}

/// Where the Ingress controller answers HTTP.
pub fn ingress() -> Result<SocketAddr> {
    Ok(SocketAddr::new(node_ip(1)?, 30080))
}

/// Where the Ingress controller answers HTTPS.
pub fn secure_ingress() -> Result<SocketAddr> {
    Ok(SocketAddr::new(node_ip(1)?, 30443))
}

/// Stops or starts one process of the cluster, such as kube-apiserver.
pub fn part(action: &str, name: &str) -> Result<()> {
    run(&script("part")?.to_string_lossy(), &[action, name]).map(drop)
}

/// A node that was added for a test; it is removed when this is dropped.
#[derive(Debug)]
pub struct Node {
    number: usize,
}

impl Node {
    /// Adds the node with this number and waits until it is Ready.
    pub fn start(number: usize) -> Result<Self> {
        let node = Self { number };
        node.script("start")?;
        Ok(node)
    }

    /// Its name.
    pub fn name(&self) -> String {
        format!("node{}", self.number)
    }

    /// Ends kubelet, containerd and all pods of it at once, as if its power had gone.
    pub fn kill(&self) -> Result<()> {
        self.script("kill")
    }

    fn script(&self, action: &str) -> Result<()> {
        run(&script("node")?.to_string_lossy(), &[action, &self.number.to_string()]).map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.script("remove");
    }
}

/// A node that pods have to leave; it takes them again when this is dropped.
#[derive(Debug)]
pub struct Emptied {
    name: String,
}

impl Emptied {
    const TAINT: &str = "openlambda.test/leaving";

    /// `kubectl drain`: every pod leaves that is no DaemonSet's.
    pub fn drain(name: &str) -> Result<Self> {
        let node = Self { name: name.to_owned() };
        // Other tests have left pods that nobody makes anew.
        let all = ["--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=180s"];
        kubectl(&[&["drain", name], &all[..]].concat())?;
        Ok(node)
    }

    /// The pods of DaemonSets leave as well, as before a node is taken away for good.
    pub fn evict_the_rest(&self) -> Result<()> {
        kubectl(&["taint", "node", &self.name, &format!("{}=yes:NoExecute", Self::TAINT), "--overwrite"])
            .map(drop)
    }
}

impl Drop for Emptied {
    fn drop(&mut self) {
        let _ = kubectl(&["taint", "node", &self.name, &format!("{}-", Self::TAINT)]);
        let _ = kubectl(&["uncordon", &self.name]);
    }
}
