//! A sandbox that was forked ahead of need, and is told what to serve when it is known.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::fdpass;
use crate::fork_request::{Assignment, HAS_CODE};
use crate::sandbox::{Sandbox, SandboxSpec};
use crate::zygote::{ForkError, detached_mount, fork_error};

/// A sandbox that waits for its code. Dropped, it ends.
#[derive(Debug)]
pub struct Spare(Sandbox);

impl Spare {
    pub(crate) fn new(sandbox: Sandbox) -> Self {
        Self(sandbox)
    }

    /// Makes it serve `spec`. What is written to the stream from then on is read by the sandbox when it has become that.
    pub fn take_up(self, spec: &SandboxSpec) -> Result<Sandbox, ForkError> {
        let code = spec.code.as_deref().map(detached_mount).transpose();
        let code: Option<OwnedFd> = code.map_err(fork_error("open the code"))?;
        self.0.handle.apply(&spec.limits).map_err(fork_error("set the limits of a cgroup"))?;
        let assignment = Assignment {
            flags: if code.is_some() { HAS_CODE } else { 0 },
            open_files: spec.limits.open_files,
            scratch: spec.limits.scratch,
        };
        let fds: Vec<_> = code.iter().map(AsFd::as_fd).collect();
        // The first bytes of an empty socket always find room.
        fdpass::send(self.0.stream.as_fd(), &assignment.encode(), &fds).map_err(|error| {
            match error.kind() {
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => ForkError::ZygoteGone,
                _ => fork_error("tell a spare sandbox what to serve")(error),
            }
        })?;
        Ok(self.0)
    }

    /// Whether it still waits: its stream is open and silent.
    pub fn is_waiting(&self) -> bool {
        let mut byte = [0];
        matches!(self.0.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Bytes of memory charged to it.
    pub fn memory_bytes(&self) -> io::Result<u64> {
        self.0.handle.memory_bytes()
    }
}
