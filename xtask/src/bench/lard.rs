//! `bench lard`: the balancing policies, all in one run of the simulator of `crates/policy`.
//!
//! Nothing here depends on the machine: equal code gives equal figures.

mod drive;
mod live;
mod real;
mod svg;
mod table;
mod trace;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::{fs, thread};

use anyhow::{Context, Result, bail};
use openlambda_policy::balance::PolicyKind;
use openlambda_policy::simulate::{self, Arrivals, Outcome, Scenario};
use serde_json::{Value, json};

use super::Bench;
use super::report::Bound;

/// Arguments of `bench lard`.
#[derive(Clone, clap::Args)]
pub struct Args {
    /// Only 8 and 32 agents, 2,000 handlers, Zipf 0.9, cold starts of 3 and 150 ms
    #[arg(long)]
    quick: bool,
    /// Where the plot goes [default: target/bench-lard.svg]
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replay a recording instead: a CSV in the format of the Azure Functions data set of 2021 (app, func,
    /// end_timestamp, duration) or of 2019 (invocations per function and minute)
    #[arg(long, value_name = "FILE", conflicts_with_all = ["quick", "write_trace"])]
    trace: Option<PathBuf>,
    /// Run it instead of simulating it: timed agents as processes behind lard, then real workers with real packages (as root); and
    /// compare with the simulation
    #[arg(long, conflicts_with_all = ["quick", "trace", "write_trace"])]
    pub live: bool,
    /// Calls of each policy in a live run
    #[arg(long, default_value_t = 20_000, value_name = "COUNT")]
    calls: usize,
    /// Write a small recording with the published distributions, in the format of 2021, and end
    #[arg(long, value_name = "FILE")]
    write_trace: Option<PathBuf>,
}

/// How busy running alone keeps the slots in the open loop: what the worst policy can just bear.
const BUSY_CHEAP: f64 = 0.7;
const BUSY_DEAR: f64 = 0.15;
/// A start that is no dearer than this is cheap, in ms.
const CHEAP_MS: f64 = 3.0;
/// Points by which the hit rate of a live run may differ from the simulated one.
const POINTS: f64 = 3.0;
/// Imports of real packages take their time: one call of so many is made there.
const REAL: usize = 5;
/// What has locality, and so has targets to reach.
const OURS: [PolicyKind; 3] = [PolicyKind::Lard, PolicyKind::LardReplicated, PolicyKind::CostAware];

/// A scenario and what came of it.
pub(super) struct Row {
    pub scenario: Scenario,
    pub outcome: Outcome,
}

impl Row {
    /// How calls came.
    pub fn mode(&self) -> &'static str {
        match self.scenario.arrivals {
            Arrivals::Closed => "closed",
            Arrivals::Open(_) => "open",
            Arrivals::Trace(_) => "trace",
        }
    }

    fn json(&self) -> Value {
        let (scenario, outcome) = (&self.scenario, &self.outcome);
        json!({
            "mode": self.mode(),
            "policy": scenario.policy.name(),
            "agents": scenario.agents,
            "functions": scenario.functions,
            "zipf": scenario.zipf,
            "cold_ms": scenario.cold_ms,
            "throughput": outcome.throughput,
            "hit_rate": outcome.hit_rate,
            "start_mean_ms": outcome.start_mean_ms,
            "start_p99_ms": outcome.start_p99_ms,
        })
    }
}

/// `cargo xtask bench lard`.
pub fn run(args: &Args, json: Option<&Path>, gate: bool, default_svg: &Path) -> Result<()> {
    if let Some(path) = &args.write_trace {
        return trace::write_sample(path);
    }
    let scenarios = match &args.trace {
        Some(path) => replayed(trace::read(path)?),
        None => all(args.quick),
    };
    let rows = run_all(scenarios);
    table::print(&rows);
    let svg = args.svg.as_deref().unwrap_or(default_svg);
    fs::write(svg, svg::plot(&rows)).with_context(|| format!("cannot write {}", svg.display()))?;
    println!("\nplot written to {}", svg.display());
    write(json, rows.iter().map(Row::json).collect())?;
    if args.trace.is_none() && !targets(&rows) && gate {
        bail!("a target was missed");
    }
    Ok(())
}

