//! What single handlers have of their own: the longest body and the time limit instead of the configuration's, and the
//! packages that they need; and whether their calls may run twice.

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
    /// Whether a call may run twice.
    pub idempotent: bool,
}

/// Handlers whose packages are remembered from answers. Beyond that all are forgotten: the next answers tell again.
const MAX_LEARNT: usize = 65_536;

/// All handlers that have something of their own.
#[derive(Debug, Default)]
pub struct Limits {
    of: RwLock<HashMap<String, Own>>,
    /// The packages of handlers, as agents said with their answers.
    learnt: RwLock<HashMap<String, u64>>,
}

impl Limits {
    /// Those of a handler.
    pub fn of(&self, handler: &str) -> Own {
        // Mostly nobody has any: then there is nothing to look for.
        let of = self.of.read();
        let mut own = if of.is_empty() { None } else { of.get(handler).copied() }.unwrap_or_default();
        let learnt = self.learnt.read();
        if !learnt.is_empty()
            && let Some(packages) = learnt.get(handler)
        {
            // What serves knows better than what is declared.
            own.packages = Some(*packages);
        }
        own
    }

    /// The handler has answered and has these packages. Nothing is written when that is known.
    pub fn learn(&self, handler: &str, packages: Option<u64>) {
        let known = {
            let learnt = self.learnt.read();
            if learnt.is_empty() { None } else { learnt.get(handler).copied() }
        };
        if known == packages {
            return;
        }
        let mut learnt = self.learnt.write();
        match packages {
            None => drop(learnt.remove(handler)),
            Some(packages) => {
                if learnt.len() >= MAX_LEARNT {
                    learnt.clear();
                }
                learnt.insert(handler.to_owned(), packages);
            }
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_answer_says_of_packages_goes_before_what_is_declared() {
        let limits = Limits::default();
        let declared = Own { packages: Some(1), idempotent: true, ..Own::default() };
        limits.set("f".into(), declared);
        limits.learn("f", Some(2));
        assert_eq!(limits.of("f"), Own { packages: Some(2), ..declared });
        assert_eq!(limits.of("g"), Own::default());
        limits.learn("f", None);
        assert_eq!(limits.of("f"), declared);
        (0..=MAX_LEARNT as u64).for_each(|number| limits.learn(&number.to_string(), Some(number)));
        assert_eq!(limits.learnt.read().len(), 1);
    }
}
