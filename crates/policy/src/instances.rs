//! The idle instances of a node: which serves a handler's next call, which is paused, which is given up.
//!
//! A least-recently-used list under a budget of bytes (`handler_cache_size`). It holds the idle only: who takes one
//! out owns it, and puts it back when the call is over. An id that this gives back as a victim is forgotten here; the
//! caller destroys the instance. Invariant: after every call the bytes held are within the budget.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use crate::Time;

/// An idle instance that was taken to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// Its id.
    pub id: u64,
    /// Whether it is paused and must be thawed first.
    pub paused: bool,
}

#[derive(Debug)]
struct Idle<K> {
    handler: K,
    bytes: u64,
    since: Time,
    /// Its place in the order of use.
    turn: u64,
    paused: bool,
}

/// Ids by turn, so that the last is the most recently used.
#[derive(Debug, Default)]
struct OfHandler {
    awake: BTreeMap<u64, u64>,
    paused: BTreeMap<u64, u64>,
}

/// The idle instances, by handlers `K`.
#[derive(Debug)]
pub struct Instances<K> {
    budget: u64,
    bytes: u64,
    turns: u64,
    idle: HashMap<u64, Idle<K>>,
    by_turn: BTreeMap<u64, u64>,
    awake: BTreeSet<(u64, u64)>,
    handlers: HashMap<K, OfHandler>,
}

impl<K: Clone + Eq + Hash> Instances<K> {
    /// Keeps up to `budget` bytes; 0 keeps nothing.
    pub fn new(budget: u64) -> Self {
        Self {
            budget,
            bytes: 0,
            turns: 0,
            idle: HashMap::new(),
            by_turn: BTreeMap::new(),
            awake: BTreeSet::new(),
            handlers: HashMap::new(),
        }
    }

    /// An instance has become idle. Returns the victims, in the order of their going: the least recently used, or
    /// the new one itself if it alone is over the budget (nothing else is given up for it then).
    #[must_use = "victims are forgotten here and must be destroyed"]
    pub fn insert(&mut self, id: u64, handler: &K, bytes: u64, now: Time) -> Vec<u64> {
        self.remove(id);
        if bytes > self.budget || self.budget == 0 {
            return vec![id];
        }
        let turn = self.turns;
        self.turns += 1;
        self.idle.insert(id, Idle { handler: handler.clone(), bytes, since: now, turn, paused: false });
        self.by_turn.insert(turn, id);
        self.awake.insert((turn, id));
        self.handlers.entry(handler.clone()).or_default().awake.insert(turn, id);
        self.bytes += bytes;
        self.shrink()
    }

    /// The instance for a call: the most recently used that is awake, else the most recently used paused one.
    pub fn take(&mut self, handler: &K) -> Option<Taken> {
        let of = self.handlers.get(handler)?;
        let (_, &id) = of.awake.last_key_value().or_else(|| of.paused.last_key_value())?;
        let paused = self.forget(id)?.paused;
        Some(Taken { id, paused })
    }

    /// Takes one out: its process ended, or its handler has new code. False if it is not here.
    pub fn remove(&mut self, id: u64) -> bool {
        self.forget(id).is_some()
    }

    /// Takes out all of a handler, least recently used first.
    pub fn remove_handler(&mut self, handler: &K) -> Vec<u64> {
        let Some(of) = self.handlers.get(handler) else { return Vec::new() };
        let mut turns: Vec<(u64, u64)> = of.awake.iter().chain(&of.paused).map(|(t, id)| (*t, *id)).collect();
        turns.sort_unstable();
        turns.into_iter().filter(|(_, id)| self.remove(*id)).map(|(_, id)| id).collect()
    }

    /// The awake that have been idle for `pause_after`, least recently used first. They count as paused from now on.
    pub fn pause(&mut self, now: Time, pause_after: Time) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some((turn, id)) = self.awake.first().copied() {
            let Some(idle) = self.idle.get_mut(&id).filter(|i| is_due(i.since, pause_after, now)) else {
                break;
            };
            idle.paused = true;
            self.awake.remove(&(turn, id));
            if let Some(of) = self.handlers.get_mut(&idle.handler) {
                of.awake.remove(&turn);
                of.paused.insert(turn, id);
            }
            ids.push(id);
        }
        ids
    }

    /// Takes out those that have been idle for `idle_timeout`, least recently used first.
    #[must_use = "victims are forgotten here and must be destroyed"]
    pub fn expire(&mut self, now: Time, idle_timeout: Time) -> Vec<u64> {
        let mut ids = Vec::new();
        while let Some(id) = self.oldest() {
            if !self.idle.get(&id).is_some_and(|i| is_due(i.since, idle_timeout, now)) || !self.remove(id) {
                break;
            }
            ids.push(id);
        }
        ids
    }

    /// An instance was measured anew. Returns the victims, as [`insert`](Self::insert) does.
    #[must_use = "victims are forgotten here and must be destroyed"]
    pub fn resize(&mut self, id: u64, bytes: u64) -> Vec<u64> {
        let Some(idle) = self.idle.get_mut(&id) else { return Vec::new() };
        self.bytes = self.bytes - idle.bytes + bytes;
        idle.bytes = bytes;
        if bytes > self.budget {
            self.remove(id);
            return vec![id];
        }
        self.shrink()
    }

    /// When something is next due: the first pause or the first expiry.
    pub fn next_due(&self, pause_after: Time, idle_timeout: Time) -> Option<Time> {
        let since = |id: u64| self.idle.get(&id).map(|i| i.since);
        let pause = self.awake.first().and_then(|(_, id)| since(*id)).map(|s| s.saturating_add(pause_after));
        let expiry = self.oldest().and_then(since).map(|s| s.saturating_add(idle_timeout));
        pause.into_iter().chain(expiry).min()
    }

    /// The least recently used.
    pub fn oldest(&self) -> Option<u64> {
        self.by_turn.first_key_value().map(|(_, id)| *id)
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Instances held.
    pub fn len(&self) -> usize {
        self.idle.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.idle.is_empty()
    }

    /// Instances held that are paused.
    pub fn paused(&self) -> usize {
        self.idle.len() - self.awake.len()
    }

    fn shrink(&mut self) -> Vec<u64> {
        let mut victims = Vec::new();
        while self.bytes > self.budget {
            let Some(id) = self.oldest() else { break };
            self.remove(id);
            victims.push(id);
        }
        victims
    }

    fn forget(&mut self, id: u64) -> Option<Idle<K>> {
        let idle = self.idle.remove(&id)?;
        self.bytes -= idle.bytes;
        self.by_turn.remove(&idle.turn);
        self.awake.remove(&(idle.turn, id));
        if let Some(of) = self.handlers.get_mut(&idle.handler) {
            of.awake.remove(&idle.turn);
            of.paused.remove(&idle.turn);
            if of.awake.is_empty() && of.paused.is_empty() {
                self.handlers.remove(&idle.handler);
            }
        }
        Some(idle)
    }
}

fn is_due(since: Time, after: Time, now: Time) -> bool {
    since.saturating_add(after) <= now
}

#[cfg(test)]
mod tests;
