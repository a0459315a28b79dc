//! `bench operator`: a thousand Handlers at once, what a second look at them writes, and what the parts take idle.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use super::Bench;
use super::kubernetes::{Kubernetes, NAME, create, handler, objects};
use super::report::{Bound, Report};

const HANDLERS: usize = 1000;
/// Connections that write at a time.
const WRITERS: usize = 8;
const MIB: f64 = 1024.0 * 1024.0;
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures once: each round would need a cluster of its own.
pub fn run(bench: &Bench) -> Result<Report> {
    let kubernetes = Kubernetes::start(bench, &json!({}))?;
    let mut report = Report::new("operator");
    let (control, agents) = memory(&kubernetes)?;
    report.add("operator and two lards, idle", "MiB", vec![control]);
    report.add("agent process, idle", "MiB", agents);
    let start = Instant::now();
    create_all(&kubernetes)?;
    report.add("1,000 Handlers: written", "s", vec![start.elapsed().as_secs_f64()]);
    kubernetes.wait_for_handlers(HANDLERS)?;
    report.add("1,000 Handlers: all Ready", "s", vec![start.elapsed().as_secs_f64()]);
    let (control, agents) = memory(&kubernetes)?;
    report.add("operator and two lards, 1,000 Handlers", "MiB", vec![control]);
    report.add("agent process, 1,000 Handlers", "MiB", agents);
    report.add("status writes of a new operator", "", vec![resync(&kubernetes)?]);
    report.figure("1,000 Handlers: all Ready", Bound::AtMost(6.0));
    report.figure("status writes of a new operator", Bound::AtMost(0.0));
    report.figure("operator and two lards, idle", Bound::AtMost(60.0));
    report.figure("agent process, idle", Bound::AtMost(20.0));
    report.note(
        "Memory of operator and lards: working set of their containers as the kubelet tells it.".into(),
    );
    report.note("Memory of an agent: resident size of the process, without Zygotes and sandboxes.".into());
    Ok(report)
}

fn create_all(kubernetes: &Kubernetes) -> Result<()> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                scope.spawn(move || -> Result<()> {
                    let mut api = kubernetes.api()?;
                    for number in (writer..HANDLERS).step_by(WRITERS) {
                        let code = format!("def handler(event):\n    return {number}\n");
                        create(&mut api, &objects("handlers"), &handler(&format!("h{number}"), &code))?;
                    }
                    Ok(())
                })
            })
            .collect();
        writers.into_iter().try_for_each(|writer| writer.join().map_err(|_| anyhow!("a writer panicked"))?)
    })
}

/// MiB of the operator and the lards together, and of each agent process. Waits until the kubelets have told of all.
fn memory(kubernetes: &Kubernetes) -> Result<(f64, Vec<f64>)> {
    let agents =
        kubernetes.pods("agent")?.iter().map(|pod| resident(kubernetes, pod)).collect::<Result<_>>()?;
    let wanted = [kubernetes.pods("operator")?, kubernetes.pods("lard")?].concat();
    let end = Instant::now() + PATIENCE;
    loop {
        let known = working_sets(kubernetes)?;
        let sets: Vec<f64> =
            known.into_iter().filter(|(pod, _)| wanted.contains(pod)).map(|(_, set)| set).collect();
        if sets.len() == wanted.len() {
            return Ok((sets.iter().sum(), agents));
        }
        if Instant::now() > end {
            bail!("the kubelets tell the memory of {} of {} pods", sets.len(), wanted.len());
        }
        // Between two looks.
        thread::sleep(Duration::from_millis(500));
    }
}

fn working_sets(kubernetes: &Kubernetes) -> Result<Vec<(String, f64)>> {
    let nodes = kubernetes.kubectl(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let mut all = Vec::new();
    for node in nodes.split_whitespace() {
        let text =
            kubernetes.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{node}/proxy/stats/summary")])?;
        let summary: Value = serde_json::from_str(&text)?;
        for pod in summary["pods"].as_array().into_iter().flatten() {
            let name = pod["podRef"]["name"].as_str().unwrap_or_default();
            let set = pod["containers"][0]["memory"]["workingSetBytes"].as_f64();
            if let Some(set) = set.filter(|_| pod["podRef"]["namespace"] == NAME) {
                all.push((name.to_owned(), set / MIB));
            }
        }
    }
    Ok(all)
}

fn resident(kubernetes: &Kubernetes, pod: &str) -> Result<f64> {
    let metrics = kubernetes.admin(pod, "/metrics")?;
    let line = metrics.lines().find(|line| line.starts_with("process_resident_memory_bytes "));
    let bytes = line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
    Ok(bytes.with_context(|| format!("{pod} does not tell its memory"))? / MIB)
}

/// Replaces the operator: how often the new one writes until it has looked at every Handler.
fn resync(kubernetes: &Kubernetes) -> Result<f64> {
    let old = kubernetes.pods("operator")?;
    let select = "app.kubernetes.io/component=operator";
    kubernetes.kubectl(&["--namespace", NAME, "delete", "pods", "-l", select])?;
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        let new = kubernetes.pods("operator")?.into_iter().find(|pod| !old.contains(pod));
        let metrics = new.and_then(|pod| kubernetes.admin(&pod, "/metrics").ok()).unwrap_or_default();
        let sum = |mark: &str| -> f64 {
            let lines = metrics.lines().filter(|line| line.contains(mark) && !line.starts_with('#'));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        // Each of its rounds looks at all Handlers; it is through when it has asked the agents and nothing is open.
        let through = sum("operator_reconciles_total{kind=\"Handler\"") >= 3.0
            && sum("operator_agent_polls_total{result=\"ok\"") >= 2.0
            && metrics.contains("operator_unsettled_handlers 0\n");
        if through {
            // The sum of nothing is -0.0.
            return Ok(sum("what=\"handler status\"") + sum("what=\"cluster status\"") + 0.0);
        }
        // Between two looks.
        thread::sleep(Duration::from_millis(200));
    }
    bail!("a new operator did not look at {HANDLERS} Handlers within {PATIENCE:?}")
}
