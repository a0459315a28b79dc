//! The configuration of one worker: `config/worker-N.json`, which is the template with the worker's own keys.
//!
//! Keys have the original's names. What the file leaves out has its default here; relative paths begin at the
//! directory of the file.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use crate::cluster::ClusterDir;
use crate::file;
use crate::problem::ConfigError;
use crate::registry::{self, RegistryConfig};
use crate::section::Section;
use crate::sizes::Size;
use crate::values;

mod fixed;
mod import_tree;
mod limits;
pub(crate) mod paths;
#[cfg(test)]
mod tests;

pub use import_tree::ImportTree;
pub use limits::LimitsConfig;
pub use paths::Base;

/// The port of a worker that names none.
pub const DEFAULT_PORT: u16 = 8080;
/// Below this not even a few sandboxes fit.
const MIN_POOL: Size = Size::from_mib(256);
/// So far above a port lies its admin port, unless the file says otherwise.
pub const ADMIN_PORT_OFFSET: u16 = 1000;

/// A worker's configuration, checked, with every default resolved.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerConfig {
    /// The file that it was read from.
    pub file: PathBuf,
    /// `cluster_name`: stands in logs and metrics.
    pub cluster_name: String,
    /// `registry_dir`: one directory per handler.
    pub registry_dir: PathBuf,
    /// `registry` and the keys beside it: a store that handlers come from; none means `registry_dir`.
    pub registry: Option<RegistryConfig>,
    /// `Pkgs_dir`: installed packages.
    pub packages_dir: PathBuf,
    /// `worker_dir`: the worker's own state.
    pub worker_dir: PathBuf,
    /// `SOCK_base_path`: the root that sandboxes see.
    pub base: Base,
    /// `python`: the interpreter, as a path inside the base root.
    pub python: PathBuf,
    /// `worker_host` and `worker_port`: where calls arrive.
    pub listen: SocketAddr,
    /// `worker_host` and `admin_port`: where metrics and probes are.
    pub admin: SocketAddr,
    /// `max_runners`: calls at a time in one sandbox, 1 or more.
    pub max_runners: u32,
    /// `handler_cache_size`: memory that idle instances may hold; zero means that none is kept.
    pub handler_cache: Size,
    /// `memory_pool`: memory that all sandboxes and Zygotes may take together; none means four fifths of what there is.
    pub memory_pool: Option<Size>,
    /// `import_cache_size`: memory of the Zygotes that hold packages; zero means that there are none.
    pub import_cache: Size,
    /// `import_cache_tree`: which Zygotes there are; none means that they follow the demand.
    pub import_tree: Option<ImportTree>,
    /// `spares`: sandboxes of one Zygote that are forked ahead of need, at most.
    pub spares: u32,
    /// `import_timeout`: a Zygote may take so long to import one package.
    pub import_timeout: Duration,
    /// `sandbox_create_hard_limit`: memory in use above which new sandboxes wait; none means no such limit.
    pub create_hard_limit: Option<Size>,
    /// `sandbox_create_queue_size`: so many creations may wait at that limit.
    pub create_queue: u32,
    /// `handler_usage_update_interval`: time between two measurements of the idle instances' memory.
    pub usage_interval: Duration,
    /// `cg_pool_size`: cgroups that are kept ready.
    pub cgroup_pool: u32,
    /// `pip_mirror`: the package index; none means pip's own.
    pub pip_mirror: Option<String>,
    /// `packages_size`: what all packages may take on disk.
    pub packages_size: Size,
    /// `packages_ca`: certificates to trust for the index besides the usual ones, as a PEM file.
    pub packages_ca: Option<PathBuf>,
    /// `allow_source_builds`: whether packages without a wheel may be built, which runs their code.
    pub allow_source_builds: bool,
    /// `uv`: the installer; none means the one beside the worker's binary, or in `PATH`.
    pub uv: Option<PathBuf>,
    /// `startup_pkgs`: packages to install when the worker starts.
    pub startup_packages: Vec<String>,
    /// `benchmark_log`: a file for the duration of each step.
    pub benchmark_log: Option<PathBuf>,
    /// `timing`: whether the log has the duration of each step.
    pub timing: bool,
    /// `response_details`: whether responses say how the call started and how long each phase took.
    pub response_details: bool,
    /// `limits`: what one sandbox, and one call, may use.
    pub limits: LimitsConfig,
    /// `max_instances`: instances of one handler.
    pub max_instances: u32,
    /// `min_warm`: instances of one handler that are kept ready without calls.
    pub min_warm: u32,
    /// `queue_length`: calls of one handler that may wait.
    pub queue_length: u32,
    /// `queue_timeout`: a call waits so long at most.
    pub queue_timeout: Duration,
    /// `pause_after`: an instance idle for so long is paused.
    pub pause_after: Duration,
    /// `idle_timeout`: an instance idle for so long is destroyed.
    pub idle_timeout: Duration,
    /// `drain_timeout`: running calls get so long at shutdown.
    pub drain_timeout: Duration,
    /// `data_threads`: threads that serve calls.
    pub data_threads: u32,
}

