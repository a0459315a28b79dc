//! How a tool comes into being: a program of ours that is no handler and yet is not trusted, such as the installer of packages.
//! It is confined like a Zygote, and more: a pid namespace of its own, one user and no capability even there.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, execve, setgroups, sethostname, setresgid, setresuid};
use rustix::process::{Resource, Rlimit, setrlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use super::birth::{enter_root, on, plain_signals, rest};
use crate::child_filter;
use crate::messages::{NurseryConfig, ToolJob};
use crate::sys::{self, Cloned};

/// Where the program's descriptor is when it is executed.
const PROGRAM_FD: i32 = 3;
/// Open files of a tool.
const OPEN_FILES: u64 = 4096;

/// Starts a tool; returns its pid here and a pidfd once its program runs. The descriptors: the program, its stdout, its
/// stderr, and files to join its cgroup by. The error is the failed step.
pub(super) fn start(
    config: &NurseryConfig,
    filter: &[libc::sock_filter],
    job: &ToolJob,
    fds: Vec<OwnedFd>,
) -> Result<(i32, OwnedFd), String> {
    if fds.len() < 4 {
        return Err("too few descriptors came with the request".into());
    }
    let (mut from_child, to_parent) = on("make a pipe", io::pipe())?;
    let (from_parent, mut to_child) = on("make a pipe", io::pipe())?;
    let flags = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWPID;
    match on("clone the tool", sys::clone3(flags as u64, None))? {
        Cloned::Child => {
            drop((from_child, to_child));
            let mut report = to_parent;
            let error =
                be_tool(config, filter, job, &fds, &mut report, from_parent).err().unwrap_or_default();
            let _ = report.write_all(error.as_bytes());
            sys::exit_now(1)
        }
        Cloned::Parent { pid, pidfd } => {
            drop((to_parent, from_parent));
            let mut first = [0];
            match from_child.read(&mut first) {
                Ok(1) if first == *b"u" => {}
                _ => return Err(format!("{}{}", String::from_utf8_lossy(&first), rest(&mut from_child))),
            }
            let map = format!("0 {} 1\n", job.user);
            on("map the user of the tool", fs::write(format!("/proc/{pid}/uid_map"), &map))?;
            on("map the group of the tool", fs::write(format!("/proc/{pid}/gid_map"), &map))?;
            on("tell the tool to go on", to_child.write_all(b"m"))?;
            // Ends, empty, when exec has closed the other side.
            let error = rest(&mut from_child);
            if error.is_empty() { Ok((pid, pidfd)) } else { Err(error) }
        }
    }
}

fn be_tool(
    config: &NurseryConfig,
    filter: &[libc::sock_filter],
    job: &ToolJob,
    fds: &[OwnedFd],
    report: &mut io::PipeWriter,
    mut answer: io::PipeReader,
) -> Result<(), String> {
    for join in &fds[3..] {
        on("join the cgroup", rustix::io::write(join, b"0"))?;
    }
    enter_root(&config.root, || mounts(job))?;
    on("name the host", sethostname("tool"))?;
    plain_signals()?;
    on("make a user namespace", unshare(CloneFlags::CLONE_NEWUSER))?;
    on("report", report.write_all(b"u"))?;
    let mut byte = [0];
    on("wait for the user maps", answer.read_exact(&mut byte))?;
    confine()?;
    place_descriptors(fds)?;
    on("refuse new privileges", set_no_new_privs(true))?;
    on("install the seccomp filter", sys::seccomp(filter))?;
    on("install the second seccomp filter", sys::seccomp(&child_filter::assemble()))?;
    run(job)
}

/// In the base root, before it becomes `/`: the tool's folder in the place of the node's packages, and a `/tmp`.
fn mounts(job: &ToolJob) -> Result<(), String> {
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let bind = mount(Some(&job.folder), "packages", None::<&str>, MsFlags::MS_BIND, None::<&str>);
    on("bind the folder of the tool", bind)?;
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | safe;
    on(
        "restrict the folder of the tool",
        mount(None::<&str>, "packages", None::<&str>, again, None::<&str>),
    )?;
    let options = format!("size={},mode=1777", job.scratch);
    on("mount /tmp", mount(Some("scratch"), "tmp", Some("tmpfs"), safe, Some(options.as_str())))
}

/// Becomes the one user of the namespace, without capabilities and without a way to any.
fn confine() -> Result<(), String> {
    on("set the groups", setgroups(&[]))?;
    on("set the group", setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)))?;
    on("set the user", setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))?;
    for capability in CapabilitySet::all().iter() {
        // A capability this kernel does not know is none that could be kept.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    on("drop capabilities", set_capabilities(None, sets))?;
    let limit = |value| Rlimit { current: Some(value), maximum: Some(value) };
    on("forbid core files", setrlimit(Resource::Core, limit(0)))?;
    on("limit open files", setrlimit(Resource::Nofile, limit(OPEN_FILES)))
}

fn place_descriptors(fds: &[OwnedFd]) -> Result<(), String> {
    let null = on("open /dev/null", File::open("/dev/null"))?;
    let lift = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16);
    let sources =
        [null.into(), on("lift", lift(&fds[1]))?, on("lift", lift(&fds[2]))?, on("lift", lift(&fds[0]))?];
    for (target, source) in sources.iter().enumerate() {
        on("place a descriptor", sys::dup_onto(source.as_fd(), target as i32))?;
    }
    // The program itself, the report pipe and what the agent was started with.
    on("close the rest at exec", sys::close_from_at_exec(PROGRAM_FD as u32))
}

/// The program need not be visible: it is executed through its descriptor.
fn run(job: &ToolJob) -> Result<(), String> {
    let text = |text: &String| CString::new(text.as_bytes());
    let path = on("name the program", CString::new(format!("/proc/self/fd/{PROGRAM_FD}")))?;
    let arguments: Result<Vec<_>, _> = job.arguments.iter().map(text).collect();
    let environment: Result<Vec<_>, _> = job.environment.iter().map(text).collect();
    let (arguments, environment) =
        (on("take the arguments", arguments)?, on("take the environment", environment)?);
    on("run the program", execve(&path, &arguments, &environment)).map(|_| ())
}
