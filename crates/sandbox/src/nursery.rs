//! The agent's side of the nursery: starts it, asks it for Zygotes, learns from it how processes ended.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::Flock;
use nix::sys::socket::{AddressFamily, Shutdown, SockFlag, SockType, shutdown, socketpair};
use parking_lot::Mutex;
use tokio::io::unix::AsyncFd;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tracing::{debug, warn};

use crate::cgroup::{Cgroup, CgroupPool, CgroupTree, OwnedGroup, borrow};
use crate::fdpass;
use crate::host::{CGROUPS_FILE, Host};
use crate::limits::Limits;
use crate::messages::{FromNursery, NurseryConfig, ToNursery, ToolJob};
use crate::sandbox::Inner as SandboxInner;
use crate::spawner::ID_RANGE;
use crate::sys;
use crate::zygote::Zygote;

/// The host's user ids given to Zygotes begin here: above those of login users and of the usual container ranges,
/// below the sign bit that some programs mind.
pub(crate) const FIRST_UID: u32 = 1_879_048_192;
/// Ranges in use at a time; a number is taken again only after so many Zygotes.
const UID_RANGES: u32 = 1024;
/// A Zygote that is not up after this long never will be.
const ZYGOTE_START: Duration = Duration::from_secs(30);
/// How long processes may take to end once their namespace is gone.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// Why the nursery or a Zygote did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A system call failed.
    #[error("{step}: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The nursery reports a failed step.
    #[error("the process could not be started: {0}")]
    Zygote(String),
    /// It did not become ready.
    #[error("the Zygote did not become ready within {} s; its log lines say why", ZYGOTE_START.as_secs())]
    Timeout,
    /// The nursery has ended.
    #[error("the nursery, in which sandboxes live, has ended; the worker must be restarted")]
    Gone,
}

pub(crate) fn start_error<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> StartError {
    move |error| StartError::Io { step, source: error.into() }
}

type Started = Result<(i32, OwnedFd), String>;

/// The processes of one nursery, by their pid in it.
#[derive(Default)]
struct Census {
    living: HashMap<i32, Resident>,
    /// Ended before the agent learnt whose pid it was.
    unclaimed: HashMap<i32, i32>,
    starting: HashMap<u64, oneshot::Sender<Started>>,
    gone: bool,
}

enum Resident {
    Sandbox(Arc<SandboxInner>),
    Zygote(Arc<crate::zygote::Inner>),
    Tool(oneshot::Sender<i32>),
}

pub(crate) struct Inner {
    socket: AsyncFd<OwnedFd>,
    census: Mutex<Census>,
    pub(crate) pool: Arc<CgroupPool>,
    pub(crate) tree: Arc<CgroupTree>,
    state_dir: PathBuf,
    next_zygote: AtomicU64,
    next_range: AtomicU32,
    pub(crate) next_sandbox: AtomicU64,
    child: tokio::sync::Mutex<Option<Child>>,
    lock: Mutex<Option<Flock<File>>>,
}

/// A handle of the nursery; clones are the same one.
#[derive(Clone)]
pub struct Nursery(pub(crate) Arc<Inner>);

