//! The cheapest server: where waiting for a place and starting an instance together take the least time.
//!
//! - A handler starts for the price of a fork where a Zygote has its packages, and for the price of an import elsewhere.
//!   The prices are those that the servers report; that of the import of a set is known as soon as one server has it.
//! - Where it ran lately (its homes) it starts for nothing if its instance is still there. The servers report how often
//!   they still have one; for the rest of the cases the start there has its price.
//! - The wait follows from the calls that a server has, the calls that it serves at once, and how long one takes.
//! - A start is dearer than the time that it takes, for it takes something from others: see [`IMPORT`] and [`BUSY`].
//! - So a handler leaves its home when to wait there is expected to take longer than to start elsewhere: with dear
//!   starts that is LARD, with cheap ones it is the least loaded server.

use std::cmp::Reverse;

use super::fleet::{Fitness, ServerState};
use super::usual::Usual;
use super::{Balance, Choice, Costs, Fleet, Key, Known, Label, MoveReason, PolicyKind, Ranking, ServerId};
use crate::Time;

/// A home that got no call for so long is one no more: the handler's instances there are gone, or soon will be.
const HOME_FOR: Time = Time::from_secs(60);
/// After a call was placed where its packages had to be imported, the server is trusted to have them for so long,
/// whatever it reports: its next reports may be older than the import.
const TRUST: Time = Time::from_secs(2);
/// An import counts for so many: the Zygote that it makes takes the place of another, which is imported again, and
/// whose Zygote takes the place of a third.
const IMPORT: f64 = 3.0;
/// Where calls wait already a start counts for so many, and for so many times as many as calls wait per slot: all of them
/// wait for it too. Without the latter a fleet that has fallen behind once spends all its time on starts, and stays so.
/// It also counts for so many where nobody waits, if next to no place is free anywhere: what a start takes the next calls
/// wait for. Without it each call leaves a home whose places are taken for the one place that is free, and starts there.
const BUSY: f64 = 4.0;
/// What a server says of a start is taken for what all say unless it is so many times as much, or as little. Servers
/// measure a little differently, and a new one has measured nothing: without this the one whose number is the least
/// would get the first call of every handler, and another none.
const ALIKE: f64 = 2.0;

/// Spills when to wait costs more than to start.
#[derive(Debug)]
pub struct CostAware {
    known: Known,
}

impl CostAware {
    /// With what is known already.
    pub fn new(known: Known) -> Self {
        Self { known }
    }
}

/// What is asked about a call.
struct Question<'a> {
    now: Time,
    packages: Option<u64>,
    handler_homes: &'a [(ServerId, Time)],
    packages_homes: &'a [(ServerId, Time)],
    /// Of servers that do not say what calls cost.
    usual: &'a Usual,
    /// What the import of these packages costs, if a server says so that has them.
    import: Option<Time>,
    /// Whether next to no place is free in the whole fleet.
    crowded: bool,
}

impl Question<'_> {
    /// Whether a new instance at a server is forked from a Zygote that has the packages.
    fn is_fork(&self, state: &ServerState) -> bool {
        let Some(packages) = self.packages else { return true };
        let sent = used(self.packages_homes, state);
        state.zygote(packages).map_or(sent.is_some(), |has_zygote| {
            has_zygote || sent.is_some_and(|sent| self.now.saturating_sub(sent) < TRUST)
        })
    }

    /// How long a call would take to begin at a server, in nanoseconds. In seconds until the end: each call asks it of
    /// each server.
    fn price(&self, state: &ServerState, calls: f64) -> u64 {
        let (said, usual) = (state.costs(), self.usual);
        let Costs { call, fork, import, kept, .. } = said.unwrap_or_default();
        let calls = calls / state.share(self.now);
        let slots = self.usual.slots(state);
        let before = (calls + 1.0 - slots).max(0.0);
        let waits = before > 0.0;
        let wait = if waits { call.unwrap_or(usual.call).as_secs_f64() * before / slots } else { 0.0 };
        let busy = BUSY * (before / slots).max(1.0);
        let start = match self.is_fork(state) {
            true => alike(fork, usual.fork) * if waits || self.crowded { busy } else { 1.0 },
            false => {
                let import =
                    self.import.map_or_else(|| alike(import, usual.import), |time| time.as_secs_f64());
                import * if waits || self.crowded { busy } else { IMPORT }
            }
        };
        let lost = match used(self.handler_homes, state) {
            Some(_) => 1.0 - kept.unwrap_or(usual.kept).clamp(0.0, 1.0),
            None => 1.0,
        };
        ((wait + start * lost) * 1e9) as u64
    }
}

