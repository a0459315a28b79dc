//! What agent and nursery say to each other: JSON records, as they are few.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How the nursery starts Zygotes; its argument on the command line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct NurseryConfig {
    /// The composed base root.
    pub root: PathBuf,
    /// The interpreter, inside the root.
    pub python: PathBuf,
    /// The agent's cgroup folders, removed when everything in them has ended.
    pub cgroups: Vec<PathBuf>,
}

/// From the agent. Descriptors of a start: the Zygote's control socket, its stdout, its stderr, files to join its cgroup by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ToNursery {
    /// Start a Zygote.
    StartZygote {
        /// The agent's number for it.
        id: u64,
        /// The host's user id that is its root.
        base_uid: u32,
    },
    /// Run a tool. Descriptors: its program, its stdout, its stderr, files to join its cgroup by.
    RunTool {
        /// The agent's number for it.
        id: u64,
        /// What to run.
        job: ToolJob,
    },
}

/// A tool to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ToolJob {
    /// The host's user id that it runs as.
    pub user: u32,
    /// Its folder, which it sees as `/packages`.
    pub folder: PathBuf,
    /// The size of its `/tmp` in bytes.
    pub scratch: u64,
    /// The name that it is called by, and its arguments.
    pub arguments: Vec<String>,
    /// Its environment, as `NAME=VALUE`.
    pub environment: Vec<String>,
}

/// From the nursery.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum FromNursery {
    /// The Zygote or tool runs; a pidfd goes with it.
    Started {
        /// The number of the request.
        id: u64,
        /// Its pid in the nursery.
        pid: i32,
    },
    /// It could not be started.
    Failed {
        /// The number of the request.
        id: u64,
        /// Why.
        error: String,
    },
    /// A Zygote, tool or sandbox has ended and its pid namespace is empty.
    Exited {
        /// Its pid in the nursery.
        pid: i32,
        /// As `wait` gave it.
        status: i32,
    },
}
