//! `bench import`: cold starts of handlers with packages, from the import cache and without it.

use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::anchor::OriginalSteps;
use super::report::{Bound, Report};
use super::subject::{Subject, await_start, request, settled, starts};
use super::{Bench, machine};
use crate::http::Connection;

mod workload;

/// Twenty a second: see `bench create`.
const GAP: Duration = Duration::from_millis(50);
const PACED: u32 = 40;
/// Without the cache each takes as long as the imports.
const UNCACHED: u32 = 5;
const PANDAS: &str =
    "import numpy, pandas\ndef handler(event):\n    return int(numpy.arange(event['n']).sum())\n";
const PANDAS_PACKAGES: &str = "numpy==2.2.1\npandas==2.2.3\n";
const SIX: &str =
    "import numpy, pandas, requests, flask, jinja2, boto3\ndef handler(event):\n    return event['n']\n";
const SIX_PACKAGES: &str =
    "numpy==2.2.1\npandas==2.2.3\nrequests==2.32.3\nflask==3.1.0\njinja2==3.1.5\nboto3==1.35.90\n";
/// Handlers that are called before the count begins, and those that are counted.
const FIRST: u32 = 5;
const IDLE: u32 = 100;
const MB: f64 = 1e6;

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("import");
    starts_of_all_kinds(bench, &mut report)?;
    idle(bench, &mut report)?;
    workload::run(bench, &mut report)?;
    Ok(report)
}

fn options(more: &Value) -> Value {
    let mut all =
        json!({"response_details": true, "limits": {"memory": "512Mi"}, "import_cache_size": "1Gi"});
    if let (Some(all), Some(more)) = (all.as_object_mut(), more.as_object()) {
        all.extend(more.clone());
    }
    all
}

fn starts_of_all_kinds(bench: &Bench, report: &mut Report) -> Result<()> {
    let anchor = OriginalSteps::new(bench)?;
    let subject = |purpose: &str, more: Value| {
        Subject::with(bench, purpose, &options(&more), 1, PANDAS, PANDAS_PACKAGES)
    };
    let spare = subject("bench-spare", json!({"handler_cache_size": 0}))?;
    let zygote = subject("bench-zygote", json!({"handler_cache_size": 0, "spares": 0}))?;
    let none = subject("bench-none", json!({"handler_cache_size": 0, "import_cache_size": 0}))?;
    let bare = Subject::start(bench, "bench-bare", &options(&json!({"handler_cache_size": 0})), 1)?;
    let request = request(0);
    await_start(none.worker, &request, &["cold"])?;
    await_start(zygote.worker, &request, &["zygote"])?;
    for subject in [&spare, &bare] {
        await_start(subject.worker, &request, &["spare"])?;
    }
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        let (times, _) = anchor.run(PACED, u64::try_from(GAP.as_millis()).unwrap_or(u64::MAX))?;
        report.add("original, 20/s", "us", times);
        report.add("pandas, no import cache", "us", starts(none.worker, &request, UNCACHED, GAP, &["cold"])?);
        report.add(
            "pandas, from a Zygote, 20/s",
            "us",
            starts(zygote.worker, &request, PACED, GAP, &["zygote"])?,
        );
        report.add(
            "pandas, from a spare, 20/s",
            "us",
            starts(spare.worker, &request, PACED, GAP, &["spare"])?,
        );
        report.add("bare, from a spare, 20/s", "us", starts(bare.worker, &request, PACED, GAP, &["spare"])?);
    }
    report.figure("pandas, from a Zygote, 20/s", Bound::AtMost(6000.0));
    report.ratio("pandas, from a Zygote, 20/s", "pandas, no import cache", Bound::AtMost(0.03));
    report.figure("pandas, from a spare, 20/s", Bound::AtMost(1500.0));
    report.figure("bare, from a spare, 20/s", Bound::AtMost(1200.0));
    report.ratio("bare, from a spare, 20/s", "original, 20/s", Bound::AtMost(1.0 / 12.0));
    Ok(())
}

/// What an idle, paused handler with six packages holds. Counted once: memory does not vary as time does.
fn idle(bench: &Bench, report: &mut Report) -> Result<()> {
    let more =
        json!({"handler_cache_size": "64Gi", "idle_timeout": "1h", "pause_after": "10ms", "spares": 0});
    let subject = Subject::with(bench, "bench-six", &options(&more), FIRST + IDLE, SIX, SIX_PACKAGES)?;
    await_start(subject.worker, &request(0), &["warm", "unpaused"])?;
    let mut next = 1;
    // A Zygote with all of them, before any is counted.
    while next < FIRST {
        await_start(subject.worker, &request(next), &["warm", "unpaused"])?;
        next += 1;
    }
    let mut connection = Connection::open(subject.worker)?;
    let (processes, before) = (settled()?, machine::memory_in_use());
    for number in FIRST..FIRST + IDLE {
        let response = connection.call(&request(number))?;
        if response.status != 200 {
            bail!("handler h{number} answered {} {}", response.status, response.text());
        }
    }
    let (kept, after) = (settled()?.saturating_sub(processes), machine::memory_in_use());
    if kept < IDLE as usize {
        bail!("only {kept} of {IDLE} handlers were kept: the worker evicted some, so nothing was measured");
    }
    let each = after.saturating_sub(before) as f64 / f64::from(IDLE) / MB;
    report.add("memory per idle handler with six packages", "MB", vec![each]);
    report
        .figure("memory per idle handler with six packages", Bound::AtMost(f64::from(1 << 30) / 400.0 / MB));
    report.note(format!(
        "{IDLE} idle handlers with six packages; AnonPages + Slab + KernelStack + PageTables + Percpu"
    ));
    Ok(())
}