/// When a server was last chosen, if it is one of these.
fn used(homes: &[(ServerId, Time)], state: &ServerState) -> Option<Time> {
    homes.iter().find(|(id, _)| *id == state.server.id).map(|(_, used)| *used)
}

/// What one server says that a start costs, in seconds, or what is usual if that is about the same.
fn alike(said: Option<Time>, usual: Time) -> f64 {
    let usual = usual.as_secs_f64();
    let said = said.map_or(usual, |said| said.as_secs_f64());
    if said > usual * ALIKE || usual > said * ALIKE { said } else { usual }
}

impl Balance for CostAware {
    fn kind(&self) -> PolicyKind {
        PolicyKind::CostAware
    }

    fn known(&self) -> &Known {
        &self.known
    }

    fn known_mut(&mut self) -> &mut Known {
        &mut self.known
    }

    fn took_over(&mut self, key: &Key<'_>, server: ServerId, now: Time) -> bool {
        let handler = key.handler_hash();
        let homes = &mut self.known.homes;
        let is_new = homes.get(handler).is_none_or(|home| home.servers.iter().all(|(id, _)| *id != server));
        homes.add(handler, || Label::Handler(key.handler.into()), server, now);
        is_new
    }

    fn rank(&mut self, key: &Key<'_>, now: Time) -> Ranking {
        let Known { fleet, homes } = &mut self.known;
        let (handler, affinity) = (key.handler_hash(), key.affinity());
        if let Some(home) = homes.ask(handler) {
            home.retire(now, HOME_FOR);
        }
        let of = |hash| homes.get(hash).map_or(&[][..], |home| &home.servers[..]);
        let calls = fleet.calls(now);
        let question = Question {
            now,
            packages: key.packages,
            handler_homes: of(handler),
            packages_homes: of(affinity),
            usual: fleet.usual(),
            import: key.packages.and_then(|packages| fleet.import(packages)),
            crowded: fleet.is_crowded(&calls, now),
        };
        let candidates = fleet.ranked(|_, state| {
            (state.fitness(now), question.price(state, calls(state)), Reverse(state.affinity(affinity)))
        });
        let Some(&best) = candidates.first() else {
            return Ranking { candidates, choice: Choice::Unbound };
        };
        let choice = choice(fleet, question.handler_homes, best, now);
        homes.add(handler, || Label::Handler(key.handler.into()), best, now);
        if key.packages.is_some() {
            homes.add(affinity, || key.label(), best, now);
        }
        Ranking { candidates, choice }
    }
}

/// What it means for a handler with these homes that `best` is the best.
fn choice(fleet: &Fleet, homes: &[(ServerId, Time)], best: ServerId, now: Time) -> Choice {
    if homes.is_empty() {
        return Choice::Assigned;
    }
    if homes.iter().any(|(id, _)| *id == best) {
        return Choice::Kept;
    }
    let fittest = homes.iter().filter_map(|(id, _)| fleet.get(*id)).map(|state| state.fitness(now)).min();
    Choice::Moved(match fittest {
        None | Some(Fitness::SetAside) => MoveReason::Unavailable,
        Some(Fitness::Full) => MoveReason::MaxConn,
        Some(Fitness::Fit) => MoveReason::Wait,
    })
}
