//! Which key has its home at which servers: a bounded map.

use std::collections::HashMap;

use super::ServerId;
use crate::Time;

/// Keys that are remembered. Beyond that the half that was not asked for longest is forgotten: their next call is
/// placed like a new key's.
const MAX_KEYS: usize = 65_536;

/// What a key stands for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Label {
    /// A handler.
    Handler(Box<str>),
    /// A package set, by its digest.
    Packages(u64),
}

/// The homes of one key.
#[derive(Clone, Debug)]
pub(super) struct Home {
    label: Label,
    /// The servers, each with the time when it was last chosen; the oldest home first.
    pub servers: Vec<(ServerId, Time)>,
    /// When a server was added or taken away.
    pub changed: Time,
    /// The number of the last question for it.
    asked: u64,
}

impl Home {
    /// Gives up servers that were not chosen for `span`, all but the one chosen last.
    pub fn retire(&mut self, now: Time, span: Time) {
        let latest = self.servers.iter().map(|(_, used)| *used).max().unwrap_or(now);
        self.servers.retain(|(_, used)| *used == latest || now.saturating_sub(*used) < span);
    }
}

/// The homes of all keys.
#[derive(Clone, Debug)]
pub struct Homes {
    of: HashMap<u64, Home>,
    questions: u64,
    max_keys: usize,
}

impl Default for Homes {
    fn default() -> Self {
        Self { of: HashMap::new(), questions: 0, max_keys: MAX_KEYS }
    }
}

impl Homes {
    /// Those of a key, which is asked for.
    pub(super) fn ask(&mut self, key: u64) -> Option<&mut Home> {
        self.questions += 1;
        let home = self.of.get_mut(&key)?;
        home.asked = self.questions;
        Some(home)
    }

    /// Those of a key, in passing.
    pub(super) fn get(&self, key: u64) -> Option<&Home> {
        self.of.get(&key)
    }

    /// The key has this home and no other.
    pub(super) fn set(&mut self, key: u64, label: impl FnOnce() -> Label, server: ServerId, now: Time) {
        if let Some(home) = self.of.get_mut(&key) {
            home.servers = vec![(server, now)];
            home.changed = now;
            return;
        }
        if self.of.len() >= self.max_keys {
            self.forget_half();
        }
        let home = Home { label: label(), servers: vec![(server, now)], changed: now, asked: self.questions };
        self.of.insert(key, home);
    }

    /// The key has this home too.
    pub(super) fn add(&mut self, key: u64, label: impl FnOnce() -> Label, server: ServerId, now: Time) {
        match self.of.get_mut(&key) {
            None => self.set(key, label, server, now),
            Some(home) => match home.servers.iter_mut().find(|(id, _)| *id == server) {
                Some((_, used)) => *used = now,
                None => {
                    home.servers.push((server, now));
                    home.changed = now;
                }
            },
        }
    }

    /// Another server took a call over: it is the key's only home now. False if the key has none, or that one.
    pub(super) fn take_over(&mut self, key: u64, server: ServerId, now: Time) -> bool {
        match self.of.get_mut(&key) {
            Some(home) if home.servers.iter().all(|(id, _)| *id != server) => {
                home.servers = vec![(server, now)];
                home.changed = now;
                true
            }
            _ => false,
        }
    }

    /// All of them, in order.
    pub fn list(&self) -> Vec<(Label, Vec<ServerId>)> {
        let servers = |home: &Home| home.servers.iter().map(|(id, _)| *id).collect();
        let mut all: Vec<_> = self.of.values().map(|home| (home.label.clone(), servers(home))).collect();
        all.sort();
        all
    }

    fn forget_half(&mut self) {
        let mut asked: Vec<u64> = self.of.values().map(|home| home.asked).collect();
        let middle = asked.len() / 2;
        let (_, median, _) = asked.select_nth_unstable(middle);
        let median = *median;
        self.of.retain(|_, home| home.asked > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_map_is_bounded_and_forgets_the_longest_unused() {
        let mut homes = Homes { max_keys: 4, ..Homes::default() };
        for key in [0, 1, 2, 3, 0, 4] {
            if homes.ask(key).is_none() {
                homes.set(key, || Label::Packages(key), ServerId(0), Time::ZERO);
            }
        }
        let keys: Vec<_> = homes.list().into_iter().map(|(label, _)| label).collect();
        let expected = [Label::Packages(0), Label::Packages(4)];
        assert_eq!(
            keys, expected,
            "1, 2 (the median) and below are forgotten; 3 too was before 0's second use"
        );
    }

    #[test]
    fn a_home_is_added_once_and_taken_over_whole() {
        let mut homes = Homes::default();
        let label = || Label::Handler("f".into());
        assert!(!homes.take_over(1, ServerId(0), Time::ZERO), "a key that is not known does not move");
        for server in [0, 1, 0] {
            homes.add(1, label, ServerId(server), Time::ZERO);
        }
        assert_eq!(homes.list(), [(label(), vec![ServerId(0), ServerId(1)])]);
        assert!(!homes.take_over(1, ServerId(1), Time::ZERO));
        assert!(homes.take_over(1, ServerId(2), Time::ZERO));
        assert_eq!(homes.list(), [(label(), vec![ServerId(2)])]);
    }
}
