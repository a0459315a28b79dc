//! Who may run now, who waits, who is turned away: a bounded first-in-first-out queue per key, under a limit per key
//! and one in all.
//!
//! The caller asks with [`Admission::request`] and says with [`Admission::finish`] when a call is over; what that
//! and the passing of time ([`Admission::expire`]) decide for those who wait comes back as [`Decision`]s. Invariants:
//! limits are never exceeded; nobody waits while there is room for them; within a key nobody overtakes; between keys
//! room goes to whoever waited longest among those whose key has room.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use crate::Time;

/// The shortest `Retry-After`.
const RETRY_AFTER: Time = Time::from_secs(1);

/// The bounds; `usize::MAX` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Calls of one key that run at once.
    pub key_running: usize,
    /// Calls of one key that wait.
    pub key_waiting: usize,
    /// Calls that run at once.
    pub running: usize,
    /// Calls that wait.
    pub waiting: usize,
    /// How long a call may wait.
    pub timeout: Time,
}

/// A call that waits. Tickets rise: the lower came earlier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(u64);

/// Why a call is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The key's queue is full.
    KeyQueueFull,
    /// The queues in all are full.
    QueueFull,
    /// The call's own deadline is past.
    TooLate,
}

impl Rejection {
    /// The reason as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::KeyQueueFull => "key_queue_full",
            Self::QueueFull => "queue_full",
            Self::TooLate => "too_late",
        }
    }
}

/// The answer to a call that asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It runs; [`Admission::finish`] when it is over.
    Run,
    /// It waits for a [`Decision`] on its ticket.
    Wait(Ticket),
    /// It is turned away.
    Reject {
        /// Why.
        reason: Rejection,
        /// When to come back: as long as the one in front has waited by now.
        retry_after: Time,
    },
}

/// What became of one that waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It runs; [`Admission::finish`] when it is over.
    Run(Ticket),
    /// It waited too long.
    Expired(Ticket),
}

#[derive(Debug)]
struct Waiter<K> {
    key: K,
    since: Time,
    until: Time,
}

#[derive(Debug, Default)]
struct KeyState {
    running: usize,
    waiting: BTreeSet<Ticket>,
}

/// The state machine.
#[derive(Debug)]
pub struct Admission<K> {
    limits: Limits,
    running: usize,
    next: u64,
    keys: HashMap<K, KeyState>,
    waiters: BTreeMap<Ticket, Waiter<K>>,
    deadlines: BTreeSet<(Time, Ticket)>,
    /// The first ticket of each key that has room: these wait for room in all only.
    ready: BTreeSet<Ticket>,
}

