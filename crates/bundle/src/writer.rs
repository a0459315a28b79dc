//! Puts files into an empty directory, within the bounds of a bundle. No name leads out, and none is written twice.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use crate::error::{BundleError, invalid};
use crate::tree::{MAX_BYTES, MAX_DEPTH, MAX_ENTRIES};
use crate::{DIRECTORY_MODE, FILE_MODE};

/// File names that a message lists.
const LISTED: usize = 10;

/// Writes below a directory.
#[derive(Debug)]
pub struct Writer<'a> {
    directory: &'a Path,
    left: u64,
    /// Each path in lower case, as it was written.
    names: HashMap<String, PathBuf>,
}

impl<'a> Writer<'a> {
    /// Into an empty directory.
    pub fn new(directory: &'a Path) -> Self {
        Self { directory, left: MAX_BYTES, names: HashMap::new() }
    }

    /// How many bytes there is still room for.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Refuses a file that says beforehand that it is too large.
    pub fn announce(&self, name: &Path, length: u64) -> Result<(), BundleError> {
        if length <= self.left {
            return Ok(());
        }
        Err(invalid(format!(
            "{} has {} MiB, and all files together may have {} MiB; make it smaller",
            name.display(),
            length >> 20,
            MAX_BYTES >> 20
        )))
    }

    /// A file with its contents.
    pub fn file(
        &mut self,
        name: &Path,
        contents: &mut impl Read,
        executable: bool,
    ) -> Result<(), BundleError> {
        let name = self.place(name)?;
        let path = self.directory.join(&name);
        let mut file = File::create_new(&path).map_err(|error| taken(&name, &path, error))?;
        let mut contents = contents.take(self.left + 1);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = contents
                .read(&mut chunk)
                .map_err(|error| invalid(format!("{} cannot be read: {error}", name.display())))?;
            if read == 0 {
                break;
            }
            self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
                invalid(format!("there are more than {} MiB; make it smaller", MAX_BYTES >> 20))
            })?;
            file.write_all(&chunk[..read]).map_err(|error| BundleError::io(&path, error))?;
        }
        // Set, not asked for: the umask of whoever started this must not hide code from sandboxes.
        let mode = if executable { DIRECTORY_MODE } else { FILE_MODE };
        let mode = fs::Permissions::from_mode(mode);
        file.set_permissions(mode).map_err(|error| BundleError::io(&path, error))
    }

    /// A directory, and those above it.
    pub fn directory(&mut self, name: &Path) -> Result<(), BundleError> {
        let name = checked(name)?;
        self.parents(&name)
    }

    /// A symbolic link that stays inside.
    pub fn link(&mut self, name: &Path, target: &Path) -> Result<(), BundleError> {
        let name = self.place(name)?;
        if !stays_inside(&name, target) {
            return Err(invalid(format!(
                "{} links to {}, which is outside the bundle or may be: put the file itself there",
                name.display(),
                target.display()
            )));
        }
        let path = self.directory.join(&name);
        symlink(target, &path).map_err(|error| taken(&name, &path, error))
    }

    /// The name of something that is about to be made, with the directories above it.
    fn place(&mut self, name: &Path) -> Result<PathBuf, BundleError> {
        let name = checked(name)?;
        if name.as_os_str().is_empty() {
            return Err(invalid("an entry has no name"));
        }
        if let Some(parent) = name.parent() {
            self.parents(parent)?;
        }
        self.claim(&name)?;
        Ok(name)
    }

    /// Makes a directory and those above it, as far as they are not there.
    fn parents(&mut self, below: &Path) -> Result<(), BundleError> {
        let mut name = PathBuf::new();
        for part in below.components() {
            name.push(part);
            let path = self.directory.join(&name);
            // Not through a link: what is below it would be elsewhere than it says.
            match fs::symlink_metadata(&path) {
                Ok(data) if data.is_dir() => {}
                Ok(_) => {
                    return Err(invalid(format!("{} is both a file and a directory", name.display())));
                }
                Err(_) => {
                    self.claim(&name)?;
                    make_directory(&path).map_err(|error| BundleError::io(&path, error))?;
                }
            }
        }
        Ok(())
    }

    /// Counts an entry, and refuses one whose name another has but for its case: elsewhere they would be one file.
    fn claim(&mut self, name: &Path) -> Result<(), BundleError> {
        let shown = name.display();
        if let Some(other) = self.names.insert(folded(name), name.to_owned()) {
            return Err(invalid(if other == name {
                format!("{shown} stands twice")
            } else {
                format!("{} and {shown} differ only in case: rename one", other.display())
            }));
        }
        if self.names.len() > MAX_ENTRIES {
            return Err(invalid(format!("there are more than {MAX_ENTRIES} files")));
        }
        Ok(())
    }
}

fn folded(name: &Path) -> String {
    name.to_string_lossy().to_lowercase()
}

