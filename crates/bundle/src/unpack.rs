//! Puts an archive's files into an empty directory. What could reach outside, or is no file, is refused; so is an
//! archive that was cut off. Memory does not grow with what is in it.

use std::ffi::OsString;
use std::io::{self, Read};
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use tar::{Entry, EntryType};

use crate::error::{BundleError, invalid};
use crate::tree::MAX_BYTES;
use crate::writer::Writer;

/// What a gzip file begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];
/// The longest header of its own that an entry may have. No path is longer than 4 KiB.
const HEADER_MAX: u64 = 16 << 10;
/// What an archive may unpack to, its headers included: one that goes on beyond is not read to its end.
const UNPACKED_MAX: u64 = 2 * MAX_BYTES;
/// Set-user-id and set-group-id.
const SET_ID: u32 = 0o6000;

/// Whether a file that begins like this is compressed with gzip.
pub fn is_gzip(start: &[u8]) -> bool {
    start.starts_with(&GZIP)
}

/// Unpacks a `.tar.gz` into an empty directory.
pub fn unpack(archive: impl Read, directory: &Path) -> Result<(), BundleError> {
    let mut writer = Writer::new(directory);
    let mut archive = tar::Archive::new(GzDecoder::new(archive).take(UNPACKED_MAX));
    entries(&mut archive, &mut writer)?;
    // To its end, where its checksum stands: one that was cut off there is no better than another.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(broken)?;
    if rest.limit() == 0 {
        return Err(invalid(format!(
            "the archive unpacks to more than {} MiB; make it smaller",
            UNPACKED_MAX >> 20
        )));
    }
    Ok(())
}

fn entries(archive: &mut tar::Archive<impl Read>, writer: &mut Writer<'_>) -> Result<(), BundleError> {
    // Raw, for the library would hold a long name's header in memory however long it is.
    let mut next = Next::default();
    for entry in archive.entries().map_err(broken)?.raw(true) {
        let mut entry = entry.map_err(broken)?;
        if !next.hears(&mut entry)? {
            let about = std::mem::take(&mut next);
            take(&mut entry, about, writer)?;
        }
    }
    Ok(())
}

fn take(entry: &mut Entry<'_, impl Read>, about: Next, writer: &mut Writer<'_>) -> Result<(), BundleError> {
    let path = match about.name {
        Some(name) => name,
        None => entry.path().map_err(broken)?.into_owned(),
    };
    if path.components().any(|part| part.as_os_str() == "__pycache__") {
        return Ok(());
    }
    let shown = path.display();
    match entry.header().entry_type() {
        EntryType::Regular | EntryType::Continuous => {
            let mode = entry.header().mode().unwrap_or(0);
            if mode & SET_ID != 0 {
                return Err(invalid(format!(
                    "{shown} is set-user-id or set-group-id: take that off (chmod a-s)"
                )));
            }
            writer.announce(&path, entry.size())?;
            writer.file(&path, entry, mode & 0o111 != 0)
        }
        EntryType::Directory => writer.directory(&path),
        EntryType::Symlink => {
            let target = match about.target {
                Some(target) => target,
                None => entry.link_name().map_err(broken)?.unwrap_or_default().into_owned(),
            };
            writer.link(&path, &target)
        }
        other => Err(invalid(format!("{shown} in the archive is a {other:?}: use files only"))),
    }
}

/// What entries that only say something of the one after them have said.
#[derive(Default)]
struct Next {
    /// Its name, if that is too long for the entry itself.
    name: Option<PathBuf>,
    /// Likewise where it links to.
    target: Option<PathBuf>,
}

impl Next {
    /// Whether it is such an entry; then it is heard.
    fn hears(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<bool, BundleError> {
        match entry.header().entry_type() {
            EntryType::GNULongName => self.name = Some(until_nul(bounded(entry)?)),
            EntryType::GNULongLink => self.target = Some(until_nul(bounded(entry)?)),
            EntryType::XHeader => {
                for record in tar::PaxExtensions::new(&bounded(entry)?) {
                    let record = record.map_err(broken)?;
                    match record.key_bytes() {
                        b"path" => self.name = Some(as_path(record.value_bytes().to_vec())),
                        b"linkpath" => self.target = Some(as_path(record.value_bytes().to_vec())),
                        // It is there for files of 8 GiB and more.
                        b"size" => return Err(invalid("the archive has a file that is too large")),
                        _ => {}
                    }
                }
            }
            // Of the whole archive.
            EntryType::XGlobalHeader => {}
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn as_path(bytes: Vec<u8>) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes))
}

fn until_nul(mut bytes: Vec<u8>) -> PathBuf {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    as_path(bytes)
}

/// All of a header that is held in memory.
fn bounded(entry: &mut impl Read) -> Result<Vec<u8>, BundleError> {
    let mut bytes = Vec::new();
    entry.take(HEADER_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    if bytes.len() as u64 > HEADER_MAX {
        return Err(invalid(format!(
            "a name in the archive, or what stands with it, is over {HEADER_MAX} bytes"
        )));
    }
    Ok(bytes)
}

fn broken(error: io::Error) -> BundleError {
    invalid(format!("the archive cannot be unpacked: {error}"))
}

#[cfg(test)]
mod tests;