impl WorkerConfig {
    /// Reads and checks a file.
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        Self::from_value(&file::read(path)?, path)
    }

    /// Checks a value as if it were read from `path`, which need not exist.
    pub fn from_value(value: &Value, path: &Path) -> Result<Self, ConfigError> {
        let file = std::path::absolute(path)
            .map_err(|source| ConfigError::Read { file: path.to_owned(), source })?;
        let mut root = Section::root(value);
        let config = read(&mut root, &file);
        ConfigError::unless(path, root.finish(), config)
    }

    /// Checks a template: as [`Self::from_value`], but what `admin workers` sets per worker may be missing, and the
    /// port may be the original's `"?"`.
    pub fn check_template(value: &Value, path: &Path) -> Result<(), ConfigError> {
        Self::of_template(value, path).map(drop)
    }

    /// What a worker that is made from the template would have, but for its own place and port.
    pub fn of_template(value: &Value, path: &Path) -> Result<Self, ConfigError> {
        let mut whole = value.clone();
        if let Some(map) = whole.as_object_mut() {
            if map.get("worker_port") == Some(&json!("?")) {
                map.remove("worker_port");
            }
            map.entry("worker_dir").or_insert_with(|| json!("../workers/worker-0"));
        }
        Self::from_value(&whole, path)
    }

    /// The template of a new cluster. `base` is `host` or an unpacked root directory.
    ///
    /// Paths are relative to the file, so that a cluster directory may be moved or copied.
    pub fn template(cluster: &ClusterDir, base: &str) -> Value {
        let from_config = |dir: PathBuf| {
            let name = dir.strip_prefix(cluster.root()).map(Path::to_owned).unwrap_or(dir);
            format!("../{}", name.display())
        };
        json!({
            "registry": "local",
            "registry_dir": from_config(cluster.registry_dir()),
            "Pkgs_dir": from_config(cluster.packages_dir()),
            "sandbox": "sock",
            "SOCK_base_path": base,
            "handler_cache_size": "512Mi",
            "import_cache_size": "512Mi",
            "max_runners": 0,
            "cg_pool_size": 16,
            "limits": {
                "memory": "128Mi",
                "pids": 64,
                "timeout": "30s",
                "scratch": "64Mi",
                "request": "6Mi",
                "response": "6Mi"
            },
            "max_instances": 200,
            "response_details": false
        })
    }

    /// The address under which this machine reaches the worker.
    pub fn local_ip(&self) -> IpAddr {
        reachable(self.listen.ip())
    }

    /// The URL under which this machine reaches the worker.
    pub fn local_url(&self) -> String {
        format!("http://{}", SocketAddr::new(self.local_ip(), self.listen.port()))
    }
}

/// The address to connect to for one that is listened on.
pub fn reachable(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(v4) if v4.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        other => other,
    }
}

