//! lard's metrics. Labels come from closed sets; agents are as many as the configuration has.

use hyper::StatusCode;
use openlambda_policy::balance::{Choice, MoveReason};
use openlambda_telemetry::metrics::{
    Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, MetricError, Registry, latency_buckets,
};

use crate::gateway::Gateway;

/// The metrics.
pub struct Metrics {
    /// Answers by status; 499 is a client that went away.
    requests: IntCounterVec,
    /// Those with 200: nearly all.
    ok: IntCounter,
    /// From a call's first byte to its answer's head, in seconds.
    pub seconds: Histogram,
    /// Rankings by whether the handler stayed (`hit`), is new or moved.
    locality: [IntCounter; 3],
    /// Handlers that moved, by reason.
    pub moves: IntCounterVec,
    /// Calls not admitted, by reason.
    pub rejections: IntCounterVec,
    /// Calls that went on to the next agent, by reason.
    pub retries: IntCounterVec,
    agent_inflight: IntGaugeVec,
    agent_load: IntGaugeVec,
    waiting: IntGauge,
}

impl Metrics {
    /// Registers them.
    pub fn new(registry: &Registry) -> Result<Self, MetricError> {
        let requests = registry.counter_vec("lb_requests_total", "Answers by status", &["code"])?;
        let locality = registry.counter_vec(
            "lb_locality_total",
            "Calls by whether their handler stayed where it was",
            &["result"],
        )?;
        Ok(Self {
            ok: requests.with_label_values(&["200"]),
            requests,
            seconds: registry.histogram(
                "lb_request_seconds",
                "From the end of a call's head to its answer's head",
                latency_buckets(),
            )?,
            locality: ["hit", "new", "moved"].map(|result| locality.with_label_values(&[result])),
            moves: registry.counter_vec(
                "lb_moves_total",
                "Handlers that changed their agent",
                &["reason"],
            )?,
            rejections: registry.counter_vec(
                "lb_rejections_total",
                "Calls that were not admitted",
                &["reason"],
            )?,
            retries: registry.counter_vec("lb_retries_total", "Calls sent to the next agent", &["reason"])?,
            agent_inflight: registry.gauge_vec(
                "lb_agent_inflight",
                "Calls in flight to an agent",
                &["agent"],
            )?,
            agent_load: registry.gauge_vec(
                "lb_agent_load_percent",
                "Load of an agent, 0 to 100",
                &["agent"],
            )?,
            waiting: registry
                .gauge("lb_waiting", "Calls that wait: under a limit of connections, or for an agent")?,
        })
    }

    /// Counts a ranking.
    pub fn ranked(&self, choice: Choice) {
        let [hit, new, moved] = &self.locality;
        match choice {
            Choice::Unbound => {}
            Choice::Kept => hit.inc(),
            Choice::Assigned => new.inc(),
            Choice::Moved(reason) => {
                self.moved(reason);
                moved.inc();
            }
        }
    }

    /// Counts an answer.
    pub fn answered(&self, code: StatusCode) {
        match code {
            StatusCode::OK => self.ok.inc(),
            other => self.requests.with_label_values(&[other.as_str()]).inc(),
        }
    }

    /// Counts a handler's move.
    pub fn moved(&self, reason: MoveReason) {
        self.moves.with_label_values(&[reason.as_str()]).inc();
    }

    /// Brings the gauges up to date.
    pub fn refresh(&self, gateway: &Gateway) {
        // Of those that are gone nothing is to be seen any more.
        self.agent_inflight.reset();
        self.agent_load.reset();
        for (server, connections, load) in gateway.targets.loads() {
            let Some(upstream) = gateway.targets.upstream(server) else { continue };
            self.agent_inflight.with_label_values(&[&upstream.name]).set(connections.into());
            self.agent_load.with_label_values(&[&upstream.name]).set((load * 100.0).round() as i64);
        }
        let waiting = gateway.gate.counts().1 + gateway.hold.waiting();
        self.waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}
