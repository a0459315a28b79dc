//! What the operator counts. Labels come from closed sets; names of objects go to the log.

use std::time::Instant;

use openlambda_telemetry::metrics::{
    HistogramVec, IntCounterVec, IntGauge, MetricError, Registry, latency_buckets,
};

/// The operator's metrics.
#[derive(Clone, Debug)]
pub struct Metrics {
    reconciles: IntCounterVec,
    durations: HistogramVec,
    writes: IntCounterVec,
    polls: IntCounterVec,
    events: IntCounterVec,
    /// Whether this process acts.
    pub leader: IntGauge,
    /// Handlers whose status is not final.
    pub unsettled: IntGauge,
}

impl Metrics {
    /// Makes and registers them.
    pub fn new(registry: &Registry) -> Result<Self, MetricError> {
        Ok(Self {
            reconciles: registry.counter_vec(
                "operator_reconciles_total",
                "Reconciliations by kind and by the step that failed, or ok",
                &["kind", "result"],
            )?,
            durations: registry.histogram_vec(
                "operator_reconcile_duration_seconds",
                "Time of one reconciliation",
                latency_buckets(),
                &["kind"],
            )?,
            writes: registry.counter_vec(
                "operator_writes_total",
                "Writes to the API server",
                &["what", "result"],
            )?,
            polls: registry.counter_vec(
                "operator_agent_polls_total",
                "State documents asked of agents",
                &["result"],
            )?,
            events: registry.counter_vec("operator_events_total", "Events sent or dropped", &["result"])?,
            leader: registry.gauge("operator_leader", "Whether this process holds the lease")?,
            unsettled: registry.gauge("operator_unsettled_handlers", "Handlers whose status is not final")?,
        })
    }

    /// Times a reconciliation.
    pub fn reconcile(&self, kind: &'static str) -> Timer<'_> {
        Timer { metrics: self, kind, begun: Instant::now() }
    }

    /// A write to the API server.
    pub fn wrote(&self, what: &str, ok: bool) {
        self.writes.with_label_values(&[what, result(ok)]).inc();
    }

    /// An agent was asked for its state.
    pub fn polled(&self, ok: bool) {
        self.polls.with_label_values(&[result(ok)]).inc();
    }

    /// An event was sent, failed, or found no room.
    pub fn event(&self, result: &str) {
        self.events.with_label_values(&[result]).inc();
    }
}

fn result(ok: bool) -> &'static str {
    if ok { "ok" } else { "error" }
}

/// A reconciliation that runs.
#[derive(Debug)]
pub struct Timer<'a> {
    metrics: &'a Metrics,
    kind: &'static str,
    begun: Instant,
}

impl Timer<'_> {
    /// It ended, with the step that failed.
    pub fn done(self, failed: Option<&'static str>) {
        let result = failed.unwrap_or("ok");
        self.metrics.reconciles.with_label_values(&[self.kind, result]).inc();
        self.metrics.durations.with_label_values(&[self.kind]).observe(self.begun.elapsed().as_secs_f64());
    }
}
