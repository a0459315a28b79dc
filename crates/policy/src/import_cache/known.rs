//! What was learned of packages and of sets of packages. It outlives the nodes.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::set::Set;
use super::wish::Footprint;
use super::{Cost, DEFAULT_COST, PackageId};
use crate::Time;
use crate::backoff::Backoff;

/// Sets of packages whose past is remembered.
const MAX_PASTS: usize = 1024;
/// The longest pause before a set that fails is tried again.
const LONGEST_PAUSE: Time = Time::from_secs(600);
/// A node that lived for this long was sound.
const SOUND_AFTER: Time = Time::from_secs(60);

/// How it went when a set was held.
#[derive(Debug)]
struct Past {
    footprint: Footprint,
    backoff: Backoff,
    /// What its process took besides what its packages take.
    extra: u64,
    at: Time,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    /// Only looked up, never walked: its order is chance.
    costs: HashMap<PackageId, Cost>,
    marked: BTreeSet<PackageId>,
    pasts: BTreeMap<Set, Past>,
    /// What a process takes besides what its packages take, as a mean of late.
    extra: u64,
}

impl Known {
    /// A measurement. It differs from one to the next (what the page cache holds), so half of the old one stays.
    pub fn learn_cost(&mut self, package: PackageId, new: Cost) {
        let mean = |a: u64, b: u64| a / 2 + b / 2 + (a & b & 1);
        self.costs
            .entry(package)
            .and_modify(|old| {
                *old = Cost { micros: mean(old.micros, new.micros), bytes: mean(old.bytes, new.bytes) };
            })
            .or_insert(new);
    }

    pub fn cost(&self, package: PackageId) -> Option<Cost> {
        self.costs.get(&package).copied()
    }

    pub fn micros_of(&self, package: PackageId) -> u64 {
        self.cost(package).unwrap_or(DEFAULT_COST).micros
    }

    pub fn micros(&self, set: &Set) -> u64 {
        set.iter().fold(0, |sum, package| sum.saturating_add(self.micros_of(package)))
    }

    pub fn bytes(&self, set: &Set) -> u64 {
        let bytes = |package| self.cost(package).unwrap_or(DEFAULT_COST).bytes;
        set.iter().fold(0, |sum, package| sum.saturating_add(bytes(package)))
    }

    /// What a node of the set `all` will take beyond its parent, when it imports `own`.
    pub fn expected_bytes(&self, all: &Set, own: &Set) -> u64 {
        let extra = self.pasts.get(all).map_or(self.extra, |past| past.extra);
        self.bytes(own).saturating_add(extra)
    }

    /// A node of the set `all` that imported `own` takes this. Else a node that is larger than its packages would be
    /// made, found to be too large, evicted and made again, forever.
    pub fn learn_bytes(&mut self, all: &Set, own: &Set, bytes: u64) {
        let extra = bytes.saturating_sub(self.bytes(own));
        self.extra = self.extra - self.extra / 8 + extra / 8;
        if let Some(past) = self.pasts.get_mut(all) {
            past.extra = extra;
        }
    }

    /// False if it was marked before.
    pub fn mark(&mut self, package: PackageId) -> bool {
        self.pasts.retain(|set, _| !set.contains(package));
        self.marked.insert(package)
    }

    pub fn is_marked(&self, package: PackageId) -> bool {
        self.marked.contains(&package)
    }

    pub fn unmarked(&self, set: &Set) -> Set {
        set.filtered(|package| !self.is_marked(package))
    }

    /// What a process left when it imported the last of this set, as far as is known.
    pub fn footprint(&self, set: &Set) -> Option<&Footprint> {
        self.pasts.get(set).map(|past| &past.footprint)
    }

    pub fn learn_footprint(&mut self, set: &Set, footprint: &Footprint, now: Time) {
        let past = self.past(set, now);
        past.footprint = past.footprint.and(footprint);
    }

    /// Whether the set is left alone, because it failed.
    pub fn is_paused(&self, set: &Set, now: Time) -> bool {
        self.pasts.get(set).is_some_and(|past| past.backoff.is_open(now))
    }

    /// A node of this set has failed, after `lived` as a ready one.
    pub fn fail(&mut self, set: &Set, lived: Time, now: Time) {
        let past = self.past(set, now);
        if lived >= SOUND_AFTER {
            past.backoff.succeed();
        }
        past.backoff.fail(now);
    }

    fn past(&mut self, set: &Set, now: Time) -> &mut Past {
        if self.pasts.len() >= MAX_PASTS && !self.pasts.contains_key(set) {
            let oldest = self.pasts.iter().min_by_key(|(_, past)| past.at).map(|(set, _)| set.clone());
            oldest.and_then(|set| self.pasts.remove(&set));
        }
        let extra = self.extra;
        let past = self.pasts.entry(set.clone()).or_insert_with(|| Past {
            extra,
            footprint: Footprint::default(),
            backoff: Backoff::new(crate::backoff::FIRST, LONGEST_PAUSE),
            at: now,
        });
        past.at = now;
        past
    }
}
