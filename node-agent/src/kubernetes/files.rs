//! A handler's files on their way to a bundle: from a map of texts, or from a fetched archive. Blocking.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use flate2::read::GzDecoder;
use openlambda_api::conditions::ConditionReason;
use tar::EntryType;

use super::trouble::Trouble;
use crate::bundles::{DIRECTORY_MODE, FILE_MODE, make_directory};
use crate::revision::entry_file;
use crate::tree::{MAX_BYTES, MAX_DEPTH, MAX_ENTRIES};

/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The longest header of its own that an entry may have. No path is longer than 4 KiB.
const HEADER_MAX: u64 = 16 << 10;
/// File names that a message lists.
const LISTED: usize = 10;

/// Files by their names below the handler's directory.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Writes files into an empty directory.
pub fn write(files: &Files, entrypoint: &str, directory: &Path) -> Result<(), Trouble> {
    let mut writer = Writer::new(directory);
    for (name, contents) in files {
        writer.file(Path::new(name), &mut contents.as_slice(), false)?;
    }
    require_entry(entrypoint, directory)
}

/// Unpacks what was fetched from `url`: a .tar.gz, or the file of the entrypoint's module itself.
pub fn unpack(fetched: &Path, url: &str, entrypoint: &str, directory: &Path) -> Result<(), Trouble> {
    let open = || File::open(fetched).map_err(|error| ours(fetched, &error));
    let mut start = Vec::new();
    open()?.take(2).read_to_end(&mut start).map_err(|error| ours(fetched, &error))?;
    let mut writer = Writer::new(directory);
    if start == GZIP {
        // What unpacks to more than a bundle may hold, with its headers, is not read to the end.
        let unpacked = GzDecoder::new(BufReader::new(open()?)).take(2 * MAX_BYTES);
        unpack_tar(tar::Archive::new(unpacked), &mut writer)?;
    } else if url.split(['?', '#']).next().is_some_and(|path| path.ends_with(".py")) {
        writer.file(Path::new(&entry_file(entrypoint)), &mut BufReader::new(open()?), false)?;
    } else {
        return Err(invalid(format!("what is at {url} is neither a .tar.gz nor a .py file")));
    }
    require_entry(entrypoint, directory)
}

fn unpack_tar(mut archive: tar::Archive<impl Read>, writer: &mut Writer<'_>) -> Result<(), Trouble> {
    // Raw, for the library would hold a long name's header in memory however long it is.
    let mut name = None;
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        let kind = entry.header().entry_type();
        if is_about_the_next(kind, &mut entry, &mut name)? {
            continue;
        }
        let path = match name.take() {
            Some(name) => name,
            None => entry.path().map_err(broken)?.into_owned(),
        };
        if path.components().any(|part| part.as_os_str() == "__pycache__") {
            continue;
        }
        match kind {
            EntryType::Regular | EntryType::Continuous => {
                let executable = entry.header().mode().unwrap_or(0) & 0o111 != 0;
                writer.file(&path, &mut entry, executable)?;
            }
            EntryType::Directory => {
                let path = writer.checked(&path)?;
                writer.parents(&path)?;
            }
            other => {
                let message = format!("{} in the archive is a {other:?}: use files only", path.display());
                return Err(invalid(message));
            }
        }
    }
    Ok(())
}

/// Whether an entry only says something of those after it. `name` is then the next one's name, if it says that: one too
/// long for the entry itself.
fn is_about_the_next(
    kind: EntryType,
    entry: &mut impl Read,
    name: &mut Option<PathBuf>,
) -> Result<bool, Trouble> {
    let path = |bytes: Vec<u8>| Some(PathBuf::from(OsString::from_vec(bytes)));
    match kind {
        EntryType::GNULongName => {
            let mut bytes = bounded(entry)?;
            bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
            *name = path(bytes);
        }
        EntryType::XHeader => {
            for record in tar::PaxExtensions::new(&bounded(entry)?) {
                let record = record.map_err(broken)?;
                match record.key_bytes() {
                    b"path" => *name = path(record.value_bytes().to_vec()),
                    // It is there for files of 8 GiB and more.
                    b"size" => return Err(invalid("the archive has a file that is too large".to_owned())),
                    _ => {}
                }
            }
        }
        // Of a link, which is refused, or of the whole archive.
        EntryType::GNULongLink | EntryType::XGlobalHeader => {}
        _ => return Ok(false),
    }
    Ok(true)
}

