//! Which server gets a call: one trait, [`Balance`], and its seven policies, by name in [`PolicyKind`].
//!
//! A policy does not choose a server, it ranks all of them: who fails over takes the next. A server that failed is set
//! aside for a while and ranked last; it is never left out, for when all have failed the last resort is to try.
//!
//! What is known (the servers, and which key has its home where) is the same for all policies, [`Known`], so that one
//! can take over from another between two calls.

mod bounded;
mod cost_aware;
mod fleet;
mod homes;
mod known;
mod lard;
mod lard_replicated;
mod least_loaded;
mod power_of_two;
mod round_robin;
mod usual;

use std::sync::Arc;

pub use bounded::BoundedLoads;
pub use cost_aware::CostAware;
pub use fleet::{Fleet, ServerState};
pub use homes::{Homes, Label};
pub use known::Known;
pub use lard::Lard;
pub use lard_replicated::LardReplicated;
pub use least_loaded::LeastLoaded;
pub use power_of_two::PowerOfTwo;
pub use round_robin::RoundRobin;

use crate::Time;
use crate::hash::{fnv, mix};
use crate::load::LoadFormula;

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

/// What a call is ranked by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key<'a> {
    /// The handler's name: where its instances are.
    pub handler: &'a str,
    /// The digest of the packages that it needs, if any: where their Zygote is.
    pub packages: Option<u64>,
}

impl<'a> Key<'a> {
    /// A handler that needs no packages.
    pub const fn plain(handler: &'a str) -> Self {
        Self { handler, packages: None }
    }

    /// What is to meet at one server: handlers with the same packages, else the handler itself.
    pub fn affinity(&self) -> u64 {
        self.packages.map_or_else(|| fnv(self.handler), mix)
    }

    /// The handler alone.
    pub fn handler_hash(&self) -> u64 {
        fnv(self.handler)
    }

    /// What [`affinity`](Self::affinity) is the hash of.
    pub fn label(&self) -> Label {
        self.packages.map_or_else(|| Label::Handler(self.handler.into()), Label::Packages)
    }
}

/// What a server says of itself with a reply. Times are means of what it did lately.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// CPU in use, 0 to 1.
    pub cpu: f64,
    /// Memory in use, 0 to 1.
    pub memory: f64,
    /// Calls that it has, from whomever.
    pub inflight: u32,
    /// What a call waits for and what it costs there, if it says so.
    pub costs: Option<Costs>,
    /// The package sets that it has a Zygote for; `None` if it does not say.
    pub zygotes: Option<Arc<[Zygote]>>,
}

/// A package set that some Zygote of a server has imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zygote {
    /// The digest of the set.
    pub set: u64,
    /// What its import costs where there is no such Zygote.
    pub import: Time,
}

/// What calls cost at a server, as far as it has measured it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Calls that it serves at once before one waits.
    pub slots: u32,
    /// How long a call holds its slot.
    pub call: Option<Time>,
    /// What a start from a Zygote that has the packages adds.
    pub fork: Option<Time>,
    /// What a start adds for which the packages are imported first.
    pub import: Option<Time>,
    /// Of the calls of handlers that ran there before, the share that found an instance, 0 to 1.
    pub kept: Option<f64>,
}

/// Why a key left its server, or got one more.
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
    /// To wait at its server would take longer than a start elsewhere.
    Wait,
}

impl MoveReason {
    /// All reasons, for tables and tests.
    pub const ALL: [Self; 6] =
        [Self::Imbalance, Self::Overload, Self::MaxConn, Self::Unavailable, Self::Failover, Self::Wait];

    /// The reason as a metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Imbalance => "imbalance",
            Self::Overload => "overload",
            Self::MaxConn => "max_conn",
            Self::Unavailable => "unavailable",
            Self::Failover => "failover",
            Self::Wait => "wait",
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
    /// The key has another server from now on, or one more.
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
    /// Which policy this is.
    fn kind(&self) -> PolicyKind;

    /// The servers, what is known of them, and where keys are.
    fn known(&self) -> &Known;

    /// The same, to change.
    fn known_mut(&mut self) -> &mut Known;