/// Reads every key. Where one is wrong its default stands in, and the section holds the problem.
fn read(root: &mut Section<'_>, file: &Path) -> WorkerConfig {
    let directory = file.parent().unwrap_or(Path::new("/"));
    fixed::check(root);
    let limits = LimitsConfig::read(root);
    let (listen, admin) = addresses(root);
    WorkerConfig {
        file: file.to_owned(),
        cluster_name: root.read("cluster_name", "default".to_owned(), values::text),
        registry_dir: paths::required(root, "registry_dir", directory),
        registry: registry::read(root, directory),
        packages_dir: paths::optional(root, "Pkgs_dir", directory)
            .unwrap_or_else(|| paths::join(directory, "../packages")),
        worker_dir: paths::required(root, "worker_dir", directory),
        base: paths::base(root, directory),
        python: paths::python(root),
        listen,
        admin,
        max_runners: root.read("max_runners", 0, values::whole(0..=1024)).max(1),
        handler_cache: root.read("handler_cache_size", Size::ZERO, values::size),
        memory_pool: root.optional("memory_pool", values::size_from(MIN_POOL)),
        import_cache: root.read("import_cache_size", Size::ZERO, values::size),
        import_tree: import_tree::read(root, directory),
        spares: root.read("spares", 8, values::whole(0..=64)),
        import_timeout: root.read("import_timeout", Duration::from_secs(60), values::duration),
        create_hard_limit: root
            .optional("sandbox_create_hard_limit", values::size)
            .filter(|size| *size != Size::ZERO),
        create_queue: create_queue(root),
        usage_interval: root.read("handler_usage_update_interval", Duration::from_secs(10), values::seconds),
        cgroup_pool: root.read("cg_pool_size", 0, values::whole(0..=10_000)),
        pip_mirror: root.optional("pip_mirror", values::text).filter(|mirror| !mirror.is_empty()),
        packages_size: root.read("packages_size", Size::from_mib(10 * 1024), values::size),
        packages_ca: paths::optional(root, "packages_ca", directory),
        allow_source_builds: root.read("allow_source_builds", false, values::boolean),
        uv: paths::optional(root, "uv", directory),
        startup_packages: root.read("startup_pkgs", Vec::new(), values::words),
        benchmark_log: paths::optional(root, "benchmark_log", directory),
        timing: root.read("timing", false, values::boolean),
        response_details: root.read("response_details", false, values::boolean),
        limits,
        max_instances: root.read("max_instances", 200, values::whole(1..=100_000)),
        min_warm: root.read("min_warm", 0, values::whole(0..=10_000)),
        queue_length: root.read("queue_length", 1000, values::whole(0..=1_000_000)),
        queue_timeout: root.read("queue_timeout", Duration::from_secs(10), values::duration),
        pause_after: root.read("pause_after", Duration::from_millis(100), values::duration_or_zero),
        idle_timeout: root.read("idle_timeout", Duration::from_secs(600), values::duration),
        drain_timeout: root.read("drain_timeout", Duration::from_secs(30), values::duration_or_zero),
        data_threads: root.read("data_threads", 1, values::whole(1..=256)),
    }
}

/// The queue's key in the original's spelling, which has lost a letter, or in the right one.
fn create_queue(root: &mut Section<'_>) -> u32 {
    let (original, right) = ("sanbox_create_queue_size", "sandbox_create_queue_size");
    if root.has(original) && root.has(right) {
        root.blame(original, None, format!("stands beside {right:?}, which means the same: remove one"));
    }
    let first = root.optional(original, values::whole(1..=1_000_000));
    root.optional(right, values::whole(1..=1_000_000)).or(first).unwrap_or(1000)
}

/// Where the worker listens: for calls, and for metrics and probes.
fn addresses(root: &mut Section<'_>) -> (SocketAddr, SocketAddr) {
    let host = root.read("worker_host", Ipv4Addr::UNSPECIFIED.into(), |value| {
        let ip = value.as_str().and_then(|text| text.parse::<IpAddr>().ok());
        ip.ok_or_else(|| "must be an IP address, such as \"0.0.0.0\" or \"127.0.0.1\"".to_owned())
    });
    let port = root.read("worker_port", DEFAULT_PORT, values::port);
    let admin = admin_port(root, "admin_port", "worker_port", port);
    (SocketAddr::new(host, port), SocketAddr::new(host, admin))
}

/// The admin port: its own key (0 is the same as absent), or a fixed distance above the main port.
pub(crate) fn admin_port(root: &mut Section<'_>, key: &'static str, main: &str, port: u16) -> u16 {
    let zero = |value: &Value| value == &json!(0) || value == &json!("0");
    let own = root.optional(key, |value| if zero(value) { Ok(None) } else { values::port(value).map(Some) });
    match own.flatten() {
        Some(own) if own == port => {
            root.blame(key, Some(&json!(own)), format!("is {main} too: choose another port"));
            own
        }
        Some(own) => own,
        None => port.checked_add(ADMIN_PORT_OFFSET).unwrap_or_else(|| {
            let message = format!("would be {main} + {ADMIN_PORT_OFFSET}, over 65535: set it");
            root.blame(key, None, message);
            port
        }),
    }
}