/// `cargo xtask bench lard --live`.
pub fn run_live(bench: &Bench, args: &Args, json: Option<&Path>, gate: bool) -> Result<()> {
    let (timed, timed_met) = live::run(bench, args.calls)?;
    let (real, real_met) = real::run(bench, args.calls / REAL)?;
    let met = timed_met && real_met;
    let named = |mode: &'static str| {
        move |(row, simulated): (Row, Value)| {
            let mut result = row.json();
            (result["mode"], result["simulated"]) = (json!(mode), simulated);
            result
        }
    };
    let results = timed.into_iter().map(named("live")).chain(real.into_iter().map(named("real")));
    write(json, results.collect())?;
    if gate && !met {
        bail!("a target was missed");
    }
    Ok(())
}

fn write(file: Option<&Path>, results: Vec<Value>) -> Result<()> {
    let Some(path) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(&json!({ "results": results }))? + "\n";
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    println!("figures written to {}", path.display());
    Ok(())
}

/// All combinations; the quick ones are among them.
fn all(quick: bool) -> Vec<Scenario> {
    let agents: &[u32] = if quick { &[8, 32] } else { &[4, 8, 16, 32] };
    let functions: &[u32] = if quick { &[2000] } else { &[500, 2000, 10_000] };
    let zipfs: &[f64] = if quick { &[0.9] } else { &[0.7, 0.9, 1.1] };
    let colds: &[f64] = if quick { &[3.0, 150.0] } else { &[3.0, 150.0, 1000.0] };
    let mut scenarios = Vec::new();
    for agents in agents {
        for functions in functions {
            for zipf in zipfs {
                for cold_ms in colds {
                    for arrivals in [Arrivals::Closed, open(*cold_ms)] {
                        scenarios.extend(PolicyKind::ALL.map(|policy| Scenario {
                            functions: *functions,
                            zipf: *zipf,
                            cold_ms: *cold_ms,
                            arrivals: arrivals.clone(),
                            ..Scenario::new(policy, *agents)
                        }));
                    }
                }
            }
        }
    }
    scenarios
}

fn open(cold_ms: f64) -> Arrivals {
    Arrivals::Open(if cold_ms <= CHEAP_MS { BUSY_CHEAP } else { BUSY_DEAR })
}

/// A recording under every policy, with cheap and with dear starts.
fn replayed(recording: trace::Recording) -> Vec<Scenario> {
    let functions = recording.functions;
    let scenario = |cold_ms| {
        let arrivals = Arrivals::Trace(recording.calls.clone());
        PolicyKind::ALL.map(|policy| Scenario {
            functions,
            cold_ms,
            arrivals: arrivals.clone(),
            ..Scenario::new(policy, 8)
        })
    };
    [CHEAP_MS, 150.0].into_iter().flat_map(scenario).collect()
}

/// Runs them on all CPUs; the results are in the order of the scenarios.
fn run_all(scenarios: Vec<Scenario>) -> Vec<Row> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(vec![None; scenarios.len()]);
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let outcome = simulate::run(scenario);
                    let place = scenarios.iter().position(|other| std::ptr::eq(other, scenario));
                    let mut outcomes = outcomes.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(place) = place {
                        outcomes[place] = Some(outcome);
                    }
                }
            });
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_else(PoisonError::into_inner);
    let pairs = scenarios.into_iter().zip(outcomes);
    pairs.filter_map(|(scenario, outcome)| Some(Row { scenario, outcome: outcome? })).collect()
}

