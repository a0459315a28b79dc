//! Readiness as a set of named blockers: a process is ready when none is left, and says which are.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// What still keeps a process from being ready. Clones share the set.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    pending: BTreeMap<u64, String>,
}

/// Keeps its [`Readiness`] blocked until it is dropped.
#[derive(Debug)]
#[must_use = "readiness is blocked only as long as this lives"]
pub struct Blocker {
    state: Arc<Mutex<State>>,
    key: u64,
}

impl Readiness {
    /// A set without blockers: ready.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a blocker; `name` is what `/readyz` shows. Two may have the same name.
    pub fn block(&self, name: impl Into<String>) -> Blocker {
        let mut state = self.state.lock();
        let key = state.next;
        state.next += 1;
        state.pending.insert(key, name.into());
        Blocker { state: Arc::clone(&self.state), key }
    }

    /// The names of the blockers, oldest first.
    pub fn pending(&self) -> Vec<String> {
        self.state.lock().pending.values().cloned().collect()
    }

    /// Whether no blocker is left.
    pub fn is_ready(&self) -> bool {
        self.state.lock().pending.is_empty()
    }
}

impl Drop for Blocker {
    fn drop(&mut self) {
        self.state.lock().pending.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_blocker_is_dropped() {
        let readiness = Readiness::new();
        assert!(readiness.is_ready());
        let (zygote, port) = (readiness.block("root Zygote"), readiness.block("port"));
        let again = readiness.block("port");
        assert_eq!(readiness.pending(), ["root Zygote", "port", "port"]);
        drop(port);
        assert_eq!(readiness.pending(), ["root Zygote", "port"]);
        drop((zygote, again));
        assert!(readiness.is_ready());
    }
}
