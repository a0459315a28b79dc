//! The agents: the policy that ranks them, and the connections to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use openlambda_config::{BalancerConfig, LoadFormula as Formula, PolicyName, Server};
use openlambda_policy::balance::{
    Balance, Choice, Fleet, Key, Known, Label, MoveReason, PolicyKind, Ranking, Report, Server as Ranked,
    ServerId, ServerState, Settings as PolicySettings,
};
use openlambda_policy::load::LoadFormula;
use openlambda_policy::silence::Standing;
use parking_lot::{Mutex, RwLock};
use uuid::Uuid;

use crate::moves::{Move, Moves};
use crate::settings::Settings;
use crate::upstream::Upstream;

/// The policy and its parameters: they change together.
struct Chosen {
    policy: Box<dyn Balance>,
    settings: PolicySettings,
    moves: Moves,
}

/// All agents.
pub struct Targets {
    chosen: Mutex<Chosen>,
    upstreams: RwLock<HashMap<ServerId, Arc<Upstream>>>,
    /// The next agent's id; none is given twice.
    next: AtomicU32,
    connect_timeout: Duration,
    idle_timeout: Duration,
    epoch: Instant,
}

impl Targets {
    /// The agents of a configuration.
    pub fn new(config: &BalancerConfig, settings: &Settings) -> Self {
        let policy = kind(config.policy).build(parameters(config), Known::default(), seed());
        let targets = Self {
            chosen: Mutex::new(Chosen { policy, settings: parameters(config), moves: Moves::default() }),
            upstreams: RwLock::default(),
            next: AtomicU32::new(0),
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
            epoch: Instant::now(),
        };
        targets.replace(&config.servers);
        targets
    }

    /// This is the policy from now on. What the one before knew it knows too. False if it is no other.
    pub fn choose(&self, config: &BalancerConfig) -> bool {
        let (kind, settings) = (kind(config.policy), parameters(config));
        let mut chosen = self.chosen.lock();
        if (chosen.policy.kind(), chosen.settings) == (kind, settings) {
            return false;
        }
        let known = std::mem::take(chosen.policy.known_mut());
        chosen.policy = kind.build(settings, known, seed());
        chosen.settings = settings;
        true
    }

    /// These are the agents from now on. One that was there before keeps its connections and what is known of it.
    pub fn replace(&self, servers: &[Server]) {
        let old = self.upstreams.read().clone();
        let mut new = HashMap::with_capacity(servers.len());
        let mut fleet = Vec::with_capacity(servers.len());
        for server in servers {
            let same = old.iter().find(|(_, upstream)| upstream.is(server));
            let (id, upstream) = same.map_or_else(
                || {
                    let id = ServerId(self.next.fetch_add(1, Ordering::Relaxed));
                    (id, Arc::new(Upstream::new(server, self.connect_timeout, self.idle_timeout)))
                },
                |(id, upstream)| (*id, Arc::clone(upstream)),
            );
            fleet.push(Ranked { id, name: server.name.clone(), max_conn: server.max_conn });
            new.insert(id, upstream);
        }
        // Calls in flight to one that is gone hold it till they end.
        *self.upstreams.write() = new;
        self.chosen.lock().policy.set_servers(fleet, self.now());
    }

    /// Ranks the agents for a call.
    pub fn rank(&self, key: &Key<'_>) -> Ranking {
        let now = self.now();
        let mut chosen = self.chosen.lock();
        let ranking = chosen.policy.rank(key, now);
        if let (Choice::Moved(reason), Some(server)) = (ranking.choice, ranking.candidates.first()) {
            let label = chosen.label(key);
            chosen.moves.add(Move { at: now, label, server: *server, reason });
        }
        ranking
    }

    /// A call ended up elsewhere than ranked. True if the handler moved with it.
    pub fn took_over(&self, key: &Key<'_>, server: ServerId) -> bool {
        let now = self.now();
        let mut chosen = self.chosen.lock();
        let moved = chosen.policy.took_over(key, server, now);
        if moved {
            let label = chosen.label(key);
            chosen.moves.add(Move { at: now, label, server, reason: MoveReason::Failover });
        }
        moved
    }

    /// The connections to an agent.
    pub fn upstream(&self, server: ServerId) -> Option<Arc<Upstream>> {
        self.upstreams.read().get(&server).cloned()
    }

    /// All of them.
    pub fn upstreams(&self) -> HashMap<ServerId, Arc<Upstream>> {
        self.upstreams.read().clone()
    }

