//! What the processes of a cluster directory leave on the machine when they have ended, however they did: nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::wait::until;

/// What is to be gone.
#[derive(Clone, Debug)]
pub struct Traces {
    /// The cluster directory: nobody else's command line, mount or socket has this path.
    pub directory: PathBuf,
    /// All cgroup folders that its workers have had.
    pub cgroups: BTreeSet<PathBuf>,
    /// Workers that were killed and not started again: what they have in files, their next start removes.
    pub killed: BTreeSet<u16>,
}

impl Traces {
    /// Waits until nothing is left; fails with what is.
    pub fn are_gone(&self) -> Result<()> {
        let mut left = Vec::new();
        let gone = until("the end of all that a cluster has", || {
            left = self.left();
            Ok(left.is_empty().then_some(()))
        });
        gone.with_context(|| format!("left behind: {left:#?}"))
    }

    /// What is there still.
    pub fn left(&self) -> Vec<String> {
        let mut left = self.processes();
        let groups = self.cgroups.iter().filter(|path| path.exists());
        left.extend(groups.map(|path| format!("cgroup {}", path.display())));
        let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
        left.extend(sockets.lines().filter(|line| self.is_in(line)).map(|line| format!("socket {line}")));
        left.extend(self.files().into_iter().map(|path| format!("file {}", path.display())));
        left
    }

    fn is_in(&self, text: &str) -> bool {
        text.contains(&*self.directory.to_string_lossy())
    }

    /// Processes that name the directory, stand in it, are in one of its cgroups, or live in a mount namespace with a mount of it.
    fn processes(&self) -> Vec<String> {
        let names: Vec<_> = self.cgroups.iter().filter_map(|path| path.file_name()?.to_str()).collect();
        let own = std::process::id();
        let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let mut found = Vec::new();
        for pid in numbers {
            let read = |file: &str| {
                let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let command = read("cmdline");
            let cgroups = read("cgroup");
            let why = if pid != own && self.is_in(&command) {
                "names the directory"
            } else if fs::read_link(format!("/proc/{pid}/cwd"))
                .is_ok_and(|cwd| cwd.starts_with(&self.directory))
            {
                "stands in the directory"
            } else if cgroups.split(['/', '\n']).any(|part| names.contains(&part)) {
                "is in a cgroup"
            } else if self.is_in(&read("mountinfo")) {
                "has a mount"
            } else {
                continue;
            };
            found.push(format!("process {pid} {why}: {command}"));
        }
        found
    }

    /// Files that stand for something alive, or were copied for it.
    fn files(&self) -> Vec<PathBuf> {
        let entries = |folder: &Path| {
            fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect::<Vec<_>>()
        };
        let mut found = entries(&self.directory.join("logs"));
        found.retain(|path| path.extension().is_some_and(|extension| extension == "pid"));
        for worker in entries(&self.directory.join("workers")) {
            let number = worker.to_string_lossy().rsplit('-').next().and_then(|number| number.parse().ok());
            if !number.is_some_and(|number| self.killed.contains(&number)) {
                found.extend(Some(worker.join("cgroups")).filter(|path| path.exists()));
                found.extend(entries(&worker.join("bundles")));
                found.extend(entries(&worker.join("root")));
            }
        }
        if self.killed.is_empty() {
            // A lock is all that an installer keeps in the folder it works in.
            let work = entries(&self.directory.join("packages/work"));
            found.extend(
                work.iter().flat_map(|folder| entries(folder)).filter(|path| !path.ends_with("lock")),
            );
        }
        found
    }
}
