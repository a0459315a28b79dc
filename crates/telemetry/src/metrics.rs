//! A registry of metrics in Prometheus' text format, with the process's own figures and `openlambda_build_info`.
//!
//! Metrics are made once, at start, and their handles passed down: there is no global. Names get the prefix
//! `openlambda_`. Label values must come from closed sets, never from a handler's name or an error's text.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
pub use prometheus::{
    Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, exponential_buckets,
    linear_buckets,
};
use prometheus::{HistogramOpts, Opts, TextEncoder};

/// The content type of [`Registry::encode`]'s text.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

const NAMESPACE: &str = "openlambda";

/// Why a metric could not be made or written: a bad or doubled name.
#[derive(Debug, thiserror::Error)]
#[error("metric {name}: {source}")]
pub struct MetricError {
    name: String,
    source: prometheus::Error,
}

/// The metrics of one process. Clones share them.
#[derive(Clone, Debug)]
pub struct Registry {
    inner: prometheus::Registry,
}

impl Registry {
    /// An empty registry but for the process's figures and the build's; `component` labels the latter.
    pub fn new(component: &str) -> Result<Self, MetricError> {
        let registry = Self { inner: prometheus::Registry::new() };
        registry.register("process", ProcessCollector::for_self())?;
        let build = registry.gauge_vec(
            "build_info",
            "Version of this binary; always 1",
            &["component", "version"],
        )?;
        build.with_label_values(&[component, env!("CARGO_PKG_VERSION")]).set(1);
        Ok(registry)
    }

    /// A counter.
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricError> {
        self.make(name, IntCounter::with_opts(opts(name, help)))
    }

    /// A counter per combination of label values.
    pub fn counter_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, MetricError> {
        self.make(name, IntCounterVec::new(opts(name, help), labels))
    }

    /// A gauge.
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricError> {
        self.make(name, IntGauge::with_opts(opts(name, help)))
    }

    /// A gauge per combination of label values.
    pub fn gauge_vec(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, MetricError> {
        self.make(name, IntGaugeVec::new(opts(name, help), labels))
    }

    /// A histogram with the given upper bounds.
    pub fn histogram(&self, name: &str, help: &str, buckets: Vec<f64>) -> Result<Histogram, MetricError> {
        self.make(name, Histogram::with_opts(histogram_opts(name, help, buckets)))
    }

    /// A histogram per combination of label values.
    pub fn histogram_vec(
        &self,
        name: &str,
        help: &str,
        buckets: Vec<f64>,
        labels: &[&str],
    ) -> Result<HistogramVec, MetricError> {
        self.make(name, HistogramVec::new(histogram_opts(name, help, buckets), labels))
    }

    /// All metrics as text.
    pub fn encode(&self) -> Result<String, MetricError> {
        TextEncoder::new().encode_to_string(&self.inner.gather()).map_err(|source| error("text", source))
    }

    fn make<M: Collector + Clone + 'static>(
        &self,
        name: &str,
        made: Result<M, prometheus::Error>,
    ) -> Result<M, MetricError> {
        let metric = made.map_err(|source| error(name, source))?;
        self.register(name, metric.clone())?;
        Ok(metric)
    }

    fn register(&self, name: &str, metric: impl Collector + 'static) -> Result<(), MetricError> {
        self.inner.register(Box::new(metric)).map_err(|source| error(name, source))
    }
}

/// Buckets in seconds for the latencies of calls: 100 µs to 60 s.
pub fn latency_buckets() -> Vec<f64> {
    let steps = [1.0, 2.5, 5.0];
    let mut buckets: Vec<f64> =
        (-4..2).flat_map(|power| steps.map(|step: f64| step * 10f64.powi(power))).collect();
    buckets.push(60.0);
    buckets
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace(NAMESPACE)
}

fn histogram_opts(name: &str, help: &str, buckets: Vec<f64>) -> HistogramOpts {
    HistogramOpts::new(name, help).namespace(NAMESPACE).buckets(buckets)
}

fn error(name: &str, source: prometheus::Error) -> MetricError {
    MetricError { name: name.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_process_build_and_own_metrics() {
        let registry = Registry::new("test").unwrap();
        registry.counter("calls_total", "Calls").unwrap().inc_by(3);
        registry
            .counter_vec("ends_total", "Ends", &["reason"])
            .unwrap()
            .with_label_values(&["timeout"])
            .inc();
        registry.histogram("wait_seconds", "Wait", latency_buckets()).unwrap().observe(0.001);
        let text = registry.encode().unwrap();
        let build = format!(
            "openlambda_build_info{{component=\"test\",version=\"{}\"}} 1",
            env!("CARGO_PKG_VERSION")
        );
        for want in [
            "openlambda_calls_total 3",
            "openlambda_ends_total{reason=\"timeout\"} 1",
            "openlambda_wait_seconds_count 1",
            "process_open_fds",
            &build,
        ] {
            assert!(text.contains(want), "{want} is not in:\n{text}");
        }
    }

    #[test]
    fn a_doubled_name_is_named() {
        let registry = Registry::new("test").unwrap();
        registry.gauge("depth", "Depth").unwrap();
        assert!(registry.gauge("depth", "Depth").unwrap_err().to_string().starts_with("metric depth: "));
    }

    #[test]
    fn latency_buckets_rise_from_100_us_to_a_minute() {
        let buckets = latency_buckets();
        assert!(buckets.windows(2).all(|pair| pair[0] < pair[1]), "{buckets:?}");
        assert_eq!((buckets.first().copied(), buckets.last().copied()), (Some(1e-4), Some(60.0)));
    }
}
