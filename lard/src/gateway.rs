//! What all calls share.

use std::sync::Arc;

use openlambda_config::BalancerConfig;
use openlambda_telemetry::Registry;
use openlambda_telemetry::metrics::MetricError;

use crate::gate::Gate;
use crate::metrics::Metrics;
use crate::settings::Settings;
use crate::targets::Targets;

/// One lard.
pub struct Gateway {
    /// Its bounds.
    pub settings: Settings,
    /// The agents.
    pub targets: Arc<Targets>,
    /// Admission in the whole.
    pub gate: Arc<Gate>,
    /// What it counts.
    pub metrics: Metrics,
}

impl Gateway {
    /// Made of a configuration; `settings` is usually `Settings::from(config)`.
    pub fn new(
        config: &BalancerConfig,
        settings: Settings,
        registry: &Registry,
    ) -> Result<Arc<Self>, MetricError> {
        Ok(Arc::new(Self {
            targets: Arc::new(Targets::new(config, &settings)),
            gate: Arc::new(Gate::new(&settings)),
            metrics: Metrics::new(registry)?,
            settings,
        }))
    }
}
