//! What the worker counts. Handles are looked up once and kept: on the warm path a count is an atomic addition.

use std::collections::HashSet;

use openlambda_api::Reason;
use openlambda_telemetry::Registry;
use openlambda_telemetry::metrics::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, MetricError, latency_buckets,
};
use parking_lot::Mutex;

use crate::costs::Spent;

/// So many handlers have series of their own; the others share those of [`OTHER`].
const MAX_HANDLERS: usize = 200;
const OTHER: &str = "other";

/// How a call got its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartKind {
    /// It was idle.
    Warm,
    /// It was paused.
    Unpaused,
    /// It was forked from a Zygote that has all that it imports.
    Zygote,
    /// It was forked from a Zygote, and imports packages itself.
    Cold,
    /// It had been forked ahead of need, from a Zygote that has all that it imports.
    Spare,
}

/// What of a handler's packages was imported in the Zygote that it was forked from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hit {
    /// All.
    Full,
    /// Some.
    Part,
    /// None.
    None,
}

impl Hit {
    /// As it stands in headers and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Part => "part",
            Self::None => "none",
        }
    }
}

impl StartKind {
    /// As it stands in headers and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::Unpaused => "unpaused",
            Self::Zygote => "zygote",
            Self::Cold => "cold",
            Self::Spare => "spare",
        }
    }

    /// Whether the sandbox was made for the call.
    pub const fn is_fork(self) -> bool {
        matches!(self, Self::Zygote | Self::Cold | Self::Spare)
    }
}

/// The parts of a call's time, in order.
pub const PHASES: [&str; 4] = ["queue", "sandbox", "load", "handler"];

/// All metrics of the worker.
#[derive(Debug)]
pub struct Metrics {
    invocations: IntCounterVec,
    durations: HistogramVec,
    starts: [IntCounter; 5],
    phases: [[Histogram; 4]; 5],
    rejections: IntCounterVec,
    named: Mutex<HashSet<String>>,
    /// Calls that run or wait.
    pub inflight: IntGauge,
    /// Calls that wait.
    pub queue_depth: IntGauge,
    /// Instances by state.
    pub instances: IntGaugeVec,
    /// Zygotes that are up.
    pub zygotes: IntGauge,
    /// Zygotes that ended or did not start.
    pub zygote_restarts: IntCounter,
    zygote_hits: IntCounterVec,
    zygote_failures: IntCounterVec,
    evictions: IntCounterVec,
    /// Sandboxes forked ahead of need.
    pub spares: IntGauge,
    /// Memory of the Zygotes that hold packages.
    pub import_cache_bytes: IntGauge,
    /// What calls and starts took, for the load report.
    pub spent: Spent,
    /// What handlers printed over the limit.
    pub log_bytes_dropped: IntCounter,
}

/// The series of one handler.
#[derive(Debug)]
pub struct HandlerMetrics {
    label: String,
    ok: IntCounter,
    duration: Histogram,
}

impl Metrics {
    /// Makes and registers them.
    pub fn new(registry: &Registry) -> Result<Self, MetricError> {
        let starts =
            registry.counter_vec("starts_total", "Calls by how they got their instance", &["kind"])?;
        let phases = registry.histogram_vec(
            "start_duration_seconds",
            "Time per phase of calls that did not find a running instance",
            latency_buckets(),
            &["kind", "phase"],
        )?;
        let kinds =
            [StartKind::Warm, StartKind::Unpaused, StartKind::Zygote, StartKind::Cold, StartKind::Spare]
                .map(StartKind::as_str);
        let label = "handler";
        Ok(Self {
            invocations: registry.counter_vec(
                "handler_invocations_total",
                "Calls that were answered",
                &[label, "code"],
            )?,
            durations: registry.histogram_vec(
                "handler_duration_seconds",
                "Time from arrival to answer of calls that reached a handler",
                latency_buckets(),
                &[label],
            )?,
            starts: kinds.map(|kind| starts.with_label_values(&[kind])),
            phases: kinds.map(|kind| PHASES.map(|phase| phases.with_label_values(&[kind, phase]))),
            rejections: registry.counter_vec(
                "rejections_total",
                "Calls turned away, by reason",
                &["reason"],
            )?,
            named: Mutex::default(),
            inflight: registry.gauge("inflight", "Calls that run or wait")?,
            queue_depth: registry.gauge("queue_depth", "Calls that wait for a slot")?,
            instances: registry.gauge_vec("instances", "Instances by state", &["state"])?,
            zygotes: registry.gauge("zygotes", "Zygotes that are up")?,
            zygote_restarts: registry
                .counter("zygote_restarts_total", "Zygotes that ended or did not start")?,
            zygote_hits: registry.counter_vec(
                "zygote_hits_total",
                "Forks for handlers with packages, by what of these the Zygote had imported",
                &["result"],
            )?,
            zygote_failures: registry.counter_vec(
                "zygote_failures_total",
                "Zygotes of the import cache that could not be made or forked, by reason",
                &["reason"],
            )?,
            evictions: registry.counter_vec(
                "evictions_total",
                "What was given up to make room, by what it was",
                &["reason"],
            )?,
            spares: registry.gauge("spares", "Sandboxes that were forked ahead of need")?,
            import_cache_bytes: registry
                .gauge("import_cache_bytes", "Memory of the Zygotes that hold packages")?,
            spent: Spent::default(),
            log_bytes_dropped: registry
                .counter("log_bytes_dropped_total", "Bytes that handlers printed over the limit per call")?,
        })
    }

