//! A handler's directory: what is in it, within bounds, and a fingerprint that changes when it does.
//!
//! Blocking; call it from a blocking thread unless the directory is known to be small.

use std::fs::{self, Metadata};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file that makes a directory a handler.
pub const ENTRY_FILE: &str = "lambda_func.py";
/// Most files and directories of one handler.
pub const MAX_ENTRIES: usize = 10_000;
/// Deepest nesting.
pub const MAX_DEPTH: usize = 32;
/// Most bytes of one handler.
pub const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// What even the smallest entry takes on a disk.
const BLOCK: u64 = 4096;
/// A change so recent may be followed by another one with the same time stamp.
const UNSETTLED: Duration = Duration::from_millis(50);

/// Why a directory cannot serve as a handler.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// No such directory, or no entry file in it.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// Over a bound.
    #[error("{} {what}; make the handler smaller", path.display())]
    TooBig {
        /// The handler's directory.
        path: PathBuf,
        /// Which bound.
        what: String,
    },
    /// A symbolic link that leaves the directory.
    #[error("{} links to {}, which is outside the handler or not relative; copy the file instead", path.display(), target.display())]
    LinkOut {
        /// The link.
        path: PathBuf,
        /// Where it points.
        target: PathBuf,
    },
    /// A device, socket or pipe.
    #[error("{} is neither file, directory nor link; remove it", .0.display())]
    Special(PathBuf),
    /// It changed at each attempt to copy it.
    #[error("{} keeps changing while it is copied; try again", .0.display())]
    Restless(PathBuf),
    /// It cannot be read or copied.
    #[error("{}: {source}", path.display())]
    Io {
        /// What could not be read or written.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl TreeError {
    /// An I/O error with the path it is about; one that says the path is not there is [`TreeError::Missing`].
    pub fn io(path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::Missing(path.to_owned()),
            _ => Self::Io { path: path.to_owned(), source },
        }
    }
}

impl TreeError {
    /// Whether there is nothing there.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing(_))
    }

    /// Whether the handler is not to blame.
    pub fn is_ours(&self) -> bool {
        matches!(self, Self::Io { .. } | Self::Restless(_))
    }
}

/// What tells one state of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of `path`, links followed: one system call.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|data| Self::from(&data))
    }

    /// Whether it is so old that a later change must show.
    fn settled(&self, now: SystemTime) -> bool {
        let Ok(seconds) = u64::try_from(self.changed.0) else { return true };
        let changed =
            SystemTime::UNIX_EPOCH + Duration::new(seconds, u32::try_from(self.changed.1).unwrap_or(0));
        now.duration_since(changed).is_ok_and(|age| age > UNSETTLED)
    }
}

impl From<&Metadata> for Stamp {
    fn from(data: &Metadata) -> Self {
        Self {
            inode: data.ino(),
            size: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

/// One thing in the directory.
#[derive(Debug)]
pub struct Entry {
    /// Its path below the directory.
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    stamp: Stamp,
}

/// What an [`Entry`] is.
#[derive(Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A file.
    File {
        /// Whether anyone may execute it.
        executable: bool,
    },
    /// A symbolic link that stays inside.
    Link(PathBuf),
}

/// A directory's entries in a fixed order, parents first.
#[derive(Debug)]
pub struct Tree {
    /// The directory, links resolved.
    pub root: PathBuf,
    /// What is in it.
    pub entries: Vec<Entry>,
    /// What its files have in all.
    pub bytes: u64,
    /// Changes when anything in it does.
    pub fingerprint: u64,
    /// Whether the fingerprint must change with any later edit; if not, only reading the files tells.
    pub settled: bool,
}

impl Tree {
    /// What it takes on a disk, about: files fill whole blocks.
    pub fn on_disk(&self) -> u64 {
        self.bytes + self.entries.len() as u64 * BLOCK
    }

    /// Reads the directory, which must have the file `entry`. `__pycache__` is passed over: its files hold time stamps a
    /// copy does not keep.
    pub fn read(root: &Path, entry: &Path) -> Result<Self, TreeError> {
        let tree = Self::read_any(root)?;
        if !tree.entries.iter().any(|one| one.path == entry) {
            return Err(TreeError::Missing(tree.root.join(entry)));
        }
        Ok(tree)
    }

    /// The same of a directory with whatever files.
    pub fn read_any(root: &Path) -> Result<Self, TreeError> {
        let root = root.canonicalize().map_err(|source| TreeError::io(root, source))?;
        let mut walk = Walk { root: &root, entries: Vec::new(), bytes: 0 };
        walk.directory(Path::new(""), 0)?;
        let (mut entries, bytes) = (walk.entries, walk.bytes);
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        #[expect(
            clippy::disallowed_methods,
            reason = "compared with times of files; set back, it makes for more looks"
        )]
        let now = SystemTime::now();
        let settled = entries.iter().all(|entry| entry.stamp.settled(now));
        let mut hasher = DefaultHasher::new();
        for entry in &entries {
            (&entry.path, &entry.kind, entry.stamp).hash(&mut hasher);
        }
        Ok(Self { root, entries, bytes, fingerprint: hasher.finish(), settled })
    }
}

struct Walk<'a> {
    root: &'a Path,
    entries: Vec<Entry>,
    bytes: u64,
}

