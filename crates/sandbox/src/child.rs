//! What a fresh sandbox does between its birth by `clone3` and the first line of Python.
//!
//! A *spare* goes half of the way, and the rest when it is told what to serve. A *branch* becomes another Zygote instead, which may
//! import what is not trusted: root of a user namespace of its own, in which nothing is but itself and what it forks.
//!
//! A sandbox starts as root of the Zygote's user namespace, with a copy of the Zygote's mounts: the read-only base root and a
//! `/proc`. It ends as an unprivileged user with its own mounts on top, no capabilities, and a second seccomp filter that
//! forbids what this file needed. A failure at any step is fatal: a sandbox that is half set up must never run a handler.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::mount::{MoveMountFlags, move_mount};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, remove_capability_from_bounding_set, set_capabilities,
};

use crate::fork_request::{Assignment, BRANCH, CGROUP_V2, ForkRequest, HAS_CODE, SPARE};
use crate::{child_filter, sys};

/// Namespaces of a sandbox; the user namespace is the Zygote's. With `CLONE_PARENT` the nursery is the parent and reaps.
pub const CLONE_FLAGS: u64 =
    (libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_PARENT)
        as u64;

/// Those of a branch: it has no pid namespace of its own, as the first process of one could not give its children away.
pub const BRANCH_FLAGS: u64 =
    (libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_PARENT)
        as u64;

/// The descriptor on which the handler's runtime finds its stream, and a Zygote its control socket.
pub const STREAM_FD: i32 = 3;
/// The descriptor on which a branch finds what it is to import.
pub const JOB_FD: i32 = 4;
/// Bytes that a branch's `/tmp` may hold: some packages write there when they are imported.
const BRANCH_SCRATCH: u64 = 16 << 20;
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
    job: Option<OwnedFd>,
    cgroup: Vec<OwnedFd>,
}

