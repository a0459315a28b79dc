//! `admin zygotes`: the import cache of each worker as a tree.

use std::io::Write;
use std::process::ExitCode;

use anyhow::Result;
use openlambda_config::{Process, Size};
use serde_json::Value;

use crate::args::Zygotes;
use crate::{cluster, status};

pub fn run(args: &Zygotes, out: &mut dyn Write) -> Result<ExitCode> {
    let cluster = cluster::open(&args.cluster)?;
    let workers: Vec<_> =
        cluster.started()?.into_iter().filter(|process| matches!(process, Process::Worker(_))).collect();
    if workers.is_empty() {
        let shown = cluster.root().display();
        let _ = writeln!(out, "no worker was started: admin workers --cluster {shown}");
        return Ok(ExitCode::FAILURE);
    }
    let mut all_answer = true;
    for worker in workers {
        match status::worker_state(&cluster, worker) {
            Some(state) => drawing(&state["import_cache"]).iter().for_each(|line| {
                let _ = writeln!(out, "{}", line.replace("WORKER", &worker.to_string()));
            }),
            None => {
                all_answer = false;
                let _ = writeln!(
                    out,
                    "{worker} does not answer: admin status --cluster {}",
                    cluster.root().display()
                );
            }
        }
    }
    Ok(if all_answer { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The lines for one worker; its name is WORKER.
fn drawing(cache: &Value) -> Vec<String> {
    let size = |bytes: &Value| megabytes(bytes.as_u64().unwrap_or(0));
    let mut lines = vec![match cache["budget_bytes"].as_u64() {
        Some(0) | None => "WORKER: the import cache is off (import_cache_size is 0)".to_owned(),
        Some(budget) => {
            format!("WORKER: {} of {} in Zygotes", size(&cache["memory_bytes"]), Size::from_bytes(budget))
        }
    }];
    let nodes = cache["nodes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let roots = nodes.iter().filter(|node| node["parent"].is_null());
    roots.for_each(|root| draw(nodes, root, 1, &mut lines));
    for (package, mark) in cache["excluded"].as_object().into_iter().flatten() {
        let text = |key: &str| mark[key].as_str().unwrap_or_default();
        lines.push(format!("  in no Zygote: {package} ({}): {}", text("reason"), text("message")));
    }
    lines
}

fn draw(nodes: &[Value], node: &Value, depth: usize, lines: &mut Vec<String>) {
    let packages: Vec<_> =
        node["packages"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let name = if packages.is_empty() { "Python".to_owned() } else { packages.join(" ") };
    let number = |key: &str| node[key].as_u64().unwrap_or(0);
    let mut line = format!("{}{name}  {}", "  ".repeat(depth), plural(number("forks"), "fork"));
    if !node["parent"].is_null() {
        line += &format!(
            ", {}, saves {:.0} ms",
            megabytes(number("memory_bytes")),
            node["import_ms"].as_f64().unwrap_or(0.0)
        );
    }
    if number("processes") > 1 {
        line += &format!(", {} processes", number("processes"));
    }
    if number("spares") > 0 {
        line += &format!(", {}", plural(number("spares"), "spare"));
    }
    if let Some(state) = node["state"].as_str().filter(|state| *state != "ready") {
        line += &format!(", {state}");
    }
    lines.push(line);
    let children = nodes.iter().filter(|child| child["parent"] == node["id"]);
    children.for_each(|child| draw(nodes, child, depth + 1, lines));
}

fn plural(count: u64, word: &str) -> String {
    if count == 1 { format!("1 {word}") } else { format!("{count} {word}s") }
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tree_is_drawn_below_its_root() {
        let node = |id: u64, parent: Option<u64>, packages: &[&str], spares: u64| {
            json!({
                "id": id, "parent": parent, "packages": packages, "state": "ready", "memory_bytes": 3 << 20, "import_ms": 80.4,
                "forks": id + 1, "processes": 1, "spares": spares
            })
        };
        let cache = json!({
            "budget_bytes": 512 << 20, "memory_bytes": 6 << 20,
            "nodes": [node(0, None, &[], 2), node(4, Some(0), &["numpy-2.2.0"], 0), node(7, Some(4), &["pandas-2.2.3", "pytz-1"], 1)],
            "excluded": {"netifaces-0.11": {"reason": "crashes", "message": "when it is imported, …"}}
        });
        assert_eq!(
            drawing(&cache),
            [
                "WORKER: 6.0 MiB of 512Mi in Zygotes",
                "  Python  1 fork, 2 spares",
                "    numpy-2.2.0  5 forks, 3.0 MiB, saves 80 ms",
                "      pandas-2.2.3 pytz-1  8 forks, 3.0 MiB, saves 80 ms, 1 spare",
                "  in no Zygote: netifaces-0.11 (crashes): when it is imported, …",
            ]
        );
        assert_eq!(
            drawing(&json!({"budget_bytes": 0}))[0],
            "WORKER: the import cache is off (import_cache_size is 0)"
        );
    }
}
