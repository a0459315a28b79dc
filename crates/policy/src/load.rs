//! A server's load as one number from 0 (idle) to 1 (full), by one of the original's five formulas.
//!
//! All inputs are fractions of the same kind, 0 to 1. (The original mixed CPU in percent with memory as a fraction.)
//!
//! `MaxConn` -1 means unlimited. The original then divides by the largest integer, so the load is 0 for ever and LARD
//! never moves anything. Here a server without a limit is measured against [`DEFAULT_CAPACITY`] instead; the limit
//! itself stays absent, so such a server is never full.

/// Connections that count as load 1 on a server without `MaxConn`.
///
/// With the default `LoadHigh` 0.4 and `LoadLow` 0.2 a handler moves from 64 connections on, to a server with less
/// than 32, and from 128 on to any better one: the thresholds (65, 25, 2·65) that the LARD paper's users settled on.
pub const DEFAULT_CAPACITY: u32 = 160;

/// A load from 0 to 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Load(f64);

impl Load {
    /// No load.
    pub const IDLE: Self = Self(0.0);

    /// Clamps to 0..=1; what is no number counts as full, so that it draws no work.
    pub fn new(value: f64) -> Self {
        if value.is_nan() { Self(1.0) } else { Self(value.clamp(0.0, 1.0).abs()) }
    }

    /// The number.
    pub fn get(self) -> f64 {
        self.0
    }

    /// The load in an order of its own, exactly.
    pub fn exact(self) -> u64 {
        // Numbers that are not negative are in the order of their bits.
        self.0.to_bits()
    }

    /// The load in steps of 5 %. Loads of the same step are ties: two replicas of lard see slightly different numbers
    /// and shall decide alike, and noise shall move nothing.
    pub fn step(self) -> u8 {
        (self.0 * 20.0).round() as u8
    }
}

/// What is known of one server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LoadSample {
    /// CPU in use, 0 to 1.
    pub cpu: f64,
    /// Memory in use, 0 to 1.
    pub memory: f64,
    /// Requests in flight to it.
    pub connections: u32,
    /// The most it may have; `None` is unlimited.
    pub max_conn: Option<u32>,
}

/// How a sample becomes a load: the original's names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LoadFormula {
    /// Connections over the most there may be.
    #[default]
    Connections,
    /// The mean of memory and CPU.
    AverageResource,
    /// The mean of memory, CPU and connections.
    AverageResourceConnections,
    /// The larger of memory and CPU.
    DominantResource,
    /// The largest of memory, CPU and connections.
    DominantResourceConnections,
}

impl LoadFormula {
    /// All formulas, for messages and tests.
    pub const ALL: [Self; 5] = [
        Self::Connections,
        Self::AverageResource,
        Self::AverageResourceConnections,
        Self::DominantResource,
        Self::DominantResourceConnections,
    ];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connections => "Connections",
            Self::AverageResource => "AverageResource",
            Self::AverageResourceConnections => "AverageResourceConnections",
            Self::DominantResource => "DominantResource",
            Self::DominantResourceConnections => "DominantResourceConnections",
        }
    }

    /// The formula of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// The load of a sample.
    pub fn load(self, sample: &LoadSample) -> Load {
        let capacity = sample.max_conn.unwrap_or(DEFAULT_CAPACITY).max(1);
        let connections = Load::new(f64::from(sample.connections) / f64::from(capacity)).get();
        let (cpu, memory) = (Load::new(sample.cpu).get(), Load::new(sample.memory).get());
        Load::new(match self {
            Self::Connections => connections,
            Self::AverageResource => (memory + cpu) / 2.0,
            Self::AverageResourceConnections => (memory + cpu + connections) / 3.0,
            Self::DominantResource => memory.max(cpu),
            Self::DominantResourceConnections => memory.max(cpu).max(connections),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn formulas_by_hand() {
        let sample = LoadSample { cpu: 0.2, memory: 0.6, connections: 10, max_conn: Some(10) };
        let expected = [1.0, 0.4, 0.6, 0.6, 1.0];
        for (formula, expected) in LoadFormula::ALL.into_iter().zip(expected) {
            let load = formula.load(&sample).get();
            assert!((load - expected).abs() < 1e-9, "{formula:?} gives {load}, not {expected}");
        }
    }

    #[test]
    fn a_server_without_a_limit_has_a_load_all_the_same() {
        let sample = LoadSample { connections: DEFAULT_CAPACITY / 2, ..LoadSample::default() };
        assert_eq!(LoadFormula::Connections.load(&sample), Load::new(0.5));
    }

    #[test]
    fn names_round_trip() {
        for formula in LoadFormula::ALL {
            assert_eq!(LoadFormula::parse(formula.name()), Some(formula));
        }
        assert_eq!(LoadFormula::parse("connections"), None);
    }

    #[test]
    fn nonsense_counts_as_full() {
        assert_eq!(Load::new(f64::NAN), Load::new(1.0));
        assert_eq!(Load::new(-3.0), Load::IDLE);
    }

    proptest! {
        #[test]
        fn always_between_0_and_1(cpu in any::<f64>(), memory in any::<f64>(), connections: u32, max_conn: Option<u32>) {
            for formula in LoadFormula::ALL {
                let load = formula.load(&LoadSample { cpu, memory, connections, max_conn }).get();
                prop_assert!((0.0..=1.0).contains(&load), "{formula:?} gives {load}");
            }
        }
    }
}
