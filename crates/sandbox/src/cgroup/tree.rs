//! The agent's own part of the cgroup hierarchy.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::detect::{self, Own, V1_CONTROLLERS};
use super::group::{Cgroup, Files};

/// Why no cgroups can be made.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has none that would do.
    #[error("cgroups: {0}; mount cgroup v2, or v1 with memory, cpu, pids and freezer")]
    Missing(String),
    /// A controller is not to be had.
    #[error("cgroups: the controllers {wanted} cannot be enabled in {}: {source}; delegate them to this process", dir.display())]
    Controllers {
        /// What was asked for.
        wanted: String,
        /// Where.
        dir: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cgroups: {step} {}: {source}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On which path.
        path: PathBuf,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The folders below which this agent's groups live, one per v1 controller or one in all.
#[derive(Debug)]
pub struct CgroupTree {
    roots: Vec<PathBuf>,
    v2: bool,
}

fn io_error<T>(step: &'static str, path: &Path, result: io::Result<T>) -> Result<T, CgroupError> {
    result.map_err(|source| CgroupError::Io { step, path: path.to_owned(), source })
}

impl CgroupTree {
    /// Makes the tree `name` below this process's own cgroup.
    pub fn create(name: &str) -> Result<Self, CgroupError> {
        let read = |path: &str| io_error("read", Path::new(path), fs::read_to_string(path));
        let own = detect::own(&read("/proc/self/mountinfo")?, &read("/proc/self/cgroup")?);
        match own.map_err(CgroupError::Missing)? {
            Own::V1(folders) => Self::create_v1(&folders, name),
            Own::V2 { own, mount } => Self::create_v2(&parent_v2(own, &mount, name)?, name),
        }
    }

    fn create_v1(folders: &[PathBuf], name: &str) -> Result<Self, CgroupError> {
        let tree = Self { roots: folders.iter().map(|folder| folder.join(name)).collect(), v2: false };
        for root in &tree.roots {
            io_error("make", root, fs::create_dir_all(root))?;
        }
        // The first freeze on a machine patches the kernel (120 µs each way); while one group stays frozen, it costs 10 µs.
        let keeper = tree.root_of("freezer").join("keeper");
        io_error("make", &keeper, fs::create_dir_all(&keeper))?;
        io_error("freeze", &keeper, fs::write(keeper.join("freezer.state"), "FROZEN"))?;
        Ok(tree)
    }

    fn create_v2(parent: &Path, name: &str) -> Result<Self, CgroupError> {
        let root = parent.join(name);
        enable_controllers(parent)?;
        io_error("make", &root, fs::create_dir_all(&root))?;
        // A Zygote puts children into groups below, which needs write access to this file, checked on the inode alone;
        // nobody reaches it by path.
        io_error("close", &root, fs::set_permissions(&root, fs::Permissions::from_mode(0o700)))?;
        let procs = root.join("cgroup.procs");
        io_error("open up", &procs, fs::set_permissions(&procs, fs::Permissions::from_mode(0o666)))?;
        enable_controllers(&root)?;
        Ok(Self { roots: vec![root], v2: true })
    }

    fn root_of(&self, controller: &str) -> &Path {
        let index =
            if self.v2 { 0 } else { V1_CONTROLLERS.iter().position(|c| *c == controller).unwrap_or(0) };
        &self.roots[index]
    }

    /// Whether this is cgroup v2.
    pub fn is_v2(&self) -> bool {
        self.v2
    }

    /// The folders, for the record that the next start sweeps by.
    pub fn roots(&self) -> &[PathBuf] {
        &self.roots
    }

    /// All groups together may take so many bytes of memory.
    pub fn limit_memory(&self, bytes: u64) -> Result<(), CgroupError> {
        let name = if self.v2 { "memory.max" } else { "memory.limit_in_bytes" };
        let file = self.root_of("memory").join(name);
        io_error("write", &file, fs::write(&file, bytes.to_string()))
    }

    /// Makes a group; one that cannot be used is not left behind.
    pub fn group(&self, name: &str) -> io::Result<Cgroup> {
        let made = self.make_folders(name).and_then(|()| Cgroup::new(self.files(name)));
        made.inspect_err(|_| {
            // Without a descriptor, which may be what is lacking.
            self.roots.iter().for_each(|root| drop(fs::remove_dir(root.join(name))));
        })
    }

    fn make_folders(&self, name: &str) -> io::Result<()> {
        self.roots.iter().try_for_each(|root| match fs::create_dir(root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        })
    }

    fn files(&self, name: &str) -> Files {
        let dir = |controller| self.root_of(controller).join(name);
        if self.v2 {
            Files::V2(dir("memory"))
        } else {
            Files::V1 { memory: dir("memory"), cpu: dir("cpu"), pids: dir("pids"), freezer: dir("freezer") }
        }
    }

    /// Removes the tree with everything in it, killing what still runs there.
    pub fn remove(&self) -> io::Result<()> {
        sweep_all(&self.roots)
    }
}

/// Which folder the tree goes into on v2: our own, emptied into a leaf as a group with controllers must hold no process;
/// or, where others live in our own (a login session), the root of the hierarchy.
fn parent_v2(own: PathBuf, mount: &Path, name: &str) -> Result<PathBuf, CgroupError> {
    // Only the real root, exempt from the rule, lacks this file.
    if !own.join("cgroup.type").exists() {
        return Ok(own);
    }
    let procs = own.join("cgroup.procs");
    let text = io_error("read", &procs, fs::read_to_string(&procs))?;
    let me = std::process::id().to_string();
    let alone = text.lines().all(|pid| pid == me || pid == "1");
    if alone {
        let leaf = own.join(format!("{name}-agent"));
        io_error("make", &leaf, fs::create_dir_all(&leaf))?;
        for pid in text.lines() {
            io_error("move the agent into", &leaf, fs::write(leaf.join("cgroup.procs"), pid))?;
        }
        return Ok(own);
    }
    if mount.join("cgroup.type").exists() {
        let others: Vec<_> = text.lines().filter(|pid| *pid != me).collect();
        let why =
            format!("the agent shares its cgroup {} with the processes {}", own.display(), others.join(" "));
        return Err(CgroupError::Missing(why));
    }
    Ok(mount.to_owned())
}

fn enable_controllers(dir: &Path) -> Result<(), CgroupError> {
    let wanted = "+memory +pids +cpu";
    let file = dir.join("cgroup.subtree_control");
    fs::write(&file, wanted).map_err(|source| CgroupError::Controllers {
        wanted: wanted.to_owned(),
        dir: dir.to_owned(),
        source,
    })
}

/// Removes the folders of one agent, of all hierarchies, killing what still runs there.
pub(crate) fn sweep_all<P: AsRef<Path>>(roots: &[P]) -> io::Result<()> {
    // A frozen process of v1 takes a signal only when it thaws, and only one of the hierarchies can thaw it.
    roots.iter().for_each(|root| thaw_all(root.as_ref()));
    roots.iter().try_for_each(|root| sweep(root.as_ref()))
}

/// Lets go on whatever is frozen below `root`, if that is a freezer of v1. (On v2 the frozen can be killed.)
pub(crate) fn thaw_all(root: &Path) {
    let _ = fs::write(root.join("freezer.state"), "THAWED");
    for entry in fs::read_dir(root).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            thaw_all(&entry.path());
        }
    }
}

