//! `bench burst`: on a Kubernetes of two nodes, through lard, with handlers that need nothing and handlers that need numpy and pandas:
//! first calls one after the other and many at once, and the memory of idle handlers.

use std::net::SocketAddr;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use serde_json::{Value, json};

use super::kubernetes::{Kubernetes, NAME, create, delete, first_call, handler, objects};
use super::report::{Bound, Report};
use super::stats::percentile;
use super::subject::settled;
use super::{Bench, machine};

mod index;

/// First calls that are made one after the other, per round.
const FIRST: usize = 20;
/// Between two of these.
const GAP: Duration = Duration::from_millis(50);
const FEW: usize = 8;
const MANY: usize = 64;
/// Idle handlers whose memory is counted.
const IDLE: usize = 64;
const PATIENCE: Duration = Duration::from_secs(120);
const MB: f64 = 1e6;

/// What handlers are measured, and what is to be reached.
struct Kind {
    prefix: &'static str,
    code: &'static str,
    requirements: &'static [&'static str],
    /// First calls one after the other.
    first: (&'static str, Bound),
    /// p95 of the first calls of [`FEW`] and of [`MANY`] new handlers, and of as many calls of one.
    bursts: [(&'static str, Bound); 3],
    /// Memory of an idle handler.
    idle: (&'static str, Bound),
}

const BARE: Kind = Kind {
    prefix: "bare",
    code: "def handler(event):\n    return \"Hello, %s!\" % event[\"name\"]\n",
    requirements: &[],
    first: ("bare: first call", Bound::None),
    bursts: [
        ("bare: 8 new handlers, p95", Bound::AtMost(25.0)),
        ("bare: 64 new handlers, p95", Bound::AtMost(120.0)),
        ("bare: 64 calls to a new one, p95", Bound::AtMost(120.0)),
    ],
    idle: ("bare: memory when idle", Bound::AtMost(1.3)),
};

const PANDAS: Kind = Kind {
    prefix: "pandas",
    code: "import numpy, pandas\ndef handler(event):\n    return int(numpy.arange(len(event[\"name\"])).sum())\n",
    requirements: &["numpy==2.2.1", "pandas==2.2.3"],
    first: ("pandas: first call", Bound::AtMost(8.0)),
    bursts: [
        ("pandas: 8 new handlers, p95", Bound::AtMost(60.0)),
        ("pandas: 64 new handlers, p95", Bound::AtMost(300.0)),
        ("pandas: 64 calls to a new one, p95", Bound::AtMost(300.0)),
    ],
    idle: ("pandas: memory when idle", Bound::AtMost(3.0)),
};

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    let kubernetes = Kubernetes::start(bench, &json!({"packages": {"indexURL": index::URL}}))?;
    index::start(&kubernetes, PANDAS.requirements)?;
    let lard = kubernetes.node_port(NAME)?;
    let mut report = Report::new("burst");
    let measurement = Measurement { kubernetes: &kubernetes, lard };
    for kind in [BARE, PANDAS] {
        measurement.prepare(&kind)?;
        for round in 1..=bench.rounds {
            eprintln!("{}: round {round} of {}", kind.prefix, bench.rounds);
            measurement.round(&kind, &mut report)?;
        }
        measurement.idle(&kind, &mut report)?;
        report.figure(kind.first.0, kind.first.1);
        kind.bursts.iter().for_each(|(name, bound)| report.figure(name, *bound));
        report.figure(kind.idle.0, kind.idle.1);
    }
    report.note(format!(
        "Memory: of {IDLE} handlers that were called once; AnonPages + Slab + KernelStack + PageTables + Percpu of the machine."
    ));
    report.note("The 64 calls at once come from as many threads on the same machine, each on a connection of its own.".into());
    Ok(report)
}

struct Measurement<'a> {
    kubernetes: &'a Kubernetes,
    lard: SocketAddr,
}

impl Measurement<'_> {
    /// Waits until every node has the packages of a kind, imported.
    fn prepare(&self, kind: &Kind) -> Result<()> {
        let names = self.deploy(kind, 1)?;
        first_call(self.lard, &names[0])?;
        let wanted: Vec<String> = kind.requirements.iter().map(|one| one.replace("==", "-")).collect();
        let end = Instant::now() + PATIENCE;
        for pod in self.kubernetes.pods("agent")? {
            loop {
                let state: Value = serde_json::from_str(&self.kubernetes.admin(&pod, "/debug/state")?)?;
                if wanted.is_empty() || holds(&state["import_cache"], &wanted) {
                    break;
                }
                if Instant::now() > end {
                    bail!(
                        "{pod} has no Zygote with {wanted:?} after {PATIENCE:?}: {}",
                        state["import_cache"]
                    );
                }
                // Between two looks.
                thread::sleep(Duration::from_millis(200));
            }
        }
        self.remove(&names)
    }

    fn round(&self, kind: &Kind, report: &mut Report) -> Result<()> {
        let names = self.deploy(kind, FIRST)?;
        let mut times = Vec::new();
        for name in &names {
            // The pace that is measured at.
            thread::sleep(GAP);
            times.push(first_call(self.lard, name)?);
        }
        report.add(kind.first.0, "ms", times);
        self.remove(&names)?;
        for ((name, _), (handlers, callers)) in kind.bursts.iter().zip([(FEW, 1), (MANY, 1), (1, MANY)]) {
            let names = self.deploy(kind, handlers)?;
            let calls: Vec<&str> =
                names.iter().flat_map(|name| (0..callers).map(|_| name.as_str())).collect();
            report.add(name, "ms", vec![percentile(&at_once(self.lard, &calls)?, 0.95)]);
            self.remove(&names)?;
        }
        Ok(())
    }

    fn idle(&self, kind: &Kind, report: &mut Report) -> Result<()> {
        let names = self.deploy(kind, IDLE)?;
        let (processes, before) = (settled()?, machine::memory_in_use());
        for name in &names {
            first_call(self.lard, name)?;
        }
        let (kept, after) = (settled()?.saturating_sub(processes), machine::memory_in_use());
        if kept < IDLE {
            bail!(
                "only {kept} of {IDLE} handlers are idle: the others were evicted, so nothing was measured"
            );
        }
        let each = after.saturating_sub(before) as f64 / IDLE as f64 / MB;
        report.add(kind.idle.0, "MB", vec![each]);
        self.remove(&names)
    }

    /// Writes so many new Handlers; they are Ready when this returns.
    fn deploy(&self, kind: &Kind, count: usize) -> Result<Vec<String>> {
        let mut api = self.kubernetes.api()?;
        let names: Vec<String> = (0..count).map(|number| format!("{}-{number}", kind.prefix)).collect();
        for name in &names {
            let mut object = handler(name, kind.code);
            if !kind.requirements.is_empty() {
                object["spec"]["requirements"] = json!(kind.requirements);
                object["spec"]["limits"] = json!({"memory": "512Mi"});
            }
            create(&mut api, &objects("handlers"), &object)?;
        }
        self.kubernetes.wait_for_handlers(count)?;
        Ok(names)
    }

    /// Deletes Handlers, and waits until nothing of them is left and spares are there again.
    fn remove(&self, names: &[String]) -> Result<()> {
        let mut api = self.kubernetes.api()?;
        for name in names {
            delete(&mut api, &format!("{}/{name}", objects("handlers")))?;
        }
        self.kubernetes.wait_for_handlers(0)?;
        settled().map(drop)
    }
}

fn holds(cache: &Value, wanted: &[String]) -> bool {
    let nodes = cache["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |node: &Value, name: &String| {
        node["packages"].as_array().is_some_and(|all| all.contains(&json!(name)))
    };
    nodes.iter().any(|node| node["state"] == "ready" && wanted.iter().all(|name| has(node, name)))
}

/// Calls all of these handlers at once; milliseconds of each.
fn at_once(lard: SocketAddr, names: &[&str]) -> Result<Vec<f64>> {
    let barrier = Barrier::new(names.len());
    thread::scope(|scope| {
        let callers: Vec<_> = names
            .iter()
            .map(|name| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    first_call(lard, name)
                })
            })
            .collect();
        callers.into_iter().map(|caller| caller.join().map_err(|_| anyhow!("a caller panicked"))?).collect()
    })
}
