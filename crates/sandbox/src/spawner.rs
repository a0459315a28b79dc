//! The nursery's side: a single-threaded process, pid 1 of the namespace in which all Zygotes and sandboxes live.
//!
//! It is this program's own binary, started anew by the agent, so that no code of ours runs between fork and exec in a
//! process with threads. When the agent's end of its socket closes, it exits, and the kernel ends everything in its namespace.

mod birth;
mod tool;

pub(crate) use birth::ID_RANGE;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::ExitCode;

use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{Id, WaitPidFlag, waitid};

use crate::fdpass;
use crate::messages::{FromNursery, NurseryConfig, ToNursery};
use crate::sys::{self, Cloned};

/// What `openlambda-node-agent spawner CONFIG` does, with the agent's socket as standard input. Call it first thing.
pub fn spawner_main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            let _ = rustix::io::write(
                rustix::stdio::stderr(),
                format!("openlambda spawner: {error}\n").as_bytes(),
            );
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<ExitCode> {
    let config =
        std::env::args().nth(2).ok_or_else(|| io::Error::other("started by hand; the agent starts it"))?;
    let config: NurseryConfig = serde_json::from_str(&config)?;
    let socket = sys::adopt_fd(0)?;
    // A ctrl-C in the agent's terminal reaches us too: the agent decides when we end.
    for ignored in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        ignore(ignored)?;
    }
    let cgroups = config.cgroups.clone();
    match sys::clone3(libc::CLONE_NEWPID as u64, None)? {
        Cloned::Child => {
            let result = Nursery::new(config, socket).and_then(|mut nursery| nursery.serve());
            // A broken pipe is an agent that died: what we had to tell it no longer matters.
            if let Err(error) = result
                && error.kind() != io::ErrorKind::BrokenPipe
            {
                let text = format!("openlambda nursery: {error}\n");
                let _ = rustix::io::write(rustix::stdio::stderr(), text.as_bytes());
                sys::exit_now(1);
            }
            sys::exit_now(0)
        }
        Cloned::Parent { pidfd, .. } => {
            drop(socket);
            let ended = loop {
                match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
                    Err(nix::Error::EINTR) => {}
                    other => break other?,
                }
            };
            // All that lived in them has ended. An agent that was killed leaves nothing behind.
            crate::cgroup::sweep_all(&cgroups)?;
            let clean = matches!(ended, nix::sys::wait::WaitStatus::Exited(_, 0));
            Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

fn ignore(which: Signal) -> io::Result<()> {
    #[allow(unsafe_code)]
    // SAFETY: ignoring installs no handler, so nothing can run in signal context.
    unsafe { signal(which, SigHandler::SigIgn) }?;
    Ok(())
}

struct Nursery {
    config: NurseryConfig,
    socket: OwnedFd,
    children: SignalFd,
    filter: Vec<libc::sock_filter>,
}

impl Nursery {
    fn new(config: NurseryConfig, socket: OwnedFd) -> io::Result<Self> {
        // An own /proc, that of this pid namespace: to write the maps of Zygotes by their pids here.
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
        let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("proc"), "/proc", Some("proc"), safe, None::<&str>)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let children = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self { config, socket, children, filter: crate::seccomp::zygote_filter()? })
    }

    /// Serves until the agent is gone.
    fn serve(&mut self) -> io::Result<()> {
        loop {
            let (requests, children) = self.wait()?;
            if children {
                while self.children.read_signal()?.is_some() {}
                self.reap()?;
            }
            if requests {
                let Some((bytes, fds)) = fdpass::receive(self.socket.as_fd())? else {
                    // Our end is the end of all here, but for the frozen: the kernel would wait for them, and so never let us go.
                    self.config.cgroups.iter().for_each(|root| crate::cgroup::thaw_all(root));
                    return Ok(());
                };
                match serde_json::from_slice(&bytes)? {
                    ToNursery::StartZygote { id, base_uid } => {
                        let started = birth::start(&self.config, &self.filter, base_uid, fds);
                        self.tell(id, started)?;
                    }
                    ToNursery::RunTool { id, job } => {
                        let started = tool::start(&self.config, &self.filter, &job, fds);
                        self.tell(id, started)?;
                    }
                }
            }
        }
    }

    fn wait(&self) -> io::Result<(bool, bool)> {
        let mut fds = [
            PollFd::new(self.socket.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.children.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => return Ok((false, false)),
            other => other?,
        };
        let ready = |fd: &PollFd<'_>| fd.revents().is_some_and(|events| !events.is_empty());
        Ok((ready(&fds[0]), ready(&fds[1])))
    }

    fn reap(&self) -> io::Result<()> {
        while let Some((pid, status)) =
            rustix::process::wait(rustix::process::WaitOptions::NOHANG).ok().flatten()
        {
            self.send(
                &FromNursery::Exited { pid: pid.as_raw_nonzero().get(), status: status.as_raw() },
                &[],
            )?;
        }
        Ok(())
    }

    fn tell(&self, id: u64, started: Result<(i32, OwnedFd), String>) -> io::Result<()> {
        match started {
            Ok((pid, pidfd)) => self.send(&FromNursery::Started { id, pid }, &[pidfd.as_fd()]),
            Err(error) => self.send(&FromNursery::Failed { id, error }, &[]),
        }
    }

    fn send(&self, message: &FromNursery, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        fdpass::send(self.socket.as_fd(), &serde_json::to_vec(message)?, fds)
    }
}
