//! What is known of the servers: requests in flight, last report, back-off.
//!
//! - A report ages: it counts in full for a while and then less and less.
//! - A server that was never heard of is taken for an average one, neither idle nor full.
//! - One that joins others is new for a while: it gets its share little by little, since all that it gets is cold.
//! - One that failed is set aside, then probed with one call at a time until one succeeds.
//! - One that is mute (it does not say a word when it is asked) is set aside until it says something.

use super::usual::Usual;
use super::{Costs, Report, Server, ServerId};
use crate::Time;
use crate::backoff::Backoff;
use crate::hash::{fnv, mix};
use crate::load::{Load, LoadFormula, LoadSample};
use crate::silence::Standing;

/// How long a report counts in full.
const FRESH: Time = Time::from_secs(5);
/// In which time it then halves, again and again. A report comes with a reply, so a server that gets no calls can
/// never say that it has become idle; without this it would never get one again.
const HALF_LIFE: Time = Time::from_secs(5);
/// How much the newest count of others' calls counts. They come and go between two reports: a single count is noise.
const SMOOTH: f64 = 0.3;
/// How long a server that joins others is new.
const NEW_FOR: Time = Time::from_secs(10);
/// What a new server counts for at first, compared with one that is not.
const FIRST_SHARE: f64 = 0.1;
/// The share of all places that are next to none.
const FEW: f64 = 0.05;

/// One server as a policy sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerState {
    /// The server.
    pub server: Server,
    /// Requests of ours in flight to it.
    pub connections: u32,
    /// Its last report and when it came.
    pub report: Option<(Report, Time)>,
    /// Calls that it has from others, other replicas of lard: a mean of what it reported lately.
    pub foreign: f64,
    /// Whether it is set aside.
    pub backoff: Backoff,
    /// When it last said anything.
    pub heard: Option<Time>,
    /// Whether it says nothing, asked or not.
    pub mute: bool,
    /// When it joined others that were there before.
    joined: Option<Time>,
    /// The hash of its name, for rendezvous.
    hash: u64,
}

/// How fit a server is, best first: the first criterion of every ranking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fitness {
    Fit,
    /// At its `MaxConn`.
    Full,
    /// It failed, and is to be left alone or probed no more than it is; or it is mute.
    SetAside,
}

impl ServerState {
    fn new(server: Server) -> Self {
        let hash = fnv(&server.name);
        Self {
            server,
            connections: 0,
            report: None,
            foreign: 0.0,
            backoff: Backoff::default(),
            heard: None,
            mute: false,
            joined: None,
            hash,
        }
    }

    /// Its load now, as far as it is known from itself alone.
    pub fn load(&self, formula: LoadFormula, now: Time) -> Load {
        let weight = self.weight(now);
        let (cpu, memory) = self.report.as_ref().map_or((0.0, 0.0), |(r, _)| (r.cpu, r.memory));
        formula.load(&LoadSample {
            cpu: cpu * weight,
            memory: memory * weight,
            connections: self.calls(now),
            max_conn: self.server.max_conn,
        })
    }

    /// Calls that it has: ours, and those of other replicas of lard as far as they are known.
    pub fn calls(&self, now: Time) -> u32 {
        self.connections.saturating_add(self.others(now))
    }

    /// Calls that it has from others, as far as that is known.
    fn others(&self, now: Time) -> u32 {
        if self.foreign == 0.0 {
            return 0;
        }
        // Rounded.
        (self.foreign * self.weight(now) + 0.5) as u32
    }

    /// What its report still counts for.
    fn weight(&self, now: Time) -> f64 {
        self.report.as_ref().map_or(0.0, |(_, at)| weight(now.saturating_sub(*at)))
    }

    /// What calls cost there, if it said so.
    pub fn costs(&self) -> Option<Costs> {
        self.report.as_ref().and_then(|(report, _)| report.costs)
    }

