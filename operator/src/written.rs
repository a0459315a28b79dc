//! The statuses that we wrote and that the watch has not brought back yet. Without it a status would be computed from
//! the one before it and written twice.

use std::collections::HashMap;

/// By uid: the resource version that it was computed from, and the status.
#[derive(Debug)]
pub struct Written<S> {
    entries: HashMap<String, (String, S)>,
}

impl<S> Default for Written<S> {
    fn default() -> Self {
        Self { entries: HashMap::new() }
    }
}

impl<S: Clone> Written<S> {
    /// The status that the object has: what we wrote, as long as the watch shows the object from before.
    pub fn current(&mut self, uid: &str, version: &str, stored: Option<&S>) -> Option<S> {
        match self.entries.get(uid) {
            Some((base, status)) if base == version => Some(status.clone()),
            Some(_) => {
                self.entries.remove(uid);
                stored.cloned()
            }
            None => stored.cloned(),
        }
    }

    /// It was written.
    pub fn wrote(&mut self, uid: &str, base: &str, status: S) {
        self.entries.insert(uid.to_owned(), (base.to_owned(), status));
    }

    /// Forgets the objects that are gone, once there are more entries than objects.
    pub fn prune(&mut self, there: &[String]) {
        if self.entries.len() > there.len() {
            self.entries.retain(|uid, _| there.contains(uid));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_holds_until_the_watch_moves() {
        let mut written = Written::default();
        assert_eq!(written.current("u", "1", Some(&"old")), Some("old"));
        written.wrote("u", "1", "new");
        assert_eq!(written.current("u", "1", Some(&"old")), Some("new"));
        assert_eq!(written.current("u", "2", Some(&"edited")), Some("edited"));
        assert_eq!(written.current("u", "1", Some(&"old")), Some("old"), "it is forgotten after that");
        written.wrote("gone", "1", "x");
        written.prune(&[]);
        assert_eq!(written.current("gone", "1", None), None);
    }
}
