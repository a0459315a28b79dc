//! What is known of a handler: its revisions, and which of them serves. Pure.

use openlambda_bundle::Digest;
use serde::{Deserialize, Serialize};

/// A handler's revisions, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The number of the one that serves.
    pub active: u64,
    /// The highest number that was ever given.
    pub last: u64,
    /// Those that are kept.
    pub revisions: Vec<Revision>,
}

/// One upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revision {
    /// Counted from 1; never given twice.
    pub number: u64,
    /// That of the bundle.
    pub digest: Digest,
    /// Where the bundle is.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When, in UTC.
    pub uploaded: String,
}

/// What a new revision consists of.
#[derive(Clone, Debug)]
pub struct Upload {
    /// That of the bundle.
    pub digest: Digest,
    /// Where the bundle is.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// When, in UTC.
    pub uploaded: String,
}

impl Record {
    /// The revision that serves.
    pub fn serving(&self) -> Option<&Revision> {
        self.find(self.active)
    }

    /// A revision by its number.
    pub fn find(&self, number: u64) -> Option<&Revision> {
        self.revisions.iter().find(|revision| revision.number == number)
    }

    /// Adds a revision, which serves from now on, and lets go of the oldest of more than `kept`.
    pub fn add(&mut self, upload: Upload, kept: usize) -> Revision {
        self.last += 1;
        let Upload { digest, key, bytes, uploaded } = upload;
        let revision = Revision { number: self.last, digest, key, bytes, uploaded };
        self.revisions.push(revision.clone());
        self.active = self.last;
        let surplus = self.revisions.len().saturating_sub(kept.max(1));
        self.revisions.drain(..surplus);
        revision
    }

    /// Another one serves from now on: that of the number, or the newest that is older than the one that serves.
    pub fn roll_back(&mut self, to: Option<u64>) -> Result<Revision, String> {
        let former = || self.revisions.iter().rev().find(|one| one.number < self.active);
        let found = match to {
            Some(number) => self.find(number),
            None => former(),
        };
        let kept = || {
            let numbers: Vec<_> = self.revisions.iter().map(|one| one.number.to_string()).collect();
            numbers.join(", ")
        };
        let found = found.cloned().ok_or_else(|| match to {
            Some(number) => format!("there is no revision {number}: kept are {}", kept()),
            None => format!("there is no revision before {}: kept are {}", self.active, kept()),
        })?;
        self.active = found.number;
        Ok(found)
    }

    /// Whether a revision names the object.
    pub fn names(&self, key: &str) -> bool {
        self.revisions.iter().any(|revision| revision.key == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upload(digit: char) -> Upload {
        let digest = Digest::parse(&format!("sha256:{}", digit.to_string().repeat(64))).unwrap();
        Upload { digest, key: format!("bundles/h/{digit}"), bytes: 1, uploaded: "now".into() }
    }

    fn numbers(record: &Record) -> Vec<u64> {
        record.revisions.iter().map(|one| one.number).collect()
    }

    #[test]
    fn the_newest_serves_and_old_ones_go() {
        let mut record = Record::default();
        assert_eq!(record.serving(), None);
        for digit in ['a', 'b', 'c', 'd'] {
            let added = record.add(upload(digit), 3);
            assert_eq!(record.serving(), Some(&added));
        }
        assert_eq!((numbers(&record), record.active), (vec![2, 3, 4], 4));
        assert!(record.names("bundles/h/b") && !record.names("bundles/h/a"));
        assert_eq!(record.add(upload('e'), 0).number, 5);
        assert_eq!(numbers(&record), [5]);
    }

    #[test]
    fn rolling_back_moves_the_pointer() {
        let mut record = Record::default();
        ['a', 'b', 'c'].into_iter().for_each(|digit| drop(record.add(upload(digit), 10)));
        assert_eq!(record.roll_back(None).unwrap().number, 2);
        assert_eq!(record.roll_back(None).unwrap().number, 1);
        let none = record.roll_back(None).unwrap_err();
        assert_eq!(none, "there is no revision before 1: kept are 1, 2, 3");
        assert_eq!(record.roll_back(Some(9)).unwrap_err(), "there is no revision 9: kept are 1, 2, 3");
        assert_eq!((record.active, numbers(&record)), (1, vec![1, 2, 3]));
        assert_eq!(record.roll_back(Some(3)).unwrap().number, 3);
        // A number is never given again.
        record.roll_back(Some(1)).unwrap();
        assert_eq!(record.add(upload('d'), 10).number, 4);
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut record = Record::default();
        record.add(upload('a'), 1);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        assert!(serde_json::from_str::<Record>(&text.replace("sha256:a", "sha256:A")).is_err());
    }
}
