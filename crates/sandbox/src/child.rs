//! What a fresh sandbox does between its birth by `clone3` and the first line of Python.
//!
//! It starts as root of the Zygote's user namespace, with a copy of the Zygote's mounts: the read-only base root and a
//! `/proc`. It ends as an unprivileged user with its own mounts on top, no capabilities, and a second seccomp filter that
//! forbids what this file needed. A failure at any step is fatal: a sandbox that is half set up must never run a handler.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::{MoveMountFlags, move_mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, remove_capability_from_bounding_set, set_capabilities};

use crate::fork_request::{CGROUP_V2, ForkRequest, HAS_CODE};
use crate::{child_filter, sys};

/// Namespaces of a sandbox; the user namespace is the Zygote's. With `CLONE_PARENT` the nursery is the parent and reaps.
pub const CLONE_FLAGS: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_PARENT)
        as u64;

/// The descriptor on which the handler's runtime finds its stream.
pub const STREAM_FD: i32 = 3;
/// Exit status of a sandbox that could not be set up; the reason is on its stderr.
pub const SETUP_FAILED: i32 = 112;

/// Files and directories of `/proc` that would tell of, or reach, the host; each is hidden if it exists.
const MASKED: [&CStr; 14] = [
    c"/proc/acpi",
    c"/proc/interrupts",
    c"/proc/kallsyms",
    c"/proc/kcore",
    c"/proc/key-users",
    c"/proc/keys",
    c"/proc/kmsg",
    c"/proc/kpageflags",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/proc/slabinfo",
    c"/proc/sysrq-trigger",
    c"/proc/timer_list",
];
/// Directories of `/proc` that are made read-only.
const READ_ONLY: [&CStr; 4] = [c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys"];

/// A fork request, unpacked: the descriptors by name.
#[derive(Debug)]
pub struct ForkTask {
    /// The fixed part.
    pub request: ForkRequest,
    stream: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
    code: Option<OwnedFd>,
    cgroup: Vec<OwnedFd>,
}

impl ForkTask {
    /// Names the descriptors of a request; too few is an error.
    pub fn new(request: ForkRequest, fds: Vec<OwnedFd>) -> io::Result<Self> {
        let missing =
            || io::Error::new(io::ErrorKind::InvalidData, "a fork request with too few descriptors");
        let mut fds = fds.into_iter();
        let mut next = || fds.next().ok_or_else(missing);
        let (stream, stdout, stderr) = (next()?, next()?, next()?);
        let code = if request.flags & HAS_CODE != 0 { Some(next()?) } else { None };
        Ok(Self { request, stream, stdout, stderr, code, cgroup: fds.collect() })
    }

    /// The cgroup to be born in (v2).
    pub fn birth_cgroup(&self) -> Option<BorrowedFd<'_>> {
        if self.request.flags & CGROUP_V2 != 0 { self.cgroup.first().map(AsFd::as_fd) } else { None }
    }
}

/// What is the same for every sandbox of a Zygote: computed once, before the first fork.
#[derive(Debug)]
pub struct ChildPlan {
    masks: Vec<(&'static CStr, &'static CStr)>,
    read_only: Vec<&'static CStr>,
    filter: Vec<libc::sock_filter>,
}

impl ChildPlan {
    /// Looks which of the paths to hide exist, and assembles the filter.
    pub fn new() -> Self {
        let path = |name: &CStr| String::from_utf8_lossy(name.to_bytes()).into_owned();
        let mask = |name: &'static CStr| {
            let kind = fs::metadata(path(name)).ok()?;
            Some((name, if kind.is_dir() { c"/empty" } else { c"/dev/null" }))
        };
        Self {
            masks: MASKED.into_iter().filter_map(mask).collect(),
            read_only: READ_ONLY.into_iter().filter(|name| fs::metadata(path(name)).is_ok()).collect(),
            filter: child_filter::assemble(),
        }
    }
}

impl Default for ChildPlan {
    fn default() -> Self {
        Self::new()
    }
}

