//! One sandbox, as the agent holds it.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::process::{Signal, pidfd_send_signal};
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;

use crate::cgroup::Cgroup;
use crate::limits::Limits;
use crate::nursery;

/// What a sandbox is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxSpec {
    /// The folder seen as `/handler`.
    pub code: Option<PathBuf>,
    /// What it may use.
    pub limits: Limits,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exit {
    /// As `wait` gave it; none if it never came to be.
    pub status: Option<ExitStatus>,
    /// Whether the kernel killed in it for want of memory.
    pub oom_killed: bool,
    /// Why it never came to be.
    pub failure: Option<String>,
}

impl Exit {
    /// Whether it was killed by a signal that no program raises by itself.
    pub fn is_kill(&self) -> bool {
        self.status.and_then(|status| status.signal()) == Some(libc::SIGKILL)
    }

    /// Nothing is known of it.
    pub(crate) fn unknown() -> Self {
        Self { status: None, oom_killed: false, failure: Some("the agent let go of it".into()) }
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.failure, self.status) {
            (Some(failure), _) => write!(f, "could not be started: {failure}"),
            (None, Some(status)) => match (status.code(), status.signal()) {
                (Some(code), _) => write!(f, "exited with status {code}"),
                (None, Some(signal)) => {
                    let name = nix::sys::signal::Signal::try_from(signal).map_or("unknown", |s| s.as_str());
                    write!(f, "was killed by signal {signal} ({name})")
                }
                (None, None) => write!(f, "ended"),
            },
            (None, None) => write!(f, "ended"),
        }
    }
}

/// A sandbox: its stream, its output, and a handle. Dropping the handle's last clone kills it.
#[derive(Debug)]
pub struct Sandbox {
    /// The connection to the runtime in it.
    pub stream: UnixStream,
    /// Its standard output.
    pub stdout: pipe::Receiver,
    /// Its standard error.
    pub stderr: pipe::Receiver,
    /// To pause, measure and kill it.
    pub handle: SandboxHandle,
}

pub(crate) struct Inner {
    id: u64,
    nursery: Arc<nursery::Inner>,
    /// Taken when the last process is gone.
    group: Mutex<Option<Cgroup>>,
    pidfd: Mutex<Option<OwnedFd>>,
    kill_wanted: AtomicBool,
    born: AtomicBool,
    exit: watch::Sender<Option<Exit>>,
}

impl Inner {
    pub(crate) fn new(id: u64, group: Cgroup, nursery: Arc<nursery::Inner>) -> Self {
        let (pidfd, kill_wanted) = (Mutex::new(None), AtomicBool::new(false));
        Self {
            id,
            nursery,
            group: Mutex::new(Some(group)),
            pidfd,
            kill_wanted,
            born: AtomicBool::new(false),
            exit: watch::Sender::new(None),
        }
    }

    pub(crate) fn born(&self, pidfd: OwnedFd) {
        let mut slot = self.pidfd.lock();
        if self.kill_wanted.load(Ordering::Acquire) {
            let _ = pidfd_send_signal(&pidfd, Signal::KILL);
        }
        *slot = Some(pidfd);
        self.born.store(true, Ordering::Release);
    }

    pub(crate) fn ended(&self, status: i32) {
        self.finish(Exit { status: Some(ExitStatus::from_raw(status)), oom_killed: false, failure: None });
    }

    pub(crate) fn failed(&self, failure: String) {
        self.finish(Exit { status: None, oom_killed: false, failure: Some(failure) });
    }

    fn finish(&self, mut exit: Exit) {
        self.pidfd.lock().take();
        if let Some(group) = self.group.lock().take() {
            exit.oom_killed = group.oom_killed_since_last_look();
            self.nursery.recycle(group);
        }
        self.exit.send_replace(Some(exit));
    }

    fn kill(&self) {
        let pidfd = self.pidfd.lock();
        self.kill_wanted.store(true, Ordering::Release);
        if let Some(pidfd) = pidfd.as_ref() {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
        drop(pidfd);
        // On cgroup v1 a frozen process takes the signal only when it thaws.
        let _ = self.with_group(Cgroup::thaw);
    }

    fn with_group<T>(&self, act: impl FnOnce(&Cgroup) -> io::Result<T>) -> io::Result<T> {
        let group = self.group.lock();
        group
            .as_ref()
            .map_or_else(|| Err(io::Error::new(io::ErrorKind::NotFound, "the sandbox has ended")), act)
    }
}

/// A handle of a sandbox; clones are of the same one.
#[derive(Clone)]
pub struct SandboxHandle(Arc<Owner>);

struct Owner(Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill();
    }
}

impl fmt::Debug for SandboxHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SandboxHandle({})", self.id())
    }
}

impl SandboxHandle {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        Self(Arc::new(Owner(inner)))
    }

    /// The agent's number for it.
    pub fn id(&self) -> u64 {
        self.0.0.id
    }

    /// Whether its process is there. Before, nothing that was written to its stream can have been read.
    pub fn is_born(&self) -> bool {
        self.0.0.born.load(Ordering::Acquire)
    }

    /// Waits until every process of it is gone.
    pub async fn exited(&self) -> Exit {
        let mut exit = self.0.0.exit.subscribe();
        let ended = exit.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
        ended.unwrap_or_else(Exit::unknown)
    }

    /// Kills every process of it, paused or not. Returns at once.
    pub fn kill(&self) {
        self.0.0.kill();
    }

    /// Pauses it.
    pub fn freeze(&self) -> io::Result<()> {
        self.0.0.with_group(Cgroup::freeze)
    }

    /// Lets it go on.
    pub fn thaw(&self) -> io::Result<()> {
        self.0.0.with_group(Cgroup::thaw)
    }

    /// Holds it to other limits from now on; those of its scratch space and open files stay.
    pub fn apply(&self, limits: &Limits) -> io::Result<()> {
        self.0.0.with_group(|group| group.apply(limits))
    }

    /// Its share of busy CPUs from now on, until limits are applied again.
    pub fn set_cpu_weight(&self, weight: u32) -> io::Result<()> {
        self.0.0.with_group(|group| group.set_weight(weight))
    }

    /// Bytes of memory charged to it.
    pub fn memory_bytes(&self) -> io::Result<u64> {
        self.0.0.with_group(Cgroup::memory_bytes)
    }
}