impl<K: Clone + Eq + Hash> Admission<K> {
    /// Nothing runs, nobody waits.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            running: 0,
            next: 0,
            keys: HashMap::new(),
            waiters: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            ready: BTreeSet::new(),
        }
    }

    /// A call asks to run; `deadline` is its own, if it has one before the queue's timeout.
    pub fn request(&mut self, key: &K, now: Time, deadline: Option<Time>) -> Verdict {
        let until = deadline.unwrap_or(Time::MAX).min(now.saturating_add(self.limits.timeout));
        let (running, waiting) = self.keys.get(key).map_or((0, 0), |k| (k.running, k.waiting.len()));
        let has_room = self.running < self.limits.running && running < self.limits.key_running;
        if deadline.is_some_and(|d| d <= now) {
            self.reject(Rejection::TooLate, key, now)
        } else if has_room && waiting == 0 {
            self.running += 1;
            self.keys.entry(key.clone()).or_default().running += 1;
            Verdict::Run
        } else if waiting >= self.limits.key_waiting {
            self.reject(Rejection::KeyQueueFull, key, now)
        } else if self.waiters.len() >= self.limits.waiting {
            self.reject(Rejection::QueueFull, key, now)
        } else {
            Verdict::Wait(self.enqueue(key, now, until))
        }
    }

    /// A call that ran is over. Returns what becomes of those who wait.
    pub fn finish(&mut self, key: &K, now: Time) -> Vec<Decision> {
        if let Some(state) = self.keys.get_mut(key).filter(|k| k.running > 0) {
            state.running -= 1;
            self.running -= 1;
        }
        self.settle(key);
        self.expire(now)
    }

    /// From now on so many may run at once. Those who run beyond that go on; nobody follows them until there is room.
    /// Returns what becomes of those who wait.
    pub fn set_running_limit(&mut self, running: usize, now: Time) -> Vec<Decision> {
        self.limits.running = running;
        self.expire(now)
    }

    /// Time has passed. Returns what becomes of those who wait.
    pub fn expire(&mut self, now: Time) -> Vec<Decision> {
        let mut decisions = Vec::new();
        while let Some((until, ticket)) = self.deadlines.first().copied() {
            if until > now {
                break;
            }
            self.leave(ticket);
            decisions.push(Decision::Expired(ticket));
        }
        while self.running < self.limits.running {
            let Some(ticket) = self.ready.first().copied() else { break };
            let Some(key) = self.leave(ticket) else { break };
            self.running += 1;
            self.keys.entry(key.clone()).or_default().running += 1;
            self.settle(&key);
            decisions.push(Decision::Run(ticket));
        }
        decisions
    }

    /// One that waits has gone away. False if it does not wait (any more): a [`Decision`] was made, and if that was
    /// to run, it must be finished.
    pub fn cancel(&mut self, ticket: Ticket) -> bool {
        self.leave(ticket).is_some()
    }

    /// When [`Admission::expire`] is next of use.
    pub fn next_deadline(&self) -> Option<Time> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    /// Calls that run.
    pub fn running(&self) -> usize {
        self.running
    }

    /// Calls that wait.
    pub fn waiting(&self) -> usize {
        self.waiters.len()
    }

    /// Calls of one key that run and wait.
    pub fn of_key(&self, key: &K) -> (usize, usize) {
        self.keys.get(key).map_or((0, 0), |k| (k.running, k.waiting.len()))
    }

    fn enqueue(&mut self, key: &K, now: Time, until: Time) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiters.insert(ticket, Waiter { key: key.clone(), since: now, until });
        self.deadlines.insert((until, ticket));
        self.keys.entry(key.clone()).or_default().waiting.insert(ticket);
        self.settle(key);
        ticket
    }

    /// Takes a ticket out of all queues.
    fn leave(&mut self, ticket: Ticket) -> Option<K> {
        let waiter = self.waiters.remove(&ticket)?;
        self.deadlines.remove(&(waiter.until, ticket));
        self.ready.remove(&ticket);
        if let Some(state) = self.keys.get_mut(&waiter.key) {
            state.waiting.remove(&ticket);
        }
        self.settle(&waiter.key);
        Some(waiter.key)
    }

    /// Puts a key's first ticket among the ready if the key has room, takes it out if not, and forgets an idle key.
    fn settle(&mut self, key: &K) {
        let Some(state) = self.keys.get(key) else { return };
        match state.waiting.first() {
            Some(first) if state.running < self.limits.key_running => {
                self.ready.insert(*first);
            }
            Some(first) => {
                self.ready.remove(first);
            }
            None if state.running == 0 => {
                self.keys.remove(key);
            }
            None => {}
        }
    }

    fn reject(&self, reason: Rejection, key: &K, now: Time) -> Verdict {
        let first = match reason {
            Rejection::KeyQueueFull => self.keys.get(key).and_then(|k| k.waiting.first()).copied(),
            _ => self.waiters.keys().next().copied(),
        };
        let waited =
            first.and_then(|t| self.waiters.get(&t)).map_or(Time::ZERO, |w| now.saturating_sub(w.since));
        Verdict::Reject { reason, retry_after: waited.max(RETRY_AFTER) }
    }
}

#[cfg(test)]
mod tests;
