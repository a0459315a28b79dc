//! A Zygote born of a Zygote: it shares the memory of the one it comes from and imports some more. What it imports is not trusted, so
//! neither is what it says from then on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use rustix::fs::{MemfdFlags, memfd_create};
use tokio::sync::oneshot;

use crate::cgroup::{OwnedGroup, borrow};
use crate::fdpass::write_all;
use crate::fork_request::{BRANCH, ForkRequest};
use crate::limits::Limits;
use crate::nursery::receive;
use crate::sandbox::{Exit, Inner as SandboxInner};
use crate::sys;
use crate::zygote::{ForkError, Zygote, fork_error, log_lines, output_pipe};

/// The users that are roots of branches, in the namespace of the Zygote that they are born of: above those of sandboxes.
const FIRST_ROOT: u32 = 61_000;
const ROOTS: u32 = 4_500;
/// What it says when it can fork.
const READY: &[u8] = b"ready";
/// Records before that: several for each package, and some for many names.
const RECORDS: usize = 4096;
/// How long the kernel may take to report the end of a Zygote that has closed its socket.
const EXIT_NEWS: Duration = Duration::from_secs(2);

/// Who waits for the answer to a fork request.
pub(crate) enum Pending {
    Sandbox(Arc<SandboxInner>),
    Branch(oneshot::Sender<Result<Birth, String>>),
}

/// The process of a branch.
pub(crate) struct Birth {
    pub(crate) pid: i32,
    pub(crate) pidfd: OwnedFd,
}

impl Pending {
    pub(crate) fn failed(self, why: String) {
        match self {
            Self::Sandbox(sandbox) => sandbox.failed(why),
            // Nobody may be waiting any more.
            Self::Branch(waiting) => drop(waiting.send(Err(why))),
        }
    }

    /// Whether a process can be what was asked for. What it is taken for decides what is killed in its place: a Zygote that is not
    /// trusted may name a process that is not its child, the nursery for one. A sandbox is the first of a pid namespace below the
    /// nursery's; a branch is in the nursery's itself. One that has ended can do no harm.
    pub(crate) fn is_credible(&self, pid: i32, pidfd: &OwnedFd) -> bool {
        let Ok(pids) = pids_of(pidfd) else { return false };
        match (self, pids.as_slice()) {
            (_, []) => true,
            (Self::Sandbox(_), [_, inner, first]) => *inner == pid && *first == 1 && pid > 1,
            (Self::Branch(_), [_, inner]) => *inner == pid && pid > 1,
            _ => false,
        }
    }
}

/// The pids of a process, from our pid namespace down to its own; none if it has ended.
fn pids_of(pidfd: &OwnedFd) -> io::Result<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd()))?;
    Ok(pids_in(&text))
}

/// The same in what the kernel says of a pidfd: of one that has ended, and was reaped, it is `-1`.
fn pids_in(fdinfo: &str) -> Vec<i32> {
    let line = fdinfo.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let pids = line.into_iter().flat_map(str::split_whitespace).filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| *pid != -1).collect()
}

/// Why there is no branch.
#[derive(Debug, thiserror::Error)]
pub enum BranchError {
    /// It was not forked.
    #[error(transparent)]
    Fork(#[from] ForkError),
    /// It could not be forked.
    #[error("the branch could not be forked: {0}")]
    Unborn(String),
    /// It ended before it was ready.
    #[error("the Zygote {0}")]
    Ended(Exit),
    /// It talks too much.
    #[error("the Zygote sent more than {RECORDS} records")]
    Talks,
}

impl Zygote {
    /// Forks another Zygote, which does what `job` says and tells of it in records, each of which goes to `heard`. Returns when it can
    /// fork. Dropping the future kills it.
    pub async fn branch(
        &self,
        limits: &Limits,
        job: &[u8],
        mut heard: impl FnMut(&[u8]),
    ) -> Result<Self, BranchError> {
        let zygote = self.be_born(limits, job).await?;
        let inner = Arc::clone(&zygote.0.0);
        for _ in 0..RECORDS {
            match receive(&inner.control).await {
                Ok(Some((record, _))) if record == READY => {
                    tokio::spawn(inner.listen());
                    return Ok(zygote);
                }
                Ok(Some((record, _))) => heard(&record),
                _ => {
                    let exit = tokio::time::timeout(EXIT_NEWS, zygote.exited()).await;
                    return Err(BranchError::Ended(exit.unwrap_or_else(|_| Exit::unknown())));
                }
            }
        }
        Err(BranchError::Talks)
    }

    async fn be_born(&self, limits: &Limits, job: &[u8]) -> Result<Self, BranchError> {
        let parent = &self.0.0;
        let nursery = &parent.nursery;
        let id = nursery.next_sandbox.fetch_add(1, Ordering::Relaxed);
        let group = nursery.tree.group(&format!("z-{id}b")).map_err(fork_error("make a cgroup"))?;
        let group = OwnedGroup::new(group);
        let join = group.apply(limits).and_then(|()| group.take_join());
        let join = join.map_err(fork_error("set the limits of a cgroup"))?;
        let job = job_file(job).map_err(fork_error("write the job"))?;
        let pair = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
        let (ours, theirs) = pair.map_err(fork_error("make a socket pair"))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(fork_error("set a socket to non-blocking"))?;
        let control = sys::watch(ours).map_err(fork_error("watch a socket"))?;
        let (stdout, stdout_writer) = output_pipe().map_err(fork_error("make a pipe"))?;
        let (stderr, stderr_writer) = output_pipe().map_err(fork_error("make a pipe"))?;
        let request = ForkRequest {
            id,
            flags: BRANCH | parent.cgroup_flag(),
            uid: FIRST_ROOT + (id % u64::from(ROOTS)) as u32,
            scratch: limits.scratch,
            open_files: limits.open_files,
        };
        let fds = [theirs.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd(), job.as_fd()];
        let fds: Vec<_> = fds.into_iter().chain(borrow(&join)).collect();
        let (sender, born) = oneshot::channel();
        parent.ask(&request, Pending::Branch(sender), &fds).await?;
        drop((stdout_writer, stderr_writer, theirs));
        tokio::spawn(log_lines(stdout, id));
        tokio::spawn(log_lines(stderr, id));
        let born = born.await.map_err(|_| ForkError::ZygoteGone)?;
        let Birth { pid, pidfd } = born.map_err(BranchError::Unborn)?;
        let group = group.take().ok_or(ForkError::ZygoteGone)?;
        Ok(Self::settle(Arc::clone(nursery), control, (pid, pidfd), group, true))
    }
}

/// A file in memory, to be read from its beginning.
fn job_file(job: &[u8]) -> io::Result<OwnedFd> {
    let file = memfd_create("job", MemfdFlags::CLOEXEC)?;
    write_all(file.as_fd(), job)?;
    rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_ended_has_no_pids() {
        let of = |pids: &str| pids_in(&format!("pos:\t0\nflags:\t02000002\nPid:\t-1\nNSpid:\t{pids}\n"));
        assert!(of("-1").is_empty());
        assert_eq!(of("4711\t12\t1"), [4711, 12, 1]);
        assert_eq!(of("0"), [0]);
    }

    #[test]
    fn a_process_that_was_reaped_is_seen_as_ended() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        assert_eq!(pids_of(&pidfd).unwrap(), [child.id() as i32]);
        child.wait().unwrap();
        assert!(pids_of(&pidfd).unwrap().is_empty());
    }
}
