//! What is uploaded: a directory, an archive, a Python file, or standard input; as an archive that has been unpacked
//! once, as every worker will.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Deref;
use std::path::Path;

use anyhow::{Context, Result};
use openlambda_bundle::{self as bundle, ORIGINAL, TODAY};
use tempfile::TempDir;

/// An archive that is fit to be uploaded; it is gone with this.
pub struct Packed {
    bundle: bundle::Packed,
    _work: TempDir,
}

impl Packed {
    /// Packs what the path names.
    pub fn of(path: &Path) -> Result<Self> {
        let work = tempfile::tempdir().context("no room for temporary files")?;
        let bundle = if path == Path::new("-") {
            bundle::Packed::stream(&mut io::stdin().lock(), ORIGINAL.0, work.path())?
        } else if fs::metadata(path).context("cannot be read")?.is_dir() {
            bundle::Packed::directory(path, work.path())?
        } else {
            bundle::Packed::stream(
                &mut File::open(path).context("cannot be read")?,
                name_of(path),
                work.path(),
            )?
        };
        for note in &bundle.manifest.notes {
            let _ = writeln!(io::stderr(), "admin: {note}");
        }
        Ok(Self { bundle, _work: work })
    }
}

impl Deref for Packed {
    type Target = bundle::Packed;

    fn deref(&self) -> &Self::Target {
        &self.bundle
    }
}

/// A file that has the name of an entry file keeps it.
fn name_of(path: &Path) -> &'static str {
    if path.file_name().is_some_and(|name| name == TODAY.0) { TODAY.0 } else { ORIGINAL.0 }
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
        let three = Packed::of(&one.archive).unwrap();
        assert_eq!((&one.digest, one.bytes), (&two.digest, two.bytes));
        assert_eq!(one.digest, three.digest);
        assert!(three.unpacked.join("lambda_func.py").is_file());
        let today = directory.join("f.py");
        fs::write(&today, "def f(event): return 1\n").unwrap();
        assert!(Packed::of(&today).unwrap().unpacked.join("f.py").is_file());
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
