//! What was fetched, on the worker's disk: archives under their digest, and which revision of a handler served last. They
//! outlive the worker, so that one that starts while the registry is away serves what it had. Blocking.
//!
//! An archive is verified again whenever it is used; one that is damaged is as good as none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use openlambda_api::HandlerName;
use openlambda_bundle::Digest;
use openlambda_store::Revision;

/// The folder.
#[derive(Debug)]
pub struct Archives {
    archives: PathBuf,
    serving: PathBuf,
    budget: u64,
}

impl Archives {
    /// That below a directory. `budget` is what archives may take.
    pub fn open(directory: &Path, budget: u64) -> io::Result<Self> {
        let new = Self { archives: directory.join("archives"), serving: directory.join("serving"), budget };
        for folder in [&new.archives, &new.serving] {
            fs::create_dir_all(folder)?;
        }
        Ok(new)
    }

    fn archive(&self, digest: &Digest) -> PathBuf {
        self.archives.join(format!("{}.tar.gz", digest.hex()))
    }

    /// Puts an archive at a path that is free, if it is here and is what it should be.
    pub fn take(&self, digest: &Digest, to: &Path) -> bool {
        let archive = self.archive(digest);
        if fs::hard_link(&archive, to).is_err() {
            return false;
        }
        let is_it = Digest::of_file(to).is_ok_and(|found| found == *digest);
        if is_it {
            // When it was last used, for who makes room.
            let _ = File::open(to).and_then(|file| file.set_modified(now()));
        } else {
            tracing::warn!(archive = %archive.display(), "damaged, and removed");
            let _ = (fs::remove_file(to), fs::remove_file(&archive));
        }
        is_it
    }

    /// Keeps one that has been verified, and lets go of the longest unused beyond the budget.
    pub fn keep(&self, digest: &Digest, from: &Path) -> io::Result<()> {
        match fs::hard_link(from, self.archive(digest)) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.archives)? {
            let (path, about) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            all.push((about.modified()?, about.len(), path));
        }
        all.sort_by_key(|(used, ..)| std::cmp::Reverse(*used));
        let mut bytes = 0;
        for (_, length, path) in all {
            bytes += length;
            if bytes > self.budget {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn of(&self, handler: &HandlerName) -> PathBuf {
        self.serving.join(format!("{}.json", handler.as_str()))
    }

    /// Notes which revision serves; none: the handler is gone.
    pub fn note(&self, handler: &HandlerName, revision: Option<&Revision>) -> io::Result<()> {
        let file = self.of(handler);
        let Some(revision) = revision else {
            return match fs::remove_file(file) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            };
        };
        let text = serde_json::to_vec(revision)?;
        if fs::read(&file).is_ok_and(|before| before == text) {
            return Ok(());
        }
        let beside = file.with_extension("new");
        fs::write(&beside, text)?;
        fs::rename(beside, file)
    }

    /// Which revision served last.
    pub fn last(&self, handler: &HandlerName) -> Option<Revision> {
        serde_json::from_slice(&fs::read(self.of(handler)).ok()?).ok()
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "the time of a file; a clock that jumps changes only which one goes first"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_longest_unused_go_and_a_damaged_one_is_none() {
        let work = tempfile::tempdir().unwrap();
        let archives = Archives::open(&work.path().join("kept"), 25).unwrap();
        let put = |text: &str, age: u64| {
            let file = work.path().join(text);
            fs::write(&file, format!("{text:10}")).unwrap();
            File::open(&file).unwrap().set_modified(now() - Duration::from_secs(age)).unwrap();
            let digest = Digest::of_file(&file).unwrap();
            archives.keep(&digest, &file).unwrap();
            digest
        };
        let (one, two) = (put("one", 30), put("two", 20));
        let to = work.path().join("to");
        assert!(archives.take(&one, &to), "used, and so the newest");
        fs::remove_file(&to).unwrap();
        let three = put("three", 10);
        assert!(!archives.take(&two, &to));
        fs::write(archives.archive(&three), "something else").unwrap();
        assert!(!archives.take(&three, &to) && !to.exists() && !archives.archive(&three).exists());
        assert!(archives.take(&one, &to));
    }

    #[test]
    fn what_served_last_is_known_until_it_is_gone() {
        let work = tempfile::tempdir().unwrap();
        let handler = HandlerName::parse("a.b").unwrap();
        let digest = Digest::parse(&format!("sha256:{}", "0".repeat(64))).unwrap();
        let revision = Revision { number: 3, digest, key: "k".into(), bytes: 1, uploaded: "now".into() };
        let archives = Archives::open(work.path(), 1).unwrap();
        assert_eq!(archives.last(&handler), None);
        archives.note(&handler, Some(&revision)).unwrap();
        assert_eq!(Archives::open(work.path(), 1).unwrap().last(&handler), Some(revision));
        archives.note(&handler, None).unwrap();
        archives.note(&handler, None).unwrap();
        assert_eq!(archives.last(&handler), None);
    }
}
