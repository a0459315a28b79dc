//! How much memory there is for this process and all that it starts.

use std::fs;

use super::detect::{self, Own, V1_CONTROLLERS};

/// The machine's memory in bytes, or the limit of this process's own cgroup (that of its container) if that is lower. None: neither can
/// be read.
pub fn memory_of_node() -> Option<u64> {
    let machine = total(&fs::read_to_string("/proc/meminfo").ok()?)?;
    Some(own_limit().map_or(machine, |limit| limit.min(machine)))
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_ascii_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// The limit of the own cgroup; none if it has none, which v2 writes as `max` and v1 as a number beyond any machine's memory.
fn own_limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok();
    let file = match detect::own(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?).ok()? {
        Own::V1(folders) => {
            let memory = V1_CONTROLLERS.iter().position(|name| *name == "memory")?;
            folders.get(memory)?.join("memory.limit_in_bytes")
        }
        Own::V2 { own, .. } => own.join("memory.max"),
    };
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_has_some() {
        assert_eq!(total("MemTotal:        1000 kB\nMemFree: 1 kB\n"), Some(1_024_000));
        assert!(memory_of_node().is_some_and(|bytes| bytes > 1 << 20));
    }
}
