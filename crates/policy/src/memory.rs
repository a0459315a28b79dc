//! The memory of a node, shared out: what is charged to it, and who waits for room.
//!
//! Every sandbox, Zygote and spare is charged; the caller says for how many bytes. Who asks ([`Memory::request`]) gets its bytes at once if
//! they fit and nobody waits, else it waits. Invariants: nothing is granted that does not fit; nobody waits while the one whose turn it is
//! would fit; within a key nobody overtakes; keys take turns, so that one with many requests holds nobody up for more than one of them. A
//! request that does not fit yet is not overtaken by smaller ones of other keys: it would never be served.
//!
//! What is charged without asking ([`Memory::hold`]) was measured: it is there, whether it fits or not.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::Time;

/// One that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket(u64);

/// The answer to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The bytes are charged; [`Memory::release`] when they are free again.
    Granted,
    /// It waits until its ticket is granted.
    Wait(Ticket),
    /// It will never fit.
    TooLarge,
    /// As many wait as may. The one in front has waited for so long.
    QueueFull(Time),
}

#[derive(Clone, Copy, Debug)]
struct Waiter {
    ticket: Ticket,
    bytes: u64,
    since: Time,
}

/// The state machine, for keys `K`.
#[derive(Debug)]
pub struct Memory<K> {
    capacity: u64,
    charged: u64,
    most_waiting: usize,
    waiting: usize,
    next: u64,
    queues: HashMap<K, VecDeque<Waiter>>,
    /// The keys that have a queue, in the order of their turns.
    turns: VecDeque<K>,
}

impl<K: Clone + Eq + Hash> Memory<K> {
    /// With so many bytes, for which so many may wait.
    pub fn new(capacity: u64, most_waiting: usize) -> Self {
        let (queues, turns) = (HashMap::new(), VecDeque::new());
        Self { capacity, charged: 0, most_waiting, waiting: 0, next: 0, queues, turns }
    }

    /// Asks for bytes on behalf of a key.
    pub fn request(&mut self, key: &K, bytes: u64, now: Time) -> Verdict {
        if bytes > self.capacity {
            return Verdict::TooLarge;
        }
        if self.try_charge(bytes) {
            return Verdict::Granted;
        }
        if self.waiting >= self.most_waiting {
            let front = self.front().map_or(now, |front| front.since);
            return Verdict::QueueFull(now.saturating_sub(front));
        }
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting += 1;
        let queue = self.queues.entry(key.clone()).or_default();
        if queue.is_empty() {
            self.turns.push_back(key.clone());
        }
        queue.push_back(Waiter { ticket, bytes, since: now });
        Verdict::Wait(ticket)
    }

    /// Charges bytes at once, if they fit and nobody waits. False: nothing is charged.
    pub fn try_charge(&mut self, bytes: u64) -> bool {
        let fits = self.waiting == 0 && self.fits(bytes);
        if fits {
            self.charged += bytes;
        }
        fits
    }

    /// Charges what is there already.
    pub fn hold(&mut self, bytes: u64) {
        self.charged = self.charged.saturating_add(bytes);
    }

    /// Bytes are free again. Returns who gets theirs by that.
    #[must_use = "who was granted waits to be told"]
    pub fn release(&mut self, bytes: u64) -> Vec<Ticket> {
        self.charged = self.charged.saturating_sub(bytes);
        self.grant()
    }

    /// One that waits has gone away. Returns who gets theirs by that; none if the ticket was granted before, whose bytes are to be
    /// released then.
    #[must_use = "who was granted waits to be told"]
    pub fn cancel(&mut self, key: &K, ticket: Ticket) -> Option<Vec<Ticket>> {
        let queue = self.queues.get_mut(key)?;
        let place = queue.iter().position(|waiter| waiter.ticket == ticket)?;
        queue.remove(place);
        self.waiting -= 1;
        if queue.is_empty() {
            self.queues.remove(key);
            self.turns.retain(|other| other != key);
        }
        Some(self.grant())
    }

    /// How many bytes the one in front lacks; 0 if nobody waits.
    pub fn shortage(&self) -> u64 {
        let wanted = self.front().map_or(0, |front| self.charged.saturating_add(front.bytes));
        wanted.saturating_sub(self.capacity)
    }

    /// How long the one in front has waited.
    pub fn longest_wait(&self, now: Time) -> Time {
        self.front().map_or(Time::ZERO, |front| now.saturating_sub(front.since))
    }

    /// Bytes there are.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }

    /// Bytes charged.
    pub fn charged(&self) -> u64 {
        self.charged
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    fn fits(&self, bytes: u64) -> bool {
        self.charged.saturating_add(bytes) <= self.capacity
    }

    fn front(&self) -> Option<&Waiter> {
        self.queues.get(self.turns.front()?)?.front()
    }

    fn grant(&mut self) -> Vec<Ticket> {
        let mut granted = Vec::new();
        while let Some(front) = self.front().copied().filter(|front| self.fits(front.bytes)) {
            self.charged += front.bytes;
            self.waiting -= 1;
            granted.push(front.ticket);
            let Some(key) = self.turns.pop_front() else { break };
            if let Some(queue) = self.queues.get_mut(&key) {
                queue.pop_front();
                if queue.is_empty() {
                    self.queues.remove(&key);
                } else {
                    self.turns.push_back(key);
                }
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests;
