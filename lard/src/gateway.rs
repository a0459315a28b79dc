//! What all calls share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};

use openlambda_config::BalancerConfig;
use openlambda_telemetry::Registry;
use openlambda_telemetry::metrics::MetricError;

use crate::gate::Gate;
use crate::hold::Hold;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::registry::RegistryApi;
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
    /// Where calls wait while there is no agent.
    pub hold: Hold,
    /// What it counts.
    pub metrics: Metrics,
    /// What handlers have of their own.
    pub limits: Limits,
    /// Whether the end is near: clients are asked to connect elsewhere.
    pub leaving: AtomicBool,
    /// The registry's API, if it is enabled; set before the first request.
    pub registry: OnceLock<RegistryApi>,
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
            hold: Hold::new(&settings),
            metrics: Metrics::new(registry)?,
            limits: Limits::default(),
            leaving: AtomicBool::new(false),
            registry: OnceLock::new(),
            settings,
        }))
    }
}
