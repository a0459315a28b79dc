//! Sets of small numbers: sorted, without duplicates, with a mask that settles most questions at once.

/// Sorted ids without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Set {
    ids: Box<[u32]>,
    /// A bit for each id, several ids to a bit. What is missing here is missing there; the converse does not hold.
    mask: u64,
}

impl Set {
    /// From ids in any order.
    pub fn new(ids: impl IntoIterator<Item = u32>) -> Self {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        Self::sorted(ids)
    }

    fn sorted(ids: Vec<u32>) -> Self {
        // Neighbours get different bits (Fibonacci hashing).
        let bit = |id: &u32| 1_u64 << (id.wrapping_mul(0x9e37_79b9) >> 26);
        let mask = ids.iter().map(bit).fold(0, std::ops::BitOr::bitor);
        Self { ids: ids.into(), mask }
    }

    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.ids.iter().copied()
    }

    pub fn len(&self) -> usize {
        self.ids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    pub fn contains(&self, id: u32) -> bool {
        self.ids.binary_search(&id).is_ok()
    }

    /// Whether all of it is in `other`.
    pub fn is_within(&self, other: &Self) -> bool {
        if self.mask & !other.mask != 0 || self.len() > other.len() {
            return false;
        }
        let mut rest = other.ids.iter();
        self.ids.iter().all(|id| rest.by_ref().find(|o| *o >= id) == Some(id))
    }

    /// Whether all of it is in `other`, which has more.
    pub fn is_strictly_within(&self, other: &Self) -> bool {
        self.len() < other.len() && self.is_within(other)
    }

    pub fn is_disjoint(&self, other: &Self) -> bool {
        self.mask & other.mask == 0 || self.shared(other).next().is_none()
    }

    /// The places, in this set, of what is also in `other`.
    pub fn shared<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = usize> + 'a {
        let mut rest = if self.mask & other.mask == 0 { &[][..] } else { &other.ids };
        self.ids.iter().enumerate().filter_map(move |(at, id)| {
            while rest.first().is_some_and(|o| o < id) {
                rest = &rest[1..];
            }
            (rest.first() == Some(id)).then_some(at)
        })
    }

    pub fn and(&self, other: &Self) -> Self {
        Self::sorted(self.shared(other).map(|at| self.ids[at]).collect())
    }

    pub fn or(&self, other: &Self) -> Self {
        if other.is_within(self) {
            return self.clone();
        }
        Self::new(self.iter().chain(other.iter()))
    }

    pub fn without(&self, other: &Self) -> Self {
        self.filtered(|id| !other.contains(id))
    }

    /// What is left of it.
    pub fn filtered(&self, keep: impl Fn(u32) -> bool) -> Self {
        Self::sorted(self.iter().filter(|id| keep(*id)).collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn is_as_the_sets_of_the_standard_library(
            a in prop::collection::btree_set(0_u32..100, 0..30),
            b in prop::collection::btree_set(0_u32..100, 0..90),
        ) {
            let (x, y) = (Set::new(a.iter().copied()), Set::new(b.iter().copied()));
            let ids = |set: &Set| set.iter().collect::<BTreeSet<_>>();
            prop_assert_eq!(ids(&x), a.clone());
            prop_assert_eq!(x.is_within(&y), a.is_subset(&b));
            prop_assert_eq!(x.is_strictly_within(&y), a.is_subset(&b) && a != b);
            prop_assert_eq!(x.is_disjoint(&y), a.is_disjoint(&b));
            prop_assert_eq!(ids(&x.and(&y)), &a & &b);
            prop_assert_eq!(ids(&x.or(&y)), &a | &b);
            prop_assert_eq!(ids(&x.without(&y)), &a - &b);
            prop_assert_eq!(x.and(&y), Set::new(a.intersection(&b).copied()));
            prop_assert!(x.is_within(&x) && x.and(&y).is_within(&y) && !x.is_strictly_within(&x));
        }
    }
}
