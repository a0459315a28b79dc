//! The idle instances of a node: which serves a handler's next call, which is paused, which is given up.
//!
//! A least-recently-used list under a budget of bytes (`handler_cache_size`). It holds the idle only: who takes one
//! out owns it, and puts it back when the call is over. An id that this gives back as a victim is forgotten here; the
//! caller destroys the instance. A handler may have a floor: so many idle ones are given up only when nothing else is left.
//! Invariant: after every call the bytes held are within the budget.

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

impl OfHandler {
    fn len(&self) -> usize {
        self.awake.len() + self.paused.len()
    }
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
    floors: HashMap<K, usize>,
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
            floors: HashMap::new(),
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

    /// A handler keeps so many idle instances from now on, as long as there is another way to make room.
    pub fn set_floor(&mut self, handler: &K, floor: usize) {
        if floor == 0 {
            self.floors.remove(handler);
        } else {
            self.floors.insert(handler.clone(), floor);
        }
    }

    /// Whether the handler of this one has more idle instances than its floor.
    pub fn is_above_floor(&self, id: u64) -> bool {
        let Some(idle) = self.idle.get(&id) else { return false };
        let floor = self.floors.get(&idle.handler).copied().unwrap_or(0);
        floor == 0 || self.of_handler(&idle.handler) > floor
    }

    /// Takes out the one to give up next: the least recently used of those above their floors, else of all.
    #[must_use = "a victim is forgotten here and must be destroyed"]
    pub fn pop_victim(&mut self) -> Option<u64> {
        let above = self.by_turn.values().copied().find(|id| self.is_above_floor(*id));
        let victim = above.or_else(|| self.oldest())?;
        self.remove(victim);
        Some(victim)
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

    /// Instances of one handler.
    pub fn of_handler(&self, handler: &K) -> usize {
        self.handlers.get(handler).map_or(0, OfHandler::len)
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
            let Some(id) = self.pop_victim() else { break };
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
