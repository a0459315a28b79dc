//! Chance with a seed: SplitMix64.

/// A sequence of numbers.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Begins with a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// One that goes its own way from here.
    pub fn another(&mut self) -> Self {
        Self(self.next())
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, or zero if that is zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next().checked_rem(end).unwrap_or(0)
    }

    /// One of several.
    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> Option<&'a T> {
        let place = self.below(all.len() as u64);
        all.get(usize::try_from(place).ok()?)
    }

    /// One of several, as often as its weight says.
    pub fn weighed<'a, T>(&mut self, all: &'a [(u64, T)]) -> Option<&'a T> {
        let mut place = self.below(all.iter().map(|(weight, _)| weight).sum());
        for (weight, one) in all {
            match place.checked_sub(*weight) {
                Some(rest) => place = rest,
                None => return Some(one),
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_the_paper_and_keeps_to_weights() {
        let mut chance = Chance::new(1_234_567);
        assert_eq!([chance.next(), chance.next()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
        let all = [(0, 'a'), (3, 'b'), (1, 'c')];
        let drawn: Vec<char> = (0..4000).filter_map(|_| chance.weighed(&all).copied()).collect();
        let share = drawn.iter().filter(|one| **one == 'b').count();
        assert!(drawn.len() == 4000 && !drawn.contains(&'a') && (2800..3200).contains(&share), "{share}");
    }
}
