//! Where the files of a local cluster are:
//!
//! ```text
//! config/{template,load_balancer,registry,worker-N}.json   logs/{worker-N,load_balancer,registry}.{out,pid}
//! base/   packages/   registry/<handler>/lambda_func.py   store/   workers/worker-N/
//! ```

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// The directory of a local cluster. Only paths: nothing need exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDir {
    root: PathBuf,
}

/// A process of the cluster that has a log file and a pid file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Process {
    /// The load balancer, lard.
    Balancer,
    /// The server of the registry.
    Registry,
    /// The worker of that number.
    Worker(u32),
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Balancer => f.write_str("load_balancer"),
            Self::Registry => f.write_str("registry"),
            Self::Worker(number) => write!(f, "worker-{number}"),
        }
    }
}

impl Process {
    /// Reads what `Display` writes.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "load_balancer" => return Some(Self::Balancer),
            "registry" => return Some(Self::Registry),
            _ => {}
        }
        let number = name.strip_prefix("worker-")?.parse().ok()?;
        // "worker-01" or "worker-+1" are not ours.
        Some(Self::Worker(number)).filter(|process| process.to_string() == name)
    }
}

impl ClusterDir {
    /// The directories that make up the layout, below the root.
    pub const LAYOUT: [&'static str; 6] = ["config", "logs", "base", "packages", "registry", "workers"];

    /// Takes a path, relative to the current directory or absolute.
    pub fn new(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self { root: std::path::absolute(path)? })
    }

    /// The absolute path, which is the cluster's name as well.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Whether this is a cluster: it has a template.
    pub fn exists(&self) -> bool {
        self.template().is_file()
    }

    /// Configuration files.
    pub fn config_dir(&self) -> PathBuf {
        self.root.join("config")
    }

    /// The configuration that every new worker starts from.
    pub fn template(&self) -> PathBuf {
        self.config_dir().join("template.json")
    }

    /// The configuration of a process.
    pub fn config(&self, process: Process) -> PathBuf {
        self.config_dir().join(format!("{process}.json"))
    }

    /// Logs and pid files.
    pub fn logs_dir(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// What a process printed.
    pub fn log(&self, process: Process) -> PathBuf {
        self.logs_dir().join(format!("{process}.out"))
    }

    /// The pid of a process that `admin` started.
    pub fn pid(&self, process: Process) -> PathBuf {
        self.logs_dir().join(format!("{process}.pid"))
    }

    /// An unpacked root for sandboxes, if there is one.
    pub fn base_dir(&self) -> PathBuf {
        self.root.join("base")
    }

    /// Installed packages.
    pub fn packages_dir(&self) -> PathBuf {
        self.root.join("packages")
    }

    /// Handlers, one directory each.
    pub fn registry_dir(&self) -> PathBuf {
        self.root.join("registry")
    }

    /// What the registry's server keeps: bundles and the records of handlers.
    pub fn store_dir(&self) -> PathBuf {
        self.root.join("store")
    }

    /// The state of all workers.
    pub fn workers_dir(&self) -> PathBuf {
        self.root.join("workers")
    }

    /// The state of one worker.
    pub fn worker_dir(&self, number: u32) -> PathBuf {
        self.workers_dir().join(Process::Worker(number).to_string())
    }

    /// The processes that have a file `<name>.<extension>` in a directory of the cluster, balancer first.
    fn having(dir: &Path, extension: &str) -> io::Result<Vec<Process>> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|e| e == extension) {
                found.extend(path.file_stem().and_then(|s| s.to_str()).and_then(Process::parse));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// The workers that have a configuration, by number.
    pub fn configured_workers(&self) -> io::Result<Vec<Process>> {
        let mut found = Self::having(&self.config_dir(), "json")?;
        found.retain(|process| matches!(process, Process::Worker(_)));
        Ok(found)
    }

    /// The processes that have a pid file, balancer first, workers last. They need not be alive.
    pub fn started(&self) -> io::Result<Vec<Process>> {
        Self::having(&self.logs_dir(), "pid")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layout_is_the_original_s() {
        let cluster = ClusterDir::new("/c").unwrap();
        assert_eq!(cluster.template(), Path::new("/c/config/template.json"));
        assert_eq!(cluster.config(Process::Balancer), Path::new("/c/config/load_balancer.json"));
        assert_eq!(cluster.config(Process::Worker(3)), Path::new("/c/config/worker-3.json"));
        assert_eq!(cluster.log(Process::Worker(0)), Path::new("/c/logs/worker-0.out"));
        assert_eq!(cluster.pid(Process::Balancer), Path::new("/c/logs/load_balancer.pid"));
        assert_eq!(cluster.worker_dir(1), Path::new("/c/workers/worker-1"));
        assert!(ClusterDir::new("x").unwrap().root().is_absolute());
    }

    #[test]
    fn processes_are_found_by_their_files() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = ClusterDir::new(dir.path()).unwrap();
        assert_eq!(cluster.started().unwrap(), []);
        fs::create_dir(cluster.logs_dir()).unwrap();
        for name in [
            "worker-10.pid",
            "worker-2.pid",
            "load_balancer.pid",
            "worker-2.out",
            "worker-x.pid",
            "worker-01.pid",
        ] {
            fs::write(cluster.logs_dir().join(name), "").unwrap();
        }
        assert_eq!(cluster.started().unwrap(), [Process::Balancer, Process::Worker(2), Process::Worker(10)]);
    }
}
