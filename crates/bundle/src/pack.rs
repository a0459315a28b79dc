//! Makes a `.tar.gz` of a handler's directory, or of one file: sorted, without owners and times, so that the same
//! content is always the same bytes.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use flate2::write::GzEncoder;
use flate2::{Compression, GzBuilder};
use tar::{EntryType, Header};

use crate::error::BundleError;
use crate::tree::{Kind, Tree};
use crate::{DIRECTORY_MODE, FILE_MODE};

type Archive<W> = tar::Builder<GzEncoder<W>>;

/// Packs a directory; gives back what it was written to.
pub fn pack<W: Write>(directory: &Path, to: W) -> Result<W, BundleError> {
    let tree = Tree::read_any(directory)?;
    let mut archive = begin(to);
    for entry in &tree.entries {
        let from = tree.root.join(&entry.path);
        let packed = match &entry.kind {
            Kind::Directory => {
                let mut header = header(EntryType::Directory, 0, DIRECTORY_MODE);
                archive.append_data(&mut header, &entry.path, io::empty())
            }
            Kind::Link(target) => {
                archive.append_link(&mut header(EntryType::Symlink, 0, 0o777), &entry.path, target)
            }
            Kind::File { executable } => append(&mut archive, &from, &entry.path, *executable),
        };
        packed.map_err(|source| BundleError::io(&from, source))?;
    }
    end(archive, directory)
}

/// Packs one file's text under a name.
pub fn pack_file<W: Write>(name: &str, text: &[u8], to: W) -> Result<W, BundleError> {
    let mut archive = begin(to);
    let mut header = header(EntryType::Regular, text.len() as u64, FILE_MODE);
    let path = Path::new(name);
    archive.append_data(&mut header, path, text).map_err(|source| BundleError::io(path, source))?;
    end(archive, path)
}

fn begin<W: Write>(to: W) -> Archive<W> {
    // No time and no name in its header; the byte says that the system is unknown, on every system.
    let gzip = GzBuilder::new().mtime(0).operating_system(255).write(to, Compression::default());
    tar::Builder::new(gzip)
}

fn end<W: Write>(archive: Archive<W>, from: &Path) -> Result<W, BundleError> {
    archive.into_inner().and_then(GzEncoder::finish).map_err(|source| BundleError::io(from, source))
}

fn header(kind: EntryType, size: u64, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_mtime(0);
    header
}

fn append<W: Write>(archive: &mut Archive<W>, from: &Path, name: &Path, executable: bool) -> io::Result<()> {
    // Neither a link nor a pipe that has come in its place may be followed or waited for.
    let flags = rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(from)?;
    let size = file.metadata()?.len();
    let mode = if executable { DIRECTORY_MODE } else { FILE_MODE };
    let mut file = Exactly { file, left: size };
    archive.append_data(&mut header(EntryType::Regular, size, mode), name, &mut file)?;
    if file.left > 0 {
        return Err(io::Error::other("it became shorter while it was packed; try again"));
    }
    Ok(())
}

/// A file of which so much is read and no more, whatever happens to it meanwhile.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let count = self.file.read(&mut bytes[..most])?;
        self.left -= count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::time::{Duration, SystemTime};

    use super::*;

    fn handler(directory: &Path) {
        fs::write(directory.join("lambda_func.py"), "def handler(event): return 1\n").unwrap();
        fs::create_dir(directory.join("lib")).unwrap();
        fs::write(directory.join("lib/tool"), "x").unwrap();
        fs::set_permissions(directory.join("lib/tool"), fs::Permissions::from_mode(0o700)).unwrap();
        symlink("../lambda_func.py", directory.join("lib/link")).unwrap();
        fs::create_dir(directory.join("__pycache__")).unwrap();
        fs::write(directory.join("__pycache__/x.pyc"), "x").unwrap();
    }

    #[test]
    fn the_same_content_is_the_same_bytes() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        handler(one.path());
        handler(two.path());
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        File::open(two.path().join("lambda_func.py")).unwrap().set_modified(long_ago).unwrap();
        let (a, b) = (pack(one.path(), Vec::new()).unwrap(), pack(two.path(), Vec::new()).unwrap());
        assert_eq!(a, b);
        fs::write(two.path().join("lib/tool"), "y").unwrap();
        assert_ne!(a, pack(two.path(), Vec::new()).unwrap());
    }

    #[test]
    fn what_is_packed_is_unpacked() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        handler(from.path());
        let bytes = pack(from.path(), Vec::new()).unwrap();
        crate::unpack(&bytes[..], to.path()).unwrap();
        assert_eq!(pack(to.path(), Vec::new()).unwrap(), bytes);
        assert_eq!(crate::entry(to.path()).unwrap(), crate::ORIGINAL);
        assert!(!to.path().join("__pycache__").exists());
    }

    #[test]
    fn one_file_is_a_bundle_and_has_a_form() {
        let to = tempfile::tempdir().unwrap();
        let bytes = pack_file("f.py", b"def f(event): return 1\n", Vec::new()).unwrap();
        crate::unpack(&bytes[..], to.path()).unwrap();
        assert_eq!(crate::entry(to.path()).unwrap(), crate::TODAY);
        fs::rename(to.path().join("f.py"), to.path().join("g.py")).unwrap();
        let none = crate::entry(to.path()).unwrap_err().to_string();
        assert_eq!(none, "it has neither lambda_func.py nor f.py at its root; it has g.py");
    }

    #[test]
    fn long_names_are_packed() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let deep = from.path().join("directory/".repeat(20));
        fs::create_dir_all(&deep).unwrap();
        fs::write(deep.join("x".repeat(120)), "1").unwrap();
        let bytes = pack(from.path(), Vec::new()).unwrap();
        crate::unpack(&bytes[..], to.path()).unwrap();
        assert_eq!(pack(to.path(), Vec::new()).unwrap(), bytes);
    }
}
