//! Locality-aware request distribution: a key stays with its server, where its code, packages and Zygotes are warm,
//! until load says otherwise.
//!
//! The rules are the original's, its faults mended:
//! - a new key goes to the least loaded server;
//! - it moves to the least loaded when its server's load is `>= high` and that one's `< low`, or its server's load is
//!   `>= 2 * high`, or its server has `MaxConn` connections, or its server is set aside or gone;
//! - the key is the handler's package set or its name (the original took the whole path);
//! - a move is made only to a server that is better, so that an overloaded fleet does not trade handlers in circles;
//! - there is always a candidate (the original found none when all loads reached 1).
//!
//! Ties (loads in the same 5 %) go by rendezvous hash, where the original rotated: replicas of lard that see equal
//! loads agree without talking, and a restarted lard finds the handlers where they are warm.

use super::known::{Standing, first};
use super::{Balance, Choice, Key, Known, PolicyKind, Ranking, Settings};
use crate::Time;

/// The original's `LARD`.
#[derive(Debug)]
pub struct Lard {
    settings: Settings,
    known: Known,
}

impl Lard {
    /// With what is known already.
    pub fn new(settings: Settings, known: Known) -> Self {
        Self { settings, known }
    }
}

impl Balance for Lard {
    fn kind(&self) -> PolicyKind {
        PolicyKind::Lard
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn rank(&mut self, key: &Key<'_>, now: Time) -> Ranking {
        let Known { fleet, homes } = &mut self.known;
        let hash = key.affinity();
        let standing = Standing::new(fleet, key, self.settings, now);
        let mut candidates = standing.candidates();
        let Some(&best) = candidates.first() else {
            return Ranking { candidates, choice: Choice::Unbound };
        };
        // Left by LARD/R it may have several: the oldest is the one.
        let current = homes.ask(hash).and_then(|home| {
            home.servers.truncate(1);
            home.servers.first_mut()
        });
        let Some((server, used)) = current else {
            homes.set(hash, || key.label(), best, now);
            return Ranking { candidates, choice: Choice::Assigned };
        };
        *used = now;
        let choice = match standing.reason_to_move(*server) {
            None => {
                first(&mut candidates, *server);
                Choice::Kept
            }
            Some(reason) => {
                *server = best;
                Choice::Moved(reason)
            }
        };
        Ranking { candidates, choice }
    }
}
