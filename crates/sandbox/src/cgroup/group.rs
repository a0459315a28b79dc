//! One group: limits, freezing, figures.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::limits::Limits;

/// The folders of a group.
#[derive(Debug)]
pub(super) enum Files {
    V1 { memory: PathBuf, cpu: PathBuf, pids: PathBuf, freezer: PathBuf },
    V2(PathBuf),
}

/// The scheduler's period, in µs, that quotas refer to: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The weight that a group is born with, and what v1 calls it.
const WEIGHT: (u32, u32) = (100, 1024);

/// A control group of one Zygote or sandbox.
#[derive(Debug)]
pub struct Cgroup {
    files: Files,
    /// Descriptors a child joins through, opened ahead of need and handed out once.
    join: Mutex<Option<Vec<OwnedFd>>>,
    applied: Mutex<Option<Limits>>,
    weight: AtomicU32,
    frozen: AtomicBool,
    oom_kills_seen: AtomicU64,
}

impl Cgroup {
    pub(super) fn new(files: Files) -> io::Result<Self> {
        let group = Self {
            files,
            join: Mutex::new(None),
            applied: Mutex::new(None),
            weight: AtomicU32::new(WEIGHT.0),
            frozen: AtomicBool::new(false),
            oom_kills_seen: AtomicU64::new(0),
        };
        if let Files::V2(dir) = &group.files {
            fs::set_permissions(dir.join("cgroup.procs"), fs::Permissions::from_mode(0o666))?;
            // All of a sandbox dies when one of it runs out of memory: half a sandbox answers nothing.
            fs::write(dir.join("memory.oom.group"), "1")?;
            // Without swap this file may be missing.
            let _ = fs::write(dir.join("memory.swap.max"), "0");
        }
        *group.join.lock() = Some(group.open_join()?);
        Ok(group)
    }

    fn open_join(&self) -> io::Result<Vec<OwnedFd>> {
        match &self.files {
            Files::V1 { memory, cpu, pids, freezer } => [memory, cpu, pids, freezer]
                .into_iter()
                .map(|dir| Ok(write_only(&dir.join("tasks"))?.into()))
                .collect(),
            Files::V2(dir) => {
                let options =
                    OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(dir)?;
                Ok(vec![options.into()])
            }
        }
    }

    /// The descriptors a new sandbox joins through: `tasks` files of v1, or the folder of v2 to be born in.
    pub(crate) fn take_join(&self) -> io::Result<Vec<OwnedFd>> {
        let ready = self.join.lock().take();
        ready.map_or_else(|| self.open_join(), Ok)
    }

    /// Files through which a process joins by writing `0`, on both versions (slow on v2: not for the request path).
    pub(crate) fn join_files(&self) -> io::Result<Vec<OwnedFd>> {
        match &self.files {
            Files::V1 { .. } => self.open_join(),
            Files::V2(dir) => Ok(vec![write_only(&dir.join("cgroup.procs"))?.into()]),
        }
    }

    /// Sets the limits; what is set already is not written again.
    pub fn apply(&self, limits: &Limits) -> io::Result<()> {
        let mut applied = self.applied.lock();
        let before = *applied;
        if before.is_none_or(|b| b.memory != limits.memory) {
            self.limit_memory(limits.memory)?;
        }
        if before.is_none_or(|b| b.pids != limits.pids) {
            self.limit_pids(limits.pids)?;
        }
        if before.map_or(limits.cpu_millis.is_some(), |b| b.cpu_millis != limits.cpu_millis) {
            self.limit_cpu(limits.cpu_millis)?;
        }
        self.set_weight(limits.cpu_weight)?;
        *applied = Some(*limits);
        Ok(())
    }

    fn limit_memory(&self, bytes: u64) -> io::Result<()> {
        let text = bytes.to_string();
        match &self.files {
            Files::V2(dir) => fs::write(dir.join("memory.max"), text),
            Files::V1 { memory, .. } => {
                // With swap accounting the limit of memory+swap must never be below that of memory: raise it first, then lower it.
                let (limit, with_swap) =
                    (memory.join("memory.limit_in_bytes"), memory.join("memory.memsw.limit_in_bytes"));
                if fs::write(&limit, &text).is_err() {
                    let _ = fs::write(&with_swap, &text);
                    fs::write(&limit, &text)?;
                }
                let _ = fs::write(&with_swap, &text);
                Ok(())
            }
        }
    }

    fn limit_pids(&self, count: u32) -> io::Result<()> {
        let dir = match &self.files {
            Files::V1 { pids, .. } => pids,
            Files::V2(dir) => dir,
        };
        fs::write(dir.join("pids.max"), count.to_string())
    }

