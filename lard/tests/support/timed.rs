//! A timed agent as a process, which can be stopped and killed: this very program, told to run the test [`BE_ONE`].

use std::process::Stdio;

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use super::timed_agent::{self, Arguments};
use super::until;

/// The test that is such an agent, in each file that starts some.
pub const BE_ONE: &str = "be_a_timed_agent";
const ARGUMENTS: &str = "TIMED_AGENT";
const PORTS: &str = "TIMED_AGENT_PORTS";

/// What that test does: nothing, unless it was started here.
pub fn be_one() {
    let Ok(arguments) = std::env::var(ARGUMENTS) else { return };
    let file = std::env::var(PORTS).unwrap();
    let tell = |ports: &str| {
        let new = format!("{file}.new");
        std::fs::write(&new, ports)?;
        std::fs::rename(new, file)
    };
    timed_agent::run(&Arguments::parse_from(arguments.split(' ')), tell).unwrap();
}

pub struct Timed {
    pub child: Child,
    port: u16,
    admin: u16,
    folder: TempDir,
}

impl Timed {
    pub async fn start(arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = |name| folder.path().join(name);
        let arguments = format!("agent {} --ran {}", arguments.join(" "), file("ran").display());
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args([BE_ONE, "--exact", "--ignored"])
            .env(ARGUMENTS, arguments.replace("  ", " "))
            .env(PORTS, file("ports"));
        let child = command.stdout(Stdio::null()).kill_on_drop(true).spawn().unwrap();
        until("the agent listens", || file("ports").exists()).await;
        let said = std::fs::read_to_string(file("ports")).unwrap();
        let ports: Vec<u16> =
            said.split(' ').map(|address| address.rsplit(':').next().unwrap().parse().unwrap()).collect();
        Self { child, port: ports[0], admin: ports[1], folder }
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The ids of the calls that reached a sandbox.
    pub fn ran(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.folder.path().join("ran")).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// lard's configuration with these agents, `w0`, `w1`, …
pub fn config(policy: &str, agents: &[&Timed]) -> Value {
    let server = |(number, agent): (usize, &&Timed)| json!({"Name": format!("w{number}"), "Host": "127.0.0.1", "Port": agent.port, "AdminPort": agent.admin});
    let servers: Vec<_> = agents.iter().enumerate().map(server).collect();
    json!({"Policy": policy, "Servers": servers, "Host": "127.0.0.1"})
}
