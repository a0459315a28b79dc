//! A lard that takes uploads, with a registry in a directory, and a client of it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use openlambda_bundle::pack_file;
use serde_json::{Value, json};
use tempfile::{NamedTempFile, TempDir};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::process::Command;

use super::process::{Process, command, run, with_ports};
use super::{LONG, config, until};

pub const TOKEN: &str = "a-token-of-the-tests";
pub const SCRIPT: &[u8] = b"def handler(event):\n    return 1\n";

/// A lard with a registry in a directory, and with a folder for temporary files that nobody else uses.
pub struct Front {
    pub directory: TempDir,
    pub lard: Process,
}

pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("{:?}", String::from_utf8_lossy(&self.body)))
    }

    /// Status, reason and message of an error of lard's.
    pub fn error(&self) -> (u16, String, String) {
        let body = self.json();
        assert_eq!(body["component"], "balancer", "{body}");
        let text = |key: &str| body[key].as_str().unwrap().to_owned();
        (self.status, text("reason"), text("message"))
    }
}

/// The files of a cluster that lard reads, and its configuration.
pub fn files(directory: &Path, registry: &str, admins: &[u16]) -> Value {
    fs::create_dir(directory.join("tmp")).unwrap();
    let (template, token) = (directory.join("template.json"), directory.join("token"));
    let worker = json!({"registry_dir": "r", "worker_dir": "w", "registry": registry});
    fs::write(&template, worker.to_string()).unwrap();
    fs::write(&token, format!("{TOKEN}\n")).unwrap();
    fs::set_permissions(&token, fs::Permissions::from_mode(0o600)).unwrap();
    let mut config = with_ports(config("LARD", &vec![1; admins.len()]));
    for (index, admin) in admins.iter().enumerate() {
        config["Servers"][index]["Port"] = json!(index + 1);
        config["Servers"][index]["AdminPort"] = json!(admin);
    }
    config["RegistryApi"] = json!({"TokenFile": token, "Template": template});
    config
}

fn in_folder((mut command, file): (Command, NamedTempFile), folder: &Path) -> (Command, NamedTempFile) {
    command.env("TMPDIR", folder.join("tmp"));
    (command, file)
}

impl Front {
    pub async fn start(admins: &[u16]) -> Self {
        Self::with_registry("./store", admins).await
    }

    pub async fn with_registry(registry: &str, admins: &[u16]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = files(directory.path(), registry, admins);
        Self { lard: run(in_folder(command(&config), directory.path())).await, directory }
    }

    /// Another lard with the same files, on ports of its own.
    pub async fn another(&self) -> Process {
        let mut config: Value = serde_json::from_slice(&fs::read(self.lard.file.path()).unwrap()).unwrap();
        config = with_ports(config);
        run(in_folder(command(&config), self.directory.path())).await
    }

    /// In Kubernetes, with the API server of a kubeconfig, and with what is to be changed about its files before it starts.
    pub async fn in_kubernetes(kubeconfig: &str, change: impl FnOnce(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let config = files(directory.path(), "./store", &[]);
        change(directory.path());
        let (_, file) = command(&config);
        let kubeconfig_file = directory.path().join("kubeconfig");
        fs::write(&kubeconfig_file, kubeconfig).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_openlambda-lard"));
        command.args(["kubernetes", "--cluster", "demo", "--namespace", "n", "--config"]).arg(file.path());
        command.env("KUBECONFIG", kubeconfig_file);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Self { lard: run(in_folder((command, file), directory.path())).await, directory }
    }

    pub async fn send(&self, request: hyper::http::request::Builder, body: impl Into<Bytes>) -> Answer {
        let request = request.header("host", "front").body(Full::new(body.into())).unwrap();
        let sending = async {
            let stream = TcpStream::connect(self.lard.address).await.unwrap();
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::spawn(connection);
            let (head, body) = sender.send_request(request).await.unwrap().into_parts();
            let body = body.collect().await.unwrap().to_bytes().to_vec();
            Answer { status: head.status.as_u16(), headers: head.headers, body }
        };
        tokio::time::timeout(LONG, sending).await.expect("no answer in time")
    }

    /// As somebody who has the token.
    pub async fn ask(&self, method: &str, path: &str, body: impl Into<Bytes>) -> Answer {
        let request = Request::builder().method(method).uri(path);
        self.send(request.header("authorization", format!("Bearer {TOKEN}")), body).await
    }

    /// A connection on which an upload has begun: its head, with a length or chunks, and what follows.
    pub async fn begin(&self, length: &str, sent: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.lard.address).await.unwrap();
        let head = format!(
            "POST /registry/h HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {TOKEN}\r\n{length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(sent).await.unwrap();
        stream
    }

    pub fn temporary(&self) -> usize {
        fs::read_dir(self.directory.path().join("tmp")).unwrap().count()
    }

    /// Objects and records in the registry.
    pub fn stored(&self) -> usize {
        let folder = |name: &str| fs::read_dir(self.directory.path().join("store").join(name));
        ["handlers", "bundles"].iter().map(|name| folder(name).map_or(0, Iterator::count)).sum()
    }

    pub async fn nothing_is_left(&self) {
        until("no temporary file is left", || self.temporary() == 0).await;
    }
}

pub fn archive(text: &[u8]) -> Vec<u8> {
    pack_file("lambda_func.py", text, Vec::new()).unwrap()
}