/// Prints how the run stands to what is to be reached. True if all is.
fn targets(rows: &[Row]) -> bool {
    let throughput = |policy: PolicyKind, agents: u32, cold_ms: f64| {
        let is_it = |row: &&Row| {
            let one = &row.scenario;
            (one.policy, one.agents, one.functions, one.zipf, one.cold_ms)
                == (policy, agents, 2000, 0.9, cold_ms)
                && one.arrivals == Arrivals::Closed
        };
        rows.iter().find(is_it).map_or(f64::NAN, |row| row.outcome.throughput)
    };
    println!("\nclosed loop, 2,000 handlers, Zipf 0.9: throughput over that of another policy");
    let mut met = true;
    for (agents, cold_ms, other, bound) in [
        (32, 150.0, PolicyKind::LeastLoaded, 2.9),
        (32, 150.0, PolicyKind::BoundedLoads, 1.4),
        (8, 150.0, PolicyKind::LeastLoaded, 1.5),
        (8, CHEAP_MS, PolicyKind::LeastLoaded, 0.97),
        (32, CHEAP_MS, PolicyKind::LeastLoaded, 0.97),
    ] {
        for policy in OURS {
            let ratio = throughput(policy, agents, cold_ms) / throughput(other, agents, cold_ms);
            let verdict = if ratio >= bound { "ok" } else { "MISS" };
            met &= ratio >= bound;
            println!(
                "{agents:>2} agents, cold {cold_ms:>3} ms: {:<9} / {:<26} {ratio:>6.3}  {} {verdict}",
                policy.name(),
                other.name(),
                Bound::AtLeast(bound),
            );
        }
    }
    met & replicas_agree()
}

/// Three replicas of lard, each with a policy of its own, against one.
fn replicas_agree() -> bool {
    let scenario = |replicas, agents, arrivals| Scenario {
        replicas,
        arrivals,
        ..Scenario::new(PolicyKind::CostAware, agents)
    };
    let cases = [(8, Arrivals::Closed), (32, Arrivals::Closed), (32, Arrivals::Open(BUSY_DEAR))];
    let pairs =
        cases.iter().flat_map(|(agents, arrivals)| [1, 3].map(|r| scenario(r, *agents, arrivals.clone())));
    let rows = run_all(pairs.collect());
    println!("\nCostAware, cold 150 ms: hit rate of three replicas of lard over that of one");
    let mut met = true;
    for pair in rows.chunks(2) {
        let [one, three] = pair else { return false };
        let ratio = three.outcome.hit_rate / one.outcome.hit_rate;
        let verdict = if ratio >= 0.95 { "ok" } else { "MISS" };
        met &= ratio >= 0.95;
        println!("{:>2} agents, {:<6} {ratio:>6.3}  >= 0.95 {verdict}", one.scenario.agents, one.mode());
    }
    met
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_quick_scenarios_are_among_all() {
        let (quick, all) = (all(true), all(false));
        assert_eq!((quick.len(), all.len()), (2 * 2 * 2 * 7, 4 * 3 * 3 * 3 * 2 * 7));
        let line = |one: &Scenario| format!("{one:?}");
        let all: std::collections::HashSet<_> = all.iter().map(line).collect();
        assert!(quick.iter().all(|one| all.contains(&line(one))));
    }

    #[test]
    fn a_result_has_the_agreed_keys() {
        let scenario = Scenario { requests: 100, ..Scenario::new(PolicyKind::LardReplicated, 4) };
        let rows = run_all(vec![scenario]);
        let json = rows[0].json();
        let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
        let expected =
            "mode policy agents functions zipf cold_ms throughput hit_rate start_mean_ms start_p99_ms";
        assert_eq!(keys.join(" "), expected);
        assert_eq!(
            (&json["mode"], &json["policy"], &json["agents"]),
            (&json!("closed"), &json!("LARD/R"), &json!(4))
        );
        assert!(json["throughput"].as_f64().unwrap() > 0.0);
    }

    #[test]
    fn results_are_in_the_order_of_the_scenarios() {
        let scenarios: Vec<_> = (1..=12)
            .map(|agents| Scenario { requests: 50, ..Scenario::new(PolicyKind::RoundRobin, agents) })
            .collect();
        let rows = run_all(scenarios);
        assert_eq!(
            rows.iter().map(|row| row.scenario.agents).collect::<Vec<_>>(),
            (1..=12).collect::<Vec<_>>()
        );
    }
}
