//! The base root: what a sandbox sees as `/`, read-only, composed once per agent in its private mount namespace.
//!
//! A small tmpfs holds the mount points, device nodes and a minimal `/etc`; the big folders are bound over it.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::sys;

/// Where the base root comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// The machine's own `/usr`, `/lib*`, `/bin` and `/sbin`, with a minimal `/etc`.
    Host,
    /// An unpacked root.
    Dir(PathBuf),
}

/// A step of the composition that failed.
#[derive(Debug, thiserror::Error)]
#[error("compose the base root: {step} {}: {source}", path.display())]
pub(crate) struct ComposeError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Mount points and folders of the skeleton.
const FOLDERS: [&str; 12] =
    ["handler", "host", "packages", "tmp", "proc", "dev", "sys", "etc", "empty", "runtime", "var", "run"];
/// Folders of the machine that a host base shows.
const FROM_HOST: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];
/// Folders of an unpacked root that a sandbox sees.
const FROM_DIR: [&str; 10] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "etc", "opt", "var"];
/// Files of the machine's `/etc` that programs need; copied, for they may be replaced by rename.
const ETC_FILES: [&str; 8] = [
    "hosts",
    "resolv.conf",
    "nsswitch.conf",
    "ld.so.cache",
    "localtime",
    "services",
    "protocols",
    "mime.types",
];
/// Folders of the machine's `/etc` that hold only links and public certificates.
const ETC_FOLDERS: [&str; 2] = ["alternatives", "ssl/certs"];
/// Device nodes: name and minor number of major 1.
const DEVICES: [(&str, u64); 5] = [("null", 3), ("zero", 5), ("full", 7), ("random", 8), ("urandom", 9)];

/// Composes the root at `at`, an existing folder, in the caller's private mount namespace.
pub(crate) fn compose(base: &Base, runtime: &Path, packages: &Path, at: &Path) -> Result<(), ComposeError> {
    let tmpfs = mount(Some("base"), at, Some("tmpfs"), MsFlags::MS_NOSUID, Some("mode=0755,size=4m"));
    on("mount a tmpfs on", at, tmpfs)?;
    for folder in FOLDERS {
        make_dir(&at.join(folder))?;
    }
    devices(&at.join("dev"))?;
    match base {
        Base::Host => {
            FROM_HOST.iter().try_for_each(|name| show(&Path::new("/").join(name), &at.join(name)))?;
            etc(&at.join("etc"))?;
        }
        Base::Dir(dir) => FROM_DIR.iter().try_for_each(|name| show(&dir.join(name), &at.join(name)))?,
    }
    show(runtime, &at.join("runtime"))?;
    let store = on("find", packages, packages.canonicalize())?;
    show(&store, &at.join("packages"))?;
    let flags = OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = on("open", at, open_tree(rustix::fs::CWD, at, flags))?;
    let attributes = sys::MOUNT_ATTR_RDONLY | sys::MOUNT_ATTR_NOSUID;
    on("make read-only (needs Linux 5.12)", at, sys::mount_setattr(tree.as_fd(), attributes, true))
}

fn on<T, E: Into<io::Error>>(
    step: &'static str,
    path: &Path,
    result: Result<T, E>,
) -> Result<T, ComposeError> {
    result.map_err(|error| ComposeError { step, path: path.to_owned(), source: error.into() })
}

fn make_dir(path: &Path) -> Result<(), ComposeError> {
    on("make the folder", path, fs::create_dir_all(path))?;
    // Whatever the umask: a sandbox runs as another user.
    on("open up the folder", path, fs::set_permissions(path, fs::Permissions::from_mode(0o755)))
}

/// Makes `source` appear at `target`: a link as a link, a folder as a bind mount; what does not exist is left out.
fn show(source: &Path, target: &Path) -> Result<(), ComposeError> {
    let Ok(kind) = fs::symlink_metadata(source) else { return Ok(()) };
    if kind.is_symlink() {
        let to = on("read the link", source, fs::read_link(source))?;
        return on("link", target, symlink(to, target));
    }
    make_dir(target)?;
    let bound = mount(Some(source), target, None::<&str>, MsFlags::MS_BIND | MsFlags::MS_REC, None::<&str>);
    on("bind", source, bound)
}

fn devices(dev: &Path) -> Result<(), ComposeError> {
    for (name, minor) in DEVICES {
        let path = dev.join(name);
        let mode = Mode::from_bits_truncate(0o666);
        on("make the device", &path, mknod(&path, SFlag::S_IFCHR, mode, makedev(1, minor)))?;
        on("open up the device", &path, fs::set_permissions(&path, fs::Permissions::from_mode(0o666)))?;
    }
    let links =
        [("fd", "/proc/self/fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2"), ("shm", "/tmp")];
    links.into_iter().try_for_each(|(name, to)| on("link", &dev.join(name), symlink(to, dev.join(name))))
}

fn etc(etc: &Path) -> Result<(), ComposeError> {
    let write = |name: &str, text: &[u8]| {
        let path = etc.join(name);
        on("write", &path, fs::write(&path, text))?;
        on("open up", &path, fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
    };
    write("passwd", b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")?;
    write("group", b"root:x:0:\nnogroup:x:65534:\n")?;
    for name in ETC_FILES {
        // Most machines lack some of these; a handler can do without.
        if let Ok(text) = fs::read(Path::new("/etc").join(name)) {
            write(name, &text)?;
        }
    }
    for name in ETC_FOLDERS {
        let source = Path::new("/etc").join(name);
        if source.is_dir() {
            if let Some(parent) = etc.join(name).parent() {
                make_dir(parent)?;
            }
            show(&source, &etc.join(name))?;
        }
    }
    Ok(())
}
