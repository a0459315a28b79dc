//! The agent's side of a Zygote: asks it to fork, and makes a [`Sandbox`] of what comes of it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use parking_lot::Mutex;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::AsyncBufReadExt;
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::net::unix::pipe;
use tokio::sync::watch;
use tracing::warn;

use crate::branch::{Birth, Pending};
use crate::cgroup::{Cgroup, OwnedGroup, borrow};
use crate::fork_request::{CGROUP_V2, ForkReply, ForkRequest, HAS_CODE, SPARE};
use crate::id_map::FIRST_USER;
use crate::limits::Limits;
use crate::nursery::{self, Nursery, StartError, receive, start_error};
use crate::sandbox::{Exit, Inner as SandboxInner, Sandbox, SandboxHandle, SandboxSpec};
use crate::spare::Spare;
use crate::sys;

/// Users of sandboxes within the Zygote's namespace, one each from [`FIRST_USER`] on; those above are roots of branches.
const USERS: u64 = 60_000;

/// Why a sandbox was not forked.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The Zygote has ended; ask another.
    #[error("the Zygote has ended")]
    ZygoteGone,
    /// A system call failed.
    #[error("{step}: {source}")]
    Io {
        /// What was tried.
        step: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

pub(crate) fn fork_error<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> ForkError {
    move |error| ForkError::Io { step, source: error.into() }
}

pub(crate) struct Inner {
    pub(crate) control: AsyncFd<OwnedFd>,
    pub(crate) nursery: Arc<nursery::Inner>,
    pidfd: OwnedFd,
    /// Whether it runs code that is not ours, so that what it says of its children must be checked.
    suspect: bool,
    /// Asked for and not yet answered; `None` once the Zygote has ended.
    pending: Mutex<Option<HashMap<u64, Pending>>>,
    group: Mutex<Option<Cgroup>>,
    ended: watch::Sender<Option<Exit>>,
}

/// A handle of a Zygote; when the last clone is dropped, the Zygote is killed. Sandboxes forked from it live on.
#[derive(Clone)]
pub struct Zygote(pub(crate) Arc<Owner>);

pub(crate) struct Owner(pub(crate) Arc<Inner>);

impl Drop for Owner {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0.pidfd, Signal::KILL);
    }
}

