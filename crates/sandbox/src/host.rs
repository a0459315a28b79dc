//! What must happen before any thread exists: checks, a private mount namespace, the base root, own cgroups, and a sweep of
//! what an agent that was killed left behind.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::base::{self, Base};
use crate::cgroup::{CgroupError, CgroupPool, CgroupTree};
use crate::nursery::{Nursery, StartError};

/// How an agent's sandboxes are made.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Where the base root comes from.
    pub base: Base,
    /// The agent's own folder; two agents cannot share one.
    pub state_dir: PathBuf,
    /// The Python runtime, seen as `/runtime`.
    pub runtime_dir: PathBuf,
    /// The node's store of packages, seen as `/packages`; made if it is not there. What is added to it later is seen too.
    pub packages_dir: PathBuf,
    /// The interpreter, as a path inside the base root.
    pub python: PathBuf,
    /// Cgroups kept ready.
    pub cgroup_pool: usize,
    /// Bytes of memory that all sandboxes, Zygotes and tools may take together; the kernel sees to it.
    pub memory: u64,
}

/// Why sandboxes cannot be made here.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Not root.
    #[error(
        "sandboxes need root (namespaces, mounts, cgroups), and this runs as user {0}: run it with sudo or as a privileged pod"
    )]
    NotRoot(u32),
    /// Another agent has the folder.
    #[error("another worker uses {}: stop it, or give this one a worker_dir of its own", dir.display())]
    InUse {
        /// The folder.
        dir: PathBuf,
    },
    /// The runtime is missing.
    #[error("there is no Python runtime in {} ({missing} is missing): build it with `cargo xtask build`, or set OPENLAMBDA_RUNTIME_DIR", dir.display())]
    NoRuntime {
        /// Where it was looked for.
        dir: PathBuf,
        /// The file that is not there.
        missing: &'static str,
    },
    /// No cgroups.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The base root.
    #[error("{0}")]
    Base(String),
    /// A system call or file operation failed.
    #[error("{step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// A prepared machine, on which the nursery can be started. Holds the lock of the state folder.
#[derive(Debug)]
pub struct Host {
    pub(crate) config: HostConfig,
    pub(crate) root: PathBuf,
    pub(crate) tree: Arc<CgroupTree>,
    pub(crate) pool: Arc<CgroupPool>,
    pub(crate) lock: Flock<File>,
}

/// The file in the state folder that names the cgroup folders of the agent that runs, or ran last.
pub(crate) const CGROUPS_FILE: &str = "cgroups";

fn on<T, E: Into<io::Error>>(
    step: &'static str,
    path: &Path,
    result: Result<T, E>,
) -> Result<T, PrepareError> {
    result.map_err(|error| PrepareError::Io { step, path: path.to_owned(), source: error.into() })
}

/// Prepares the machine. Call it before any thread exists: it moves the process into a private mount namespace.
pub fn prepare(config: HostConfig) -> Result<Host, PrepareError> {
    let uid = nix::unistd::geteuid();
    if !uid.is_root() {
        return Err(PrepareError::NotRoot(uid.as_raw()));
    }
    for missing in ["zygote.py", "server.py", "importer.py", "_openlambda.abi3.so"] {
        if !config.runtime_dir.join(missing).is_file() {
            return Err(PrepareError::NoRuntime { dir: config.runtime_dir, missing });
        }
    }
    on("make the folder", &config.state_dir, fs::create_dir_all(&config.state_dir))?;
    let lock = lock(&config.state_dir)?;
    sweep_previous(&config.state_dir)?;
    open_store(&config.packages_dir)?;
    let tree = own_cgroups(&config)?;
    let root = private_root(&config).inspect_err(|_| {
        let _ = tree.remove();
    })?;
    let tree = Arc::new(tree);
    let pool = Arc::new(CgroupPool::new(Arc::clone(&tree), config.cgroup_pool));
    Ok(Host { config, root, tree, pool, lock })
}

fn lock(dir: &Path) -> Result<Flock<File>, PrepareError> {
    let path = dir.join("lock");
    let file = on("open", &path, File::options().create(true).truncate(false).write(true).open(&path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| match errno {
        nix::Error::EWOULDBLOCK => PrepareError::InUse { dir: dir.to_owned() },
        errno => PrepareError::Io { step: "lock", path, source: errno.into() },
    })
}

/// Removes the cgroups of an agent that was killed together with its spawner, or left them when the machine went down. Its processes and
/// mounts ended with it: the nursery saw to the former, its private mount namespace to the latter.
fn sweep_previous(dir: &Path) -> Result<(), PrepareError> {
    let record = dir.join(CGROUPS_FILE);
    let text = fs::read_to_string(&record).unwrap_or_default();
    let roots: Vec<_> = text.lines().map(Path::new).collect();
    on("remove the cgroups that are named in", &record, crate::cgroup::sweep_all(&roots))
}

/// Whatever the umask: sandboxes run as other users.
fn open_store(dir: &Path) -> Result<(), PrepareError> {
    on("make the folder", dir, fs::create_dir_all(dir))?;
    on("open up the folder", dir, fs::set_permissions(dir, fs::Permissions::from_mode(0o755)))
}

fn own_cgroups(config: &HostConfig) -> Result<CgroupTree, PrepareError> {
    let tree = CgroupTree::create(&format!("openlambda-{}", std::process::id()))?;
    let record = config.state_dir.join(CGROUPS_FILE);
    let write = || {
        let mut file = File::create(&record)?;
        tree.roots().iter().try_for_each(|root| writeln!(file, "{}", root.display()))?;
        file.sync_all()
    };
    on("write", &record, write())?;
    tree.limit_memory(config.memory)?;
    Ok(tree)
}

fn private_root(config: &HostConfig) -> Result<PathBuf, PrepareError> {
    let slash = Path::new("/");
    on("leave the mount namespace of", slash, unshare(CloneFlags::CLONE_NEWNS))?;
    let private =
        mount(None::<&str>, slash, None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>);
    on("make the mounts private below", slash, private)?;
    let root = config.state_dir.join("root");
    on("make the folder", &root, fs::create_dir_all(&root))?;
    base::compose(&config.base, &config.runtime_dir, &config.packages_dir, &root)
        .map_err(|error| PrepareError::Base(error.to_string()))?;
    Ok(root)
}

impl Host {
    /// Starts the nursery, in which Zygotes and sandboxes live.
    pub async fn start(self) -> Result<Nursery, StartError> {
        Nursery::start(self).await
    }
}
