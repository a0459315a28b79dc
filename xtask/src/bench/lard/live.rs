//! `bench lard --live`: the simulated workload in real time. Agents whose sandboxes are timed stand behind the real lard, each a
//! process with the simulator's own model of what is warm; a client keeps as many calls under way as the simulator does.

use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use openlambda_policy::balance::PolicyKind;
use openlambda_policy::simulate::{self, Outcome, Scenario, Start};
use serde_json::{Value, json};

use super::{OURS, Row};
use crate::bench::process::{Running, TimedAgent, change_policy, lard};
use crate::bench::{Bench, work_folder};
use crate::http::{Connection, Request};

const AGENTS: u32 = 8;
/// Points by which the hit rate may differ from the simulated one.
const POINTS: f64 = 3.0;
/// Calls per slot that lard lets be under way at an agent, as in the simulator.
const MAX_CONN_PER_SLOT: f64 = 6.5;

/// What a call was, by the answer.
struct Made {
    ended: Instant,
    start: Start,
    /// Besides the time that its handler ran, in ms.
    waited: f64,
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
    drive(&lard, scenario.admitted(), (0..scenario.functions).map(|function| (function, 0.0)))?;
    change_policy(&lard, config, scenario.policy.name(), &folder)?;
    let calls = simulate::calls(scenario).take(scenario.requests);
    outcome(drive(&lard, scenario.admitted(), calls)?, scenario)
}

/// Keeps so many calls under way until all are made.
fn drive(
    lard: &Running,
    under_way: usize,
    calls: impl Iterator<Item = (u32, f64)> + Send,
) -> Result<Vec<Made>> {
    let calls = Mutex::new(calls);
    let next = || calls.lock().unwrap_or_else(PoisonError::into_inner).next();
    let client = || {
        let (mut connection, mut made) = (Connection::open(lard.address)?, Vec::new());
        while let Some((function, exec)) = next() {
            let request = Request::post(&format!("/run/f{function}?exec={exec:.3}"), "1");
            let begun = Instant::now();
            let response = connection.call(&request)?;
            let ended = Instant::now();
            let text = response.text();
            let start = Start::ALL.into_iter().find(|start| start.as_str() == text);
            let start = start.with_context(|| format!("answered {} {text}", response.status))?;
            made.push(Made { ended, start, waited: (ended - begun).as_secs_f64() * 1000.0 - exec });
        }
        anyhow::Ok(made)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..under_way).map(|_| scope.spawn(client)).collect();
        let mut made = Vec::new();
        for client in clients {
            made.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(made)
    })
}

/// The same figures as the simulator's, the first fifth left out.
fn outcome(mut made: Vec<Made>, scenario: &Scenario) -> Result<Outcome> {
    made.sort_by_key(|one| one.ended);
    ensure!(made.len() >= 5, "too few calls: {}", made.len());
    let counted = made.split_off(scenario.requests / 5);
    let since = made.last().map_or(counted[0].ended, |last| last.ended);
    let span = counted.last().map_or(Duration::ZERO, |last| last.ended - since);
    let count = counted.len() as f64;
    let share = |start| counted.iter().filter(|one| one.start == start).count() as f64 / count;
    let mut waits: Vec<f64> = counted.iter().map(|one| one.waited).collect();
    waits.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| waits[((waits.len() - 1) as f64 * q) as usize];
    Ok(Outcome {
        throughput: count / span.as_secs_f64(),
        hit_rate: share(Start::Warm),
        fork_rate: share(Start::Fork),
        start_mean_ms: waits.iter().sum::<f64>() / count,
        start_p50_ms: quantile(0.5),
        start_p99_ms: quantile(0.99),
        // What lard and the agents alone could tell.
        balance: f64::NAN,
        moves: 0,
    })
}
