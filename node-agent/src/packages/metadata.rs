//! What an installed wheel says of itself: its top-level modules. From the metadata that every wheel has (`RECORD`) and that
//! most of setuptools' have (`top_level.txt`); never from the package's name.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

/// The top-level modules of the wheel that is installed in `folder`.
pub fn imports(folder: &Path) -> io::Result<Vec<String>> {
    let mut info = None;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "dist-info") {
            info = Some(path);
        }
    }
    let Some(info) = info else { return Err(io::Error::other("the wheel has left no .dist-info folder")) };
    let record = modules(&fs::read_to_string(info.join("RECORD"))?);
    let Ok(top) = fs::read_to_string(info.join("top_level.txt")) else { return Ok(record) };
    // What a file names that is not there cannot be imported.
    let named = top.lines().map(str::trim).filter(|name| record.iter().any(|one| one == name));
    let named: BTreeSet<String> = named.map(str::to_owned).collect();
    if named.is_empty() { Ok(record) } else { Ok(named.into_iter().collect()) }
}

/// The top-level modules of a `RECORD`: `path,hash,size` a line.
fn modules(record: &str) -> Vec<String> {
    let paths = record.lines().map(|line| {
        let line = line.trim();
        match line.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next().unwrap_or_default(),
            None => line.split(',').next().unwrap_or_default(),
        }
    });
    let found: BTreeSet<String> = paths.filter_map(module).collect();
    found.into_iter().collect()
}

/// The top-level module that a file belongs to.
fn module(path: &str) -> Option<String> {
    let mut parts = path.split('/');
    let (first, last) = (parts.next()?, path.rsplit('/').next()?);
    let code = last.strip_suffix(".py").or_else(|| extension_module(last))?;
    let name = if first == last { code } else { first };
    let mut characters = name.chars();
    let starts = characters.next().is_some_and(|one| one.is_alphabetic() || one == '_');
    (starts && characters.all(|one| one.is_alphanumeric() || one == '_')).then(|| name.to_owned())
}

/// `x` of `x.so`, `x.abi3.so` and `x.cpython-311-x86_64-linux-gnu.so`.
fn extension_module(file: &str) -> Option<&str> {
    let stem = file.strip_suffix(".so")?;
    Some(stem.split('.').next().unwrap_or(stem))
}

/// Which of some hashes (`sha256:…`) the wheel had that uv has just installed with this cache: uv notes it beside the wheel. None if it
/// did not, as for a wheel that was built here.
pub fn wheel_hash(cache: &Path, candidates: &[String]) -> io::Result<Option<String>> {
    let mut folders = Vec::new();
    for entry in entries(cache)? {
        if entry.file_name().to_string_lossy().starts_with("wheels-") {
            folders.push(entry.path());
        }
    }
    while let Some(folder) = folders.pop() {
        for entry in entries(&folder)? {
            // Of the entry itself: links are not followed.
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if kind.is_file() && entry.path().extension().is_some_and(|extension| extension == "http")
            {
                let text = fs::read(entry.path())?;
                let noted = |hash: &&String| {
                    let digits = hash.trim_start_matches("sha256:").as_bytes();
                    text.windows(digits.len()).any(|part| part == digits)
                };
                if let Some(hash) = candidates.iter().find(noted) {
                    return Ok(Some(hash.clone()));
                }
            }
        }
    }
    Ok(None)
}

fn entries(folder: &Path) -> io::Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other?.collect(),
    }
}

/// Bytes that a tree takes on disk, links not followed.
pub fn disk_usage(path: &Path) -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let data = fs::symlink_metadata(path)?;
    let mut bytes = data.blocks() * 512;
    if data.is_dir() {
        for entry in fs::read_dir(path)? {
            bytes += disk_usage(&entry?.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_what_can_be_imported() {
        let record = "\
numpy/__init__.py,sha256=x,1
numpy/core/_x.cpython-311-x86_64-linux-gnu.so,sha256=x,1
numpy.libs/libopenblas.so,,
numpy-1.26.4.dist-info/RECORD,,
bin/f2py,sha256=x,1
six.py,sha256=x,1
_cffi_backend.cpython-311-x86_64-linux-gnu.so,,
fast.abi3.so,,
\"with,comma/data.py\",,
share/man/man1/x.1,,
../../bin/tool.py,,
distutils-precedence.pth,,
google/cloud/storage/__init__.py,,
";
        assert_eq!(modules(record), ["_cffi_backend", "fast", "google", "numpy", "six"]);
    }

    #[test]
    fn top_level_counts_where_it_is_true() {
        let folder = tempfile::tempdir().unwrap();
        assert!(imports(folder.path()).is_err());
        let info = folder.path().join("x-1.dist-info");
        fs::create_dir(&info).unwrap();
        fs::write(info.join("RECORD"), "x/__init__.py,,\ntests/__init__.py,,\n").unwrap();
        assert_eq!(imports(folder.path()).unwrap(), ["tests", "x"]);
        fs::write(info.join("top_level.txt"), "x\ngone\n").unwrap();
        assert_eq!(imports(folder.path()).unwrap(), ["x"]);
        fs::write(info.join("top_level.txt"), "\n").unwrap();
        assert_eq!(imports(folder.path()).unwrap(), ["tests", "x"]);
    }
}
