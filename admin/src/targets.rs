//! `admin targets`: what lard knows: who serves what, how loaded the workers are, and what moved lately and why.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use openlambda_config::{BalancerConfig, ClusterDir, Process};
use serde_json::{Map, Value};

use crate::args::Targets;
use crate::process::{self, State};
use crate::{cluster, ping};

const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Without `--all` so many names and moves are shown at a place.
const SOME: usize = 20;

pub fn run(args: &Targets, out: &mut dyn Write) -> Result<ExitCode> {
    let cluster = cluster::open(&args.cluster)?;
    let view = ask(&cluster)?;
    let most = if args.all { usize::MAX } else { SOME };
    for line in described(&view, most) {
        let _ = writeln!(out, "{line}");
    }
    Ok(ExitCode::SUCCESS)
}

fn ask(cluster: &ClusterDir) -> Result<Value> {
    let shown = cluster.root().display();
    if !matches!(process::find(cluster, Process::Balancer)?, State::Runs(_)) {
        bail!("the load balancer does not run: admin load-balancer --cluster {shown}");
    }
    let url =
        format!("{}/debug/targets", BalancerConfig::load(cluster.config(Process::Balancer))?.admin_url());
    let answer = ping::get(&url, ANSWER_WITHIN);
    let answer = answer.map_err(|error| {
        anyhow::anyhow!("no answer of {url}: {error}; see admin status --cluster {shown}")
    })?;
    if answer.status != 200 {
        bail!(
            "{url} answers {}: does an older lard run? End it with admin kill --cluster {shown}",
            answer.status_line
        );
    }
    serde_json::from_str(&answer.body).with_context(|| format!("{url} answers with what is no JSON"))
}

/// All lines, with at most so many names and moves at a place.
fn described(view: &Value, most: usize) -> Vec<String> {
    let mut lines = vec![format!(
        "{} by {}, LoadHigh {}, LoadLow {}; {} in flight, {} waiting for a place, {} for a worker",
        text(&view["policy"]),
        text(&view["formula"]),
        view["load_high"],
        view["load_low"],
        calls(list(&view["servers"]).iter().map(|server| number(&server["connections"])).sum()),
        number(&view["waiting"]),
        number(&view["held"]),
    )];
    let (handlers, packages) = (at(&view["handlers"]), at(&view["packages"]));
    for server in list(&view["servers"]) {
        lines.push(worker(server));
        let name = text(&server["name"]);
        for (what, all) in [("handlers", &handlers), ("package sets", &packages)] {
            let here: Vec<&str> =
                all.iter().filter(|(_, names)| names.contains(&name)).map(|(key, _)| *key).collect();
            if !here.is_empty() {
                lines.push(format!("  {what}: {}", some(&here, most)));
            }
        }
        let zygotes: Vec<&str> = list(&server["zygotes"]).iter().map(text).collect();
        if !zygotes.is_empty() {
            lines.push(format!("  Zygotes for package sets: {}", some(&zygotes, most)));
        }
    }
    lines.extend(moved(list(&view["moves"]), most));
    lines
}

fn worker(server: &Value) -> String {
    let mut line = format!(
        "{} at {}: load {:.2}",
        text(&server["name"]),
        text(&server["address"]),
        real(&server["load"])
    );
    line += &format!(", {}", calls(number(&server["connections"])));
    if let Some(most) = server["max_conn"].as_u64() {
        line += &format!(" of {most}");
    }
    if number(&server["foreign"]) > 0 {
        line += &format!(" and {} of others", number(&server["foreign"]));
    }
    match server["report_age_ms"].as_u64() {
        Some(age) => {
            let (cpu, memory) = (real(&server["cpu"]) * 100.0, real(&server["memory"]) * 100.0);
            line += &format!(", CPU {cpu:.0} %, memory {memory:.0} % ({:.1} s ago)", age as f64 / 1000.0);
        }
        None => line += ", not heard of yet",
    }
    if number(&server["set_aside_ms"]) > 0 {
        let span = real(&server["set_aside_ms"]) / 1000.0;
        line +=
            &format!(", set aside for {span:.1} s after {} in a row", failures(number(&server["failures"])));
    }
    if server["mute"] == Value::Bool(true) {
        line += ", set aside because it says nothing";
    }
    line
}