    /// Since when each agent has said nothing.
    pub fn standings(&self) -> Vec<(ServerId, Standing)> {
        let now = self.now();
        let of = |state: &ServerState| (state.server.id, state.standing(now));
        self.look(|policy, _, _| policy.fleet().states().iter().map(of).collect())
    }

    /// For how long an agent has said nothing.
    pub fn quiet(&self, server: ServerId) -> Option<Duration> {
        let now = self.now();
        self.look(|policy, _, _| policy.fleet().get(server)?.standing(now).quiet)
    }

    /// An agent does not say a word when it is asked; or it does after all. True if that is new.
    pub fn mute(&self, server: ServerId, mute: bool) -> bool {
        let mut chosen = self.chosen.lock();
        let was = chosen.policy.fleet().get(server).is_some_and(|state| state.mute);
        chosen.policy.mute(server, mute);
        was != mute
    }

    /// An agent said how loaded it is, but answered no call.
    pub fn hear(&self, server: ServerId, report: Report) {
        self.chosen.lock().policy.hear(server, report, self.now());
    }

    /// An agent answered.
    pub fn observe(&self, server: ServerId, report: Option<Report>) {
        self.chosen.lock().policy.observe(server, report, self.now());
    }

    /// An agent failed, or wants no more calls.
    pub fn failed(&self, server: ServerId) {
        self.chosen.lock().policy.failed(server, self.now());
    }

    /// Closes connections that are of no more use.
    pub fn sweep(&self) {
        for upstream in self.upstreams.read().values() {
            upstream.sweep();
        }
    }

    /// How long lard has been running.
    pub fn now(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// Shows what is known: the policy, its parameters, the moves of the last minutes.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&dyn Balance, PolicySettings, &Moves) -> T) -> T {
        let chosen = self.chosen.lock();
        at(&*chosen.policy, chosen.settings, &chosen.moves)
    }

    /// Calls in flight to each agent, and its load: 0 to 1.
    pub fn loads(&self) -> Vec<(ServerId, u32, f64)> {
        let now = self.now();
        self.look(|policy, settings, _| loads(policy.fleet(), settings.formula, now))
    }
}

impl Chosen {
    /// What moves under this policy when a call's handler does.
    fn label(&self, key: &Key<'_>) -> Label {
        match self.policy.kind() {
            PolicyKind::CostAware => Label::Handler(key.handler.into()),
            _ => key.label(),
        }
    }
}

/// Calls in flight to each agent, and its load.
pub(crate) fn loads(fleet: &Fleet, formula: LoadFormula, now: Duration) -> Vec<(ServerId, u32, f64)> {
    let loads = fleet.loads(formula, now);
    let both = fleet.states().iter().zip(loads);
    both.map(|(state, load)| (state.server.id, state.connections, load.get())).collect()
}

fn parameters(config: &BalancerConfig) -> PolicySettings {
    PolicySettings {
        formula: formula(config.load_formula),
        high: config.load_high,
        low: config.load_low,
        ..PolicySettings::default()
    }
}

/// Chance differs between replicas.
fn seed() -> u64 {
    Uuid::new_v4().as_u64_pair().0
}

const fn kind(name: PolicyName) -> PolicyKind {
    match name {
        PolicyName::RoundRobin => PolicyKind::RoundRobin,
        PolicyName::LeastLoaded => PolicyKind::LeastLoaded,
        PolicyName::PowerOfTwo => PolicyKind::PowerOfTwo,
        PolicyName::ConsistentHashBoundedLoads => PolicyKind::BoundedLoads,
        PolicyName::Lard => PolicyKind::Lard,
        PolicyName::LardReplicated => PolicyKind::LardReplicated,
        PolicyName::CostAware => PolicyKind::CostAware,
    }
}

const fn formula(name: Formula) -> LoadFormula {
    match name {
        Formula::Connections => LoadFormula::Connections,
        Formula::AverageResource => LoadFormula::AverageResource,
        Formula::AverageResourceConnections => LoadFormula::AverageResourceConnections,
        Formula::DominantResource => LoadFormula::DominantResource,
        Formula::DominantResourceConnections => LoadFormula::DominantResourceConnections,
    }
}

/// A call in flight to an agent; counted out when dropped.
pub struct InFlight {
    targets: Arc<Targets>,
    server: ServerId,
}

impl InFlight {
    /// Counts a call in.
    pub fn begin(targets: &Arc<Targets>, server: ServerId) -> Self {
        targets.chosen.lock().policy.begin(server);
        Self { targets: Arc::clone(targets), server }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.targets.chosen.lock().policy.finish(self.server);
    }
}
