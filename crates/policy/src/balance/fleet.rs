//! What both policies know of the servers: requests in flight, last report, back-off.

use super::{Report, Server, ServerId};
use crate::Time;
use crate::backoff::Backoff;
use crate::load::{Load, LoadFormula, LoadSample};

/// How long a report counts in full.
const FRESH: Time = Time::from_secs(5);
/// In which time it then halves, again and again. A report comes with a reply, so a server that gets no calls can
/// never say that it has become idle; without this it would never get one again.
const HALF_LIFE: Time = Time::from_secs(5);

/// One server as a policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerState {
    /// The server.
    pub server: Server,
    /// Requests of ours in flight to it.
    pub connections: u32,
    /// Its last report and when it came.
    pub report: Option<(Report, Time)>,
    /// Calls that it had from others when it reported: those of other replicas of lard.
    pub foreign: u32,
    /// Whether it is set aside.
    pub backoff: Backoff,
    /// The hash of its name, for rendezvous.
    hash: u64,
}

/// How fit a server is, best first: the first criterion of every ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    Fit,
    /// At its `MaxConn`.
    Full,
    SetAside,
}

impl ServerState {
    fn new(server: Server) -> Self {
        let hash = fnv(&server.name);
        Self { server, connections: 0, report: None, foreign: 0, backoff: Backoff::default(), hash }
    }

    /// Its load now.
    pub fn load(&self, formula: LoadFormula, now: Time) -> Load {
        let (report, weight) = match self.report {
            Some((report, at)) => (report, weight(now.saturating_sub(at))),
            None => (Report::default(), 0.0),
        };
        let foreign = (f64::from(self.foreign) * weight) as u32;
        formula.load(&LoadSample {
            cpu: report.cpu * weight,
            memory: report.memory * weight,
            connections: self.connections.saturating_add(foreign),
            max_conn: self.server.max_conn,
        })
    }

    pub(super) fn fitness(&self, now: Time) -> Fitness {
        if self.backoff.is_open(now) {
            Fitness::SetAside
        } else if self.server.max_conn.is_some_and(|max| self.connections >= max) {
            Fitness::Full
        } else {
            Fitness::Fit
        }
    }

    /// Its place for a key by rendezvous hashing: the highest wins.
    pub(super) fn affinity(&self, key_hash: u64) -> u64 {
        mix(self.hash ^ key_hash)
    }
}

fn weight(age: Time) -> f64 {
    let stale = age.saturating_sub(FRESH).as_secs_f64();
    0.5_f64.powf(stale / HALF_LIFE.as_secs_f64())
}

/// FNV-1a, finished by [`mix`]: the same on every machine and in every version, as replicas must agree.
pub(super) fn fnv(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    mix(hash)
}

/// The finalizer of splitmix64: every input bit reaches every output bit.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The servers, in the order they were given.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    states: Vec<ServerState>,
}

impl Fleet {
    /// The servers' states.
    pub fn states(&self) -> &[ServerState] {
        &self.states
    }

    /// One server's state.
    pub fn get(&self, id: ServerId) -> Option<&ServerState> {
        self.states.iter().find(|s| s.server.id == id)
    }

    pub(super) fn set(&mut self, servers: Vec<Server>) {
        let mut old = std::mem::take(&mut self.states);
        for server in servers {
            let known = old.iter().position(|s| s.server.id == server.id);
            let mut state = ServerState::new(server);
            if let Some(index) = known {
                let before = old.swap_remove(index);
                state.connections = before.connections;
                state.report = before.report;
                state.foreign = before.foreign;
                state.backoff = before.backoff;
            }
            self.states.push(state);
        }
    }

    pub(super) fn begin(&mut self, id: ServerId) {
        if let Some(state) = self.get_mut(id) {
            state.connections = state.connections.saturating_add(1);
        }
    }

    pub(super) fn finish(&mut self, id: ServerId) {
        if let Some(state) = self.get_mut(id) {
            state.connections = state.connections.saturating_sub(1);
        }
    }

    pub(super) fn observe(&mut self, id: ServerId, report: Option<Report>, now: Time) {
        let Some(state) = self.get_mut(id) else { return };
        state.backoff.succeed();
        if let Some(report) = report {
            state.foreign = report.inflight.saturating_sub(state.connections);
            state.report = Some((report, now));
        }
    }

    pub(super) fn failed(&mut self, id: ServerId, now: Time) {
        if let Some(state) = self.get_mut(id) {
            state.backoff.fail(now);
        }
    }

    fn get_mut(&mut self, id: ServerId) -> Option<&mut ServerState> {
        self.states.iter_mut().find(|s| s.server.id == id)
    }
}
