//! `bench overload`: ten times as many calls as the agents can serve. What lard lets through is served as well as ever, the rest is
//! turned away at once and told when to come back, and nothing grows.

use std::thread;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::paced::{Made, Pace};
use super::process::{Running, TimedAgent, lard};
use super::report::{Bound, Report};
use super::{Bench, work_folder};
use crate::http::Request;

const AGENTS: usize = 4;
const SLOTS: u32 = 4;
/// Calls that lard lets be under way at an agent, and that may wait at lard.
const AT_AGENT: u32 = 10;
const WAITING: u32 = 100;
const HANDLERS: u64 = 64;
/// How long a handler runs, in ms; what the agents can serve at most follows from that.
const EXEC_MS: f64 = 20.0;
const CAPACITY: f64 = AGENTS as f64 * SLOTS as f64 * 1000.0 / EXEC_MS;
const TIMES: f64 = 10.0;
const CONNECTIONS: u32 = 400;
/// Looks at the memory, spread over the run.
const LOOKS: u32 = 20;

const PEAK: &str = "calls served at capacity";
const GOODPUT: &str = "calls served at ten times that";
const ACCEPTED: &str = "accepted call";
const REFUSED: &str = "refused call";
const WRONG: &str = "answers that are neither";
const LARD: &str = "memory of lard";
const GROWTH: &str = "growth of lard over the run";
const AGENTS_GROWTH: &str = "growth of an agent";

/// Measures for so many seconds.
pub fn run(bench: &Bench, seconds: u64) -> Result<Report> {
    let (folder, _cleanup) = work_folder("bench-overload")?;
    let arguments = [format!("--slots={SLOTS}"), "--cold-ms=3".to_owned()];
    let agents = TimedAgent::start(bench, AGENTS, &arguments)?;
    let servers: Vec<_> = agents.iter().map(|agent| agent.server(Some(AT_AGENT))).collect();
    let lard =
        lard(bench, json!({"Servers": servers, "QueueLength": WAITING, "QueueTimeout": "1s"}), &folder)?;
    let mut report = Report::new("overload");
    // As many as can be served, and a few more: the agents are never idle.
    let (peak, _) = load(&lard, CAPACITY * 1.2, Duration::from_secs(seconds.clamp(5, 10)))?;
    let peak = served(&peak);
    report.add(PEAK, "/s", vec![peak]);
    let span = Duration::from_secs(seconds);
    let (overload, memory) = thread::scope(|scope| {
        let load = scope.spawn(|| load(&lard, CAPACITY * TIMES, span));
        let memory = watch(&lard, &agents, span);
        Ok::<_, anyhow::Error>((load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??, memory?))
    })?;
    let (made, late) = overload;
    figures(&mut report, &made, peak)?;
    growth(&mut report, &memory);
    let offered = made.len() as f64 / span.as_secs_f64();
    report.note(format!(
        "{AGENTS} agents with {SLOTS} slots and handlers of {EXEC_MS} ms: {CAPACITY:.0} calls/s. Offered: {offered:.0}/s over {seconds} s; \
         {late} more were due when their connection was still waiting. MaxConn {AT_AGENT} per agent, QueueLength {WAITING}."
    ));
    Ok(report)
}

fn load(lard: &Running, rate: f64, span: Duration) -> Result<(Vec<Made>, u64)> {
    let request = |number| Request::post(&format!("/run/f{}?exec={EXEC_MS}", number % HANDLERS), "1");
    Pace { address: lard.address, connections: CONNECTIONS, rate, span, request }.run()
}

/// Calls that were served, per second.
fn served(made: &[Made]) -> f64 {
    let ends = || made.iter().filter(|one| one.status == 200).map(|one| one.sent + one.took);
    let span = ends().max().zip(ends().min()).map_or(0.0, |(last, first)| (last - first).as_secs_f64());
    ends().count() as f64 / span
}

fn figures(report: &mut Report, made: &[Made], peak: f64) -> Result<()> {
    let micros = |one: &Made| one.took.as_secs_f64() * 1e6;
    let accepted: Vec<f64> = made.iter().filter(|one| one.status == 200).map(micros).collect();
    let is_refusal = |one: &&Made| matches!(one.status, 429 | 503) && one.retry_after;
    let refused: Vec<f64> = made.iter().filter(is_refusal).map(micros).collect();
    ensure!(!accepted.is_empty() && !refused.is_empty(), "that was no overload");
    let wrong = made.len() - accepted.len() - refused.len();
    report.add(GOODPUT, "/s", vec![served(made)]);
    // All that is before a call, in lard's queue and the agents', at the rate at which it is served; and as much again.
    let before = f64::from(WAITING) + f64::from(AT_AGENT) * AGENTS as f64;
    let limit = 2.0 * before / peak * 1e6;
    report.add("p99 of accepted calls", "us", vec![super::stats::percentile(&accepted, 0.99)]);
    report.add(ACCEPTED, "us", accepted);
    report.add(REFUSED, "us", refused);
    report.add(WRONG, "", vec![wrong as f64]);
    report.ratio(GOODPUT, PEAK, Bound::AtLeast(0.9));
    report.figure("p99 of accepted calls", Bound::AtMost(limit));
    report.figure(WRONG, Bound::AtMost(0.0));
    Ok(())
}

/// What lard and the largest of the agents hold, in MiB, every now and then.
fn watch(lard: &Running, agents: &[TimedAgent], span: Duration) -> Result<Vec<(f64, f64)>> {
    let mut seen = Vec::new();
    for _ in 0..LOOKS {
        thread::sleep(span / LOOKS);
        let most = agents
            .iter()
            .map(TimedAgent::resident)
            .try_fold(0.0, |most, now| now.map(|now| f64::max(most, now)))?;
        seen.push((lard.resident()?, most));
    }
    Ok(seen)
}

/// From a fifth of the run on, when all buffers have their size.
fn growth(report: &mut Report, seen: &[(f64, f64)]) {
    let settled = &seen[seen.len() / 5..];
    if let (Some(first), Some(last)) = (settled.first(), settled.last()) {
        report.add(GROWTH, "MiB", vec![last.0 - first.0]);
        report.add(AGENTS_GROWTH, "MiB", vec![last.1 - first.1]);
    }
    report.add(LARD, "MiB", seen.iter().map(|(lard, _)| *lard).collect());
    report.figure(GROWTH, Bound::AtMost(2.0));
    report.figure(AGENTS_GROWTH, Bound::AtMost(2.0));
}
