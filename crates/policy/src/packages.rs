//! Which installed packages are given up when the disk budget is full: those that nobody uses, the longest unused first.

use crate::Time;

/// A package on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnDisk<K> {
    /// Which.
    pub key: K,
    /// What it takes.
    pub bytes: u64,
    /// When it was last in use.
    pub last_used: Time,
    /// Whether something uses it now.
    pub in_use: bool,
}

/// What to remove so that all that is left takes at most `budget` bytes, in the order of removal. If what is in use takes more
/// than that alone, everything else.
pub fn to_evict<K: Copy + Ord>(budget: u64, packages: &[OnDisk<K>]) -> Vec<K> {
    let mut total = packages.iter().fold(0_u64, |sum, one| sum.saturating_add(one.bytes));
    let mut idle: Vec<_> = packages.iter().filter(|one| !one.in_use).collect();
    idle.sort_unstable_by_key(|one| (one.last_used, one.key));
    let mut evicted = Vec::new();
    for one in idle {
        if total <= budget {
            break;
        }
        total -= one.bytes;
        evicted.push(one.key);
    }
    evicted
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    fn package(key: u32, bytes: u64, second: u64, in_use: bool) -> OnDisk<u32> {
        OnDisk { key, bytes, last_used: Duration::from_secs(second), in_use }
    }

    #[test]
    fn the_longest_unused_go_first_and_no_more_than_needed() {
        let all = [
            package(1, 10, 3, false),
            package(2, 10, 1, false),
            package(3, 10, 2, false),
            package(4, 10, 0, true),
        ];
        assert_eq!(to_evict(40, &all), []);
        assert_eq!(to_evict(39, &all), [2]);
        assert_eq!(to_evict(20, &all), [2, 3]);
        assert_eq!(to_evict(0, &all), [2, 3, 1]);
    }

    proptest! {
        #[test]
        fn what_is_used_stays_and_the_budget_holds_if_it_can(
            budget in 0_u64..500,
            raw in prop::collection::vec((0_u64..100, 0_u64..50, any::<bool>()), 0..20),
        ) {
            let all: Vec<_> = raw.iter().enumerate().map(|(i, &(bytes, at, used))| package(i as u32, bytes, at, used)).collect();
            let gone = to_evict(budget, &all);
            let left: u64 = all.iter().filter(|one| !gone.contains(&one.key)).map(|one| one.bytes).sum();
            let used: u64 = all.iter().filter(|one| one.in_use).map(|one| one.bytes).sum();
            prop_assert!(all.iter().filter(|one| gone.contains(&one.key)).all(|one| !one.in_use));
            prop_assert!(left <= budget || left == used);
            // The last one removed was needed.
            if let Some(last) = gone.last() {
                prop_assert!(left + all[*last as usize].bytes > budget);
            }
        }
    }
}
