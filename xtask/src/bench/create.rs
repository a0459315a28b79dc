//! `bench create`: cold starts from the root Zygote through the worker's port, against the original's steps.
//!
//! The worker keeps no instance (`handler_cache_size` 0), so every call makes a sandbox and ends it.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Bench;
use super::anchor::OriginalSteps;
use super::report::{Bound, Report};
use super::subject::{Subject, cold_calls, request, throughput};

/// Twenty a second: an idle machine's cold start, which includes waking everything up.
const GAP: Duration = Duration::from_millis(50);
const PACED: u32 = 40;
const HOT: u32 = 150;
const IN_FLIGHT: u32 = 4;
const ANCHOR_EACH: u32 = 60;
const OURS_EACH: u32 = 200;

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let anchor = OriginalSteps::new(bench)?;
    let options = json!({"handler_cache_size": 0, "import_cache_size": 0, "response_details": true});
    let subject = Subject::start(bench, "bench-create", &options, IN_FLIGHT)?;
    let requests: Vec<_> = (0..IN_FLIGHT).map(request).collect();
    let mut report = Report::new("create");
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        let (times, per_second) = anchor.run(HOT, 0)?;
        report.add("original, hot", "us", times);
        report.add("original creates, one at a time", "/s", vec![per_second]);
        report.add("cold start, hot", "us", cold_calls(subject.worker, &requests[0], HOT, Duration::ZERO)?);
        let (times, _) = anchor.run(PACED, gap_ms())?;
        report.add("original, 20/s", "us", times);
        report.add("cold start, 20/s", "us", cold_calls(subject.worker, &requests[0], PACED, GAP)?);
        report.add("original creates, 4 in flight", "/s", vec![anchor.flight(ANCHOR_EACH, IN_FLIGHT)?]);
        let creates = throughput(subject.worker, &requests, OURS_EACH, true)?;
        report.add("creates, 4 in flight", "/s", vec![creates]);
    }
    report.ratio("cold start, 20/s", "original, 20/s", Bound::AtMost(0.25));
    report.ratio("cold start, hot", "original, hot", Bound::AtMost(0.5));
    report.ratio("creates, 4 in flight", "original creates, 4 in flight", Bound::AtLeast(3.0));
    report.ratio("creates, 4 in flight", "original creates, one at a time", Bound::None);
    report.note(
        "The original's steps end at the first byte on a unix socket; ours at the last byte of HTTP.".into(),
    );
    Ok(report)
}

fn gap_ms() -> u64 {
    u64::try_from(GAP.as_millis()).unwrap_or(u64::MAX)
}
