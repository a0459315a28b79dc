//! A local cluster in a temporary folder, made and ended with the `admin` command as a user would.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::build::Built;
use crate::interrupt::{Cleanup, signal};
use crate::{command, interrupt, leftovers};

/// How long it may take to end after it was asked to: a worker's drain, and some more.
const END: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(20);

/// A cluster that ends when this is dropped, unless it is kept.
pub struct LocalCluster {
    directory: PathBuf,
    admin: PathBuf,
    cleanup: Cleanup,
}

impl LocalCluster {
    /// Makes the folder with `admin new`. `purpose` becomes part of its name.
    pub fn new(built: &Built, purpose: &str) -> Result<Self> {
        let directory = std::env::temp_dir().join(format!("openlambda-{purpose}-{}", std::process::id()));
        let admin = built.binary("admin");
        let cleanup = Cleanup::new({
            let (directory, admin) = (directory.clone(), admin.clone());
            move || end(&admin, &directory)
        });
        let cluster = Self { directory, admin, cleanup };
        cluster.admin("new", &[] as &[&str])?;
        Ok(cluster)
    }

    /// The cluster directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The command line of an `admin` command on this cluster, as one would type it.
    pub fn command_line(&self, name: &str) -> String {
        format!("{} {name} -cluster {}", self.admin.display(), self.directory.display())
    }

    /// Runs an `admin` command on this cluster.
    pub fn admin(&self, name: &str, args: &[impl AsRef<OsStr>]) -> Result<String> {
        let mut admin = Command::new(&self.admin);
        admin.arg(name).arg("-cluster").arg(&self.directory).args(args);
        command::output(&mut admin)
    }

    /// Sets worker options for the workers started from now on.
    pub fn configure(&self, options: &Value) -> Result<()> {
        self.admin("setconf", &[options.to_string()]).map(drop)
    }

    /// Copies a handler's folder into the registry.
    pub fn deploy(&self, source: &Path, name: &str) -> Result<()> {
        let place = self.directory.join("registry").join(name);
        fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
        for entry in fs::read_dir(source).with_context(|| format!("cannot read {}", source.display()))? {
            let file = entry?.path();
            if file.is_file() {
                let to = place.join(file.file_name().unwrap_or_default());
                fs::copy(&file, &to).with_context(|| format!("cannot copy {}", file.display()))?;
            }
        }
        Ok(())
    }

    /// Starts workers on ports from `port` on and waits until each answers.
    pub fn workers(&self, count: u16, port: u16) -> Result<Vec<SocketAddr>> {
        self.admin("workers", &[format!("--num-workers={count}"), format!("--port={port}")])?;
        Ok((port..port + count).map(local).collect())
    }

    /// Starts lard in front of the workers and waits until it answers.
    pub fn load_balancer(&self, port: u16) -> Result<SocketAddr> {
        self.admin("load-balancer", &[format!("--port={port}")])?;
        Ok(local(port))
    }

    /// Lets the cluster run on.
    pub fn keep(self) {
        self.cleanup.forget();
    }
}

/// An address on this machine.
pub fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Ends every process of the cluster and removes its folder. Says what it could not do; it has no one to return to.
fn end(admin: &Path, directory: &Path) {
    if !directory.exists() {
        return;
    }
    let running = pids(directory);
    let mut kill = Command::new(admin);
    kill.arg("kill").arg("-cluster").arg(directory).stdin(Stdio::null()).stdout(Stdio::null());
    if let Err(error) = kill.status() {
        eprintln!("cannot run {}: {error}", interrupt::describe(&kill));
    }
    let deadline = Instant::now() + END;
    for (name, pid) in running {
        while leftovers::is_running(pid) && Instant::now() < deadline {
            std::thread::sleep(POLL);
        }
        if leftovers::is_running(pid) {
            eprintln!("{name} (process {pid}) did not end within {END:?}; killing it");
            signal(pid, Signal::SIGKILL);
        }
    }
    let mounts = leftovers::mounts_below(directory);
    if !mounts.is_empty() {
        eprintln!("not removing {}: still mounted: {}", directory.display(), mounts.join(", "));
    } else if let Err(error) = fs::remove_dir_all(directory) {
        eprintln!("cannot remove {}: {error}", directory.display());
    }
}

fn pids(directory: &Path) -> Vec<(String, u32)> {
    let mut found: Vec<(String, u32)> = fs::read_dir(directory.join("logs"))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let pid = fs::read_to_string(entry.path()).ok()?.trim().parse().ok()?;
            Some((name.strip_suffix(".pid")?.to_owned(), pid))
        })
        .collect();
    found.sort();
    found
}