impl Zygote {
    pub(crate) async fn start(
        nursery: &Nursery,
        id: u64,
        base_uid: u32,
        group: OwnedGroup,
    ) -> Result<Self, StartError> {
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.map_err(start_error("make a socket pair"))?;
        let (stdout, stdout_writer) = output_pipe().map_err(start_error("make a pipe"))?;
        let (stderr, stderr_writer) = output_pipe().map_err(start_error("make a pipe"))?;
        let fds = [theirs.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
        let (pid, pidfd) = nursery.request_zygote(id, base_uid, &group, fds).await?;
        drop((theirs, stdout_writer, stderr_writer));
        tokio::spawn(log_lines(stdout, id));
        tokio::spawn(log_lines(stderr, id));
        rustix::io::ioctl_fionbio(&ours, true).map_err(start_error("set a socket to non-blocking"))?;
        let control = sys::watch(ours).map_err(start_error("watch a socket"))?;
        let group = group.take().ok_or(StartError::Gone)?;
        let zygote = Self::settle(Arc::clone(&nursery.0), control, (pid, pidfd), group, false);
        let inner = Arc::clone(&zygote.0.0);
        match receive(&inner.control).await {
            Ok(Some(_ready)) => {}
            Ok(None) => {
                return Err(StartError::Zygote("it ended before it was ready; its log lines say why".into()));
            }
            Err(error) => return Err(start_error("hear from the Zygote")(error)),
        }
        tokio::spawn(inner.listen());
        Ok(zygote)
    }

    /// Takes up a Zygote's process.
    pub(crate) fn settle(
        nursery: Arc<nursery::Inner>,
        control: AsyncFd<OwnedFd>,
        (pid, pidfd): (i32, OwnedFd),
        group: Cgroup,
        suspect: bool,
    ) -> Self {
        let inner = Arc::new(Inner {
            control,
            nursery: Arc::clone(&nursery),
            pidfd,
            suspect,
            pending: Mutex::new(Some(HashMap::new())),
            group: Mutex::new(Some(group)),
            ended: watch::Sender::new(None),
        });
        nursery.settle_zygote(pid, Arc::clone(&inner));
        Self(Arc::new(Owner(inner)))
    }

    /// Asks for a sandbox. Returns once the request is handed over: what is written to the stream meanwhile is read by the sandbox
    /// when it is up, and if it never is, the stream ends and [`SandboxHandle::exited`] says why.
    pub async fn fork(&self, spec: &SandboxSpec) -> Result<Sandbox, ForkError> {
        let code = spec.code.as_deref().map(detached_mount).transpose();
        self.make(&spec.limits, code.map_err(fork_error("open the code"))?, 0).await
    }

    /// Asks for a sandbox that has no code yet: [`Spare::take_up`] gives it some. It is charged and held to `limits` until then.
    pub async fn spare(&self, limits: &Limits) -> Result<Spare, ForkError> {
        let sandbox = self.make(limits, None, SPARE).await?;
        Ok(Spare::new(sandbox))
    }

    async fn make(&self, limits: &Limits, code: Option<OwnedFd>, flags: u32) -> Result<Sandbox, ForkError> {
        let inner = &self.0.0;
        let id = inner.nursery.next_sandbox.fetch_add(1, Ordering::Relaxed);
        let group = inner.nursery.pool.take().map_err(fork_error("take a cgroup"))?;
        let group = OwnedGroup::new(group);
        inner.nursery.refill_pool();
        let join = group.apply(limits).and_then(|()| group.take_join());
        let join = join.map_err(fork_error("set the limits of a cgroup"))?;
        let (ours, theirs) = StdStream::pair().map_err(fork_error("make a socket pair"))?;
        ours.set_nonblocking(true).map_err(fork_error("set a socket to non-blocking"))?;
        let (stdout, stdout_writer) = output_pipe().map_err(fork_error("make a pipe"))?;
        let (stderr, stderr_writer) = output_pipe().map_err(fork_error("make a pipe"))?;
        let stream = UnixStream::from_std(ours).map_err(fork_error("watch a socket"))?;
        let request = ForkRequest {
            id,
            flags: flags | if code.is_some() { HAS_CODE } else { 0 } | inner.cgroup_flag(),
            uid: FIRST_USER + (id % USERS) as u32,
            scratch: limits.scratch,
            open_files: limits.open_files,
        };
        let group = group.take().ok_or(ForkError::ZygoteGone)?;
        let sandbox = Arc::new(SandboxInner::new(id, group, Arc::clone(&inner.nursery)));
        let handle = SandboxHandle::new(Arc::clone(&sandbox));
        let fds = [theirs.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
        let fds: Vec<_> =
            fds.into_iter().chain(code.as_ref().map(AsFd::as_fd)).chain(borrow(&join)).collect();
        inner.ask(&request, Pending::Sandbox(sandbox), &fds).await?;
        Ok(Sandbox { stream, stdout, stderr, handle })
    }

    /// Waits until the Zygote's process is gone.
    pub async fn exited(&self) -> Exit {
        self.exit_watch().await
    }

    /// The same for one who does not keep the Zygote alive meanwhile.
    pub fn exit_watch(&self) -> impl Future<Output = Exit> + Send + 'static {
        let mut ended = self.0.0.ended.subscribe();
        async move {
            let exit = ended.wait_for(Option::is_some).await.ok().and_then(|exit| exit.clone());
            exit.unwrap_or_else(Exit::unknown)
        }
    }

    /// Requests that it was given and has not answered.
    pub fn waiting(&self) -> usize {
        self.0.0.pending.lock().as_ref().map_or(0, HashMap::len)
    }

    /// Bytes of anonymous memory charged to the Zygote: what it holds beyond the one it was forked from.
    pub fn memory_bytes(&self) -> io::Result<u64> {
        let group = self.0.0.group.lock();
        group.as_ref().map_or_else(|| Err(io::ErrorKind::NotFound.into()), Cgroup::anonymous_bytes)
    }

    /// Whether its process has ended.
    pub fn has_ended(&self) -> bool {
        self.0.0.ended.borrow().is_some()
    }

    /// Kills the Zygote, as a fault would.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.0.0.pidfd, Signal::KILL);
    }
}

