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
    pub fn new(sandbox: Sandbox, revision: Arc<Revision>) -> Self {
        Self {
            revision,
            born: Instant::now(),
            calls: 0,
            first_call: None,
            loaded: false,
            handle: sandbox.handle,
            stream: sandbox.stream,
            logs: Logs::new(sandbox.stdout, sandbox.stderr),
            input: BytesMut::new(),
            output: Vec::new(),
            timer: Box::pin(tokio::time::sleep(Duration::ZERO)),
            sequence: 0,
        }
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
