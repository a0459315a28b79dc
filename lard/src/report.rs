//! What agents say of themselves, as the policies take it.

use std::time::Duration;

use openlambda_api::LoadReport;
use openlambda_policy::balance::{Costs, Report, Zygote};
use parking_lot::Mutex;

/// The last report of one agent. It says the same with many answers, and is read only once.
#[derive(Debug, Default)]
pub struct Latest(Mutex<Option<(Box<[u8]>, Report)>>);

impl Latest {
    /// What a header says; none if it is no report.
    pub fn read(&self, value: &[u8]) -> Option<Report> {
        let mut latest = self.0.lock();
        if let Some((_, report)) = latest.as_ref().filter(|(text, _)| **text == *value) {
            return Some(report.clone());
        }
        let report = parse(std::str::from_utf8(value).ok()?)?;
        *latest = Some((value.into(), report.clone()));
        Some(report)
    }
}

/// Reads a report.
pub fn parse(text: &str) -> Option<Report> {
    let report: LoadReport = text.parse().ok()?;
    let zygote = |one: &openlambda_api::Zygote| Zygote {
        set: one.set,
        import: Duration::from_millis(one.import_ms.into()),
    };
    Some(Report {
        cpu: report.cpu,
        memory: report.memory,
        inflight: u32::try_from(report.inflight).unwrap_or(u32::MAX),
        costs: report.costs.slots.map(|slots| costs(slots, report.costs)),
        zygotes: report.zygotes.map(|all| all.iter().map(zygote).collect()),
    })
}

/// A cost over this is none: no call may take so long, and what policies make of costs must stay a time.
const MOST: Duration = Duration::from_secs(86_400);

/// What it cannot mean it does not say.
fn costs(slots: u32, said: openlambda_api::load::Costs) -> Costs {
    let time = |millis: Option<f64>| {
        let time = millis.and_then(|ms| Duration::try_from_secs_f64(ms / 1000.0).ok());
        time.filter(|time| *time <= MOST)
    };
    Costs {
        slots,
        call: time(said.call_ms),
        fork: time(said.fork_ms),
        import: time(said.import_ms),
        kept: said.kept,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn costs_are_complete_once_slots_are_said() {
        assert_eq!(parse("TEXT named_metrics.call_ms=5").unwrap().costs, None);
        // Centuries are a time, but no cost: multiplied they would be none.
        let said = parse(
            "TEXT named_metrics.slots=2, named_metrics.call_ms=5.5, named_metrics.fork_ms=1e300, named_metrics.import_ms=1e20",
        );
        let expected = Costs { slots: 2, call: Some(Duration::from_micros(5500)), ..Costs::default() };
        assert_eq!(said.unwrap().costs, Some(expected));
    }

    #[test]
    fn what_is_said_twice_is_read_once() {
        let text = "TEXT cpu_utilization=0.5, named_metrics.zygotes=1, named_metrics.z.0000000000000007=80";
        let latest = Latest::default();
        let zygotes = |report: Option<Report>| report.unwrap().zygotes.unwrap();
        let first = zygotes(latest.read(text.as_bytes()));
        assert_eq!(*first, [Zygote { set: 7, import: Duration::from_millis(80) }]);
        assert!(Arc::ptr_eq(&first, &zygotes(latest.read(text.as_bytes()))));
        let other = latest.read(b"TEXT cpu_utilization=0.25").unwrap();
        assert_eq!((other.cpu, other.zygotes), (0.25, None));
        assert_eq!(latest.read(b"JSON {}"), None);
    }
}
