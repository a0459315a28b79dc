//! A process that a pid file names: whether it is still the one that was started, and its end.
//!
//! A pid may be used again by a stranger. So the process is held by a pidfd first, then its command line is looked
//! at, and only that pidfd is ever signalled.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use openlambda_config::{ClusterDir, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::execute::{BALANCER, Program, REGISTRY, WORKER};

/// What a pid file says.
#[derive(Debug)]
pub enum State {
    /// There is no pid file.
    NotStarted,
    /// The process has ended, or its pid belongs to another one now.
    Ended,
    /// It runs.
    Runs(Live),
}

/// A process that is surely the one that was started.
#[derive(Debug)]
pub struct Live {
    /// Its pid.
    pub pid: i32,
    handle: OwnedFd,
}

/// The program behind a process of the cluster.
pub fn program(process: Process) -> Program {
    match process {
        Process::Balancer => BALANCER,
        Process::Registry => REGISTRY,
        Process::Worker(_) => WORKER,
    }
}

/// Looks a process up by its pid file.
pub fn find(cluster: &ClusterDir, process: Process) -> io::Result<State> {
    let text = match fs::read_to_string(cluster.pid(process)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(State::NotStarted),
        other => other?,
    };
    let pid = text.trim().parse().ok().filter(|pid| *pid > 1);
    match pid {
        Some(pid) => {
            Ok(Live::open(pid, program(process), &cluster.config(process))?.map_or(State::Ended, State::Runs))
        }
        None => Ok(State::Ended),
    }
}

impl Live {
    /// Holds the process of that pid, if it is the program with that configuration.
    pub fn open(pid: i32, program: Program, config: &Path) -> io::Result<Option<Self>> {
        let Some(raw) = Pid::from_raw(pid) else { return Ok(None) };
        let handle = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(handle) => handle,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
        let ours = fs::read(path).is_ok_and(|line| is_ours(&line, program, config));
        Ok(ours.then_some(Self { pid, handle }))
    }

    /// Asks it to end.
    pub fn terminate(&self) -> io::Result<()> {
        self.signal(Signal::TERM)
    }

    /// Ends it at once.
    pub fn kill(&self) -> io::Result<()> {
        self.signal(Signal::KILL)
    }

    /// A process that is gone by now needs no signal.
    fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            Err(rustix::io::Errno::SRCH) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Waits for its end; false if it still runs after that time.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let deadline = Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            // A pidfd is readable when its process has ended.
            match poll(&mut [PollFd::new(&self.handle, PollFlags::IN)], Some(&left)) {
                Ok(ready) => return Ok(ready > 0),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Whether a command line (arguments that end with NUL each) is the program, or admin about to become it, with that
/// configuration.
fn is_ours(line: &[u8], program: Program, config: &Path) -> bool {
    let arguments: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    let config = config.to_string_lossy();
    let is_program = |argument: &str| {
        argument == program.command
            || Path::new(argument).file_name().is_some_and(|name| name == program.binary)
    };
    arguments.iter().any(|argument| is_program(argument))
        && arguments.windows(2).any(|pair| pair[0] == "--config" && pair[1] == config)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_program_with_the_same_configuration_is_ours() {
        let config = Path::new("/c/config/worker-0.json");
        let ours = |text: &str| is_ours(text.replace(' ', "\0").as_bytes(), WORKER, config);
        assert!(ours("/x/openlambda-node-agent run --config /c/config/worker-0.json "));
        assert!(ours("admin worker-exec --detached --config /c/config/worker-0.json "));
        assert!(!ours("/x/openlambda-node-agent run --config /c/config/worker-1.json "));
        assert!(!ours("/x/openlambda-lard --config /c/config/worker-0.json "));
        assert!(!ours("vi /c/config/worker-0.json "));
        assert!(!ours(""));
    }

    #[test]
    fn this_test_is_a_stranger() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(Live::open(own, WORKER, Path::new("/c")).unwrap().is_none());
        assert!(Live::open(i32::MAX, WORKER, Path::new("/c")).unwrap().is_none());
    }
}