impl Walk<'_> {
    fn directory(&mut self, below: &Path, depth: usize) -> Result<(), TreeError> {
        let path = self.root.join(below);
        if depth > MAX_DEPTH {
            return Err(self.too_big(format!("is nested more than {MAX_DEPTH} deep")));
        }
        for item in fs::read_dir(&path).map_err(|source| TreeError::io(&path, source))? {
            let item = item.map_err(|source| TreeError::io(&path, source))?;
            if item.file_name() == "__pycache__" {
                continue;
            }
            let path = item.path();
            let data = match item.metadata() {
                Ok(data) => data,
                // Gone since: what matters is what is there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(TreeError::io(&path, source)),
            };
            self.entry(below.join(item.file_name()), &path, &data, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, below: PathBuf, path: &Path, data: &Metadata, depth: usize) -> Result<(), TreeError> {
        if self.entries.len() >= MAX_ENTRIES {
            return Err(self.too_big(format!("has more than {MAX_ENTRIES} files")));
        }
        let kind = if data.is_dir() {
            self.directory(&below, depth + 1)?;
            Kind::Directory
        } else if data.is_file() {
            self.bytes = self.bytes.saturating_add(data.len());
            if self.bytes > MAX_BYTES {
                return Err(self.too_big(format!("has more than {} MiB", MAX_BYTES >> 20)));
            }
            Kind::File { executable: data.mode() & 0o111 != 0 }
        } else if data.is_symlink() {
            Kind::Link(self.link(path)?)
        } else {
            return Err(TreeError::Special(path.to_owned()));
        };
        // A directory's size and times change with files that are not ours (__pycache__); its entries tell.
        let stamp = if data.is_dir() { Stamp { inode: data.ino(), ..Stamp::NONE } } else { data.into() };
        self.entries.push(Entry { path: below, kind, stamp });
        Ok(())
    }

    /// A link's target, if it is relative and stays inside. One that points to nothing is kept as it is.
    fn link(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let target = fs::read_link(path).map_err(|source| TreeError::io(path, source))?;
        let inside = match path.canonicalize() {
            Ok(end) => end.starts_with(self.root),
            Err(error) => error.kind() == io::ErrorKind::NotFound && !target.components().any(is_parent),
        };
        if target.is_relative() && inside {
            return Ok(target);
        }
        Err(TreeError::LinkOut { path: path.to_owned(), target })
    }

    fn too_big(&self, what: String) -> TreeError {
        TreeError::TooBig { path: self.root.to_owned(), what }
    }
}

fn is_parent(component: std::path::Component<'_>) -> bool {
    component == std::path::Component::ParentDir
}

impl Stamp {
    const NONE: Self = Self { inode: 0, size: 0, modified: (0, 0), changed: (0, 0) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn read(root: &Path) -> Result<Tree, TreeError> {
        Tree::read(root, Path::new(ENTRY_FILE))
    }

    fn handler() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(ENTRY_FILE), "def handler(event): return 1\n").unwrap();
        directory
    }

    #[test]
    fn the_fingerprint_changes_with_any_file() {
        let directory = handler();
        let first = read(directory.path()).unwrap().fingerprint;
        assert_eq!(read(directory.path()).unwrap().fingerprint, first);
        fs::create_dir(directory.path().join("__pycache__")).unwrap();
        fs::write(directory.path().join("__pycache__/x.pyc"), "x").unwrap();
        assert_eq!(read(directory.path()).unwrap().fingerprint, first);
        fs::create_dir(directory.path().join("sub")).unwrap();
        let second = read(directory.path()).unwrap().fingerprint;
        assert_ne!(second, first);
        fs::write(directory.path().join("sub/data"), "x").unwrap();
        let tree = read(directory.path()).unwrap();
        assert_ne!(tree.fingerprint, second);
        let names: Vec<_> = tree.entries.iter().map(|entry| entry.path.to_str().unwrap()).collect();
        assert_eq!(names, [ENTRY_FILE, "sub", "sub/data"]);
        assert!(!tree.settled);
    }

    #[test]
    fn missing_and_without_entry_file() {
        let directory = tempfile::tempdir().unwrap();
        for path in [directory.path().to_owned(), directory.path().join("none")] {
            assert!(matches!(read(&path), Err(TreeError::Missing(_))), "{path:?}");
        }
    }

    #[test]
    fn links_may_not_leave_and_devices_are_refused() {
        let directory = handler();
        let link = directory.path().join("link");
        symlink(ENTRY_FILE, &link).unwrap();
        assert!(read(directory.path()).is_ok());
        for target in ["/etc/passwd", "../x", "nothing/../../../etc/passwd"] {
            fs::remove_file(&link).unwrap();
            symlink(target, &link).unwrap();
            assert!(matches!(read(directory.path()), Err(TreeError::LinkOut { .. })), "{target}");
        }
        fs::remove_file(&link).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(&link).unwrap();
        assert!(matches!(read(directory.path()), Err(TreeError::Special(_))));
    }

    #[test]
    fn nesting_is_bounded() {
        let directory = handler();
        fs::create_dir_all(directory.path().join("d/".repeat(MAX_DEPTH + 1))).unwrap();
        assert!(matches!(read(directory.path()), Err(TreeError::TooBig { .. })));
    }
}