/// All of a header that is held in memory.
fn bounded(entry: &mut impl Read) -> Result<Vec<u8>, Trouble> {
    let mut bytes = Vec::new();
    entry.take(HEADER_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > HEADER_MAX {
        return Err(invalid(format!(
            "a name in the archive, or what stands with it, is over {HEADER_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn broken(error: io::Error) -> Trouble {
    invalid(format!("the archive cannot be unpacked: {error}"))
}

/// Writes below a directory, within the bounds of a bundle.
struct Writer<'a> {
    directory: &'a Path,
    left: u64,
    entries: usize,
}

impl<'a> Writer<'a> {
    fn new(directory: &'a Path) -> Self {
        Self { directory, left: MAX_BYTES, entries: 0 }
    }

    fn file(&mut self, name: &Path, contents: &mut impl Read, executable: bool) -> Result<(), Trouble> {
        let name = self.checked(name)?;
        if let Some(parent) = name.parent() {
            self.parents(parent)?;
        }
        self.count()?;
        let path = self.directory.join(&name);
        let mut file = File::create_new(&path).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => invalid(format!("{} stands twice", name.display())),
            _ => ours(&path, &error),
        })?;
        let mut contents = contents.take(self.left + 1);
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read =
                contents.read(&mut chunk).map_err(|error| invalid(format!("{}: {error}", name.display())))?;
            if read == 0 {
                break;
            }
            self.left = self.left.checked_sub(read as u64).ok_or_else(|| {
                invalid(format!("the source has more than {} MiB; make it smaller", MAX_BYTES >> 20))
            })?;
            file.write_all(&chunk[..read]).map_err(|error| ours(&path, &error))?;
        }
        let mode = if executable { DIRECTORY_MODE } else { FILE_MODE };
        file.set_permissions(fs::Permissions::from_mode(mode)).map_err(|error| ours(&path, &error))
    }

    /// The name without `.`; one that leads out is refused.
    fn checked(&self, name: &Path) -> Result<PathBuf, Trouble> {
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

    /// Makes a directory and those above it, as far as they are not there.
    fn parents(&mut self, below: &Path) -> Result<(), Trouble> {
        let mut path = self.directory.to_owned();
        for part in below.components() {
            path.push(part);
            match make_directory(&path) {
                Ok(()) => self.count()?,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    return Err(invalid(format!("{} is both a file and a directory", below.display())));
                }
                Err(error) => return Err(ours(&path, &error)),
            }
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), Trouble> {
        self.entries += 1;
        if self.entries > MAX_ENTRIES {
            return Err(invalid(format!("the source has more than {MAX_ENTRIES} files")));
        }
        Ok(())
    }
}

fn require_entry(entrypoint: &str, directory: &Path) -> Result<(), Trouble> {
    let file = entry_file(entrypoint);
    if directory.join(&file).is_file() {
        return Ok(());
    }
    let mut names: Vec<_> = fs::read_dir(directory)
        .map_err(|error| ours(directory, &error))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .collect();
    names.sort_unstable();
    names.truncate(LISTED);
    let message = format!(
        "the source has no {file}, which the entrypoint {entrypoint} needs; it has {}",
        if names.is_empty() { "no files".to_owned() } else { names.join(", ") }
    );
    Err(invalid(message))
}

fn invalid(message: String) -> Trouble {
    Trouble::lasting(ConditionReason::InvalidSource, message)
}

fn ours(path: &Path, error: &io::Error) -> Trouble {
    Trouble::passing(ConditionReason::AgentFailed, format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    const ENTRY: &str = "lambda_func.handler";

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter().map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn fails(result: Result<(), Trouble>, part: &str) {
        let trouble = result.unwrap_err();
        assert_eq!(trouble.reason, ConditionReason::InvalidSource, "{trouble}");
        assert!(trouble.message.contains(part), "{part} is not in {trouble}");
    }

    #[test]
    fn a_map_becomes_a_tree() {
        let work = tempfile::tempdir().unwrap();
        write(&files(&[("lambda_func.py", "1"), ("lib/a/b.py", "2")]), ENTRY, work.path()).unwrap();
        assert_eq!(fs::read_to_string(work.path().join("lib/a/b.py")).unwrap(), "2");
        let mode = fs::metadata(work.path().join("lib")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, DIRECTORY_MODE);
    }

    #[test]
    fn what_cannot_be_a_tree_is_refused() {
        for (list, part) in [
            (
                &[("a.py", "1"), ("b.txt", "")][..],
                "no lambda_func.py, which the entrypoint lambda_func.handler needs; it has a.py, b.txt",
            ),
            (&[("../x", "1")], "leads out"),
            (&[("/x", "1")], "leads out"),
            (&[("a", "1"), ("a/b", "2")], "both a file and a directory"),
            (&[("./a", "1"), ("a", "2")], "stands twice"),
        ] {
            let work = tempfile::tempdir().unwrap();
            fails(write(&files(list), ENTRY, work.path()), part);
        }
    }

    fn archive(fill: impl FnOnce(&mut tar::Builder<GzEncoder<Vec<u8>>>)) -> tempfile::NamedTempFile {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        fill(&mut builder);
        let bytes = builder.into_inner().unwrap().finish().unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    fn header(kind: EntryType, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header
    }

    #[test]
    fn archives_are_unpacked() {
        let work = tempfile::tempdir().unwrap();
        let file = archive(|builder| {
            let mut add = |name: &str| {
                builder.append_data(&mut header(EntryType::Regular, 1), name, &b"1"[..]).unwrap();
            };
            add("./lambda_func.py");
            add("bin/tool");
            add("__pycache__/x.pyc");
        });
        unpack(file.path(), "http://x/a.tar.gz", ENTRY, work.path()).unwrap();
        assert!(!work.path().join("__pycache__").exists());
        let mode = fs::metadata(work.path().join("bin/tool")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, DIRECTORY_MODE);
    }

    #[test]
    fn archives_with_more_than_files_are_refused() {
        for kind in [EntryType::Symlink, EntryType::Link, EntryType::Char, EntryType::Fifo] {
            let work = tempfile::tempdir().unwrap();
            let file = archive(|builder| {
                builder.append_link(&mut header(kind, 0), "link", "/etc/passwd").unwrap();
            });
            fails(unpack(file.path(), "http://x/a.tar.gz", ENTRY, work.path()), "use files only");
        }
        let work = tempfile::tempdir().unwrap();
        let file = archive(|builder| {
            let mut header = header(EntryType::Regular, 1);
            header.as_mut_bytes()[..4].copy_from_slice(b"../x");
            header.set_cksum();
            builder.append(&header, &b"1"[..]).unwrap();
        });
        fails(unpack(file.path(), "http://x/a.tar.gz", ENTRY, work.path()), "leads out");
    }

    /// A record of a pax header: its own length stands in front.
    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let mut length = rest.len();
        while format!("{length}{rest}").len() != length {
            length = format!("{length}{rest}").len();
        }
        format!("{length}{rest}").into_bytes()
    }

    /// A name that does not fit into an entry, as GNU and as POSIX write it.
    #[test]
    fn long_names_are_taken() {
        let long = format!("{}/lambda_data.txt", ["directory"; 30].join("/"));
        let work = tempfile::tempdir().unwrap();
        let file = archive(|builder| {
            builder.append_data(&mut header(EntryType::Regular, 1), &long, &b"1"[..]).unwrap();
            let other = format!("{long}.pax");
            builder.append(&header_of(EntryType::XGlobalHeader, 6), &b"6 a=b\n"[..]).unwrap();
            let records = [record("mtime", "1.5"), record("path", &other)].concat();
            builder.append(&header_of(EntryType::XHeader, records.len() as u64), &records[..]).unwrap();
            builder.append(&header_of(EntryType::Regular, 1), &b"2"[..]).unwrap();
            builder.append_data(&mut header(EntryType::Regular, 1), "lambda_func.py", &b"3"[..]).unwrap();
        });
        unpack(file.path(), "http://x/a.tar.gz", ENTRY, work.path()).unwrap();
        for (name, text) in [(&long[..], "1"), (&format!("{long}.pax"), "2"), ("lambda_func.py", "3")] {
            assert_eq!(fs::read_to_string(work.path().join(name)).unwrap(), text);
        }
    }

    fn header_of(kind: EntryType, size: u64) -> tar::Header {
        let mut header = header(kind, size);
        header.set_path("short").unwrap();
        header.set_cksum();
        header
    }

    /// Half a GiB of a name packs into half a MiB; it must not be unpacked into memory.
    #[test]
    fn endless_names_are_refused() {
        for kind in [EntryType::GNULongName, EntryType::XHeader] {
            let work = tempfile::tempdir().unwrap();
            let size = 4 << 20;
            let file = archive(|builder| {
                builder.append(&header_of(kind, size), io::repeat(b'a').take(size)).unwrap();
            });
            fails(unpack(file.path(), "http://x/a.tar.gz", ENTRY, work.path()), "is over 16384 bytes");
        }
        // A size of its own would let one entry hide in another.
        let work = tempfile::tempdir().unwrap();
        let file = archive(|builder| {
            let size = record("size", "1");
            builder.append(&header_of(EntryType::XHeader, size.len() as u64), &size[..]).unwrap();
            builder.append(&header_of(EntryType::Regular, 600), io::repeat(0).take(600)).unwrap();
        });
        fails(unpack(file.path(), "http://x/a.tar.gz", ENTRY, work.path()), "too large");
    }

    #[test]
    fn a_plain_file_is_the_entry_file() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(b"x = 1\n").unwrap();
        let work = tempfile::tempdir().unwrap();
        unpack(file.path(), "http://x/any.py?v=1", "app.main", work.path()).unwrap();
        assert_eq!(fs::read_to_string(work.path().join("app.py")).unwrap(), "x = 1\n");
        fails(unpack(file.path(), "http://x/any.zip", ENTRY, work.path()), "neither a .tar.gz nor a .py");
    }
}