    /// Whether it has a Zygote with these packages, if it says which it has.
    pub fn zygote(&self, packages: u64) -> Option<bool> {
        let (report, _) = self.report.as_ref()?;
        Some(report.zygotes.as_ref()?.iter().any(|zygote| zygote.set == packages))
    }

    /// What it says that the import of these packages costs.
    fn import(&self, packages: u64) -> Option<Time> {
        let (report, _) = self.report.as_ref()?;
        let mut zygotes = report.zygotes.as_ref()?.iter();
        zygotes.find(|zygote| zygote.set == packages).map(|zygote| zygote.import)
    }

    /// From [`FIRST_SHARE`] to 1: what it counts for while it is new.
    pub(super) fn share(&self, now: Time) -> f64 {
        self.joined.map_or(1.0, |joined| {
            let age = now.saturating_sub(joined).as_secs_f64() / NEW_FOR.as_secs_f64();
            age.clamp(FIRST_SHARE, 1.0)
        })
    }

    pub(super) fn fitness(&self, now: Time) -> Fitness {
        let probed = self.backoff.failures() > 0 && self.connections > 0;
        if self.mute || self.backoff.is_open(now) || probed {
            Fitness::SetAside
        } else if self.server.max_conn.is_some_and(|max| self.connections >= max) {
            Fitness::Full
        } else {
            Fitness::Fit
        }
    }

    /// It said something.
    fn say(&mut self, now: Time) {
        self.heard = Some(now);
        self.mute = false;
    }

    /// Whether it still is there, as far as that can be told from here.
    pub fn standing(&self, now: Time) -> Standing {
        let age = |at: Time| now.saturating_sub(at);
        Standing {
            quiet: self.heard.map(age),
            report: self.report.as_ref().map(|(_, at)| age(*at)),
            owes: self.connections > 0,
        }
    }

    /// Its place for a key by rendezvous hashing: the highest wins.
    pub(super) fn affinity(&self, key_hash: u64) -> u64 {
        mix(self.hash ^ key_hash)
    }
}

fn weight(age: Time) -> f64 {
    let stale = age.saturating_sub(FRESH).as_secs_f64();
    if stale == 0.0 {
        return 1.0;
    }
    0.5_f64.powf(stale / HALF_LIFE.as_secs_f64())
}

/// The servers, in the order they were given.
#[derive(Clone, Debug, Default)]
pub struct Fleet {
    states: Vec<ServerState>,
    /// Made anew when a server says other costs: most reports repeat them.
    usual: Usual,
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

    /// A server and its place.
    pub(super) fn position(&self, id: ServerId) -> Option<(usize, &ServerState)> {
        self.states.iter().enumerate().find(|(_, state)| state.server.id == id)
    }

    /// The indices of all servers, sorted by a key; equal ones by their place.
    pub(super) fn sorted<K: Ord>(&self, key: impl Fn(usize, &ServerState) -> K) -> Vec<usize> {
        self.keyed(key).map(|(index, _)| index).collect()
    }

    /// All servers, in the same order.
    pub(super) fn ranked<K: Ord>(&self, key: impl Fn(usize, &ServerState) -> K) -> Vec<ServerId> {
        self.keyed(key).map(|(_, id)| id).collect()
    }

    fn keyed<K: Ord>(
        &self,
        key: impl Fn(usize, &ServerState) -> K,
    ) -> impl Iterator<Item = (usize, ServerId)> {
        let keyed = |(index, state): (usize, &ServerState)| (key(index, state), index, state.server.id);
        let mut keyed: Vec<_> = self.states.iter().enumerate().map(keyed).collect();
        keyed.sort_unstable();
        keyed.into_iter().map(|(_, index, id)| (index, id))
    }

