//! One prepared machine for all tests, and a caller that speaks frames as the agent does.

use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use openlambda_sandbox::{Base, Host, HostConfig, Limits, Nursery, Sandbox, SandboxSpec, Zygote, prepare};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::runtime::Runtime;

/// A test: given the fixture, a future.
pub type Test = fn(Fixture) -> Pin<Box<dyn Future<Output = Result<()>>>>;

/// No step of a test takes longer; in the virtual machine everything is some fifteen times slower.
const PATIENCE: Duration = Duration::from_secs(60);

pub const LOAD: u32 = 1;
pub const CALL: u32 = 2;

#[derive(Clone)]
pub struct Fixture(Arc<Inner>);

struct Inner {
    runtime: Runtime,
    pub nursery: Nursery,
    pub zygote: Zygote,
    dir: tempfile::TempDir,
    frozen: Mutex<Vec<Caller>>,
}

impl Fixture {
    /// Prepares the machine (before any thread exists) and starts nursery and Zygote.
    pub fn new() -> Result<Self> {
        let runtime_dir =
            std::env::var("OPENLAMBDA_RUNTIME_DIR").context("OPENLAMBDA_RUNTIME_DIR is not set")?;
        let dir = tempfile::tempdir()?;
        let config = HostConfig {
            base: Base::Host,
            state_dir: dir.path().join("worker"),
            runtime_dir: runtime_dir.into(),
            packages_dir: dir.path().join("packages"),
            python: PathBuf::from("/usr/bin/python3"),
            cgroup_pool: 4,
            memory: 1 << 30,
        };
        let host: Host = prepare(config)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (nursery, zygote) = runtime.block_on(async {
            let nursery = host.start().await?;
            let zygote = nursery.zygote().await?;
            anyhow::Ok((nursery, zygote))
        })?;
        Ok(Self(Arc::new(Inner { runtime, nursery, zygote, dir, frozen: Mutex::default() })))
    }

    pub fn run(&self, test: Test) -> Result<()> {
        self.0.runtime.block_on(async {
            let limit = tokio::time::timeout(PATIENCE * 2, test(self.clone()));
            limit.await.context("the test took too long")?
        })
    }

    /// Ends everything and checks that nothing is left.
    pub fn finish(self) -> Result<()> {
        let state = self.0.dir.path().join("worker");
        let cgroups = fs::read_to_string(state.join("cgroups"))?;
        self.0.runtime.block_on(self.0.nursery.shutdown());
        let left: Vec<_> = cgroups.lines().filter(|path| Path::new(path).exists()).collect();
        ensure!(left.is_empty(), "cgroups are left: {left:?}");
        ensure!(!state.join("cgroups").exists(), "the record of cgroups is left");
        Ok(())
    }

    /// Freezes a sandbox and keeps it so until the end of all tests.
    pub fn keep_frozen(&self, caller: Caller) -> Result<()> {
        caller.sandbox.handle.freeze()?;
        self.0.frozen.lock().map_err(|_| anyhow!("a test has failed"))?.push(caller);
        Ok(())
    }

    pub fn nursery(&self) -> &Nursery {
        &self.0.nursery
    }

    pub fn zygote(&self) -> &Zygote {
        &self.0.zygote
    }

    /// The store of packages.
    pub fn store(&self) -> PathBuf {
        self.0.dir.path().join("packages")
    }

    /// An empty folder.
    pub fn folder(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(self.0.dir.path())?)
    }

    /// A folder with a handler.
    pub fn code(&self, source: &str) -> Result<tempfile::TempDir> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir_in(self.0.dir.path())?;
        fs::write(dir.path().join("lambda_func.py"), source)?;
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        Ok(dir)
    }

    /// Forks a sandbox of the fixture's Zygote with this handler loaded.
    pub async fn start(&self, source: &str, limits: Limits) -> Result<Caller> {
        self.start_from(self.zygote(), source, limits).await
    }

    /// The same from a given Zygote.
    pub async fn start_from(&self, zygote: &Zygote, source: &str, limits: Limits) -> Result<Caller> {
        self.start_with(zygote, source, limits, json!({})).await
    }

    /// The same, with this meta of the load.
    pub async fn start_with(
        &self,
        zygote: &Zygote,
        source: &str,
        limits: Limits,
        meta: Value,
    ) -> Result<Caller> {
        let code = self.code(source)?;
        let spec = SandboxSpec { code: Some(code.path().to_owned()), limits };
        let mut caller = Caller::new(zygote.fork(&spec).await?, code);
        caller.send(LOAD, meta.to_string().as_bytes(), b"").await?;
        Ok(caller)
    }

    /// What `handler(event)` returns in a fresh sandbox.
    pub async fn answer(&self, source: &str, event: Value) -> Result<Value> {
        self.start(source, Limits::default()).await?.call(event).await
    }
}

/// A sandbox with a handler, spoken to in frames.
pub struct Caller {
    pub sandbox: Sandbox,
    seq: u32,
    _code: tempfile::TempDir,
}

impl Caller {
    pub fn new(sandbox: Sandbox, code: tempfile::TempDir) -> Self {
        Self { sandbox, seq: 0, _code: code }
    }

    pub async fn send(&mut self, kind: u32, meta: &[u8], body: &[u8]) -> Result<()> {
        self.seq += 1;
        let mut frame = Vec::new();
        for word in [self.seq, kind, meta.len() as u32, body.len() as u32] {
            frame.extend_from_slice(&word.to_le_bytes());
        }
        frame.extend_from_slice(meta);
        frame.extend_from_slice(body);
        self.sandbox.stream.write_all(&frame).await.context("write to the sandbox")
    }

    /// Status, meta and body of the next reply.
    pub async fn receive(&mut self) -> Result<(u32, Value, Vec<u8>)> {
        let read = async {
            let stream = &mut self.sandbox.stream;
            let mut header = [0; 16];
            stream.read_exact(&mut header).await?;
            let word =
                |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
            let (seq, status) = (word(0), word(4));
            let mut meta = vec![0; word(8) as usize];
            stream.read_exact(&mut meta).await?;
            let mut body = vec![0; word(12) as usize];
            stream.read_exact(&mut body).await?;
            ensure!(seq == self.seq, "the reply is to {seq}, not to {}", self.seq);
            let meta = if meta.is_empty() { Value::Null } else { serde_json::from_slice(&meta)? };
            Ok((status, meta, body))
        };
        match tokio::time::timeout(PATIENCE, read).await.context("no reply")? {
            Ok(reply) => Ok(reply),
            Err(error) => {
                let mut text = String::new();
                let _ = tokio::time::timeout(PATIENCE, self.sandbox.stderr.read_to_string(&mut text)).await;
                Err(error).with_context(|| format!("no reply; the sandbox's stderr: {text}"))
            }
        }
    }

    pub async fn call_raw(&mut self, event: Value) -> Result<(u32, Value, Vec<u8>)> {
        let meta = json!({"id": "test"}).to_string();
        self.send(CALL, meta.as_bytes(), event.to_string().as_bytes()).await?;
        self.receive().await
    }

    pub async fn call(&mut self, event: Value) -> Result<Value> {
        let (status, meta, body) = self.call_raw(event).await?;
        ensure!(status == 0, "status {status}: {meta}");
        Ok(serde_json::from_slice(&body)?)
    }
}
