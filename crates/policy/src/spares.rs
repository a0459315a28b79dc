//! How many sandboxes to fork ahead of need: what the recent pace of starts uses up in a second, within the room there is.

use crate::Time;

/// A start counts half after so many seconds.
const HALF_LIFE: f64 = 10.0;
/// Spares of one kind are to last for so many seconds.
const LAST: f64 = 0.5;
/// Below this pace (one start in a few minutes) a spare would mostly wait in vain.
const IDLE: f64 = 0.005;

/// The pace of starts: a count that decays.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pace {
    count: f64,
    at: Time,
}

impl Pace {
    /// A start.
    pub fn count(&mut self, now: Time) {
        self.count = self.decayed(now) + 1.0;
        self.at = now;
    }

    /// Starts per second of late.
    pub fn rate(&self, now: Time) -> f64 {
        self.decayed(now) * std::f64::consts::LN_2 / HALF_LIFE
    }

    fn decayed(&self, now: Time) -> f64 {
        self.count * (-now.saturating_sub(self.at).as_secs_f64() / HALF_LIFE).exp2()
    }
}

/// How many spares each kind gets, at most `most`, given the pace of each. Kinds come in turns, so that the hottest cannot take all the room.
pub fn wanted(rates: &[f64], most: usize, room: usize) -> Vec<usize> {
    let asked: Vec<usize> = rates.iter().map(|rate| asked(*rate, most)).collect();
    let mut given = vec![0; rates.len()];
    let mut left = room.min(asked.iter().sum());
    while left > 0 {
        for (given, asked) in given.iter_mut().zip(&asked) {
            if *given < *asked && left > 0 {
                *given += 1;
                left -= 1;
            }
        }
    }
    given
}

fn asked(rate: f64, most: usize) -> usize {
    if rate < IDLE { 0 } else { ((rate * LAST).ceil() as usize).min(most) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_pace_follows_the_starts_and_fades() {
        let mut pace = Pace::default();
        let at = |millis: u64| Duration::from_millis(millis);
        for tick in 0..2000 {
            pace.count(at(tick * 50));
        }
        let rate = pace.rate(at(100_000));
        assert!((19.0..21.0).contains(&rate), "{rate} of 20 per second");
        assert!(pace.rate(at(110_000)) < rate / 1.9);
        assert_eq!(asked(pace.rate(at(400_000)), 8), 0);
    }

    #[test]
    fn one_start_asks_for_one_spare_for_a_while() {
        let mut pace = Pace::default();
        pace.count(Duration::from_secs(5));
        assert_eq!(wanted(&[pace.rate(Duration::from_secs(5)), 0.0], 8, 10), [1, 0]);
        assert_eq!(wanted(&[pace.rate(Duration::from_secs(60)), 0.0], 8, 10), [0, 0]);
    }

    #[test]
    fn the_room_is_shared_in_turns() {
        assert_eq!(wanted(&[100.0, 4.0, 0.01], 8, 20), [8, 2, 1]);
        assert_eq!(wanted(&[100.0, 4.0, 0.01], 8, 5), [2, 2, 1]);
        assert_eq!(wanted(&[100.0, 4.0, 0.01], 8, 0), [0, 0, 0]);
    }

    proptest! {
        #[test]
        fn no_more_than_the_room_and_no_more_than_asked(rates in prop::collection::vec(0.0_f64..50.0, 0..20), most in 0_usize..20, room in 0_usize..100) {
            let given = wanted(&rates, most, room);
            prop_assert!(given.iter().sum::<usize>() <= room);
            prop_assert!(given.iter().zip(&rates).all(|(given, rate)| *given <= asked(*rate, most)));
        }
    }
}
