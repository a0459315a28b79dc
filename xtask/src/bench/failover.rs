//! `bench failover`: an agent is killed under load. What had not reached a sandbox of it must not fail, and its share of the calls
//! must have moved within a second.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use serde_json::json;

use super::paced::{Made, Pace};
use super::process::{TimedAgent, lard};
use super::report::{Bound, Report};
use super::{Bench, work_folder};
use crate::http::Request;

const AGENTS: usize = 4;
const RATE: f64 = 2000.0;
const CONNECTIONS: u32 = 256;
const HANDLERS: u64 = 200;
/// Before the kill, and after it.
const SPAN: Duration = Duration::from_secs(4);

const OF_SHARE: &str = "calls of the killed agent, of 100";
const FAILED: &str = "calls that failed";
const LOST: &str = "calls that failed and had reached no sandbox";
const TWICE: &str = "calls that ran twice";
/// A machine that is busy with other things does not bear the rate: then there were fewer.
const LEFT_OUT: &str = "calls that were left out, of 16,000";
const MOVED: &str = "from the kill until each of its handlers had answered again";

/// Measures, with a new fleet in each round.
pub fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report::new("failover");
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        one(bench, &mut report)?;
    }
    report.figure(OF_SHARE, Bound::None);
    report.figure(FAILED, Bound::None);
    report.figure(LOST, Bound::AtMost(0.0));
    report.figure(TWICE, Bound::AtMost(0.0));
    report.figure(MOVED, Bound::AtMost(1000.0));
    report.note(format!(
        "{RATE} calls/s of {HANDLERS} handlers to {AGENTS} agents, over {CONNECTIONS} connections"
    ));
    Ok(report)
}

fn one(bench: &Bench, report: &mut Report) -> Result<()> {
    let (folder, _cleanup) = work_folder("bench-failover")?;
    let file = |number: usize| folder.join(format!("ran-{number}"));
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let arguments =
            ["--slots=64".to_owned(), "--cold-ms=3".to_owned(), format!("--ran={}", file(number).display())];
        agents.extend(TimedAgent::start(bench, 1, &arguments)?);
    }
    let servers: Vec<_> = agents.iter().map(|agent| agent.server(None)).collect();
    let lard = lard(bench, json!({"Servers": servers}), &folder)?;
    let request = |number| {
        Request::post(&format!("/run/f{}?exec=5", number % HANDLERS), "1").with_id(&format!("c{number}"))
    };
    let pace = Pace { address: lard.address, connections: CONNECTIONS, rate: RATE, span: SPAN * 2, request };
    let (made, killed) = thread::scope(|scope| {
        let load = scope.spawn(|| pace.run());
        // One span of load before the kill, one after it.
        thread::sleep(SPAN);
        let killed = Instant::now();
        agents[0].kill();
        load.join().map(|made| (made, killed)).map_err(|_| anyhow!("the load panicked"))
    })?;
    let (made, late) = made?;
    report.add(LEFT_OUT, "", vec![late as f64]);
    let ran = (0..AGENTS).map(|number| ids(&file(number))).collect::<Result<Vec<_>>>()?;
    figures(report, &made, &ran, killed);
    Ok(())
}

fn figures(report: &mut Report, made: &[Made], ran: &[HashSet<u64>], killed: Instant) {
    let failed = || made.iter().filter(|one| one.status != 200);
    let lost = failed().filter(|one| !ran[0].contains(&one.number)).count();
    let twice = made.iter().filter(|one| ran.iter().filter(|ran| ran.contains(&one.number)).count() > 1);
    let moved = moved(made, &ran[0], killed);
    let before = made.iter().filter(|one| one.sent < killed).count();
    report.add(OF_SHARE, "", vec![ran[0].len() as f64 * 100.0 / before as f64]);
    report.add(FAILED, "", vec![failed().count() as f64]);
    report.add(LOST, "", vec![lost as f64]);
    report.add(TWICE, "", vec![twice.count() as f64]);
    report.add(MOVED, "ms", vec![moved.as_secs_f64() * 1000.0]);
}

/// How long after the kill all handlers that the killed agent served had been answered by others.
fn moved(made: &[Made], ran: &HashSet<u64>, killed: Instant) -> Duration {
    let its: HashSet<u64> = ran.iter().map(|number| number % HANDLERS).collect();
    let mut again = HashMap::new();
    for one in made.iter().filter(|one| one.sent >= killed && one.status == 200) {
        let (handler, after) = (one.number % HANDLERS, one.sent + one.took - killed);
        let first = again.entry(handler).or_insert(after);
        *first = after.min(*first);
    }
    let after = |handler| again.get(handler).copied().unwrap_or(SPAN);
    its.iter().map(after).max().unwrap_or_default()
}

/// The numbers of the calls that reached a sandbox.
fn ids(file: &std::path::Path) -> Result<HashSet<u64>> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let number = |line: &str| line.strip_prefix('c').and_then(|number| number.parse().ok());
    text.lines().map(|line| number(line).with_context(|| format!("{line:?} is no call's id"))).collect()
}
