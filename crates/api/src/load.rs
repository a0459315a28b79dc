//! An agent's load, as it rides on every response: ORCA's `TEXT` form,
//! `TEXT cpu_utilization=0.30, mem_utilization=0.80, named_metrics.inflight=3, …`. What calls cost there rides along as
//! `named_metrics.slots`, `call_ms`, `fork_ms`, `import_ms` and `kept`; Zygotes as `named_metrics.zygotes=N` and
//! `named_metrics.z.DIGEST=MILLIS`, one for each of the N package sets that they have.

use std::fmt;
use std::str::FromStr;

use crate::packages;

/// Where an agent's admin port says the same, for who gets no response of it: the value of the header as text.
pub const LOAD_PATH: &str = "/debug/load";
/// At most so many package sets are in a report.
pub const MAX_ZYGOTES: usize = 32;
/// What the metric of a package set begins with.
const ZYGOTE: &str = "named_metrics.z.";
const SLOTS: &str = "named_metrics.slots";
const CALL: &str = "named_metrics.call_ms";
const FORK: &str = "named_metrics.fork_ms";
const IMPORT: &str = "named_metrics.import_ms";
const KEPT: &str = "named_metrics.kept";

/// What an agent says of itself. Utilizations are fractions of what the agent may use, 0 to 1.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoadReport {
    /// CPU in use, 0 to 1 of all CPUs.
    pub cpu: f64,
    /// Memory in use, 0 to 1 of the agent's memory.
    pub memory: f64,
    /// Calls that run or wait at the agent.
    pub inflight: u64,
    /// Of these, calls that wait.
    pub queued: u64,
    /// What calls cost there, as far as it says so.
    pub costs: Costs,
    /// The package sets that a sandbox finds imported there, at most [`MAX_ZYGOTES`]; none if it does not say.
    pub zygotes: Option<Vec<Zygote>>,
}

/// What calls cost at an agent. Times are means of what it did lately, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Costs {
    /// Calls that it serves at once before one waits.
    pub slots: Option<u32>,
    /// How long a call holds its slot, its start included.
    pub call_ms: Option<f64>,
    /// What a start from a Zygote takes that has all packages.
    pub fork_ms: Option<f64>,
    /// What a start takes for which packages are imported.
    pub import_ms: Option<f64>,
    /// Of the calls of handlers that ran there before, the share that found an instance, 0 to 1.
    pub kept: Option<f64>,
}

/// A package set that some Zygote has imported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zygote {
    /// The [digest](packages::digest) of the set.
    pub set: u64,
    /// How long the import takes that it saves.
    pub import_ms: u32,
}

/// Why a text is no load report.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an ORCA load report: {0}")]
pub struct InvalidReport(String);

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "TEXT cpu_utilization={:.3}, mem_utilization={:.3}, named_metrics.inflight={}, named_metrics.queued={}",
            self.cpu, self.memory, self.inflight, self.queued
        )?;
        let Costs { slots, call_ms, fork_ms, import_ms, kept } = self.costs;
        if let Some(slots) = slots {
            write!(f, ", {SLOTS}={slots}")?;
        }
        for (name, millis) in [(CALL, call_ms), (FORK, fork_ms), (IMPORT, import_ms)] {
            if let Some(millis) = millis {
                write!(f, ", {name}={millis:.2}")?;
            }
        }
        if let Some(kept) = kept {
            write!(f, ", {KEPT}={kept:.2}")?;
        }
        let Some(zygotes) = &self.zygotes else { return Ok(()) };
        let zygotes = &zygotes[..zygotes.len().min(MAX_ZYGOTES)];
        write!(f, ", named_metrics.zygotes={}", zygotes.len())?;
        zygotes.iter().try_for_each(|one| write!(f, ", {ZYGOTE}{:016x}={}", one.set, one.import_ms))
    }
}

impl FromStr for LoadReport {
    type Err = InvalidReport;

