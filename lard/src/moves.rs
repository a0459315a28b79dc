//! The moves of the last minutes, for who wonders why a handler is where it is.

use std::collections::VecDeque;
use std::time::Duration;

use openlambda_policy::balance::{Label, MoveReason, ServerId};

/// Moves are kept for so long.
const KEPT_FOR: Duration = Duration::from_secs(600);
/// At most so many are kept: the latest.
const KEPT: usize = 512;

/// A handler, or a package set, that got another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// When, since lard's start.
    pub at: Duration,
    /// What.
    pub label: Label,
    /// Whereto.
    pub server: ServerId,
    /// Why.
    pub reason: MoveReason,
}

/// The moves of the last minutes.
#[derive(Debug, Default)]
pub struct Moves {
    latest: VecDeque<Move>,
}

impl Moves {
    /// Notes a move.
    pub fn add(&mut self, moved: Move) {
        let now = moved.at;
        self.latest.push_back(moved);
        let is_old = |one: &Move| now.saturating_sub(one.at) > KEPT_FOR;
        while self.latest.len() > KEPT || self.latest.front().is_some_and(is_old) {
            self.latest.pop_front();
        }
    }

    /// Those not too old now, the latest first.
    pub fn since(&self, now: Duration) -> impl Iterator<Item = &Move> {
        self.latest.iter().rev().take_while(move |one| now.saturating_sub(one.at) <= KEPT_FOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Move {
        let label = Label::Packages(seconds);
        Move { at: Duration::from_secs(seconds), label, server: ServerId(0), reason: MoveReason::Wait }
    }

    #[test]
    fn only_the_latest_are_kept() {
        let mut moves = Moves::default();
        (0..KEPT as u64 + 10).for_each(|second| moves.add(Move { at: Duration::ZERO, ..at(second) }));
        assert_eq!(moves.since(Duration::ZERO).count(), KEPT);
        moves.add(at(601));
        let left: Vec<_> = moves.since(Duration::from_secs(601)).cloned().collect();
        assert_eq!(left, [at(601)]);
        assert_eq!(moves.since(Duration::from_secs(1202)).count(), 0);
    }
}