    /// Ranks all servers for a call with this key.
    fn rank(&mut self, key: &Key<'_>, now: Time) -> Ranking;

    /// The servers.
    fn fleet(&self) -> &Fleet {
        &self.known().fleet
    }

    /// The call ended up at another server than the first candidate: its key may follow it. True if it did.
    fn took_over(&mut self, key: &Key<'_>, server: ServerId, now: Time) -> bool {
        self.known_mut().homes.take_over(key.affinity(), server, now)
    }

    /// Which key is where, for those who look.
    fn assignments(&self) -> Vec<(Label, Vec<ServerId>)> {
        self.known().homes.list()
    }

    /// Replaces the servers; those whose id stays keep their counts.
    fn set_servers(&mut self, servers: Vec<Server>, now: Time) {
        self.known_mut().fleet.set(servers, now);
    }

    /// A request goes to a server.
    fn begin(&mut self, server: ServerId) {
        self.known_mut().fleet.begin(server);
    }

    /// The request is over, however it ended.
    fn finish(&mut self, server: ServerId) {
        self.known_mut().fleet.finish(server);
    }

    /// A server replied: it is no longer set aside. `report` is what it said of its load.
    fn observe(&mut self, server: ServerId, report: Option<Report>, now: Time) {
        self.known_mut().fleet.observe(server, report, now);
    }

    /// A server said how loaded it is, but not with a reply to a call: whether it takes calls is not known from that.
    fn hear(&mut self, server: ServerId, report: Report, now: Time) {
        self.known_mut().fleet.hear(server, report, now);
    }

    /// A server could not be reached, broke off, or wants no calls: set it aside.
    fn failed(&mut self, server: ServerId, now: Time) {
        self.known_mut().fleet.failed(server, now);
    }

    /// A server does not say a word when it is asked: set it aside until it does; or it is no such server after all.
    fn mute(&mut self, server: ServerId, mute: bool) {
        self.known_mut().fleet.mute(server, mute);
    }
}

/// The parameters of all policies, by the names of the configuration.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// How load is computed.
    pub formula: LoadFormula,
    /// `LoadHigh`: with this load a server gives keys away.
    pub high: f64,
    /// `LoadLow`: below this load a server takes keys.
    pub low: f64,
    /// By how much a server may exceed the mean of all under [`PolicyKind::BoundedLoads`].
    pub bound: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { formula: LoadFormula::default(), high: 0.4, low: 0.2, bound: 1.25 }
    }
}

/// The policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PolicyKind {
    /// One after the other.
    RoundRobin,
    /// The least loaded.
    LeastLoaded,
    /// The less loaded of two at random.
    PowerOfTwo,
    /// By the handler's name, as long as the load allows it.
    BoundedLoads,
    /// A key has one server, until that is overloaded.
    Lard,
    /// A key has as many servers as it needs.
    LardReplicated,
    /// Where waiting and starting together take the least time.
    CostAware,
}

impl PolicyKind {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::RoundRobin,
        Self::LeastLoaded,
        Self::PowerOfTwo,
        Self::BoundedLoads,
        Self::Lard,
        Self::LardReplicated,
        Self::CostAware,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "RoundRobin",
            Self::LeastLoaded => "LeastLoaded",
            Self::PowerOfTwo => "PowerOfTwo",
            Self::BoundedLoads => "ConsistentHashBoundedLoads",
            Self::Lard => "LARD",
            Self::LardReplicated => "LARD/R",
            Self::CostAware => "CostAware",
        }
    }

    /// Whether a key has servers of its own.
    pub const fn has_homes(self) -> bool {
        matches!(self, Self::Lard | Self::LardReplicated | Self::CostAware)
    }

    /// The policy, with what is known already. `seed` is its chance; replicas may differ in it.
    pub fn build(self, settings: Settings, mut known: Known, seed: u64) -> Box<dyn Balance> {
        if !self.has_homes() {
            known.homes = Homes::default();
        }
        match self {
            Self::RoundRobin => Box::new(RoundRobin::new(known)),
            Self::LeastLoaded => Box::new(LeastLoaded::new(settings, known)),
            Self::PowerOfTwo => Box::new(PowerOfTwo::new(settings, known, seed)),
            Self::BoundedLoads => Box::new(BoundedLoads::new(settings, known)),
            Self::Lard => Box::new(Lard::new(settings, known)),
            Self::LardReplicated => Box::new(LardReplicated::new(settings, known)),
            Self::CostAware => Box::new(CostAware::new(known)),
        }
    }
}

#[cfg(test)]
mod tests;
