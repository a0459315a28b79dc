//! `bench lard --live`: the simulated workload in real time. Agents whose sandboxes are timed stand behind the real lard, each a
//! process with the simulator's own model of what is warm; a client keeps as many calls under way as the simulator does.

use anyhow::{Context, Result};
use openlambda_policy::balance::PolicyKind;
use openlambda_policy::simulate::{self, Outcome, Scenario, Start};
use serde_json::{Value, json};

use super::drive::{Shape, drive, outcome};
use super::{OURS, POINTS, Row};
use crate::bench::process::{TimedAgent, change_policy, lard};
use crate::bench::{Bench, work_folder};
use crate::http::{Request, Response};

const AGENTS: u32 = 8;
/// Calls per slot that lard lets be under way at an agent, as in the simulator.
const MAX_CONN_PER_SLOT: f64 = 6.5;

const SHAPE: Shape = Shape { request, start };

fn request(function: u32, exec: f64) -> Request {
    Request::post(&format!("/run/f{function}?exec={exec:.3}"), "1")
}

fn start(response: &Response) -> Result<Start> {
    let text = response.text();
    let start = Start::ALL.into_iter().find(|start| start.as_str() == text);
    start.with_context(|| format!("answered {} {text}", response.status))
}

/// Measures all policies that have targets, with so many calls each. True if all came as simulated.
pub fn run(bench: &Bench, calls: usize) -> Result<(Vec<(Row, Value)>, bool)> {
    let (mut rows, mut met) = (Vec::new(), true);
    println!(
        "{AGENTS} timed agents behind lard, {calls} calls, closed loop, cold 150 ms: live against simulated\n\
         {:<10} {:>10} {:>10} {:>8} {:>8} {:>14} {:>14}",
        "policy", "calls/s", "simulated", "hits", "sim.", "mean start ms", "simulated"
    );
    for policy in OURS {
        let scenario = Scenario { requests: calls, ..Scenario::new(policy, AGENTS) };
        let simulated = simulate::run(&scenario);
        let live = live(bench, &scenario)?;
        let off = (live.hit_rate - simulated.hit_rate).abs() * 100.0;
        met &= off <= POINTS;
        println!(
            "{:<10} {:>10.0} {:>10.0} {:>6.1} % {:>6.1} % {:>14.1} {:>14.1}  {off:.1} points off, <= {POINTS} {}",
            policy.name(),
            live.throughput,
            simulated.throughput,
            live.hit_rate * 100.0,
            simulated.hit_rate * 100.0,
            live.start_mean_ms,
            simulated.start_mean_ms,
            if off <= POINTS { "ok" } else { "MISS" },
        );
        let row = Row { scenario, outcome: live };
        let json =
            json!({"simulated_hit_rate": simulated.hit_rate, "simulated_throughput": simulated.throughput});
        rows.push((row, json));
    }
    Ok((rows, met))
}

fn live(bench: &Bench, scenario: &Scenario) -> Result<Outcome> {
    let (folder, _cleanup) = work_folder("bench-live")?;
    let arguments = [
        format!("--slots={}", scenario.slots),
        format!("--sandboxes={}", scenario.sandboxes),
        format!("--zygotes={}", scenario.zygotes),
        format!("--fork-ms={}", scenario.fork_ms),
        format!("--cold-ms={}", scenario.cold_ms),
    ];
    let agents = TimedAgent::start(bench, scenario.agents as usize, &arguments)?;
    let max_conn = (f64::from(scenario.slots) * MAX_CONN_PER_SLOT) as u32;
    let servers: Vec<Value> = agents.iter().map(|agent| agent.server(Some(max_conn))).collect();
    let config = json!({
        "Policy": scenario.policy.name(), "LoadHigh": scenario.settings.high, "LoadLow": scenario.settings.low,
        "Servers": servers
    });
    // In the simulation all know from the beginning which packages a handler needs. Here answers tell; nothing else is to be known
    // of that round, so it goes by no locality.
    let mut teaching = config.clone();
    teaching["Policy"] = json!(PolicyKind::RoundRobin.name());
    let lard = lard(bench, teaching, &folder)?;
    let once = (0..scenario.functions).map(|function| (function, 0.0));
    drive(lard.address, scenario.admitted(), once, &SHAPE)?;
    change_policy(&lard, config, scenario.policy.name(), &folder)?;
    let calls = simulate::calls(scenario).take(scenario.requests);
    outcome(drive(lard.address, scenario.admitted(), calls, &SHAPE)?)
}
