//! What the tests of the `admin` binary share: a cluster directory, and programs that stand in for worker and lard.

use std::fs::{self, Permissions};
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

/// A program that answers `/status`, ends at SIGTERM, and misbehaves as its configuration asks:
/// `cluster_name` is `crash` (it ends at once) or `deaf` (it passes over SIGTERM).
const STAND_IN: &str = r#"#!/usr/bin/env python3
import http.server, json, signal, sys
config = json.load(open(sys.argv[sys.argv.index("--config") + 1]))
mode = config.get("cluster_name")
if mode == "crash":
    sys.exit("the base root lacks python3")
signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else lambda *_: sys.exit(0))
class Status(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready\n")
print("listening", flush=True)
http.server.HTTPServer(("127.0.0.1", int(config.get("worker_port") or config["Port"])), Status).serve_forever()
"#;

/// A directory with a copy of admin, stand-ins beside it, and room for a cluster.
pub struct Bench {
    dir: TempDir,
}

/// What a command did.
pub struct Done {
    /// Its exit code.
    pub code: Option<i32>,
    /// What it printed.
    pub out: String,
    /// What it complained about.
    pub err: String,
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(dir.path().join("bin")).unwrap();
        install(env!("CARGO_BIN_EXE_admin"), "", &dir.path().join("bin/admin"));
        Self { dir }
    }

    /// With stand-ins for the worker and the balancer.
    pub fn with_stand_ins() -> Self {
        let bench = Self::new();
        for name in ["openlambda-node-agent", "openlambda-lard"] {
            install("/dev/stdin", STAND_IN, &bench.path("bin").join(name));
        }
        bench
    }

    /// With a new cluster in `c`.
    pub fn with_cluster(self) -> Self {
        self.ok(&["new", "--cluster", "c"]);
        self
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    /// The command, in the bench's directory. Without `PATH`s of ours only stand-ins are found.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.path("bin/admin"));
        command.args(args).current_dir(self.dir.path()).env_remove("OPENLAMBDA_CLUSTER");
        command.env("PATH", "/usr/local/bin:/usr/bin:/bin");
        command
    }

    pub fn run(&self, args: &[&str]) -> Done {
        self.command(args).output().unwrap().into()
    }

    /// Runs what must work; gives its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, Some(0), "{args:?}: {}{}", done.out, done.err);
        done.out
    }

    /// Runs what must fail with code 1; gives its complaint.
    pub fn fails(&self, args: &[&str]) -> String {
        let done = self.run(args);
        assert_eq!(done.code, Some(1), "{args:?}: {}{}", done.out, done.err);
        assert!(done.err.starts_with("admin: "), "{}", done.err);
        done.err
    }

    pub fn json(&self, below: &str) -> Value {
        serde_json::from_slice(&fs::read(self.path(below)).unwrap()).unwrap()
    }

    /// The pid in a pid file of the cluster.
    pub fn pid(&self, process: &str) -> String {
        let text = fs::read_to_string(self.path(&format!("c/logs/{process}.pid"))).unwrap();
        text.trim().to_owned()
    }
}

impl Drop for Bench {
    /// A failed test leaves no process behind.
    fn drop(&mut self) {
        if self.path("c/config/template.json").exists() {
            let _ = self.command(&["kill", "--cluster", "c"]).output();
        }
    }
}

/// Makes an executable. By a program of its own: were this process to write it, a test that starts another program at
/// the same time could hand the open file on, and a file that is open for writing cannot be executed.
fn install(from: &str, text: &str, to: &Path) {
    let mut install = Command::new("install");
    let mut install = install.args(["-m", "755", from]).arg(to).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}

/// Whether a process is there and no zombie.
pub fn runs(pid: &str) -> bool {
    fs::read(Path::new("/proc").join(pid).join("cmdline")).is_ok_and(|line| !line.is_empty())
}

/// A port that is free, as are the next one and their admin ports.
pub fn free_port() -> u16 {
    let free = |port: u16| TcpListener::bind(("0.0.0.0", port)).is_ok();
    loop {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        if port < 64_000 && [port + 1, port + 1000, port + 1001].into_iter().all(free) {
            return port;
        }
    }
}
