//! The books of a worker that is alive: what it says it has (`/debug/state`) beside what the kernel has for it. At rest both are
//! the same, and as many calls and faults later nothing has grown.
//!
//! Books are taken from outside: `/proc`, the cgroup folders, the admin port.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::Cluster;
use crate::wait::{PATIENCE, until_within};

/// Groups that may be kept ready beyond `cg_pool_size`: as many as a burst leaves.
const SPARE_GROUPS: usize = 64;
/// Anonymous memory that an empty group may have charged: the kernel settles in batches.
const BATCH: u64 = 512 * 1024;
/// Between two looks that must agree.
const PAUSE: Duration = Duration::from_millis(20);

/// What a worker and the kernel have, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Books {
    /// The worker's process.
    pub pid: i32,
    /// Instances, by its state document.
    pub instances: usize,
    /// Sandboxes forked ahead, by its state document.
    pub spares: usize,
    /// Zygotes, by its state document.
    pub zygotes: usize,
    /// Groups of sandboxes in which something lives.
    pub sandboxes: usize,
    /// Groups of Zygotes in which something lives.
    pub zygote_groups: usize,
    /// Groups in which nothing lives, without those of its own.
    pub empty_groups: usize,
    /// Groups of Zygotes and tools in which nothing lives: these are never used again.
    pub useless_groups: Vec<String>,
    /// Anonymous memory charged to groups in which nothing lives.
    pub stray_memory: u64,
    /// Descriptors by kind, of the agent, less those that come with each sandbox and Zygote; and of its helpers.
    pub descriptors: BTreeMap<String, i64>,
    /// Descriptors of processes and groups that are gone.
    pub dead: Vec<String>,
    /// Mounts in the agent's namespace.
    pub mounts: usize,
    /// Children of the nursery that have ended and nobody has asked for.
    pub zombies: usize,
}

impl Books {
    /// Looks once.
    pub fn take(cluster: &Cluster, index: u16) -> Result<Self> {
        let pid = cluster.worker_pid(index)?.as_raw();
        let state = cluster.state(index)?;
        let nodes = state["import_cache"]["nodes"].as_array().context("no import cache")?;
        let sum = |key: &str| nodes.iter().filter_map(|node| node[key].as_u64()).sum::<u64>() as usize;
        let groups = Groups::read(&cluster.cgroups(index)?)?;
        let (sandboxes, zygote_groups) = (groups.living("s-"), groups.living("z-"));
        let helpers = helpers(pid);
        let mut books = Self {
            pid,
            instances: state["instances"].as_array().map_or(0, Vec::len),
            spares: sum("spares"),
            zygotes: sum("processes"),
            sandboxes,
            zygote_groups,
            empty_groups: groups.empty.len(),
            useless_groups: groups.empty.iter().filter(|name| !name.starts_with("s-")).cloned().collect(),
            stray_memory: groups.stray_memory,
            descriptors: BTreeMap::new(),
            dead: Vec::new(),
            mounts: fs::read_to_string(format!("/proc/{pid}/mountinfo"))?.lines().count(),
            zombies: helpers.iter().map(|(_, pid)| zombies(*pid)).sum(),
        };
        books.count_descriptors("agent", pid)?;
        for (role, pid) in helpers {
            books.count_descriptors(role, pid)?;
        }
        let born = i64::try_from(sandboxes + zygote_groups)?;
        // Each has a connection, a pidfd and two pipes of output at the agent's.
        for (kind, each) in [("agent socket", 1), ("agent pidfd", 1), ("agent pipe", 2)] {
            *books.descriptors.entry(kind.to_owned()).or_default() -= born * each;
        }
        Ok(books)
    }

    /// What does not agree; nothing at rest.
    pub fn disagreements(&self, pool: usize) -> Vec<String> {
        let mut wrong = Vec::new();
        let mut equal = |what: &str, said: usize, found: usize| {
            if said != found {
                wrong.push(format!("{what}: the worker says {said}, the kernel has {found}"));
            }
        };
        equal("instances and spares", self.instances + self.spares, self.sandboxes);
        equal("Zygotes", self.zygotes, self.zygote_groups);
        equal("children nobody asked for", 0, self.zombies);
        if self.empty_groups > pool + SPARE_GROUPS {
            wrong.push(format!("{} groups in which nothing lives", self.empty_groups));
        }
        if !self.useless_groups.is_empty() {
            wrong.push(format!("groups that are of no use any more: {:?}", self.useless_groups));
        }
        if self.stray_memory > BATCH {
            wrong.push(format!("{} bytes are charged to groups in which nothing lives", self.stray_memory));
        }
        if !self.dead.is_empty() {
            wrong.push(format!("descriptors of what is gone: {:?}", self.dead));
        }
        wrong
    }

    /// What has grown since an earlier look at the same worker.
    pub fn grown_since(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
        if self.mounts > before.mounts {
            grown.push(format!("mounts: {} → {}", before.mounts, self.mounts));
        }
        // A worker that was started again has other processes, but no more of anything.
        for (kind, now) in &self.descriptors {
            let then = before.descriptors.get(kind).copied().unwrap_or(0);
            if *now > then {
                grown.push(format!("descriptors, {kind}: {then} → {now}"));
            }
        }
        grown
    }

    fn count_descriptors(&mut self, role: &str, pid: i32) -> Result<()> {
        for entry in fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            let target = target.to_string_lossy().into_owned();
            let kind = kind_of(&target);
            // Idle groups are held open, and how many there are is told by `empty_groups`.
            if kind != "cgroup" {
                *self.descriptors.entry(format!("{role} {kind}")).or_default() += 1;
            }
            let ended = kind == "pidfd" && {
                let info = entry.file_name().to_string_lossy().into_owned();
                let info = fs::read_to_string(format!("/proc/{pid}/fdinfo/{info}")).unwrap_or_default();
                info.lines().any(|line| line.starts_with("Pid:") && line.ends_with("-1"))
            };
            if ended || (kind == "cgroup" && target.ends_with("(deleted)")) {
                self.dead.push(format!("{role}: {target}"));
            }
        }
        Ok(())
    }
}