/// Removes a folder whose processes have ended or are about to leave: it is waited for them a second before they are killed. On v1 a
/// sandbox is born in its Zygote's group and moves at once, which the end of the Zygote must not turn into its own.
pub(crate) fn remove_empty(root: &Path) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        match fs::remove_dir(root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {}
            _ => return Ok(()),
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    sweep(root)
}

/// Kills what runs below `root` and removes it, waiting up to two seconds for processes to end. A missing root is fine.
pub(crate) fn sweep(root: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            sweep(&entry.path())?;
        }
    }
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match fs::remove_dir(root) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
        for pid in fs::read_to_string(root.join("cgroup.procs")).unwrap_or_default().lines() {
            if let Ok(pid) = pid.parse() {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
        }
        // The kernel tells of an empty group only through a notification that it delays by 10 ms: look again instead.
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_that_cannot_be_used_is_not_left_behind() {
        // Plain folders have no `tasks` to open, as there is none to be had when descriptors are exhausted.
        let dir = tempfile::tempdir().unwrap();
        let roots: Vec<_> = V1_CONTROLLERS.iter().map(|name| dir.path().join(name)).collect();
        roots.iter().for_each(|root| fs::create_dir(root).unwrap());
        let tree = CgroupTree { roots, v2: false };
        assert_eq!(tree.group("z-1").unwrap_err().kind(), io::ErrorKind::NotFound);
        for root in tree.roots() {
            assert_eq!(fs::read_dir(root).unwrap().count(), 0, "{}", root.display());
        }
    }
}
