//! What is uploaded: a directory, an archive, a Python file, or standard input; as an archive that has been unpacked
//! once, as every worker will.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use openlambda_bundle::{
    Digest, MAX_ARCHIVE, Manifest, ORIGINAL, TODAY, Tee, entry, is_gzip, pack, pack_file, unpack,
};
use tempfile::TempDir;

/// The longest Python file that is a handler by itself.
const MAX_SCRIPT: u64 = 8 << 20;

/// An archive that is fit to be uploaded.
pub struct Packed {
    work: TempDir,
    archive: PathBuf,
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub bytes: u64,
}

impl Packed {
    /// Packs what the path names.
    pub fn of(path: &Path) -> Result<Self> {
        let work = tempfile::tempdir().context("no room for temporary files")?;
        let archive = work.path().join("bundle.tar.gz");
        let mut out =
            Tee::new(BufWriter::new(File::create_new(&archive).context("no room for temporary files")?));
        if path == Path::new("-") {
            from_stream(&mut io::stdin().lock(), ORIGINAL.0, &mut out)?;
        } else if fs::metadata(path).context("cannot be read")?.is_dir() {
            pack(path, &mut out)?;
        } else {
            from_stream(&mut File::open(path).context("cannot be read")?, name_of(path), &mut out)?;
        }
        out.flush().context("cannot be packed")?;
        let bytes = out.length();
        ensure!(
            bytes <= MAX_ARCHIVE,
            "as an archive it has {} MiB, and {} MiB are allowed: leave out what the handler does not need",
            bytes >> 20,
            MAX_ARCHIVE >> 20
        );
        let packed = Self { archive, digest: out.finish().1, bytes, work };
        packed.look_into()?;
        Ok(packed)
    }

    /// Unpacks it, within the bounds that hold on every worker.
    fn look_into(&self) -> Result<()> {
        let directory = self.unpacked();
        fs::create_dir(&directory)?;
        unpack(BufReader::new(File::open(&self.archive)?), &directory)?;
        let manifest = Manifest::of(&directory)?;
        if manifest.entrypoint.is_none() {
            entry(&directory)?;
        }
        for note in manifest.notes {
            let _ = writeln!(io::stderr(), "admin: {note}");
        }
        Ok(())
    }

    /// The archive.
    pub fn archive(&self) -> &Path {
        &self.archive
    }

    /// What is in it.
    pub fn unpacked(&self) -> PathBuf {
        self.work.path().join("unpacked")
    }
}

/// A file that has the name of an entry file keeps it.
fn name_of(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == TODAY.0) { TODAY.0 } else { ORIGINAL.0 }
}

/// An archive as it is, or a script that becomes one.
fn from_stream(stream: &mut impl Read, name: &str, out: &mut impl Write) -> Result<()> {
    let mut start = Vec::new();
    stream.take(2).read_to_end(&mut start).context("cannot be read")?;
    if is_gzip(&start) {
        out.write_all(&start)?;
        // One byte more is enough to see that it is too long.
        io::copy(&mut stream.take(MAX_ARCHIVE), out).context("cannot be read")?;
        return Ok(());
    }
    let mut text = start;
    stream.take(MAX_SCRIPT).read_to_end(&mut text).context("cannot be read")?;
    if text.len() as u64 > MAX_SCRIPT || std::str::from_utf8(&text).is_err() || text.contains(&0) {
        bail!("is neither a directory, a .tar.gz, nor a Python file");
    }
    ensure!(!text.is_empty(), "is empty");
    pack_file(name, &text, out)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(path: &Path) -> String {
        format!("{:#}", Packed::of(path).err().unwrap())
    }

    #[test]
    fn directories_archives_and_scripts_become_the_same_archive() {
        let work = tempfile::tempdir().unwrap();
        let directory = work.path().join("hello");
        fs::create_dir(&directory).unwrap();
        let script = directory.join("lambda_func.py");
        fs::write(&script, "def handler(event): return 1\n").unwrap();
        let one = Packed::of(&directory).unwrap();
        let two = Packed::of(&script).unwrap();
        let three = Packed::of(one.archive()).unwrap();
        assert_eq!((&one.digest, one.bytes), (&two.digest, two.bytes));
        assert_eq!(one.digest, three.digest);
        assert!(three.unpacked().join("lambda_func.py").is_file());
        let today = directory.join("f.py");
        fs::write(&today, "def f(event): return 1\n").unwrap();
        assert!(Packed::of(&today).unwrap().unpacked().join("f.py").is_file());
    }

    #[test]
    fn what_cannot_be_a_bundle_says_why() {
        let work = tempfile::tempdir().unwrap();
        let file = work.path().join("x");
        assert!(fails(&file).contains("cannot be read"));
        assert!(fails(work.path()).contains("neither lambda_func.py nor f.py"));
        fs::write(&file, [0x1f, 0x8b, 8, 0, 0]).unwrap();
        assert!(fails(&file).contains("cannot be unpacked"));
        fs::write(&file, [0x7f, b'E', b'L', b'F', 0]).unwrap();
        assert!(fails(&file).contains("neither a directory, a .tar.gz, nor a Python file"));
        fs::write(&file, "").unwrap();
        assert!(fails(&file).contains("is empty"));
        fs::write(work.path().join("f.py"), "x").unwrap();
        fs::write(work.path().join("ol.yaml"), "limits: {memory: 3}").unwrap();
        assert!(fails(work.path()).contains("ol.yaml"));
        let large = File::create(work.path().join("large")).unwrap();
        large.set_len(1 << 30).unwrap();
        assert!(fails(work.path()).contains("more than 256 MiB"));
    }
}