/// Waits until the books of a worker balance, and gives them.
pub fn settled(cluster: &Cluster, index: u16) -> Result<Books> {
    let pool = pool_of(cluster, index)?;
    let mut last = (None, Vec::new());
    let found = until_within(PATIENCE, "books that balance", || {
        let books = Books::take(cluster, index)?;
        let wrong = books.disagreements(pool);
        let same = last.0.as_ref() == Some(&books);
        let balanced = wrong.is_empty();
        last = (Some(books.clone()), wrong);
        if balanced && !same {
            // Two looks that agree, a little apart, so that nothing is caught in the middle.
            std::thread::sleep(PAUSE);
        }
        Ok((balanced && same).then_some(books))
    });
    found.with_context(|| format!("worker-{index}: {:#?}; it has {:#?}", last.1, last.0))
}

/// Waits until the books balance and nothing has grown since `before`.
pub fn settled_as(cluster: &Cluster, index: u16, before: &Books) -> Result<Books> {
    let mut grown = Vec::new();
    let found = until_within(PATIENCE, "books as before", || {
        let books = settled(cluster, index)?;
        grown = books.grown_since(before);
        Ok(grown.is_empty().then_some(books))
    });
    found.with_context(|| format!("worker-{index} has grown: {grown:#?}"))
}

fn pool_of(cluster: &Cluster, index: u16) -> Result<usize> {
    let file = cluster.path().join(format!("config/worker-{index}.json"));
    let config: Value = serde_json::from_str(&fs::read_to_string(file)?)?;
    Ok(config["cg_pool_size"].as_u64().map_or(0, |size| size as usize))
}

fn kind_of(target: &str) -> &'static str {
    let kinds = [
        ("socket:", "socket"),
        ("pipe:", "pipe"),
        ("anon_inode:[pidfd]", "pidfd"),
        ("anon_inode:", "event"),
        ("/sys/fs/cgroup/", "cgroup"),
    ];
    kinds.iter().find(|(start, _)| target.starts_with(start)).map_or("file", |(_, kind)| kind)
}

/// The spawner and the nursery of an agent.
fn helpers(agent: i32) -> Vec<(&'static str, i32)> {
    let spawner = children(agent).into_iter().find(|pid| is_helper(*pid));
    let nursery = spawner.and_then(|pid| children(pid).into_iter().find(|pid| is_helper(*pid)));
    let named = [("spawner", spawner), ("nursery", nursery)];
    named.into_iter().filter_map(|(role, pid)| Some((role, pid?))).collect()
}

fn is_helper(pid: i32) -> bool {
    let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.split(|byte| *byte == 0).nth(1) == Some(b"spawner")
}

/// The children of a process, whichever thread started them.
pub fn children(pid: i32) -> Vec<i32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .flat_map(|task| {
            let text = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()
        })
        .collect()
}

fn zombies(parent: i32) -> usize {
    let ended = |pid: &i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
    };
    children(parent).iter().filter(|pid| ended(pid)).count()
}

/// The groups below a worker's folders.
struct Groups {
    /// With what lives in them.
    living: BTreeMap<String, Vec<i32>>,
    empty: Vec<String>,
    stray_memory: u64,
}

impl Groups {
    fn read(roots: &[PathBuf]) -> Result<Self> {
        ensure!(!roots.is_empty(), "the worker has no record of its cgroups");
        let mut all: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let mut memory: BTreeMap<String, u64> = BTreeMap::new();
        for root in roots {
            let entries = fs::read_dir(root).with_context(|| format!("read {}", root.display()))?;
            for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
                let name = entry.file_name().to_string_lossy().into_owned();
                if name == "keeper" {
                    continue;
                }
                let procs = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
                let found = all.entry(name.clone()).or_default();
                found.extend(procs.lines().filter_map(|pid| pid.parse::<i32>().ok()));
                let charged = memory.entry(name).or_default();
                *charged = (*charged).max(anonymous(&entry.path()));
            }
        }
        let (living, empty): (BTreeMap<_, _>, BTreeMap<_, _>) =
            all.into_iter().partition(|(_, processes)| !processes.is_empty());
        let empty: Vec<String> = empty.into_keys().collect();
        let stray_memory = empty.iter().filter_map(|name| memory.get(name)).sum();
        Ok(Self { living, empty, stray_memory })
    }

    fn living(&self, prefix: &str) -> usize {
        self.living.keys().filter(|name| name.starts_with(prefix)).count()
    }
}

/// Anonymous memory charged to a group; zero where the controller is another one.
fn anonymous(group: &Path) -> u64 {
    let text = fs::read_to_string(group.join("memory.stat")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("rss ").or_else(|| line.strip_prefix("anon ")));
    line.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

/// The processes that live in a worker's groups whose name begins like this: `s-` for sandboxes, `z-` for Zygotes.
pub fn processes(cluster: &Cluster, index: u16, prefix: &str) -> Result<Vec<i32>> {
    let groups = Groups::read(&cluster.cgroups(index)?)?;
    let found = groups.living.into_iter().filter(|(name, _)| name.starts_with(prefix));
    let mut found: Vec<i32> = found.flat_map(|(_, processes)| processes).collect();
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// Resident memory of a process in bytes.
pub fn resident(pid: i32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmRSS:")) else {
        bail!("process {pid} has no memory: it has ended");
    };
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