/// What the child of a fork request becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A sandbox, with all that it needs.
    Sandbox,
    /// A sandbox that has not been told yet what to serve.
    Spare,
    /// A Zygote.
    Branch,
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
        let job = if request.flags & BRANCH != 0 { Some(next()?) } else { None };
        Ok(Self { request, stream, stdout, stderr, code, job, cgroup: fds.collect() })
    }

    /// What is asked for.
    pub fn role(&self) -> Role {
        match self.request.flags {
            flags if flags & BRANCH != 0 => Role::Branch,
            flags if flags & SPARE != 0 => Role::Spare,
            _ => Role::Sandbox,
        }
    }

    /// The namespaces of the child.
    pub fn clone_flags(&self) -> u64 {
        if self.role() == Role::Branch { BRANCH_FLAGS } else { CLONE_FLAGS }
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

/// What a Zygote needs over its children: to mount in them, and to change their user.
fn kept() -> CapabilitySet {
    CapabilitySet::SYS_ADMIN | CapabilitySet::SETUID | CapabilitySet::SETGID
}

/// Empties the capability bounding set of this Zygote, which all its children inherit, and gives up the capability to do so.
/// Done by the Zygote itself, as `exec` needed the set to leave it its few capabilities. Once done, it does nothing.
pub fn empty_bounding_set() -> io::Result<()> {
    if !capabilities(None)?.effective.contains(CapabilitySet::SETPCAP) {
        return Ok(());
    }
    for capability in CapabilitySet::all().iter() {
        match remove_capability_from_bounding_set(capability) {
            // A capability this kernel does not know is none that could be kept.
            Err(rustix::io::Errno::INVAL) | Ok(()) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let sets = CapabilitySets { effective: kept(), permitted: kept(), inheritable: CapabilitySet::empty() };
    Ok(set_capabilities(None, sets)?)
}

/// Turns this fresh clone into what its task says: a sandbox or a spare, whose stream is [`STREAM_FD`], or a Zygote, whose control socket
/// that is; 0, 1, 2 are null, stdout, stderr. A branch waits on `released` until its user maps are written. On failure the reason is
/// written to the child's stderr and the process ends with [`SETUP_FAILED`].
pub fn become_child(task: ForkTask, plan: &ChildPlan, released: Option<BorrowedFd<'_>>) {
    // Every descriptor of the task is closed wholesale on the way: dropping it would close numbers that are no longer its own.
    let task = ManuallyDrop::new(task);
    let done = match (task.role(), released) {
        (Role::Branch, Some(released)) => try_branch(&task, released),
        (Role::Branch, None) => Err(("wait for the user maps", io::ErrorKind::InvalidInput.into())),
        (Role::Spare, _) => half(&task, plan),
        (Role::Sandbox, _) => {
            half(&task, plan).and_then(|()| confine(task.request.uid, task.request.open_files, plan))
        }
    };
    if let Err((step, error)) = done {
        fail(Some(&task.stderr), step, &error);
    }
}

/// Turns a spare into a sandbox, which serves what the assignment says.
pub fn take_up(uid: u32, assignment: Assignment, code: Option<OwnedFd>, plan: &ChildPlan) {
    let mut done = Ok(());
    if let Some(code) = &code {
        done = done.and_then(|()| mount_code(code));
    }
    drop(code);
    let done = done
        .and_then(|()| resize_scratch(assignment.scratch))
        .and_then(|()| confine(uid, assignment.open_files, plan));
    if let Err((step, error)) = done {
        fail(None, step, &error);
    }
}

fn fail(stderr: Option<&OwnedFd>, step: &str, error: &io::Error) -> ! {
    let text = format!("the sandbox could not be set up: {step}: {error}\n");
    if stderr.is_none_or(|stderr| rustix::io::write(stderr, text.as_bytes()).is_err()) {
        let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
    }
    sys::exit_now(SETUP_FAILED)
}

type Failure = (&'static str, io::Error);

fn step<T, E: Into<io::Error>>(name: &'static str, result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(|error| (name, error.into()))
}

/// All that does not depend on what will be served.
fn half(task: &ForkTask, plan: &ChildPlan) -> Result<(), Failure> {
    join_cgroup(task)?;
    mounts(task, plan)?;
    descriptors([&task.stdout, &task.stderr, &task.stream])
}

/// The way down, and no way back up.
fn confine(uid: u32, open_files: u32, plan: &ChildPlan) -> Result<(), Failure> {
    step("set the limit of open files", limit(Resource::Nofile, open_files.into()))?;
    credentials(uid)?;
    step("install the seccomp filter", sys::seccomp(&plan.filter))
}

fn join_cgroup(task: &ForkTask) -> Result<(), Failure> {
    if task.request.flags & CGROUP_V2 == 0 {
        for tasks in &task.cgroup {
            // "0" is the writer itself; through `tasks`, not `cgroup.procs`, which waits for an RCU grace period.
            step("join the cgroup", rustix::io::write(tasks, b"0"))?;
        }
    }
    Ok(())
}

/// Becomes root of its own user namespace, over nothing but what it will fork.
fn try_branch(task: &ForkTask, released: BorrowedFd<'_>) -> Result<(), Failure> {
    let mut byte = [0];
    let read = rustix::io::read(released, &mut byte[..]).map_err(io::Error::from);
    let read = read.and_then(|count| if count == 1 { Ok(()) } else { Err(io::ErrorKind::BrokenPipe.into()) });
    step("wait for the user maps", read)?;
    join_cgroup(task)?;
    let (user, group) = (nix::unistd::Uid::from_raw(0), nix::unistd::Gid::from_raw(0));
    step("set the group", nix::unistd::setresgid(group, group, group))?;
    step("set the user", nix::unistd::setresuid(user, user, user))?;
    step("give up capabilities", empty_bounding_set())?;
    let plain = libc::MS_NOSUID | libc::MS_NODEV;
    let options = format!("size={BRANCH_SCRATCH},nr_inodes=1024,mode=1777");
    let options = step("name the options of /tmp", CString::new(options))?;
    step("mount /tmp", sys::mount(c"scratch", c"/tmp", Some(c"tmpfs"), plain, Some(&options)))?;
    let Some(job) = &task.job else { return Err(("find the job", io::ErrorKind::InvalidInput.into())) };
    descriptors([&task.stdout, &task.stderr, &task.stream, job])?;
    step("set the limit of open files", limit(Resource::Nofile, task.request.open_files.into()))?;
    readable()
}

fn mounts(task: &ForkTask, plan: &ChildPlan) -> Result<(), Failure> {
    let plain = libc::MS_NOSUID | libc::MS_NODEV;
    let uid = task.request.uid;
    let options = format!("{},mode=0777,uid={uid},gid={uid}", scratch_size(task.request.scratch));
    let options = step("name the options of /host", CString::new(options))?;
    step("mount /host", sys::mount(c"scratch", c"/host", Some(c"tmpfs"), plain, Some(&options)))?;
    step("make /host/tmp", rustix::fs::mkdir(c"/host/tmp", rustix::fs::Mode::from_raw_mode(0o1777)))?;
    step("open up /host/tmp", rustix::fs::chmod(c"/host/tmp", rustix::fs::Mode::from_raw_mode(0o1777)))?;
    step("bind /tmp", sys::mount(c"/host/tmp", c"/tmp", None, libc::MS_BIND, None))?;
    if let Some(code) = &task.code {
        mount_code(code)?;
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

/// The size of a scratch space as an option of its mount. Inodes cost kernel memory that `size` does not count: one per 4 KiB, at
/// most 16 Ki.
fn scratch_size(bytes: u64) -> String {
    format!("size={bytes},nr_inodes={}", (bytes / 4096).clamp(64, 16 * 1024))
}

fn resize_scratch(bytes: u64) -> Result<(), Failure> {
    let flags = libc::MS_REMOUNT | libc::MS_NOSUID | libc::MS_NODEV;
    let options = step("name the options of /host", CString::new(scratch_size(bytes)))?;
    step("resize /host", sys::mount(c"none", c"/host", None, flags, Some(&options)))
}

fn mount_code(code: &OwnedFd) -> Result<(), Failure> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    step("mount /handler", move_mount(code, c"", rustix::fs::CWD, c"/handler", flags))
}

/// Makes 0 the null device, 1 and on these, and closes all others.
fn descriptors<const N: usize>(wanted: [&OwnedFd; N]) -> Result<(), Failure> {
    let null = rustix::fs::open(c"/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty());
    // Closed with all others below, not by its owner.
    let null = ManuallyDrop::new(step("open /dev/null", null)?);
    // A source may itself have a number among the targets: lift all of them out of the way first.
    let lift = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, N as i32 + 1).map(ManuallyDrop::new);
    let mut lifted = Vec::with_capacity(N + 1);
    for source in std::iter::once(&*null).chain(wanted) {
        lifted.push(step("duplicate a descriptor", lift(source))?);
    }
    for (target, source) in lifted.iter().enumerate() {
        step("place a descriptor", sys::dup_onto(source.as_fd(), target as i32))?;
    }
    step("close inherited descriptors", sys::close_from(N as u32 + 1))
}

fn limit(resource: Resource, value: u64) -> rustix::io::Result<()> {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) })
}

/// From root of the user namespace to `uid`: the kernel clears all capabilities on the way, since none is kept.
fn credentials(uid: u32) -> Result<(), Failure> {
    let (user, group) = (nix::unistd::Uid::from_raw(uid), nix::unistd::Gid::from_raw(uid));
    step("set the group", nix::unistd::setresgid(group, group, group))?;
    step("set the user", nix::unistd::setresuid(user, user, user))?;
    readable()
}

fn readable() -> Result<(), Failure> {
    // Changing the user made the process undumpable, and so its own /proc/self unreadable to it.
    let dumpable = rustix::process::DumpableBehavior::Dumpable;
    step("make /proc/self readable", rustix::process::set_dumpable_behavior(dumpable))
}