/// Empties the capability bounding set of this Zygote, which all its children inherit, and gives up the capability to do so.
/// Done by the Zygote itself, as `exec` needed the set to leave it its few capabilities.
pub fn empty_bounding_set() -> io::Result<()> {
    let kept = CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID;
    for capability in (kept | CapabilitySet::SETPCAP).iter() {
        remove_capability_from_bounding_set(capability)?;
    }
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Turns this fresh clone into a sandbox. On success the stream is [`STREAM_FD`], and 0, 1, 2 are null, stdout, stderr.
/// On failure the reason is written to the sandbox's stderr and the process ends with [`SETUP_FAILED`].
pub fn become_sandbox(task: ForkTask, plan: &ChildPlan) {
    // Every descriptor of the task is closed wholesale on the way: dropping it would close numbers that are no longer its own.
    let task = ManuallyDrop::new(task);
    if let Err((step, error)) = try_become(&task, plan) {
        let text = format!("the sandbox could not be set up: {step}: {error}\n");
        if rustix::io::write(&task.stderr, text.as_bytes()).is_err() {
            let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
        }
        sys::exit_now(SETUP_FAILED);
    }
}

type Failure = (&'static str, io::Error);

fn step<T, E: Into<io::Error>>(name: &'static str, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| (name, error.into()))
}

fn try_become(task: &ForkTask, plan: &ChildPlan) -> Result<(), Failure> {
    if task.request.flags & CGROUP_V2 == 0 {
        for tasks in &task.cgroup {
            // "0" is the writer itself; through `tasks`, not `cgroup.procs`, which waits for an RCU grace period.
            step("join the cgroup", rustix::io::write(tasks, b"0"))?;
        }
    }
    mounts(task, plan)?;
    descriptors(task)?;
    step("set the limit of open files", limit(Resource::Nofile, task.request.open_files.into()))?;
    credentials(task.request.uid)?;
    step("install the seccomp filter", sys::seccomp(&plan.filter))
}

fn mounts(task: &ForkTask, plan: &ChildPlan) -> Result<(), Failure> {
    let plain = libc::MS_NOSUID | libc::MS_NODEV;
    let (uid, scratch) = (task.request.uid, task.request.scratch);
    // Inodes cost kernel memory that `size` does not count: one per 4 KiB, at most 16 Ki.
    let inodes = (scratch / 4096).clamp(64, 16 * 1024);
    let options = format!("size={scratch},nr_inodes={inodes},mode=0777,uid={uid},gid={uid}");
    let options = step("name the options of /host", CString::new(options))?;
    step("mount /host", sys::mount(c"scratch", c"/host", Some(c"tmpfs"), plain, Some(&options)))?;
    step("make /host/tmp", rustix::fs::mkdir(c"/host/tmp", rustix::fs::Mode::from_raw_mode(0o1777)))?;
    step("open up /host/tmp", rustix::fs::chmod(c"/host/tmp", rustix::fs::Mode::from_raw_mode(0o1777)))?;
    step("bind /tmp", sys::mount(c"/host/tmp", c"/tmp", None, libc::MS_BIND, None))?;
    if let Some(code) = &task.code {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        step("mount /handler", move_mount(code, c"", rustix::fs::CWD, c"/handler", flags))?;
    }
    step("mount /proc", sys::mount(c"proc", c"/proc", Some(c"proc"), plain | libc::MS_NOEXEC, None))?;
    for (path, cover) in &plan.masks {
        step("hide a file of /proc", sys::mount(cover, path, None, libc::MS_BIND, None))?;
    }
    for path in &plan.read_only {
        step("bind a folder of /proc", sys::mount(path, path, None, libc::MS_BIND, None))?;
        let flags = libc::MS_BIND | libc::MS_REMOUNT | libc::MS_RDONLY | plain | libc::MS_NOEXEC;
        step("make a folder of /proc read-only", sys::mount(c"none", path, None, flags, None))?;
    }
    Ok(())
}

fn descriptors(task: &ForkTask) -> Result<(), Failure> {
    let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    // Closed with all others below, not by its owner.
    let null = ManuallyDrop::new(step("open /dev/null", null)?);
    // A source may itself have a number among 0 to 3: lift all of them out of the way first.
    let lift = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, STREAM_FD + 1).map(ManuallyDrop::new);
    let mut lifted = Vec::with_capacity(4);
    for source in [&null, &task.stdout, &task.stderr, &task.stream] {
        lifted.push(step("duplicate a descriptor", lift(source))?);
    }
    for (target, source) in lifted.iter().enumerate() {
        step("place a descriptor", sys::dup_onto(source.as_fd(), target as i32))?;
    }
    step("close inherited descriptors", sys::close_from(STREAM_FD as u32 + 1))
}

fn limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

/// From root of the user namespace to `uid`: the kernel clears all capabilities on the way, since none is kept.
fn credentials(uid: u32) -> Result<(), Failure> {
    let (user, group) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(uid));
    step("set the group", nix::unistd::setresgid(group, group, group))?;
    step("set the user", nix::unistd::setresuid(user, user, user))?;
    // Changing the user made the process undumpable, and so its own /proc/self unreadable to it.
    let dumpable = rustix::process::DumpableBehavior::Dumpable;
    step("make /proc/self readable", rustix::process::set_dumpable_behavior(dumpable))
}
