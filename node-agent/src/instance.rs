//! One sandbox that serves a handler.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use openlambda_sandbox::{Exit, Sandbox, SandboxHandle};
use tokio::net::UnixStream;
use tokio::time::Sleep;

use crate::births::FirstCall;
use crate::logs::Logs;
use crate::memory::Charge;
use crate::revision::Revision;

/// How long the kernel may take to report the end of a sandbox whose stream has ended.
const EXIT_NEWS: Duration = Duration::from_millis(500);

/// A sandbox and what is needed to call into it.
#[derive(Debug)]
pub struct Instance {
    /// What it serves.
    pub revision: Arc<Revision>,
    /// When it was forked.
    pub born: Instant,
    /// Calls it has answered.
    pub calls: u64,
    /// Until that is over.
    pub first_call: Option<FirstCall>,
    /// Whether the code has been sent to it.
    pub loaded: bool,
    /// The memory that it may use awake, or holds paused.
    pub charge: Charge,
    handle: SandboxHandle,
    /// Requests and replies.
    pub(crate) stream: UnixStream,
    /// What it prints.
    pub(crate) logs: Logs,
    /// What was read of a reply.
    pub(crate) input: BytesMut,
    /// What is to be written.
    pub(crate) output: Vec<u8>,
    /// The deadline of the call; kept, for re-arming is cheaper than arming.
    pub(crate) timer: Pin<Box<Sleep>>,
    /// The number of the last frame sent.
    pub(crate) sequence: u32,
}

impl Instance {
    /// A fresh sandbox.
    pub fn new(sandbox: Sandbox, revision: Arc<Revision>, charge: Charge) -> Self {
        Self {
            revision,
            born: Instant::now(),
            calls: 0,
            first_call: None,
            loaded: false,
            charge,
            handle: sandbox.handle,
            stream: sandbox.stream,
            logs: Logs::new(sandbox.stdout, sandbox.stderr),
            input: BytesMut::new(),
            output: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            sequence: 0,
        }
    }

    /// Whether it can serve that revision, which it does from then on: its own, or one that differs in what can be changed in a sandbox
    /// that lives.
    pub fn becomes(&mut self, revision: &Arc<Revision>) -> bool {
        if Arc::ptr_eq(&self.revision, revision) {
            return true;
        }
        if !self.revision.can_become(revision) || self.handle.apply(&revision.settings.limits).is_err() {
            return false;
        }
        self.revision = Arc::clone(revision);
        true
    }

    /// Its sandbox.
    pub fn handle(&self) -> &SandboxHandle {
        &self.handle
    }

    /// Whether its stream is open and silent, as it must be between calls. No system call if nothing has happened.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Gives back the memory that only a running call needs.
    pub fn shrink(&mut self) {
        self.input = BytesMut::new();
        self.output = Vec::new();
    }
}

/// How a sandbox ended whose stream is closed. None: it lives, without the stream; it is killed then.
pub async fn exit_of(handle: &SandboxHandle) -> Option<Exit> {
    let exit = tokio::time::timeout(EXIT_NEWS, handle.exited()).await.ok();
    handle.kill();
    exit
}
