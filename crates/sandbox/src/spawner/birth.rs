//! How a Zygote comes into being: cloned from the nursery, given its mounts while still privileged, then confined to a user
//! namespace in which it is root over nothing but its own children, and made to run Python.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::unistd::{Gid, Uid, chdir, execve, pivot_root, setgroups, sethostname, setresgid, setresuid};
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};

use crate::messages::NurseryConfig;
use crate::sys::{self, Cloned};

/// User and group ids of a Zygote's namespace: its root, and one for every sandbox.
pub(crate) const ID_RANGE: u32 = 65_536;

/// What a Zygote needs over its own children: to mount in them, to change their user, to drop its bounding set.
const KEPT: CapabilitySet = CapabilitySet::SYS_ADMIN
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP);

/// What a Zygote's interpreter sees: no user site, one thread for numeric libraries, UTF-8.
const ENVIRONMENT: [&CStr; 7] = [
    c"PATH=/usr/local/bin:/usr/bin:/bin",
    c"HOME=/tmp",
    c"TMPDIR=/tmp",
    c"LANG=C.UTF-8",
    c"OMP_NUM_THREADS=1",
    c"OPENBLAS_NUM_THREADS=1",
    c"MKL_NUM_THREADS=1",
];

/// The number under which the Zygote finds its control socket.
const CONTROL_FD: i32 = 3;

/// Starts a Zygote; returns its pid here and a pidfd once it runs Python. The error is the failed step.
pub(super) fn start(
    config: &NurseryConfig,
    filter: &[libc::sock_filter],
    base_uid: u32,
    fds: Vec<OwnedFd>,
) -> Result<(i32, OwnedFd), String> {
    if fds.len() < 4 {
        return Err("too few descriptors came with the request".into());
    }
    let say = |step: &'static str| move |error: io::Error| format!("{step}: {error}");
    // The child says "user namespace made" by one byte, or what failed; we answer when the maps are written.
    let (mut from_child, to_parent) = io::pipe().map_err(say("make a pipe"))?;
    let (from_parent, mut to_child) = io::pipe().map_err(say("make a pipe"))?;
    let flags = (libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS) as u64;
    match sys::clone3(flags, None).map_err(say("clone the Zygote"))? {
        Cloned::Child => {
            drop((from_child, to_child));
            let mut report = to_parent;
            let error = be_zygote(config, filter, &fds, &mut report, from_parent).err().unwrap_or_default();
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
            write_maps(pid, base_uid).map_err(say("map the users of the Zygote"))?;
            to_child.write_all(b"m").map_err(say("tell the Zygote to go on"))?;
            // Ends, empty, when exec has closed the other side.
            let error = rest(&mut from_child);
            if error.is_empty() { Ok((pid, pidfd)) } else { Err(error) }
        }
    }
}

pub(super) fn rest(pipe: &mut io::PipeReader) -> String {
    let mut text = String::new();
    let _ = pipe.read_to_string(&mut text);
    text
}

fn write_maps(pid: i32, base: u32) -> io::Result<()> {
    let map = format!("0 {base} {ID_RANGE}\n");
    fs::write(format!("/proc/{pid}/uid_map"), &map)?;
    fs::write(format!("/proc/{pid}/gid_map"), &map)
}

pub(super) fn on<T, E: Into<io::Error>>(step: &str, result: Result<T, E>) -> Result<T, String> {
    result.map_err(|error| format!("{step}: {}", error.into()))
}

fn be_zygote(
    config: &NurseryConfig,
    filter: &[libc::sock_filter],
    fds: &[OwnedFd],
    report: &mut io::PipeWriter,
    mut answer: io::PipeReader,
) -> Result<(), String> {
    for join in &fds[3..] {
        on("join the cgroup", rustix::io::write(join, b"0"))?;
    }
    enter_root(&config.root, || Ok(()))?;
    on("name the host", sethostname("sandbox"))?;
    plain_signals()?;
    on("make a user namespace", unshare(CloneFlags::CLONE_NEWUSER))?;
    on("report", report.write_all(b"u"))?;
    let mut byte = [0];
    on("wait for the user maps", answer.read_exact(&mut byte))?;
    confine()?;
    place_descriptors(fds)?;
    on("refuse new privileges", set_no_new_privs(true))?;
    on("install the seccomp filter", sys::seccomp(filter))?;
    run_python(&config.python)
}

/// Makes the base root the only thing in this mount namespace, with a `/proc` that shows none but our own processes.
/// `more` mounts what else there is to be, by paths relative to that root.
pub(super) fn enter_root(root: &Path, more: impl FnOnce() -> Result<(), String>) -> Result<(), String> {
    let none = None::<&str>;
    on("make mounts private", mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))?;
    on("enter the base root", chdir(root))?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    on("mount /proc", mount(Some("proc"), "proc", Some("proc"), safe, Some("hidepid=invisible")))?;
    more()?;
    on("pivot_root", pivot_root(".", "."))?;
    on("leave the old root", umount2(".", MntFlags::MNT_DETACH))?;
    on("enter the new root", chdir("/"))
}

/// The nursery ignores and blocks signals; neither must be inherited by handlers.
pub(super) fn plain_signals() -> Result<(), String> {
    for which in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGPIPE] {
        #[allow(unsafe_code)]
        // SAFETY: the default action installs no handler, so nothing can run in signal context.
        on("reset a signal", unsafe { signal(which, SigHandler::SigDfl) })?;
    }
    on("unblock signals", SigSet::all().thread_unblock())
}

/// Becomes root of the new user namespace, with the few capabilities a Zygote needs there and no way to more.
fn confine() -> Result<(), String> {
    on("set the groups", setgroups(&[]))?;
    on("set the group", setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0)))?;
    on("set the user", setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0)))?;
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        // A capability this kernel does not know is none that could be kept.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let sets = CapabilitySets { effective: KEPT, permitted: KEPT, inheritable: CapabilitySet::empty() };
    on("drop capabilities", set_capabilities(None, sets))?;
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    on("forbid core files", rustix::process::setrlimit(Resource::Core, none))
}

fn place_descriptors(fds: &[OwnedFd]) -> Result<(), String> {
    let null = on("open /dev/null", File::open("/dev/null"))?;
    let lift = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 16);
    let sources =
        [null.into(), on("lift", lift(&fds[1]))?, on("lift", lift(&fds[2]))?, on("lift", lift(&fds[0]))?];
    for (target, source) in sources.iter().enumerate() {
        on("place a descriptor", sys::dup_onto(source.as_fd(), target as i32))?;
    }
    // The report pipe, and what the agent was started with.
    on("close the rest at exec", sys::close_from_at_exec(CONTROL_FD as u32 + 1))
}

fn run_python(python: &Path) -> Result<(), String> {
    let path = on("name the interpreter", CString::new(python.as_os_str().as_bytes()))?;
    let control = on("name the socket", CString::new(CONTROL_FD.to_string()))?;
    let arguments = [path.as_c_str(), c"-I", c"-S", c"-B", c"-X", c"utf8", c"/runtime/zygote.py", &control];
    let step = format!("run {} in the base root", python.display());
    on(&step, execve(&path, &arguments, &ENVIRONMENT)).map(|_| ())
}
