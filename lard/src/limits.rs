//! What single handlers have of their own: the longest body and the time limit instead of the configuration's, and the
//! packages that they need.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::RwLock;

/// What one handler has of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// The longest body of a call, in bytes.
    pub request: Option<usize>,
    /// The time of a call, which the agent sees to.
    pub timeout: Option<Duration>,
    /// The digest of the packages that it needs.
    pub packages: Option<u64>,
}

/// All handlers that have something of their own.
#[derive(Debug, Default)]
pub struct Limits {
    of: RwLock<HashMap<String, Own>>,
}

impl Limits {
    /// Those of a handler.
    pub fn of(&self, handler: &str) -> Own {
        let of = self.of.read();
        // Mostly nobody has any: then there is nothing to look for.
        if of.is_empty() { Own::default() } else { of.get(handler).copied().unwrap_or_default() }
    }

    /// A handler has these, which may be none.
    pub fn set(&self, handler: String, own: Own) {
        let mut of = self.of.write();
        if own == Own::default() {
            of.remove(&handler);
        } else {
            of.insert(handler, own);
        }
    }

    /// All at once.
    pub fn replace(&self, all: HashMap<String, Own>) {
        *self.of.write() = all;
    }
}
