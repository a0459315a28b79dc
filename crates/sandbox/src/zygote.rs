//! The agent's side of a Zygote: asks it to fork, and makes a [`Sandbox`] of what comes of it.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::Path;
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

use crate::cgroup::{Cgroup, borrow};
use crate::fork_request::{CGROUP_V2, ForkReply, ForkRequest, HAS_CODE};
use crate::nursery::{self, Nursery, StartError, receive, start_error};
use crate::sandbox::{Inner as SandboxInner, Sandbox, SandboxHandle, SandboxSpec};
use crate::sys;

/// Users of sandboxes within the Zygote's namespace: from here on, one each.
const FIRST_USER: u64 = 1000;
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

fn fork_error<E: Into<io::Error>>(step: &'static str) -> impl Fn(E) -> ForkError {
    move |error| ForkError::Io { step, source: error.into() }
}

pub(crate) struct Inner {
    control: AsyncFd<OwnedFd>,
    nursery: Arc<nursery::Inner>,
    pidfd: OwnedFd,
    /// Asked for and not yet answered; `None` once the Zygote has ended.
    pending: Mutex<Option<HashMap<u64, Arc<SandboxInner>>>>,
    group: Mutex<Option<Cgroup>>,
    ended: watch::Sender<bool>,
}

/// A handle of a Zygote; when the last clone is dropped, the Zygote is killed. Sandboxes forked from it live on.
#[derive(Clone)]
pub struct Zygote(Arc<Owner>);

struct Owner(Arc<Inner>);

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
        group: Cgroup,
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
        let inner = Arc::new(Inner {
            control: sys::watch(ours).map_err(start_error("watch a socket"))?,
            nursery: Arc::clone(&nursery.0),
            pidfd,
            pending: Mutex::new(Some(HashMap::new())),
            group: Mutex::new(Some(group)),
            ended: watch::Sender::new(false),
        });
        let zygote = Self(Arc::new(Owner(Arc::clone(&inner))));
        nursery.0.settle_zygote(pid, Arc::downgrade(&inner));
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

    /// Asks for a sandbox. Returns once the request is handed over: what is written to the stream meanwhile is read by the sandbox
    /// when it is up, and if it never is, the stream ends and [`SandboxHandle::exited`] says why.
    pub async fn fork(&self, spec: &SandboxSpec) -> Result<Sandbox, ForkError> {
        let inner = &self.0.0;
        let id = inner.nursery.next_sandbox.fetch_add(1, Ordering::Relaxed);
        let group = inner.nursery.pool.take().map_err(fork_error("take a cgroup"))?;
        inner.nursery.refill_pool();
        let join = group.apply(&spec.limits).and_then(|()| group.take_join());
        let join = join.map_err(fork_error("set the limits of a cgroup"))?;
        let code =
            spec.code.as_deref().map(detached_mount).transpose().map_err(fork_error("open the code"))?;
        let (ours, theirs) = StdStream::pair().map_err(fork_error("make a socket pair"))?;
        ours.set_nonblocking(true).map_err(fork_error("set a socket to non-blocking"))?;
        let (stdout, stdout_writer) = output_pipe().map_err(fork_error("make a pipe"))?;
        let (stderr, stderr_writer) = output_pipe().map_err(fork_error("make a pipe"))?;
        let stream = UnixStream::from_std(ours).map_err(fork_error("watch a socket"))?;
        let v2 = inner.nursery.tree.is_v2();
        let request = ForkRequest {
            id,
            flags: if code.is_some() { HAS_CODE } else { 0 } | if v2 { CGROUP_V2 } else { 0 },
            uid: (FIRST_USER + id % USERS) as u32,
            scratch: spec.limits.scratch,
            open_files: spec.limits.open_files,
        };
        let sandbox = Arc::new(SandboxInner::new(id, group, Arc::clone(&inner.nursery)));
        match inner.pending.lock().as_mut() {
            Some(pending) => pending.insert(id, Arc::clone(&sandbox)),
            None => return Err(ForkError::ZygoteGone),
        };
        let handle = SandboxHandle::new(sandbox);
        let fds = [theirs.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
        let fds: Vec<_> =
            fds.into_iter().chain(code.as_ref().map(AsFd::as_fd)).chain(borrow(&join)).collect();
        if let Err(error) = nursery::send(&inner.control, &request.encode(), &fds).await {
            inner.forget(id);
            let gone = matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset);
            return Err(if gone { ForkError::ZygoteGone } else { fork_error("ask the Zygote")(error) });
        }
        Ok(Sandbox { stream, stdout, stderr, handle })
    }

    /// Waits until the Zygote's process is gone.
    pub async fn exited(&self) {
        let mut ended = self.0.0.ended.subscribe();
        let _ = ended.wait_for(|ended| *ended).await;
    }

    /// Kills the Zygote, as a fault would.
    pub fn kill(&self) {
        let _ = pidfd_send_signal(&self.0.0.pidfd, Signal::KILL);
    }
}

impl Inner {
    async fn listen(self: Arc<Self>) {
        loop {
            match receive(&self.control).await {
                Ok(Some((bytes, fds))) => match ForkReply::decode(&bytes) {
                    Ok(reply) => self.file(reply, fds),
                    Err(error) => warn!("a Zygote sent what is no reply: {error}"),
                },
                Ok(None) => break,
                Err(error) => {
                    warn!("a Zygote cannot be heard: {error}");
                    break;
                }
            }
        }
        let pending = self.pending.lock().take();
        for sandbox in pending.into_iter().flatten().map(|(_, sandbox)| sandbox) {
            sandbox.failed("the Zygote ended before it had forked".into());
        }
    }

    fn file(&self, reply: ForkReply, mut fds: Vec<OwnedFd>) {
        let Some(sandbox) = self.pending.lock().as_mut().and_then(|pending| pending.remove(&reply.id)) else {
            return warn!("a Zygote answered sandbox {}, which nobody asked for", reply.id);
        };
        match fds.pop() {
            Some(pidfd) if reply.errno == 0 => {
                sandbox.born(pidfd);
                self.nursery.settle_sandbox(reply.pid, sandbox);
            }
            _ => sandbox.failed(format!("fork: {}", io::Error::from_raw_os_error(reply.errno))),
        }
    }

    fn forget(&self, id: u64) {
        let sandbox = self.pending.lock().as_mut().and_then(|pending| pending.remove(&id));
        if let Some(sandbox) = sandbox {
            sandbox.failed("the Zygote could not be asked".into());
        }
    }

    /// The nursery has reaped it.
    pub(crate) fn ended(&self, status: i32) {
        tracing::debug!("a Zygote ended with wait status {status}");
        if let Some(group) = self.group.lock().take() {
            tokio::task::spawn_blocking(move || {
                if let Err(error) = group.remove() {
                    warn!("the cgroup of a Zygote is left: {error}");
                }
            });
        }
        self.ended.send_replace(true);
    }
}

/// A pipe for a process's output: our end does not block.
pub(crate) fn output_pipe() -> io::Result<(pipe::Receiver, OwnedFd)> {
    let (reader, writer) = io::pipe()?;
    let writer: OwnedFd = writer.into();
    Ok((pipe::Receiver::from_owned_fd(reader.into())?, writer))
}

/// A read-only clone of the mount at `dir`, attached nowhere: it goes away with the last sandbox that has it.
fn detached_mount(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, dir, flags)?;
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV;
    sys::mount_setattr(tree.as_fd(), attributes, false)?;
    Ok(tree)
}

async fn log_lines(pipe: pipe::Receiver, zygote: u64) {
    let mut lines = tokio::io::BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        warn!(zygote, "{line}");
    }
}
