//! The machine that is measured on: what it is, whether it is quiet, how much memory is in use.

use std::collections::HashMap;
use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::vm;

/// A machine is quiet when less than this part of its CPUs is busy.
const QUIET: f64 = 0.08;
const LOOK: Duration = Duration::from_secs(1);
/// The parts of memory that a process costs and that the page cache is not.
const COUNTED: [&str; 5] = ["AnonPages", "Slab", "KernelStack", "PageTables", "Percpu"];

/// What a figure is worth nothing without.
pub struct Facts {
    kernel: String,
    cpus: usize,
    memory: u64,
    cgroups: &'static str,
}

/// Reads them.
pub fn facts() -> Facts {
    Facts {
        kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
        cpus: cpus(),
        memory: meminfo().get("MemTotal").copied().unwrap_or(0),
        cgroups: if vm::host_has_cgroup_v2() { "v2" } else { "v1" },
    }
}

impl Facts {
    /// In one line.
    pub fn line(&self) -> String {
        let gib = self.memory as f64 / f64::from(1 << 30);
        format!("Linux {}, {} CPUs, {gib:.1} GiB, cgroup {}", self.kernel, self.cpus, self.cgroups)
    }

    /// As JSON, with the time.
    pub fn json(&self) -> Value {
        #[expect(clippy::disallowed_methods, reason = "it is told, and decides nothing")]
        let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
        json!({"kernel": self.kernel, "cpus": self.cpus, "memory_bytes": self.memory, "cgroups": self.cgroups, "time": time})
    }
}

/// Bytes in use by processes and by the kernel on their behalf.
pub fn memory_in_use() -> u64 {
    let info = meminfo();
    COUNTED.iter().filter_map(|name| info.get(*name)).sum()
}

fn meminfo() -> HashMap<String, u64> {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.split_once(':')?;
            let kib: u64 = rest.split_whitespace().next()?.parse().ok()?;
            Some((name.to_owned(), kib * 1024))
        })
        .collect()
}

/// Returns when the machine is quiet, or after `patience`: then with a warning for the reader of the figures. On a
/// busy machine even ratios are off, because waking an idle CPU costs several times what waking a busy one does.
pub fn wait_until_quiet(patience: Duration) -> Option<String> {
    let end = Instant::now() + patience;
    let mut busy = busy_part();
    while busy > QUIET && Instant::now() < end {
        busy = busy_part();
    }
    (busy > QUIET).then(|| {
        format!(
            "WARNING: {:.0} % of the CPUs were busy with other things at the start: measure again",
            busy * 100.0
        )
    })
}

/// How much of the CPUs is busy, looking for a while.
fn busy_part() -> f64 {
    let (busy, all) = cpu_ticks();
    std::thread::sleep(LOOK);
    let (busy_now, all_now) = cpu_ticks();
    (busy_now - busy) as f64 / (all_now - all).max(1) as f64
}

fn cpu_ticks() -> (u64, u64) {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guest time is in user already
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).take(8).filter_map(|tick| tick.parse().ok()).collect();
    let all: u64 = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    (all - idle, all)
}

/// How many processes live in a pid namespace other than ours: sandboxes and Zygotes.
pub fn sandboxed_processes() -> usize {
    let ours = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(|c: char| c.is_ascii_digit()))
        .filter_map(|entry| fs::read_link(entry.path().join("ns/pid")).ok())
        .filter(|namespace| *namespace != ours)
        .count()
}

/// Who is to run where, in a benchmark that separates them.
#[derive(Clone, Copy, Debug)]
pub enum Side {
    /// The load: the last CPU.
    Client,
    /// What is measured: all others.
    Servers,
}

/// Keeps this thread, and what it starts from now on, on the CPUs of one side. Does nothing on a machine with one CPU.
pub fn run_on(side: Side) -> Result<()> {
    let count = cpus();
    if count < 2 {
        return Ok(());
    }
    let mut set = CpuSet::new();
    let wanted = match side {
        Side::Client => count - 1..count,
        Side::Servers => 0..count - 1,
    };
    for cpu in wanted {
        set.set(cpu)?;
    }
    sched_setaffinity(Pid::from_raw(0), &set).context("choose the CPUs of a benchmark")
}

/// CPUs of the machine, whichever of them this process may use.
fn cpus() -> usize {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_cpu = |line: &&str| {
        line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    stat.lines().filter(is_cpu).count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_a_kernel_memory_and_ticks() {
        let facts = facts();
        assert!(!facts.kernel.is_empty() && facts.cpus > 0 && facts.memory > 0);
        assert!(memory_in_use() > 0);
        let (busy, all) = cpu_ticks();
        assert!(busy > 0 && all > busy);
    }
}