fn taken(name: &Path, path: &Path, error: io::Error) -> BundleError {
    match error.kind() {
        io::ErrorKind::AlreadyExists => invalid(format!("{} stands twice", name.display())),
        _ => BundleError::io(path, error),
    }
}

/// The name without `.`; one that leads out is refused.
fn checked(name: &Path) -> Result<PathBuf, BundleError> {
    let mut path = PathBuf::new();
    for part in name.components() {
        match part {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            _ => return Err(invalid(format!("{} leads out of the handler's directory", name.display()))),
        }
    }
    if path.components().count() > MAX_DEPTH {
        return Err(invalid(format!("{} is nested more than {MAX_DEPTH} deep", name.display())));
    }
    Ok(path)
}

/// Whether a link cannot lead out, whatever other links do: it climbs only at its beginning, from a real directory,
/// and no higher than the root. By induction each link it goes through stays inside too.
fn stays_inside(link: &Path, target: &Path) -> bool {
    let depth = link.components().count() - 1;
    let climbs = target.components().take_while(|part| *part == Component::ParentDir).count();
    let rest_is_plain =
        target.components().skip(climbs).all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    climbs <= depth && rest_is_plain
}

/// Modes are set, not asked for, as those of files are.
pub fn make_directory(path: &Path) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(DIRECTORY_MODE))
}

/// The first names in a directory, for messages.
pub(crate) fn listed(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten();
    let mut names: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned())).collect();
    names.sort_unstable();
    names.truncate(LISTED);
    if names.is_empty() { "no files".to_owned() } else { names.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(list: &[(&str, &str)]) -> Result<(), BundleError> {
        let work = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(work.path());
        list.iter().try_for_each(|(name, text)| writer.file(Path::new(name), &mut text.as_bytes(), false))
    }

    #[test]
    fn files_and_their_directories_are_made() {
        let work = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(work.path());
        writer.file(Path::new("./lib/a/b.py"), &mut &b"2"[..], true).unwrap();
        writer.file(Path::new("lib/c.py"), &mut &b"3"[..], false).unwrap();
        writer.directory(Path::new("lib/a")).unwrap();
        writer.link(Path::new("lib/a/link"), Path::new("../c.py")).unwrap();
        assert_eq!(fs::read_to_string(work.path().join("lib/a/link")).unwrap(), "3");
        let mode = |name| fs::metadata(work.path().join(name)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("lib"), mode("lib/a/b.py"), mode("lib/c.py")), (0o755, 0o755, 0o644));
    }

    #[test]
    fn what_cannot_be_a_tree_is_refused() {
        let deep = format!("{}x", "d/".repeat(MAX_DEPTH));
        for (list, part) in [
            (&[("../x", "1")][..], "leads out"),
            (&[("a/../../x", "1")], "leads out"),
            (&[("/x", "1")], "leads out"),
            (&[("", "1")], "has no name"),
            (&[("a", "1"), ("a/b", "2")], "both a file and a directory"),
            (&[("a/b", "1"), ("a", "2")], "a stands twice"),
            (&[("./a", "1"), ("a", "2")], "stands twice"),
            (&[("Util.py", "1"), ("util.py", "2")], "Util.py and util.py differ only in case"),
            (&[("Lib/a.py", "1"), ("lib/b.py", "2")], "Lib and lib differ only in case"),
            (&[(&deep, "1")], "nested more than"),
        ] {
            let error = write(list).unwrap_err().to_string();
            assert!(error.contains(part), "{list:?}: {error}");
        }
    }

    #[test]
    fn links_stay_inside() {
        for (link, target) in [("a", "b"), ("d/a", "../b"), ("d/e/a", "../../x/y"), ("a", "./b")] {
            assert!(stays_inside(Path::new(link), Path::new(target)), "{link} -> {target}");
        }
        // The last one would lead out if b were a link to a directory.
        for (link, target) in [("a", "../b"), ("d/a", "../../b"), ("a", "/etc/passwd"), ("a", "b/../c")] {
            assert!(!stays_inside(Path::new(link), Path::new(target)), "{link} -> {target}");
        }
        let work = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(work.path());
        writer.link(Path::new("a"), Path::new("b")).unwrap();
        let through = writer.file(Path::new("a/c"), &mut &b""[..], false).unwrap_err().to_string();
        assert!(through.contains("both a file and a directory"), "{through}");
    }

    #[test]
    fn ten_thousand_entries_and_no_more() {
        let work = tempfile::tempdir().unwrap();
        let mut writer = Writer::new(work.path());
        for index in 0..MAX_ENTRIES {
            writer.file(Path::new(&format!("f{index}")), &mut io::empty(), false).unwrap();
        }
        let error = writer.file(Path::new("one"), &mut io::empty(), false).unwrap_err().to_string();
        assert!(error.contains("more than 10000 files"), "{error}");
    }
}