    /// The series of a handler that exists; beyond a number of them, the shared ones.
    pub fn handler(&self, name: &str) -> HandlerMetrics {
        let mut named = self.named.lock();
        let own = named.contains(name) || (named.len() < MAX_HANDLERS && named.insert(name.to_owned()));
        let label = if own { name } else { OTHER };
        HandlerMetrics {
            label: label.to_owned(),
            ok: self.invocations.with_label_values(&[label, "200"]),
            duration: self.durations.with_label_values(&[label]),
        }
    }

    /// A call was answered with `status` after `seconds`.
    pub fn answered(&self, handler: &HandlerMetrics, status: u16, seconds: f64) {
        handler.duration.observe(seconds);
        if status == 200 {
            handler.ok.inc();
        } else {
            self.invocations.with_label_values(&[handler.label.as_str(), &status.to_string()]).inc();
        }
    }

    /// A call got its instance.
    pub fn started(&self, kind: StartKind, phases: [f64; 4]) {
        self.starts[kind as usize].inc();
        self.spent.add(kind, phases);
        if kind != StartKind::Warm {
            for (histogram, seconds) in self.phases[kind as usize].iter().zip(phases) {
                histogram.observe(seconds);
            }
        }
    }

    /// A sandbox was forked for a handler with packages.
    pub fn zygote_hit(&self, hit: Hit) {
        self.zygote_hits.with_label_values(&[hit.as_str()]).inc();
    }

    /// A Zygote of the import cache could not be made, or not be forked.
    pub fn zygote_failed(&self, reason: &str) {
        self.zygote_failures.with_label_values(&[reason]).inc();
    }

    /// Something idle was given up, for this reason.
    pub fn evicted(&self, reason: &str, count: usize) {
        if count > 0 {
            self.evictions.with_label_values(&[reason]).inc_by(count as u64);
        }
    }

    /// A call was turned away before it reached a handler.
    pub fn rejected(&self, reason: Reason) {
        self.rejections.with_label_values(&[reason.as_str()]).inc();
    }

    /// Sets the gauges that are sampled.
    pub fn sample(&self, [running, idle, paused]: [usize; 3], waiting: usize) {
        let whole = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        for (state, number) in [("running", running), ("idle", idle), ("paused", paused)] {
            self.instances.with_label_values(&[state]).set(whole(number));
        }
        self.queue_depth.set(whole(waiting));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_beyond_the_cap_share_a_series() {
        let registry = Registry::new("test").unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        for number in 0..MAX_HANDLERS + 5 {
            metrics.answered(&metrics.handler(&format!("h{number}")), 200, 0.001);
        }
        metrics.answered(&metrics.handler("h0"), 504, 1.0);
        let text = registry.encode().unwrap();
        for want in [
            "openlambda_handler_invocations_total{code=\"200\",handler=\"other\"} 5",
            "openlambda_handler_invocations_total{code=\"504\",handler=\"h0\"} 1",
            "openlambda_handler_duration_seconds_count{handler=\"h0\"} 2",
        ] {
            assert!(text.contains(want), "{want} is not in:\n{text}");
        }
    }

    #[test]
    fn warm_starts_have_no_phases() {
        let registry = Registry::new("test").unwrap();
        let metrics = Metrics::new(&registry).unwrap();
        metrics.started(StartKind::Warm, [0.0; 4]);
        metrics.started(StartKind::Zygote, [0.0, 0.001, 0.002, 0.003]);
        let text = registry.encode().unwrap();
        for want in [
            "openlambda_starts_total{kind=\"warm\"} 1",
            "openlambda_start_duration_seconds_count{kind=\"warm\",phase=\"load\"} 0",
            "openlambda_start_duration_seconds_count{kind=\"zygote\",phase=\"load\"} 1",
        ] {
            assert!(text.contains(want), "{want} is not in:\n{text}");
        }
    }
}
