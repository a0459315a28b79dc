//! What `/debug/targets` shows: who serves what, how loaded the agents are, what moved lately and why.

use std::collections::BTreeMap;

use openlambda_policy::balance::{Label, ServerId, ServerState};
use serde::{Deserialize, Serialize};

use crate::gateway::Gateway;
use crate::targets::loads;

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct View {
    /// The policy, by its name in the configuration.
    pub policy: String,
    /// How load is computed.
    pub formula: String,
    /// `LoadHigh`.
    pub load_high: f64,
    /// `LoadLow`.
    pub load_low: f64,
    /// Calls that run under the limits of connections.
    pub running: usize,
    /// Calls that wait under them.
    pub waiting: usize,
    /// Calls that wait for an agent.
    pub held: usize,
    /// The agents.
    pub servers: Vec<ServerView>,
    /// Which handler is at which agents.
    pub handlers: BTreeMap<String, Vec<String>>,
    /// Which package set (by its digest) is at which agents.
    pub packages: BTreeMap<String, Vec<String>>,
    /// What moved in the last ten minutes, the latest first.
    pub moves: Vec<MoveView>,
}

/// An agent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name.
    pub name: String,
    /// `host:port`.
    pub address: String,
    /// Calls in flight to it.
    pub connections: u32,
    /// Calls that it has from others, as far as it is known.
    pub foreign: u32,
    /// The most there may be.
    pub max_conn: Option<u32>,
    /// Connections open and unused.
    pub idle_connections: usize,
    /// Its load, 0 to 1.
    pub load: f64,
    /// CPU as it last reported, 0 to 1.
    pub cpu: Option<f64>,
    /// Memory as it last reported, 0 to 1.
    pub memory: Option<f64>,
    /// How old that report is.
    pub report_age_ms: Option<u64>,
    /// The package sets that it has a Zygote for, by their digests, if it says so.
    pub zygotes: Option<Vec<String>>,
    /// Failures in a row.
    pub failures: u32,
    /// For how long it is still set aside.
    pub set_aside_ms: u64,
    /// Whether it says nothing, its admin port neither: then it is set aside too.
    pub mute: bool,
}

/// A move.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MoveView {
    /// How long ago.
    pub seconds_ago: f64,
    /// What: a handler, or `packages:` and the digest of a set.
    pub key: String,
    /// Whereto.
    pub to: String,
    /// Why.
    pub reason: String,
}

/// What is known now.
pub fn view(gateway: &Gateway) -> View {
    let now = gateway.targets.now();
    let upstreams = gateway.targets.upstreams();
    let name = |id: &ServerId| upstreams.get(id).map_or_else(|| "gone".to_owned(), |u| u.name.clone());
    let (running, waiting) = gateway.gate.counts();
    gateway.targets.look(|policy, settings, moves| {
        let loads = loads(policy.fleet(), settings.formula, now);
        let server = |(state, load): (&ServerState, f64)| {
            let upstream = upstreams.get(&state.server.id)?;
            let mut view = server(state, load, now);
            (view.address, view.idle_connections) = (upstream.address(), upstream.idle());
            Some(view)
        };
        let mut view = View {
            policy: policy.kind().name().to_owned(),
            formula: settings.formula.name().to_owned(),
            load_high: settings.high,
            load_low: settings.low,
            running,
            waiting,
            held: gateway.hold.waiting(),
            servers: policy
                .fleet()
                .states()
                .iter()
                .zip(loads.iter().map(|l| l.2))
                .filter_map(server)
                .collect(),
            handlers: BTreeMap::new(),
            packages: BTreeMap::new(),
            moves: Vec::new(),
        };
        for (label, servers) in policy.assignments() {
            let names = servers.iter().map(name).collect();
            match label {
                Label::Handler(handler) => view.handlers.insert(handler.into(), names),
                Label::Packages(digest) => view.packages.insert(hex(digest), names),
            };
        }
        view.moves.extend(moves.since(now).map(|one| MoveView {
            seconds_ago: (now.saturating_sub(one.at).as_secs_f64() * 10.0).round() / 10.0,
            key: text(&one.label),
            to: name(&one.server),
            reason: one.reason.as_str().to_owned(),
        }));
        view
    })
}

fn server(state: &ServerState, load: f64, now: std::time::Duration) -> ServerView {
    let millis = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    let report = state.report.as_ref();
    let zygotes = report.and_then(|(report, _)| report.zygotes.as_ref());
    ServerView {
        name: state.server.name.clone(),
        address: String::new(),
        connections: state.connections,
        foreign: state.calls(now).saturating_sub(state.connections),
        max_conn: state.server.max_conn,
        idle_connections: 0,
        load,
        cpu: report.map(|(report, _)| report.cpu),
        memory: report.map(|(report, _)| report.memory),
        report_age_ms: report.map(|(_, at)| millis(now.saturating_sub(*at))),
        zygotes: zygotes.map(|all| all.iter().map(|zygote| hex(zygote.set)).collect()),
        failures: state.backoff.failures(),
        set_aside_ms: millis(state.backoff.remaining(now)),
        mute: state.mute,
    }
}

fn text(label: &Label) -> String {
    match label {
        Label::Handler(name) => name.to_string(),
        Label::Packages(digest) => format!("packages:{}", hex(*digest)),
    }
}

fn hex(digest: u64) -> String {
    format!("{digest:016x}")
}
