//! Stores to test on.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use openlambda_api::HandlerName;
use openlambda_bundle::Digest;
use openlambda_config::registry::{BUCKET, Keys, Place, REGION, S3Config, Secret};
use openlambda_registry::bucket::Bucket;
use openlambda_registry::server;
use openlambda_store::{Store, StoreError, Uploaded};
use openlambda_telemetry::Drain;
use tempfile::TempDir;

/// A store, and where its files are.
pub struct Rig {
    pub store: Store,
    /// The directory of all, if it is ours.
    pub files: Option<PathBuf>,
    work: TempDir,
    drain: Drain,
}

pub fn keys() -> Keys {
    Keys { access: "access-key".into(), secret: Secret::new("secret-key-of-this-test") }
}

pub fn s3(endpoint: &str, keys: Keys) -> S3Config {
    S3Config {
        endpoint: Some(endpoint.to_owned()),
        region: REGION.into(),
        bucket: BUCKET.into(),
        prefix: String::new(),
        path_style: true,
        ca: None,
        keys: Some(keys),
    }
}

/// The embedded server on a directory.
pub async fn serve(directory: &Path, drain: &Drain) -> SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = server::service(Bucket::open(directory).unwrap(), &keys());
    tokio::spawn(server::serve(listener, service, drain.clone()));
    address
}

/// A variable of tests/cluster/s3.
pub fn variable(name: &str) -> Option<String> {
    std::env::var(format!("OPENLAMBDA_TEST_S3_{name}")).ok()
}

/// The bucket of the server that somebody else has written, under the address in a variable.
pub fn foreign(server: &str) -> Option<S3Config> {
    let (access, secret) = (variable("ACCESS_KEY")?, variable("SECRET_KEY")?);
    Some(s3(&variable(server)?, Keys { access, secret: Secret::new(secret) }))
}

/// One of each kind.
pub async fn rigs() -> Vec<Rig> {
    let mut all = vec![Rig::directory(), Rig::embedded().await];
    all.extend(Rig::foreign());
    all
}

impl Rig {
    pub fn directory() -> Self {
        let work = tempfile::tempdir().unwrap();
        let files = work.path().join("store");
        let store = Store::open(&Place::Directory(files.clone())).unwrap();
        Self { store, files: Some(files), work, drain: Drain::new() }
    }

    pub async fn embedded() -> Self {
        Self::embedded_with_config().await.0
    }

    /// The same, and how it is reached.
    pub async fn embedded_with_config() -> (Self, S3Config) {
        let (work, drain) = (tempfile::tempdir().unwrap(), Drain::new());
        let files = work.path().join("store");
        let address = serve(&files, &drain).await;
        let config = s3(&format!("http://{address}"), keys());
        let store = Store::open(&Place::S3(config.clone())).unwrap();
        (Self { store, files: Some(files), work, drain }, config)
    }

    /// One that somebody else has written.
    fn foreign() -> Option<Self> {
        Self::foreign_with_config().map(|(rig, _)| rig)
    }

    /// The same, and how it is reached.
    pub fn foreign_with_config() -> Option<(Self, S3Config)> {
        let mut config = foreign("SERVER")?;
        // Each test has its own part of it.
        config.prefix = format!("test-{}", uuid());
        let work = tempfile::tempdir().unwrap();
        let store = Store::open(&Place::S3(config.clone())).unwrap();
        Some((Self { store, files: None, work, drain: Drain::new() }, config))
    }

    /// A file that is not there yet.
    pub fn fresh(&self) -> PathBuf {
        self.work.path().join(uuid())
    }

    pub async fn upload(&self, handler: &str, contents: &[u8]) -> Result<Uploaded, StoreError> {
        let file = self.fresh();
        fs::write(&file, contents).unwrap();
        let digest = Digest::of_file(&file).unwrap();
        self.store.upload(&name(handler), &file, &digest, &mut |_| {}).await
    }

    /// The objects in it, if it is ours.
    pub fn objects(&self) -> Vec<String> {
        let mut found = Vec::new();
        let Some(files) = &self.files else { return found };
        let mut folders = vec![files.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => found.push(path.strip_prefix(files).unwrap().display().to_string()),
                }
            }
        }
        found.retain(|name| name != ".lock");
        found.sort();
        found
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.drain.begin();
    }
}

pub fn name(text: &str) -> HandlerName {
    HandlerName::parse(text).unwrap()
}

/// As good as unique on this machine: the kernel's own.
fn uuid() -> String {
    fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap().trim().to_owned()
}
