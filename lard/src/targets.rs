//! The agents: the policy that ranks them, and the connections to them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use openlambda_api::LoadReport;
use openlambda_config::{BalancerConfig, LoadFormula as Formula, PolicyName, Server};
use openlambda_policy::balance::{
    Balance, Lard, LardSettings, Ranking, Report, RoundRobin, Server as Ranked, ServerId, ServerState,
};
use openlambda_policy::load::LoadFormula;
use parking_lot::{Mutex, RwLock};
use serde::Serialize;

use crate::settings::Settings;
use crate::upstream::Upstream;

/// All agents.
pub struct Targets {
    policy: Mutex<Box<dyn Balance>>,
    upstreams: RwLock<HashMap<ServerId, Arc<Upstream>>>,
    /// The next agent's id; none is given twice.
    next: AtomicU32,
    connect_timeout: Duration,
    idle_timeout: Duration,
    formula: LoadFormula,
    epoch: Instant,
}

/// What `/debug/targets` shows of an agent.
#[derive(Debug, Serialize)]
pub struct TargetView {
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Calls in flight to it.
    pub connections: u32,
    /// The most there may be.
    pub max_conn: Option<u32>,
    /// Connections open and unused.
    pub idle_connections: usize,
    /// Its load, 0 to 1.
    pub load: f64,
    /// CPU as it last reported.
    pub cpu: Option<f64>,
    /// Memory as it last reported.
    pub memory: Option<f64>,
    /// Failures in a row.
    pub failures: u32,
    /// For how long it is still set aside.
    pub set_aside_ms: u128,
}

impl Targets {
    /// The agents of a configuration.
    pub fn new(config: &BalancerConfig, settings: &Settings) -> Self {
        let formula = formula(config.load_formula);
        let policy: Box<dyn Balance> = match config.policy {
            PolicyName::RoundRobin => Box::new(RoundRobin::default()),
            PolicyName::Lard => {
                Box::new(Lard::new(LardSettings { formula, high: config.load_high, low: config.load_low }))
            }
        };
        let targets = Self {
            policy: Mutex::new(policy),
            upstreams: RwLock::default(),
            next: AtomicU32::new(0),
            connect_timeout: settings.connect_timeout,
            idle_timeout: settings.idle_timeout,
            formula,
            epoch: Instant::now(),
        };
        targets.replace(&config.servers);
        targets
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
        self.policy.lock().set_servers(fleet);
    }

    /// Ranks the agents for a handler.
    pub fn rank(&self, handler: &str) -> Ranking {
        self.policy.lock().rank(handler, self.epoch.elapsed())
    }

    /// A call ended up elsewhere than ranked. True if the handler moved with it.
    pub fn took_over(&self, handler: &str, server: ServerId) -> bool {
        self.policy.lock().took_over(handler, server)
    }

    /// The connections to an agent.
    pub fn upstream(&self, server: ServerId) -> Option<Arc<Upstream>> {
        self.upstreams.read().get(&server).cloned()
    }

    /// An agent answered.
    pub fn observe(&self, server: ServerId, report: Option<LoadReport>) {
        let report = report.map(|r| Report {
            cpu: r.cpu,
            memory: r.memory,
            inflight: u32::try_from(r.inflight).unwrap_or(u32::MAX),
        });
        self.policy.lock().observe(server, report, self.epoch.elapsed());
    }

    /// An agent failed, or wants no more calls.
    pub fn failed(&self, server: ServerId) {
        self.policy.lock().failed(server, self.epoch.elapsed());
    }

    /// Closes connections that are of no more use.
    pub fn sweep(&self) {
        for upstream in self.upstreams.read().values() {
            upstream.sweep();
        }
    }

    /// What is known of the agents.
    pub fn view(&self) -> Vec<TargetView> {
        let now = self.epoch.elapsed();
        let policy = self.policy.lock();
        let upstreams = self.upstreams.read();
        let view = |state: &ServerState| {
            let upstream = upstreams.get(&state.server.id)?;
            Some(TargetView {
                name: upstream.name.clone(),
                address: upstream.address(),
                connections: state.connections,
                max_conn: state.server.max_conn,
                idle_connections: upstream.idle(),
                load: state.load(self.formula, now).get(),
                cpu: state.report.map(|(report, _)| report.cpu),
                memory: state.report.map(|(report, _)| report.memory),
                failures: state.backoff.failures(),
                set_aside_ms: state.backoff.remaining(now).as_millis(),
            })
        };
        policy.fleet().states().iter().filter_map(view).collect()
    }

    /// Which handler is at which agent.
    pub fn assignments(&self) -> Vec<(String, String)> {
        let name = |id| self.upstream(id).map_or_else(String::new, |u| u.name.clone());
        let assignments = self.policy.lock().assignments();
        assignments.into_iter().map(|(handler, id)| (handler, name(id))).collect()
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
        targets.policy.lock().begin(server);
        Self { targets: Arc::clone(targets), server }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.targets.policy.lock().finish(self.server);
    }
}