impl Inner {
    pub(crate) fn cgroup_flag(&self) -> u32 {
        if self.nursery.tree.is_v2() { CGROUP_V2 } else { 0 }
    }

    /// Sends a request; the answer goes to `pending`.
    pub(crate) async fn ask(
        &self,
        request: &ForkRequest,
        pending: Pending,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), ForkError> {
        {
            let mut all = self.pending.lock();
            let Some(all) = all.as_mut() else {
                pending.failed("the Zygote has ended".into());
                return Err(ForkError::ZygoteGone);
            };
            all.insert(request.id, pending);
        }
        let Err(error) = nursery::send(&self.control, &request.encode(), fds).await else { return Ok(()) };
        let pending = self.pending.lock().as_mut().and_then(|all| all.remove(&request.id));
        if let Some(pending) = pending {
            pending.failed("the Zygote could not be asked".into());
        }
        let gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
        Err(if gone { ForkError::ZygoteGone } else { fork_error("ask the Zygote")(error) })
    }

    pub(crate) async fn listen(self: Arc<Self>) {
        loop {
            match receive(&self.control).await {
                Ok(Some((bytes, fds))) => match ForkReply::decode(&bytes) {
                    Ok(reply) => self.file(reply, fds),
                    Err(error) => {
                        warn!("a Zygote sent what is no reply: {error}");
                        break;
                    }
                },
                Ok(None) => break,
                Err(error) => {
                    warn!("a Zygote cannot be heard: {error}");
                    break;
                }
            }
        }
        // It may live on, deaf or lying: nobody asks it any more.
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let pending = self.pending.lock().take();
        for pending in pending.into_iter().flatten().map(|(_, pending)| pending) {
            pending.failed("the Zygote ended before it had forked".into());
        }
    }

    fn file(&self, reply: ForkReply, mut fds: Vec<OwnedFd>) {
        let pending = self.pending.lock().as_mut().and_then(|pending| pending.remove(&reply.id));
        let Some(pending) = pending else {
            return warn!("a Zygote answered request {}, which nobody asked", reply.id);
        };
        match fds.pop() {
            Some(pidfd) if reply.errno == 0 => {
                if self.suspect && !pending.is_credible(reply.pid, &pidfd) {
                    warn!("a Zygote claims a child that is not its own; it is killed");
                    let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
                    return pending.failed("the Zygote lied about it".into());
                }
                match pending {
                    Pending::Sandbox(sandbox) => {
                        sandbox.born(pidfd);
                        self.nursery.settle_sandbox(reply.pid, sandbox);
                    }
                    Pending::Branch(born) => {
                        // If nobody waits for it any more its control socket is closed, and it ends.
                        let _ = born.send(Ok(Birth { pid: reply.pid, pidfd }));
                    }
                }
            }
            _ => pending.failed(format!("fork: {}", io::Error::from_raw_os_error(reply.errno))),
        }
    }

    /// The nursery has reaped it.
    pub(crate) fn ended(&self, status: i32) {
        let mut exit = Exit { status: Some(ExitStatus::from_raw(status)), oom_killed: false, failure: None };
        tracing::debug!("a Zygote {exit}");
        if let Some(group) = self.group.lock().take() {
            exit.oom_killed = group.oom_killed_since_last_look();
            tokio::task::spawn_blocking(move || {
                if let Err(error) = group.remove() {
                    warn!("the cgroup of a Zygote is left: {error}");
                }
            });
        }
        self.ended.send_replace(Some(exit));
    }
}

/// A pipe for a process's output: our end does not block.
pub(crate) fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let writer: OwnedFd = writer.into();
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer))
}

/// A read-only clone of the mount at `dir`, attached nowhere: it goes away with the last sandbox that has it.
pub(crate) fn detached_mount(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, dir, flags)?;
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    sys::mount_setattr(tree.as_fd(), attributes, false)?;
    Ok(tree)
}

pub(crate) async fn log_lines(pipe: pipe::Receiver, zygote: u64) {
    let mut lines = tokio::io::BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        warn!(zygote, "{line}");
    }
}
