//! Which server gets a call: one trait, [`Balance`], and its two policies, [`RoundRobin`] and [`Lard`].
//!
//! A policy does not choose a server, it ranks all of them: who fails over takes the next. A server that failed is set
//! aside for a while and ranked last; it is never left out, for when all have failed the last resort is to try.

mod fleet;
mod lard;
mod round_robin;

pub use fleet::{Fleet, ServerState};
pub use lard::{Lard, LardSettings};
pub use round_robin::RoundRobin;

use crate::Time;

/// A server's identity for as long as it is known; the caller gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(pub u32);

/// A server as it is configured or discovered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Its identity: the same id keeps its counts and its handlers.
    pub id: ServerId,
    /// Its name: what replicas of lard hash, so it must be the same for all of them.
    pub name: String,
    /// The most requests it may have in flight; `None` is unlimited.
    pub max_conn: Option<u32>,
}

/// What a server says of itself with a reply.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Report {
    /// CPU in use, 0 to 1.
    pub cpu: f64,
    /// Memory in use, 0 to 1.
    pub memory: f64,
    /// Calls that it has, from whomever.
    pub inflight: u32,
}

/// Why a key left its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MoveReason {
    /// Its server is loaded and another is idle.
    Imbalance,
    /// Its server is overloaded and another is less so.
    Overload,
    /// Its server has all the connections it may have.
    MaxConn,
    /// Its server failed or is gone.
    Unavailable,
    /// Its server refused a call, and another took it.
    Failover,
}

impl MoveReason {
    /// All reasons, for tables and tests.
    pub const ALL: [Self; 5] =
        [Self::Imbalance, Self::Overload, Self::MaxConn, Self::Unavailable, Self::Failover];

    /// The reason as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imbalance => "imbalance",
            Self::Overload => "overload",
            Self::MaxConn => "max_conn",
            Self::Unavailable => "unavailable",
            Self::Failover => "failover",
        }
    }
}

/// How a ranking came about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Choice {
    /// The policy knows no locality.
    Unbound,
    /// The key stays where it was.
    Kept,
    /// The key is new and now has a server.
    Assigned,
    /// The key has another server from now on.
    Moved(MoveReason),
}

/// All servers, the one to try first in front.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranking {
    /// The candidates: each server once.
    pub candidates: Vec<ServerId>,
    /// How the first came to be the first.
    pub choice: Choice,
}

/// A balancing policy. Each call it places is bracketed by [`begin`](Balance::begin) and
/// [`finish`](Balance::finish).
pub trait Balance: Send {
    /// The servers and what is known of them.
    fn fleet(&self) -> &Fleet;

    /// The same, to change.
    fn fleet_mut(&mut self) -> &mut Fleet;

    /// Ranks all servers for a call with this key.
    fn rank(&mut self, key: &str, now: Time) -> Ranking;

    /// The call ended up at another server than the first candidate: its key may follow it. True if it did.
    fn took_over(&mut self, key: &str, server: ServerId) -> bool;

    /// Which key is where, for those who look.
    fn assignments(&self) -> Vec<(String, ServerId)>;

    /// Replaces the servers; those whose id stays keep their counts.
    fn set_servers(&mut self, servers: Vec<Server>) {
        self.fleet_mut().set(servers);
    }

    /// A request goes to a server.
    fn begin(&mut self, server: ServerId) {
        self.fleet_mut().begin(server);
    }

    /// The request is over, however it ended.
    fn finish(&mut self, server: ServerId) {
        self.fleet_mut().finish(server);
    }

    /// A server replied: it is no longer set aside. `report` is what it said of its load.
    fn observe(&mut self, server: ServerId, report: Option<Report>, now: Time) {
        self.fleet_mut().observe(server, report, now);
    }

    /// A server could not be reached, broke off, or wants no calls: set it aside.
    fn failed(&mut self, server: ServerId, now: Time) {
        self.fleet_mut().failed(server, now);
    }
}

#[cfg(test)]
mod tests;
