//! Reads and writes JSON files. A write is whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde_json::Value;

use crate::problem::ConfigError;

/// Reads a JSON file.
pub fn read(file: &Path) -> Result<Value, ConfigError> {
    let bytes = fs::read(file).map_err(|source| ConfigError::Read { file: file.to_owned(), source })?;
    serde_json::from_slice(&bytes).map_err(|source| ConfigError::Json { file: file.to_owned(), source })
}

/// Writes a JSON file through a temporary one beside it, so that a reader sees the old or the new text.
///
/// The file is for its owner only (0600): it may hold keys.
pub fn write(file: &Path, value: &Value) -> Result<(), ConfigError> {
    write_text(file, &format!("{value:#}\n"))
        .map_err(|source| ConfigError::Write { file: file.to_owned(), source })
}

fn write_text(file: &Path, text: &str) -> io::Result<()> {
    let name = file.file_name().ok_or_else(|| io::Error::other("the path has no file name"))?;
    let fresh = file.with_file_name(format!(".{}.{}.new", name.to_string_lossy(), std::process::id()));
    let result = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&fresh)
        .and_then(|mut out| out.write_all(text.as_bytes()).and_then(|()| out.sync_all()))
        .and_then(|()| fs::rename(&fresh, file));
    if result.is_err() {
        // Best effort: the first error is the one to report.
        let _ = fs::remove_file(&fresh);
    }
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_written_reads_back_and_leaves_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        for value in [json!({"b": 1, "a": [true]}), json!({})] {
            write(&file, &value).unwrap();
            assert_eq!(read(&file).unwrap(), value);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.json");
        assert!(read(&file).unwrap_err().to_string().starts_with("cannot read "));
        fs::write(&file, "{\n  oops").unwrap();
        let text = read(&file).unwrap_err().to_string();
        assert!(text.contains("a.json is no JSON") && text.contains("line 2"), "{text}");
        assert!(
            write(&dir.path().join("none/a.json"), &json!(1))
                .unwrap_err()
                .to_string()
                .contains("cannot write")
        );
    }
}
