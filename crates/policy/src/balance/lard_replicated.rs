//! LARD with replication: a key has as many servers as it needs.
//!
//! A call goes to the least loaded of its key's servers. By LARD's own rules for a move the key gets the least loaded
//! of all servers in addition; when its servers have not changed for a while, it gives the most loaded of them up.

use super::known::{Standing, first};
use super::{Balance, Choice, Key, Known, PolicyKind, Ranking, ServerId, Settings};
use crate::Time;

/// A key that did not get another server for so long gives one up (the paper's K).
const SHRINK_AFTER: Time = Time::from_secs(20);

/// The paper's LARD/R, with the rules for ties and moves of [`super::Lard`].
#[derive(Debug)]
pub struct LardReplicated {
    settings: Settings,
    known: Known,
}

impl LardReplicated {
    /// With what is known already.
    pub fn new(settings: Settings, known: Known) -> Self {
        Self { settings, known }
    }
}

impl Balance for LardReplicated {
    fn kind(&self) -> PolicyKind {
        PolicyKind::LardReplicated
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn took_over(&mut self, key: &Key<'_>, server: ServerId, now: Time) -> bool {
        let hash = key.affinity();
        let is_home =
            |id| self.known.homes.get(hash).is_some_and(|h| h.servers.iter().any(|(s, _)| *s == id));
        if is_home(server) {
            return false;
        }
        self.known.homes.add(hash, || key.label(), server, now);
        true
    }

    fn rank(&mut self, key: &Key<'_>, now: Time) -> Ranking {
        let Known { fleet, homes } = &mut self.known;
        let hash = key.affinity();
        let standing = Standing::new(fleet, key, self.settings, now);
        let mut candidates = standing.candidates();
        let Some(best) = standing.best() else {
            return Ranking { candidates, choice: Choice::Unbound };
        };
        let Some(home) = homes.ask(hash) else {
            homes.set(hash, || key.label(), best, now);
            return Ranking { candidates, choice: Choice::Assigned };
        };
        home.servers.retain(|(id, _)| fleet.get(*id).is_some());
        let among = standing.among(&home.servers);
        let reason = match among {
            Some((least, _)) => standing.reason_to_move(least),
            None => Some(super::MoveReason::Unavailable),
        };
        if let Some(reason) = reason {
            homes.add(hash, || key.label(), best, now);
            return Ranking { candidates, choice: Choice::Moved(reason) };
        }
        if let Some((least, most)) = among {
            if home.servers.len() > 1 && now.saturating_sub(home.changed) >= SHRINK_AFTER {
                home.servers.retain(|(id, _)| *id != most);
                home.changed = now;
            }
            first(&mut candidates, least);
        }
        Ranking { candidates, choice: Choice::Kept }
    }
}
