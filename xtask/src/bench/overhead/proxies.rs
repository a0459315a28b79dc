//! The proxies as processes, each with one thread and the configuration that spares it the most: no log, connections kept
//! on both sides, a handler always at the same agent.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};
use openlambda_policy::balance::PolicyKind;
use serde_json::json;

use super::super::Bench;
use super::super::process::{Running, ends};
use crate::cluster::local;
use crate::interrupt::Cleanup;
use crate::ports;

/// What is measured.
#[derive(Clone, Copy)]
pub enum Proxy {
    /// Ours, with the default policy.
    Lard,
    /// Ours, with the original's policy.
    LardByLard,
    /// haproxy.
    Haproxy,
    /// nginx.
    Nginx,
}

impl Proxy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Lard, Self::LardByLard, Self::Haproxy, Self::Nginx];

    /// The name of its program.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lard | Self::LardByLard => "openlambda-lard",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }

    /// Its program: ours as it was built, the others in `PATH`.
    pub fn find(self, bench: &Bench) -> Option<PathBuf> {
        if matches!(self, Self::Lard | Self::LardByLard) {
            return Some(bench.built.bin.join(self.name()));
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(self.name())).find(|file| file.is_file())
    }

    /// Starts it before the agents.
    pub fn start(self, program: &Path, agents: &Agents, folder: &Path) -> Result<Running> {
        let port = ports::free(7079, 1)?;
        let text = match self {
            Self::Lard => lard(agents, port, PolicyKind::CostAware),
            Self::LardByLard => lard(agents, port, PolicyKind::Lard),
            Self::Haproxy => haproxy(agents, port),
            Self::Nginx => nginx(agents, port, folder),
        };
        let file = folder.join(format!("{}-{port}.conf", self.name()));
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
        let mut command = Command::new(program);
        match self {
            Self::Lard | Self::LardByLard => command.arg("--config").arg(&file),
            Self::Haproxy => command.arg("-db").arg("-f").arg(&file),
            Self::Nginx => command.arg("-p").arg(folder).arg("-c").arg(&file),
        };
        Running::start(command, self.name(), local(port), folder)
    }
}

/// The backend: so many servers in one process.
pub struct Agents {
    addresses: Vec<SocketAddr>,
    _cleanup: Cleanup,
}

impl Agents {
    /// Builds and starts them.
    pub fn start(bench: &Bench, count: usize) -> Result<Self> {
        let mut server = Command::new(bench.example("xtask", "hyper-agents")?);
        server.arg(count.to_string()).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = server.spawn().context("cannot start hyper-agents")?;
        let stdout = child.stdout.take();
        let cleanup = ends(child);
        let lines = BufReader::new(stdout.context("hyper-agents has no output")?).lines();
        let address = |line: std::io::Result<String>| {
            let line = line?;
            line.parse().with_context(|| format!("hyper-agents printed {line:?}, no address"))
        };
        let addresses = lines.take(count).map(address).collect::<Result<Vec<_>>>()?;
        Ok(Self { addresses, _cleanup: cleanup })
    }

    /// One of them.
    pub fn first(&self) -> Result<SocketAddr> {
        self.addresses.first().copied().context("there are no agents")
    }

    /// A line for each.
    fn lines(&self, line: impl Fn(&SocketAddr) -> String) -> String {
        self.addresses.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

fn lard(agents: &Agents, port: u16, policy: PolicyKind) -> String {
    let server = |address: &SocketAddr| json!({"Host": address.ip().to_string(), "Port": address.port()});
    let servers: Vec<_> = agents.addresses.iter().map(server).collect();
    json!({"Host": "127.0.0.1", "Port": port, "Policy": policy.name(), "Servers": servers}).to_string()
}

fn haproxy(agents: &Agents, port: u16) -> String {
    let servers = agents.lines(|address| format!("    server a{} {address}", address.port()));
    format!(
        "global
    nbthread 1
    maxconn 4096
defaults
    mode http
    option forwardfor
    http-reuse always
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend front
    bind 127.0.0.1:{port}
    default_backend agents
backend agents
    balance uri path-only
    hash-type consistent
{servers}
"
    )
}

fn nginx(agents: &Agents, port: u16, folder: &Path) -> String {
    let servers = agents.lines(|address| format!("        server {address};"));
    let folder = folder.display();
    format!(
        "daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    keepalive_requests 100000000;
    upstream agents {{
        hash $uri consistent;
{servers}
        keepalive 256;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://agents;
            proxy_http_version 1.1;
            proxy_set_header Connection \"\";
            proxy_set_header Host $host;
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"
    )
}