    /// Reads the known fields and passes over others, as the standard asks. Utilizations are clamped to 0..=1.
    fn from_str(text: &str) -> Result<Self, InvalidReport> {
        let rest = text
            .trim()
            .strip_prefix("TEXT ")
            .ok_or_else(|| InvalidReport(format!("no TEXT prefix in {text:?}")))?;
        let mut report = Self::default();
        for pair in rest.split(',').map(str::trim).filter(|p| !p.is_empty()) {
            let (key, value) =
                pair.split_once('=').ok_or_else(|| InvalidReport(format!("no '=' in {pair:?}")))?;
            let number: f64 = value
                .trim()
                .parse()
                .map_err(|_| InvalidReport(format!("{value:?} of {key} is no number")))?;
            if !number.is_finite() || number < 0.0 {
                return Err(InvalidReport(format!("{key} is {number}")));
            }
            match key.trim() {
                "cpu_utilization" => report.cpu = number.min(1.0),
                "mem_utilization" => report.memory = number.min(1.0),
                "named_metrics.inflight" => report.inflight = number as u64,
                "named_metrics.queued" => report.queued = number as u64,
                SLOTS => report.costs.slots = Some(number as u32),
                CALL => report.costs.call_ms = Some(number),
                FORK => report.costs.fork_ms = Some(number),
                IMPORT => report.costs.import_ms = Some(number),
                KEPT => report.costs.kept = Some(number.min(1.0)),
                "named_metrics.zygotes" => drop(report.zygotes.get_or_insert_default()),
                other => {
                    let set = other.strip_prefix(ZYGOTE).and_then(packages::parse);
                    let Some(set) = set else { continue };
                    let zygotes = report.zygotes.get_or_insert_default();
                    if zygotes.len() < MAX_ZYGOTES {
                        zygotes.push(Zygote { set, import_ms: number as u32 });
                    }
                }
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_foreign_fields() {
        let report = LoadReport { cpu: 0.25, memory: 0.5, inflight: 3, queued: 1, ..LoadReport::default() };
        assert_eq!(report.to_string().parse(), Ok(report));
        let foreign = "TEXT cpu_utilization=1.7,rps_fractional=10, named_metrics.queued=2";
        assert_eq!(foreign.parse(), Ok(LoadReport { cpu: 1.0, queued: 2, ..LoadReport::default() }));
    }

    #[test]
    fn costs_ride_along_as_far_as_they_are_known() {
        let all = Costs {
            slots: Some(4),
            call_ms: Some(21.25),
            fork_ms: Some(3.5),
            import_ms: Some(150.0),
            kept: Some(0.75),
        };
        for costs in [all, Costs { fork_ms: None, kept: None, ..all }] {
            let report = LoadReport { costs, ..LoadReport::default() };
            assert_eq!(report.to_string().parse(), Ok(report));
        }
    }

    #[test]
    fn zygotes_ride_along_and_having_none_is_not_saying_nothing() {
        let zygotes = (0..40).map(|set| Zygote { set, import_ms: 80 }).collect::<Vec<_>>();
        for count in [0, 2, MAX_ZYGOTES] {
            let report = LoadReport { zygotes: Some(zygotes[..count].to_vec()), ..LoadReport::default() };
            assert_eq!(report.to_string().parse(), Ok(report));
        }
        let text = LoadReport { zygotes: Some(zygotes), ..LoadReport::default() }.to_string();
        assert!(text.ends_with(", named_metrics.z.000000000000001f=80"), "{text}");
        let more = format!("{text}, named_metrics.z.ffffffffffffffff=1, named_metrics.z.other=2");
        assert_eq!(more.parse::<LoadReport>(), text.parse());
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in [
            "",
            "JSON {}",
            "TEXT cpu_utilization",
            "TEXT cpu_utilization=x",
            "TEXT cpu_utilization=NaN",
            "TEXT mem_utilization=-1",
        ] {
            assert!(bad.parse::<LoadReport>().is_err(), "{bad:?} was taken");
        }
    }
}