    fn limit_cpu(&self, millis: Option<u32>) -> io::Result<()> {
        let quota = millis.map(|millis| u64::from(millis) * PERIOD_US / 1000);
        match &self.files {
            Files::V1 { cpu, .. } => {
                fs::write(cpu.join("cpu.cfs_quota_us"), quota.map_or("-1".to_owned(), |us| us.to_string()))
            }
            Files::V2(dir) => {
                let quota = quota.map_or("max".to_owned(), |us| us.to_string());
                fs::write(dir.join("cpu.max"), format!("{quota} {PERIOD_US}"))
            }
        }
    }

    /// Its share of busy CPUs from now on, beside others that have 100; what is set already is not written again.
    pub fn set_weight(&self, weight: u32) -> io::Result<()> {
        if self.weight.swap(weight, Ordering::AcqRel) == weight {
            return Ok(());
        }
        match &self.files {
            Files::V1 { cpu, .. } => {
                let shares = u64::from(weight) * u64::from(WEIGHT.1) / u64::from(WEIGHT.0);
                fs::write(cpu.join("cpu.shares"), shares.max(2).to_string())
            }
            Files::V2(dir) => fs::write(dir.join("cpu.weight"), weight.clamp(1, 10_000).to_string()),
        }
    }

    /// Stops every process of the group. Does not wait until they have stopped: nothing here needs to know.
    pub fn freeze(&self) -> io::Result<()> {
        self.frozen.store(true, Ordering::Release);
        self.write_freezer("FROZEN", "1")
    }

    /// Lets them go on. Costs nothing if they were not stopped.
    pub fn thaw(&self) -> io::Result<()> {
        if self.frozen.swap(false, Ordering::AcqRel) { self.write_freezer("THAWED", "0") } else { Ok(()) }
    }

    fn write_freezer(&self, v1: &str, v2: &str) -> io::Result<()> {
        match &self.files {
            Files::V1 { freezer, .. } => fs::write(freezer.join("freezer.state"), v1),
            Files::V2(dir) => fs::write(dir.join("cgroup.freeze"), v2),
        }
    }

    /// Bytes charged to the group.
    pub fn memory_bytes(&self) -> io::Result<u64> {
        let text = match &self.files {
            Files::V1 { memory, .. } => fs::read_to_string(memory.join("memory.usage_in_bytes"))?,
            Files::V2(dir) => fs::read_to_string(dir.join("memory.current"))?,
        };
        text.trim()
            .parse()
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{text:?} is no count of bytes")))
    }

    /// Bytes of anonymous memory charged to the group: what no other group's reclaim can free.
    pub fn anonymous_bytes(&self) -> io::Result<u64> {
        let (text, key) = match &self.files {
            Files::V1 { memory, .. } => (fs::read_to_string(memory.join("memory.stat"))?, "rss "),
            Files::V2(dir) => (fs::read_to_string(dir.join("memory.stat"))?, "anon "),
        };
        let bytes = text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
        bytes.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("memory.stat has no {key}")))
    }

    /// Whether the kernel has killed for memory in this group since the last look.
    pub(crate) fn oom_killed_since_last_look(&self) -> bool {
        let text = match &self.files {
            Files::V1 { memory, .. } => fs::read_to_string(memory.join("memory.oom_control")),
            Files::V2(dir) => fs::read_to_string(dir.join("memory.events")),
        };
        let count = text
            .unwrap_or_default()
            .lines()
            .find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
        let count: u64 = count.unwrap_or(0);
        count > self.oom_kills_seen.swap(count, Ordering::AcqRel)
    }

    /// Makes the group, empty of processes, ready for the next sandbox.
    pub(crate) fn recycle(&self) -> io::Result<()> {
        self.thaw()?;
        // What the last one left charged (page cache, dentries) is reclaimed when the next one needs the room. To drop it here
        // (`memory.force_empty`) would flush the per-CPU lists of the whole machine, milliseconds each time.
        let fds = self.open_join()?;
        *self.join.lock() = Some(fds);
        Ok(())
    }

    /// Removes the group, which must be empty of processes.
    pub fn remove(self) -> io::Result<()> {
        match &self.files {
            Files::V1 { memory, cpu, pids, freezer } => {
                [memory, cpu, pids, freezer].into_iter().try_for_each(|dir| super::tree::remove_empty(dir))
            }
            Files::V2(dir) => super::tree::remove_empty(dir),
        }
    }
}

fn write_only(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).open(path)
}

/// Borrows all of `fds`.
pub(crate) fn borrow(fds: &[OwnedFd]) -> impl Iterator<Item = BorrowedFd<'_>> {
    fds.iter().map(AsFd::as_fd)
}