impl Nursery {
    pub(crate) async fn start(host: Host) -> Result<Self, StartError> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags);
        let (ours, theirs) = pair.map_err(start_error("make a socket pair"))?;
        let config = NurseryConfig {
            root: host.root.clone(),
            python: host.config.python.clone(),
            cgroups: host.tree.roots().to_vec(),
        };
        let config = serde_json::to_string(&config)
            .map_err(|e| start_error("write the configuration")(io::Error::other(e)))?;
        let child = Command::new("/proc/self/exe")
            .args(["spawner", &config])
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(start_error("start the spawner"))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(start_error("set a socket to non-blocking"))?;
        let inner = Arc::new(Inner {
            socket: sys::watch(ours).map_err(start_error("watch a socket"))?,
            census: Mutex::default(),
            pool: host.pool,
            tree: host.tree,
            state_dir: host.config.state_dir,
            next_zygote: AtomicU64::new(1),
            next_range: AtomicU32::new(0),
            next_sandbox: AtomicU64::new(1),
            child: tokio::sync::Mutex::new(Some(child)),
            lock: Mutex::new(Some(host.lock)),
        });
        let nursery = Self(inner);
        nursery.0.refill_pool();
        tokio::spawn(Arc::clone(&nursery.0).listen());
        Ok(nursery)
    }

    /// Starts a root Zygote, bare Python, and waits until it can fork.
    pub async fn zygote(&self) -> Result<Zygote, StartError> {
        let inner = &self.0;
        // First of all: its cgroups were removed after it, so anything else tried would fail for want of those.
        if inner.census.lock().gone {
            return Err(StartError::Gone);
        }
        let id = inner.next_zygote.fetch_add(1, Ordering::Relaxed);
        let range = inner.next_range.fetch_add(1, Ordering::Relaxed) % UID_RANGES;
        let base_uid = FIRST_UID + range * ID_RANGE;
        let group = inner.tree.group(&format!("z-{id}")).map_err(start_error("make the Zygote's cgroup"))?;
        let start = Zygote::start(self, id, base_uid, OwnedGroup::new(group));
        tokio::time::timeout(ZYGOTE_START, start).await.map_err(|_| StartError::Timeout)?
    }

    pub(crate) async fn request_zygote(
        &self,
        id: u64,
        base_uid: u32,
        group: &OwnedGroup,
        fds: [BorrowedFd<'_>; 3],
    ) -> Result<(i32, OwnedFd), StartError> {
        let join = group.join_files().map_err(start_error("open the Zygote's cgroup"))?;
        let fds: Vec<_> = fds.into_iter().chain(borrow(&join)).collect();
        self.request(&ToNursery::StartZygote { id, base_uid }, id, &fds).await
    }

    /// Has a tool started: its pidfd, and what gives its wait status.
    pub(crate) async fn request_tool(
        &self,
        job: ToolJob,
        group: &OwnedGroup,
        fds: [BorrowedFd<'_>; 3],
    ) -> Result<(OwnedFd, oneshot::Receiver<i32>), StartError> {
        let id = self.0.next_zygote.fetch_add(1, Ordering::Relaxed);
        let join = group.join_files().map_err(start_error("open the tool's cgroup"))?;
        let fds: Vec<_> = fds.into_iter().chain(borrow(&join)).collect();
        let (pid, pidfd) = self.request(&ToNursery::RunTool { id, job }, id, &fds).await?;
        let (sender, ended) = oneshot::channel();
        self.0.settle(pid, Resident::Tool(sender));
        Ok((pidfd, ended))
    }

    /// A cgroup for a tool.
    pub(crate) fn tool_group(&self, limits: &Limits) -> io::Result<OwnedGroup> {
        let id = self.0.next_zygote.fetch_add(1, Ordering::Relaxed);
        let group = OwnedGroup::new(self.0.tree.group(&format!("t-{id}"))?);
        group.apply(limits)?;
        Ok(group)
    }

    async fn request(
        &self,
        message: &ToNursery,
        id: u64,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(i32, OwnedFd), StartError> {
        let message = serde_json::to_vec(message);
        let message = message.map_err(|e| start_error("write a request")(io::Error::other(e)))?;
        let (sender, receiver) = oneshot::channel();
        {
            let mut census = self.0.census.lock();
            if census.gone {
                return Err(StartError::Gone);
            }
            census.starting.insert(id, sender);
        }
        send(&self.0.socket, &message, fds).await.map_err(start_error("ask the nursery for a process"))?;
        receiver.await.map_err(|_| StartError::Gone)?.map_err(StartError::Zygote)
    }

    /// Kills every Zygote and sandbox, waits for them, and removes what was made: cgroups and their record.
    /// (The spawner removes the cgroups of an agent that was killed; here a failure can be reported.)
    pub async fn shutdown(&self) {
        // The nursery ends when it reads the end of this socket; with it, its whole namespace.
        let _ = shutdown(rustix::fd::AsRawFd::as_raw_fd(self.0.socket.get_ref()), Shutdown::Both);
        if let Some(mut child) = self.0.child.lock().await.take()
            && tokio::time::timeout(SHUTDOWN, child.wait()).await.is_err()
        {
            warn!("the nursery did not end within {} s; killing it", SHUTDOWN.as_secs());
            let _ = child.kill().await;
        }
        let tree = Arc::clone(&self.0.tree);
        match tokio::task::spawn_blocking(move || tree.remove()).await {
            Ok(Ok(())) => {
                let _ = std::fs::remove_file(self.0.state_dir.join(CGROUPS_FILE));
            }
            Ok(Err(error)) => warn!("cgroups are left; the next start removes them: {error}"),
            Err(_) => warn!("cgroups are left; the next start removes them"),
        }
        self.0.lock.lock().take();
    }
}

impl Inner {
    /// Files the events of the nursery until it ends.
    async fn listen(self: Arc<Self>) {
        loop {
            match receive(&self.socket).await {
                Ok(Some((bytes, fds))) => match serde_json::from_slice(&bytes) {
                    Ok(event) => self.file(event, fds),
                    Err(error) => warn!("the nursery sent what is no event: {error}"),
                },
                Ok(None) => break,
                Err(error) => {
                    warn!("the nursery cannot be heard: {error}");
                    break;
                }
            }
        }
        self.all_gone();
    }

    fn file(&self, event: FromNursery, mut fds: Vec<OwnedFd>) {
        match event {
            FromNursery::Started { id, pid } => {
                let waiting = self.census.lock().starting.remove(&id);
                if let (Some(waiting), Some(pidfd)) = (waiting, fds.pop()) {
                    let _ = waiting.send(Ok((pid, pidfd)));
                }
            }
            FromNursery::Failed { id, error } => {
                if let Some(waiting) = self.census.lock().starting.remove(&id) {
                    let _ = waiting.send(Err(error));
                }
            }
            FromNursery::Exited { pid, status } => {
                let mut census = self.census.lock();
                match census.living.remove(&pid) {
                    Some(resident) => {
                        drop(census);
                        resident.ended(status);
                    }
                    None => {
                        census.unclaimed.insert(pid, status);
                    }
                }
            }
        }
    }

    fn all_gone(&self) {
        let census = {
            let mut census = self.census.lock();
            std::mem::replace(&mut *census, Census { gone: true, ..Census::default() })
        };
        debug!("the nursery has ended with {} residents", census.living.len());
        census.living.into_values().for_each(|resident| resident.ended(libc::SIGKILL));
    }

    pub(crate) fn settle_sandbox(&self, pid: i32, sandbox: Arc<SandboxInner>) {
        self.settle(pid, Resident::Sandbox(sandbox));
    }

    pub(crate) fn settle_zygote(&self, pid: i32, zygote: Arc<crate::zygote::Inner>) {
        self.settle(pid, Resident::Zygote(zygote));
    }

    fn settle(&self, pid: i32, resident: Resident) {
        let mut census = self.census.lock();
        let ended = if census.gone { Some(libc::SIGKILL) } else { census.unclaimed.remove(&pid) };
        match ended {
            Some(status) => {
                drop(census);
                resident.ended(status);
            }
            None => {
                census.living.insert(pid, resident);
            }
        }
    }

    /// Brings the pool of cgroups to its size, off the request path.
    pub(crate) fn refill_pool(&self) {
        if self.pool.is_low() {
            let pool = Arc::clone(&self.pool);
            tokio::task::spawn_blocking(move || {
                if let Err(error) = pool.refill() {
                    warn!("no cgroups can be made ahead: {error}");
                }
            });
        }
    }

    /// Takes back the cgroup of a sandbox whose last process is gone.
    pub(crate) fn recycle(&self, group: Cgroup) {
        let pool = Arc::clone(&self.pool);
        tokio::task::spawn_blocking(move || {
            if let Err(error) = pool.give_back(group) {
                warn!("a cgroup could not be used again: {error}");
            }
        });
    }
}

impl Resident {
    fn ended(self, status: i32) {
        match self {
            Self::Sandbox(sandbox) => sandbox.ended(status),
            // Nobody may be waiting any more.
            Self::Tool(sender) => drop(sender.send(status)),
            Self::Zygote(zygote) => zygote.ended(status),
        }
    }
}

/// Sends one record, waiting for room.
pub(crate) async fn send(socket: &AsyncFd<OwnedFd>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    // Nearly always there is room: try before asking the reactor.
    match fdpass::send(socket.as_fd(), bytes, fds) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
        done => return done,
    }
    loop {
        let mut guard = socket.writable().await?;
        if let Ok(done) = guard.try_io(|socket| fdpass::send(socket.as_fd(), bytes, fds)) {
            return done;
        }
    }
}

/// Receives one record; `None` at the end.
pub(crate) async fn receive(socket: &AsyncFd<OwnedFd>) -> io::Result<Option<(Vec<u8>, Vec<OwnedFd>)>> {
    loop {
        let mut guard = socket.readable().await?;
        if let Ok(done) = guard.try_io(|socket| fdpass::receive(socket.as_fd())) {
            return done;
        }
    }
}