    /// The loads of all servers: those of the unknown and the new in proportion to the others'.
    pub fn loads(&self, formula: LoadFormula, now: Time) -> Vec<Load> {
        let mut loads: Vec<Load> = self.states.iter().map(|state| state.load(formula, now)).collect();
        let known = self.states.iter().zip(&loads).filter(|(state, _)| state.report.is_some());
        let (count, sum) = known.fold((0_u32, 0.0), |(n, sum), (_, load)| (n + 1, sum + load.get()));
        if count == 0 {
            return loads;
        }
        let mean = sum / f64::from(count);
        for (state, load) in self.states.iter().zip(&mut loads) {
            let share = state.share(now);
            if state.report.is_none() {
                *load = Load::new(load.get().max(mean));
            }
            if share < 1.0 {
                *load = Load::new((load.get() / share).max(mean * (1.0 - share)));
            }
        }
        loads
    }

    /// The calls of all servers. One that was never heard of is taken to have as many from others as the mean of those
    /// that were: neither idle nor full.
    pub fn calls(&self, now: Time) -> impl Fn(&ServerState) -> f64 + use<> {
        let heard = || self.states.iter().filter(|state| state.report.is_some());
        let count = heard().count();
        let foreign = |state: &ServerState| f64::from(state.others(now));
        // Nobody asks for the mean if all were heard of.
        let sum: f64 = if count < self.states.len() { heard().map(foreign).sum() } else { 0.0 };
        let mean = sum / count.max(1) as f64;
        move |state| match state.report {
            Some(_) => f64::from(state.calls(now)),
            None => f64::from(state.connections) + mean,
        }
    }

    /// Whether one call more leaves no more places than [`FEW`] of all, or one.
    pub(super) fn is_crowded(&self, calls: impl Fn(&ServerState) -> f64, now: Time) -> bool {
        let (mut free, mut all) = (0.0, 0.0);
        for state in self.states.iter().filter(|state| state.fitness(now) == Fitness::Fit) {
            let slots = self.usual.slots(state);
            free += (slots - calls(state)).max(0.0);
            all += slots;
        }
        free - 1.0 <= (all * FEW).max(1.0)
    }

    /// What the import of these packages costs: the most that a server says which has them.
    pub(super) fn import(&self, packages: u64) -> Option<Time> {
        self.states.iter().filter_map(|state| state.import(packages)).max()
    }

    /// What calls cost at most of the servers.
    pub(super) fn usual(&self) -> &Usual {
        &self.usual
    }

    pub(super) fn set(&mut self, servers: Vec<Server>, now: Time) {
        let mut old = std::mem::take(&mut self.states);
        let others = !old.is_empty();
        for server in servers {
            let known = old.iter().position(|s| s.server.id == server.id);
            let mut state = ServerState::new(server);
            state.joined = others.then_some(now);
            if let Some(index) = known {
                let before = old.swap_remove(index);
                state.connections = before.connections;
                state.report = before.report;
                state.foreign = before.foreign;
                state.backoff = before.backoff;
                state.heard = before.heard;
                state.mute = before.mute;
                state.joined = before.joined;
            }
            self.states.push(state);
        }
        self.usual = Usual::new(&self.states);
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
        state.say(now);
        if let Some(report) = report {
            self.hear(id, report, now);
        }
    }

    pub(super) fn hear(&mut self, id: ServerId, report: Report, now: Time) {
        if let Some(state) = self.get_mut(id) {
            let foreign = f64::from(report.inflight.saturating_sub(state.connections));
            let newest = if state.report.is_some() { SMOOTH } else { 1.0 };
            state.foreign += newest * (foreign - state.foreign);
            state.say(now);
            let before = state.costs();
            state.report = Some((report, now));
            if state.costs() != before {
                self.usual = Usual::new(&self.states);
            }
        }
    }

    pub(super) fn failed(&mut self, id: ServerId, now: Time) {
        if let Some(state) = self.get_mut(id) {
            state.backoff.fail(now);
        }
    }

    pub(super) fn mute(&mut self, id: ServerId, mute: bool) {
        if let Some(state) = self.get_mut(id) {
            state.mute = mute;
        }
    }

    fn get_mut(&mut self, id: ServerId) -> Option<&mut ServerState> {
        self.states.iter_mut().find(|s| s.server.id == id)
    }
}
