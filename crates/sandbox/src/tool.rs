//! The agent's side of a tool: runs a program that is not trusted, with one folder to write to, and gives what it printed.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use crate::limits::Limits;
use crate::messages::ToolJob;
use crate::nursery::{FIRST_UID, Nursery, StartError, start_error};
use crate::zygote::output_pipe;

/// The host's user that tools run as: it must own what they are to write.
pub const TOOL_USER: u32 = FIRST_UID - 1;
/// What is kept of each of a tool's outputs, in bytes.
const OUTPUT: usize = 256 * 1024;

/// A program to run.
#[derive(Clone, Debug)]
pub struct ToolSpec {
    /// The program on this machine: a binary that users may execute, linked against what the base root has. The tool itself
    /// does not see it.
    pub program: PathBuf,
    /// What it is called, and its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// What it sees as `/packages` and may write to; it must belong to [`TOOL_USER`].
    pub folder: PathBuf,
    /// Memory and processes, and `scratch` for `/tmp`.
    pub limits: Limits,
    /// After so long it is killed.
    pub timeout: Duration,
}

/// How it went.
#[derive(Clone, Debug)]
pub struct ToolEnd {
    /// How the program ended.
    pub status: ExitStatus,
    /// What it printed, cut after 256 KiB.
    pub stdout: Vec<u8>,
    /// What it printed of errors, cut likewise.
    pub stderr: Vec<u8>,
    /// Whether it was killed for its memory limit.
    pub out_of_memory: bool,
    /// Whether it was killed for its time limit.
    pub timed_out: bool,
}

/// Kills the tool, and so all of its pid namespace, if nobody waits for it any more.
struct Running(OwnedFd);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.0, Signal::KILL);
    }
}

impl Nursery {
    /// Runs a tool to its end. Dropping the future kills it. It shares the host's network; it sees the base root, its
    /// folder and nothing else, and has no capability.
    pub async fn run_tool(&self, spec: &ToolSpec) -> Result<ToolEnd, StartError> {
        let program = File::open(&spec.program).map_err(start_error("open the tool's program"))?;
        let (stdout, stdout_writer) = output_pipe().map_err(start_error("make a pipe"))?;
        let (stderr, stderr_writer) = output_pipe().map_err(start_error("make a pipe"))?;
        let group = self.tool_group(&spec.limits).map_err(start_error("make the tool's cgroup"))?;
        let job = ToolJob {
            user: TOOL_USER,
            folder: spec.folder.clone(),
            scratch: spec.limits.scratch,
            arguments: spec.arguments.clone(),
            environment: spec.environment.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        };
        let fds = [program.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()];
        let started = self.request_tool(job, &group, fds).await;
        drop((program, stdout_writer, stderr_writer));
        let (pidfd, ended) = started?;
        let running = Running(pidfd);
        let mut timed_out = false;
        let ended = async {
            tokio::pin!(ended);
            match tokio::time::timeout(spec.timeout, &mut ended).await {
                Ok(status) => status,
                Err(_) => {
                    timed_out = true;
                    drop(running);
                    ended.await
                }
            }
        };
        let (stdout, stderr, status) = tokio::join!(read(stdout), read(stderr), ended);
        let status = ExitStatus::from_raw(status.map_err(|_| StartError::Gone)?);
        let kept = |output: io::Result<_>| output.map_err(start_error("read what the tool prints"));
        let out_of_memory = group.oom_killed();
        Ok(ToolEnd { status, stdout: kept(stdout)?, stderr: kept(stderr)?, out_of_memory, timed_out })
    }
}

/// Reads to the end and keeps the beginning.
async fn read(mut pipe: pipe::Receiver) -> io::Result<Vec<u8>> {
    let (mut kept, mut chunk) = (Vec::new(), vec![0; 16 * 1024]);
    loop {
        let count = pipe.read(&mut chunk).await?;
        if count == 0 {
            return Ok(kept);
        }
        let room = OUTPUT - kept.len();
        kept.extend_from_slice(&chunk[..count.min(room)]);
    }
}
