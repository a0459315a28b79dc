//! What one sandbox may use.

/// Limits of a sandbox, enforced by its cgroup, its mounts and its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory, its scratch space included.
    pub memory: u64,
    /// Thousandths of a CPU; none = no quota.
    pub cpu_millis: Option<u32>,
    /// Its share of the CPUs when they are busy, beside others that have 100.
    pub cpu_weight: u32,
    /// Processes and threads.
    pub pids: u32,
    /// Bytes that `/host` and `/tmp` hold together.
    pub scratch: u64,
    /// Open files of each process.
    pub open_files: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: 128 << 20,
            cpu_millis: None,
            cpu_weight: 100,
            pids: 64,
            scratch: 64 << 20,
            open_files: 1024,
        }
    }
}
