//! Paths in a worker's configuration: relative ones begin at the directory of the file.

use std::path::{Component, Path, PathBuf};

use crate::section::Section;
use crate::values;

/// The root file system that sandboxes see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Base {
    /// Composed from the machine's own `/usr` and the like.
    Host,
    /// An unpacked root.
    Dir(PathBuf),
}

/// A path that must be there.
pub(crate) fn required(root: &mut Section<'_>, key: &'static str, directory: &Path) -> PathBuf {
    if !root.has(key) {
        root.blame(key, None, "is missing: set it to a directory, relative to this file or absolute");
    }
    optional(root, key, directory).unwrap_or_default()
}

/// A path that may be missing; empty is the same as missing, as in the original.
pub(crate) fn optional(root: &mut Section<'_>, key: &'static str, directory: &Path) -> Option<PathBuf> {
    let text = root.optional(key, values::text)?;
    (!text.is_empty()).then(|| join(directory, &text))
}

/// `host`, or a directory.
pub(crate) fn base(root: &mut Section<'_>, directory: &Path) -> Base {
    match root.optional("SOCK_base_path", values::text).as_deref() {
        None | Some("" | "host") => Base::Host,
        Some(path) => Base::Dir(join(directory, path)),
    }
}

/// The interpreter: absolute, because it is a path inside the base root.
pub(crate) fn python(root: &mut Section<'_>) -> PathBuf {
    let python = root.optional("python", |value| {
        let text = value.as_str().filter(|text| text.starts_with('/'));
        text.map(PathBuf::from)
            .ok_or_else(|| "must be an absolute path, such as \"/usr/bin/python3\"".to_owned())
    });
    python.unwrap_or_else(|| PathBuf::from("/usr/bin/python3"))
}

/// Joins, and takes `.` and `..` out: a log shows the path that a user would type.
pub(crate) fn join(directory: &Path, path: &str) -> PathBuf {
    let mut joined = PathBuf::new();
    for component in directory.join(path).components() {
        match component {
            Component::ParentDir => {
                joined.pop();
            }
            Component::CurDir => {}
            other => joined.push(other),
        }
    }
    joined
}