fn moved(moves: &[Value], most: usize) -> Vec<String> {
    if moves.is_empty() {
        return vec!["nothing moved in the last ten minutes".to_owned()];
    }
    let line = |one: &Value| {
        let (ago, key) = (real(&one["seconds_ago"]), text(&one["key"]));
        format!("  {ago:.1} s ago: {key} to {} ({})", text(&one["to"]), text(&one["reason"]))
    };
    let mut lines = vec!["moved in the last ten minutes, the latest first:".to_owned()];
    lines.extend(moves.iter().take(most).map(line));
    if moves.len() > most {
        lines.push(format!("  and {} more (--all)", moves.len() - most));
    }
    lines
}

/// What is where: each key with the names of its workers.
fn at(map: &Value) -> Vec<(&str, Vec<&str>)> {
    let pairs = map.as_object().into_iter().flat_map(Map::iter);
    pairs.map(|(key, names)| (key.as_str(), list(names).iter().map(text).collect())).collect()
}

fn some(names: &[&str], most: usize) -> String {
    let shown = names[..names.len().min(most)].join(" ");
    if names.len() > most { format!("{shown} and {} more (--all)", names.len() - most) } else { shown }
}

fn calls(count: u64) -> String {
    if count == 1 { "1 call".to_owned() } else { format!("{count} calls") }
}

fn failures(count: u64) -> String {
    if count == 1 { "1 failure".to_owned() } else { format!("{count} failures") }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn real(value: &Value) -> f64 {
    value.as_f64().unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view() -> Value {
        let server = |name: &str, connections: u64| {
            json!({
                "name": name, "address": "127.0.0.1:8080", "connections": connections, "foreign": 0, "max_conn": null,
                "load": 0.254, "cpu": 0.12, "memory": 0.4, "report_age_ms": 340, "zygotes": [], "failures": 0, "set_aside_ms": 0
            })
        };
        let mut new = server("worker-1", 0);
        for key in ["cpu", "memory", "report_age_ms", "zygotes"] {
            new[key] = Value::Null;
        }
        let mut busy = server("worker-2", 3);
        (busy["max_conn"], busy["foreign"], busy["failures"]) = (json!(10), json!(2), json!(1));
        (busy["set_aside_ms"], busy["zygotes"]) = (json!(800), json!(["00000000000000aa"]));
        (new["mute"], busy["mute"]) = (json!(true), json!(false));
        json!({
            "policy": "LARD", "formula": "Connections", "load_high": 0.4, "load_low": 0.2, "running": 4, "waiting": 5, "held": 0,
            "servers": [server("worker-0", 1), new, busy],
            "handlers": {"a": ["worker-0"], "b": ["worker-0", "worker-2"], "c": ["worker-0"]},
            "packages": {"00000000000000aa": ["worker-2"]},
            "moves": [
                {"seconds_ago": 1.5, "key": "b", "to": "worker-2", "reason": "imbalance"},
                {"seconds_ago": 30.0, "key": "packages:00000000000000aa", "to": "worker-2", "reason": "failover"},
            ]
        })
    }

    #[test]
    fn each_worker_has_its_lines() {
        assert_eq!(
            described(&view(), SOME),
            [
                "LARD by Connections, LoadHigh 0.4, LoadLow 0.2; 4 calls in flight, 5 waiting for a place, 0 for a worker",
                "worker-0 at 127.0.0.1:8080: load 0.25, 1 call, CPU 12 %, memory 40 % (0.3 s ago)",
                "  handlers: a b c",
                "worker-1 at 127.0.0.1:8080: load 0.25, 0 calls, not heard of yet, set aside because it says nothing",
                "worker-2 at 127.0.0.1:8080: load 0.25, 3 calls of 10 and 2 of others, CPU 12 %, memory 40 % (0.3 s ago), \
                 set aside for 0.8 s after 1 failure in a row",
                "  handlers: b",
                "  package sets: 00000000000000aa",
                "  Zygotes for package sets: 00000000000000aa",
                "moved in the last ten minutes, the latest first:",
                "  1.5 s ago: b to worker-2 (imbalance)",
                "  30.0 s ago: packages:00000000000000aa to worker-2 (failover)",
            ]
        );
    }

    #[test]
    fn long_lists_are_cut_and_say_so() {
        let lines = described(&view(), 1);
        assert!(lines.contains(&"  handlers: a and 2 more (--all)".to_owned()), "{lines:?}");
        assert_eq!(lines.last().unwrap(), "  and 1 more (--all)");
    }

    #[test]
    fn what_says_nothing_is_no_reason_to_fail() {
        let lines = described(&json!({}), SOME);
        assert_eq!(lines.last().unwrap(), "nothing moved in the last ten minutes");
    }
}
