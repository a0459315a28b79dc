//! The memory of the processes over time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::{Shared, WORKERS};
use crate::books::resident;

/// Looks at a life that are needed for a slope.
const ENOUGH: usize = 10;

/// What was seen: for each process, each of its lives.
#[derive(Debug, Default)]
pub struct Memory {
    lives: BTreeMap<(String, i32), Vec<(Duration, u64)>>,
}

impl Memory {
    /// Looks once. A process that is being started again is left out.
    pub fn look(&mut self, shared: &Shared) -> Result<()> {
        let cluster = &shared.cluster;
        let workers = (0..WORKERS).map(|index| (format!("worker-{index}"), cluster.worker_pid(index)));
        for (name, pid) in workers.chain([("lard".to_owned(), cluster.balancer_pid())]) {
            if let Some((pid, bytes)) =
                pid.ok().and_then(|pid| Some((pid.as_raw(), resident(pid.as_raw()).ok()?)))
            {
                self.lives.entry((name, pid)).or_default().push((shared.began.elapsed(), bytes));
            }
        }
        Ok(())
    }

    /// The longest life of each process: its memory at the begin, in the middle, at the end, and how fast it grew in the second half.
    pub fn report(&self) -> Value {
        let mut longest: BTreeMap<&str, &Vec<(Duration, u64)>> = BTreeMap::new();
        for ((name, _), looks) in &self.lives {
            let best = longest.entry(name).or_insert(looks);
            if looks.len() > best.len() {
                *best = looks;
            }
        }
        let told = longest.into_iter().map(|(name, looks)| {
            let at = |place: usize| looks.get(place).map_or(0, |(_, bytes)| bytes / 1024);
            let half = &looks[looks.len() / 2..];
            let slope = (looks.len() >= ENOUGH).then(|| slope(half) * 60.0 / 1024.0);
            let life = json!({
                "seconds": looks.last().zip(looks.first()).map_or(0.0, |(last, first)| (last.0 - first.0).as_secs_f64()),
                "first_kib": at(0), "middle_kib": at(looks.len() / 2), "last_kib": at(looks.len() - 1),
                "growth_kib_per_minute": slope.map(f64::round),
            });
            (name.to_owned(), life)
        });
        Value::Object(told.collect())
    }
}

/// Bytes a second, by least squares.
fn slope(looks: &[(Duration, u64)]) -> f64 {
    let count = looks.len() as f64;
    let mean = |of: &dyn Fn(&(Duration, u64)) -> f64| looks.iter().map(of).sum::<f64>() / count;
    let (time, bytes) = (mean(&|look| look.0.as_secs_f64()), mean(&|look| look.1 as f64));
    let both: f64 = looks.iter().map(|(t, b)| (t.as_secs_f64() - time) * (*b as f64 - bytes)).sum();
    let square: f64 = looks.iter().map(|(t, _)| (t.as_secs_f64() - time).powi(2)).sum();
    if square > 0.0 { both / square } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_its_own_slope() {
        let looks: Vec<_> = (0..10).map(|n| (Duration::from_secs(n), 100 + 7 * n)).collect();
        assert!((slope(&looks) - 7.0).abs() < 1e-9);
        assert!(slope(&looks[..1]).abs() < 1e-9);
    }
}
