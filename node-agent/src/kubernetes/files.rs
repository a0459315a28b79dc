//! A handler's files on their way to a bundle: from a map of texts, or from a fetched archive. Blocking.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

use openlambda_api::conditions::ConditionReason;
use openlambda_bundle::{Writer, is_gzip, unpack as unpack_archive};

use crate::revision::entry_file;
use crate::trouble::Trouble;

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
    if is_gzip(&start) {
        unpack_archive(BufReader::new(open()?), directory)?;
    } else if url.split(['?', '#']).next().is_some_and(|path| path.ends_with(".py")) {
        let name = entry_file(entrypoint);
        Writer::new(directory).file(Path::new(&name), &mut BufReader::new(open()?), false)?;
    } else {
        return Err(invalid(format!("what is at {url} is neither a .tar.gz nor a .py file")));
    }
    require_entry(entrypoint, directory)
}

fn require_entry(entrypoint: &str, directory: &Path) -> Result<(), Trouble> {
    let file = entry_file(entrypoint);
    if directory.join(&file).is_file() {
        return Ok(());
    }
    let mut names: Vec<_> = std::fs::read_dir(directory)
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
    use std::io::Write as _;

    use openlambda_bundle::pack_file;

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

    fn fetched(bytes: &[u8]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_map_becomes_a_tree() {
        let work = tempfile::tempdir().unwrap();
        write(&files(&[("lambda_func.py", "1"), ("lib/a/b.py", "2")]), ENTRY, work.path()).unwrap();
        assert_eq!(std::fs::read_to_string(work.path().join("lib/a/b.py")).unwrap(), "2");
    }

    #[test]
    fn what_cannot_be_a_tree_or_lacks_its_entry_is_refused() {
        for (list, part) in [
            (
                &[("a.py", "1"), ("b.txt", "")][..],
                "no lambda_func.py, which the entrypoint lambda_func.handler needs; it has a.py, b.txt",
            ),
            (&[("../x", "1")], "leads out"),
            (&[("a", "1"), ("a/b", "2")], "both a file and a directory"),
        ] {
            let work = tempfile::tempdir().unwrap();
            fails(write(&files(list), ENTRY, work.path()), part);
        }
    }

    #[test]
    fn archives_and_plain_files_are_taken() {
        let work = tempfile::tempdir().unwrap();
        let archive = fetched(&pack_file("lambda_func.py", b"x = 1\n", Vec::new()).unwrap());
        unpack(archive.path(), "http://x/a.tar.gz", ENTRY, work.path()).unwrap();

        let work = tempfile::tempdir().unwrap();
        let file = fetched(b"x = 1\n");
        unpack(file.path(), "http://x/any.py?v=1", "app.main", work.path()).unwrap();
        assert_eq!(std::fs::read_to_string(work.path().join("app.py")).unwrap(), "x = 1\n");
        fails(unpack(file.path(), "http://x/any.zip", ENTRY, work.path()), "neither a .tar.gz nor a .py");
        let broken = fetched(&[0x1f, 0x8b, 8, 0]);
        fails(unpack(broken.path(), "http://x/a.tar.gz", ENTRY, work.path()), "cannot be unpacked");
    }
}
