//! What our processes could leave behind on a machine: processes, mounts, cgroups, temporary folders. Tests take a
//! snapshot before and after; nothing may be new.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Cgroups and temporary folders of ours have this in their names.
const MARK: &str = "openlambda";
/// Reaping and removal may end a little after the process that asked for them.
const GRACE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// The things of ours that are there now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    things: BTreeSet<String>,
}

impl Snapshot {
    /// Looks around. `bin` is the folder of our binaries.
    pub fn take(bin: &Path) -> Self {
        let mut things = BTreeSet::new();
        things.extend(processes(bin));
        things.extend(mount_points().into_iter().map(|point| format!("mount {point}")));
        cgroups(Path::new("/sys/fs/cgroup"), &mut things);
        things.extend(temporary_folders());
        Self { things }
    }

    /// What is there now and was not then.
    pub fn new_since(&self, before: &Self) -> Vec<String> {
        self.things.difference(&before.things).cloned().collect()
    }
}

/// Fails if, after a short grace, something of ours is there that was not there `before`.
pub fn check(before: &Snapshot, bin: &Path, after: &str) -> Result<()> {
    let end = Instant::now() + GRACE;
    loop {
        let new = Snapshot::take(bin).new_since(before);
        if new.is_empty() {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("left behind by {after}:\n  {}", new.join("\n  "));
        }
        std::thread::sleep(POLL);
    }
}

/// Whether a process is there and no zombie.
pub fn is_running(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // The state follows the name in parentheses, which may hold anything.
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The mount points below a folder.
pub fn mounts_below(folder: &Path) -> Vec<String> {
    mount_points().into_iter().filter(|point| Path::new(point).starts_with(folder)).collect()
}

fn mount_points() -> Vec<String> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    table.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// Processes that run one of our binaries or live in a cgroup of ours.
fn processes(bin: &Path) -> Vec<String> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers
        .filter_map(|entry| entry.file_name().into_string().ok()?.parse::<u32>().ok())
        .filter(|pid| *pid != std::process::id() && is_running(*pid))
        .filter_map(|pid| {
            let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let ours = exe.parent() == Some(bin) && !exe.ends_with("xtask");
            (ours || groups.contains(MARK)).then(|| format!("process {pid} {}", exe.display()))
        })
        .collect()
}

/// The topmost cgroups of ours; what is in them goes with them.
fn cgroups(folder: &Path, things: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        // `file_type` does not follow links, of which v1 has some beside its controllers.
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name().to_string_lossy().contains(MARK) {
                things.insert(format!("cgroup {}", path.display()));
            } else {
                cgroups(&path, things);
            }
        }
    }
}

fn temporary_folders() -> Vec<String> {
    let entries = fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().contains(MARK))
        .map(|entry| format!("file {}", entry.path().display()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_new_counts() {
        let things = |names: &[&str]| Snapshot { things: names.iter().map(|n| (*n).to_owned()).collect() };
        let (before, after) = (things(&["a", "b"]), things(&["b", "c"]));
        assert_eq!(after.new_since(&before), ["c"]);
    }

    #[test]
    fn this_process_runs_and_an_ended_one_does_not() {
        assert!(is_running(std::process::id()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        assert!(!is_running(pid));
    }
}
