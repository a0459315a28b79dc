//! `bench idle`: what an idle, paused handler costs in memory, everything counted.

use anyhow::{Result, bail};
use serde_json::json;

use super::report::{Bound, Report};
use super::subject::{Subject, request, settled};
use super::{Bench, machine};
use crate::http::Connection;

/// Handlers called before the count begins, so that pools and caches of the worker are not counted as a handler's.
const FIRST: u32 = 20;
const MB: f64 = 1e6;

/// Measures once; memory does not vary as time does.
pub fn run(bench: &Bench, handlers: u32) -> Result<Report> {
    let options = json!({"handler_cache_size": "64Gi", "idle_timeout": "1h", "pause_after": "10ms", "import_cache_size": 0});
    let subject = Subject::start(bench, "bench-idle", &options, FIRST + handlers)?;
    let mut connection = Connection::open(subject.worker)?;
    let mut start = |numbers: std::ops::Range<u32>| -> Result<(usize, u64)> {
        for number in numbers {
            let response = connection.call(&request(number))?;
            if response.status != 200 {
                bail!("handler h{number} answered {} {}", response.status, response.text());
            }
        }
        Ok((settled()?, machine::memory_in_use()))
    };
    let (processes, before) = start(0..FIRST)?;
    let (processes_after, after) = start(FIRST..FIRST + handlers)?;
    let kept = processes_after.saturating_sub(processes);
    if kept < handlers as usize {
        bail!(
            "only {kept} of {handlers} handlers were kept: the worker evicted some, so nothing was measured"
        );
    }
    let each = (after.saturating_sub(before)) as f64 / f64::from(handlers) / MB;
    let mut report = Report::new("idle");
    report.add("memory per idle handler", "MB", vec![each]);
    report.figure("memory per idle handler", Bound::AtMost(1.5));
    report.note(format!(
        "{handlers} handlers; AnonPages + Slab + KernelStack + PageTables + Percpu of the machine"
    ));
    Ok(report)
}
