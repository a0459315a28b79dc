//! The results as a table for people.

use super::Row;

/// Prints it: the rows of one scenario together.
pub fn print(rows: &[Row]) {
    let mut scenario = String::new();
    for row in rows {
        let title = title(row);
        if title != scenario {
            println!("\n{title}");
            println!(
                "{:<26} {:>8} {:>6} {:>6} {:>10} {:>10} {:>9} {:>8} {:>7}",
                "", "calls/s", "hit", "fork", "start mean", "start p50", "p99 (ms)", "balance", "moves"
            );
            scenario = title;
        }
        let outcome = &row.outcome;
        println!(
            "{:<26} {:>8.0} {:>5.1}% {:>5.1}% {:>10.2} {:>10.2} {:>9.1} {:>8.2} {:>7}",
            row.scenario.policy.name(),
            outcome.throughput,
            outcome.hit_rate * 100.0,
            outcome.fork_rate * 100.0,
            outcome.start_mean_ms,
            outcome.start_p50_ms,
            outcome.start_p99_ms,
            outcome.balance,
            outcome.moves,
        );
    }
}

/// What a scenario is, without its policy.
pub fn title(row: &Row) -> String {
    let one = &row.scenario;
    match row.mode() {
        "trace" => format!("recording, {} agents, cold {} ms", one.agents, one.cold_ms),
        mode => format!(
            "{mode} loop, {} agents, {} handlers, Zipf {}, cold {} ms",
            one.agents, one.functions, one.zipf, one.cold_ms
        ),
    }
}
