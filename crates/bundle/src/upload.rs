//! What somebody uploads, a directory, an archive or a Python file, as an archive that has been unpacked once, as every
//! worker will.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{BundleError, invalid};
use crate::{Digest, MAX_ARCHIVE, Manifest, Tee, entry, is_gzip, pack, pack_file, unpack};

/// The longest Python file that is a handler by itself.
const MAX_SCRIPT: u64 = 8 << 20;

/// An archive that is fit to be uploaded, in a folder that belongs to whoever had it made.
#[derive(Debug)]
pub struct Packed {
    /// Where it is.
    pub archive: PathBuf,
    /// What is in it.
    pub unpacked: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
    /// What its `ol.yaml` says.
    pub manifest: Manifest,
}

impl Packed {
    /// Packs a directory. `work` is an empty folder.
    pub fn directory(directory: &Path, work: &Path) -> Result<Self, BundleError> {
        Self::make(work, |out| pack(directory, out).map(drop))
    }

    /// Takes an archive as it is, or packs a Python file under the name. `work` is an empty folder.
    pub fn stream(stream: &mut impl Read, name: &str, work: &Path) -> Result<Self, BundleError> {
        Self::make(work, |out| from_stream(stream, name, out))
    }

    fn make(
        work: &Path,
        write: impl FnOnce(&mut Tee<BufWriter<File>>) -> Result<(), BundleError>,
    ) -> Result<Self, BundleError> {
        let (archive, unpacked) = (work.join("bundle.tar.gz"), work.join("unpacked"));
        let local = |error| BundleError::io(&archive, error);
        let mut out = Tee::new(BufWriter::new(File::create_new(&archive).map_err(local)?));
        write(&mut out)?;
        out.flush().map_err(local)?;
        let bytes = out.length();
        if bytes > MAX_ARCHIVE {
            return Err(invalid(format!(
                "as an archive it has {} MiB, and {} MiB are allowed: leave out what the handler does not need",
                bytes >> 20,
                MAX_ARCHIVE >> 20
            )));
        }
        let digest = out.finish().1;
        fs::create_dir(&unpacked).map_err(|error| BundleError::io(&unpacked, error))?;
        unpack(BufReader::new(File::open(&archive).map_err(local)?), &unpacked)?;
        let manifest = Manifest::of(&unpacked)?;
        if manifest.entrypoint.is_none() {
            entry(&unpacked)?;
        }
        Ok(Self { archive, unpacked, digest, bytes, manifest })
    }
}

fn from_stream(stream: &mut impl Read, name: &str, out: &mut impl Write) -> Result<(), BundleError> {
    let unread = |error: io::Error| invalid(format!("cannot be read: {error}"));
    let mut start = Vec::new();
    stream.take(2).read_to_end(&mut start).map_err(unread)?;
    if is_gzip(&start) {
        // One byte more than is allowed is enough to see that it is too long.
        let copied = out.write_all(&start).and_then(|()| io::copy(&mut stream.take(MAX_ARCHIVE), out));
        return copied.map(drop).map_err(|error| BundleError::io(Path::new("the archive"), error));
    }
    let mut text = start;
    stream.take(MAX_SCRIPT).read_to_end(&mut text).map_err(unread)?;
    if text.is_empty() {
        return Err(invalid("is empty"));
    }
    if text.len() as u64 > MAX_SCRIPT || std::str::from_utf8(&text).is_err() || text.contains(&0) {
        return Err(invalid("is neither a directory, a .tar.gz, nor a Python file"));
    }
    pack_file(name, &text, out).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ORIGINAL;

    fn of(bytes: &[u8]) -> Result<(Packed, tempfile::TempDir), BundleError> {
        let work = tempfile::tempdir().unwrap();
        Ok((Packed::stream(&mut &*bytes, ORIGINAL.0, work.path())?, work))
    }

    #[test]
    fn an_archive_stays_as_it_is_and_a_script_becomes_one() {
        let (script, _work) = of(b"def handler(event): return 1\n").unwrap();
        let archive = fs::read(&script.archive).unwrap();
        let (again, _work) = of(&archive).unwrap();
        assert_eq!((&script.digest, script.bytes), (&again.digest, again.bytes));
        assert!(again.unpacked.join(ORIGINAL.0).is_file());
        assert_eq!(again.bytes, archive.len() as u64);
    }

    #[test]
    fn what_is_cut_off_or_none_is_the_sender_s_fault() {
        let (good, _work) = of(b"def handler(event): return 1\n").unwrap();
        let archive = fs::read(&good.archive).unwrap();
        for bytes in [&archive[..archive.len() - 5], b"", b"\x7fELF\0", &[0x1f, 0x8b]] {
            let error = of(bytes).unwrap_err();
            assert!(!error.is_ours(), "{error}");
        }
    }
}
