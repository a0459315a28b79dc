//! What was measured, and how it stands to the targets: a table for people, JSON for machines.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::machine;
use super::stats::{max, median, min, percentile};

/// A benchmark's results.
pub struct Report {
    name: &'static str,
    series: Vec<Series>,
    targets: Vec<Target>,
    notes: Vec<String>,
}

/// One thing measured in every round.
struct Series {
    name: &'static str,
    unit: &'static str,
    rounds: Vec<Vec<f64>>,
}

/// What a ratio, or a figure, must reach.
#[derive(Clone, Copy)]
pub enum Bound {
    /// Not more than this.
    AtMost(f64),
    /// Not less than this.
    AtLeast(f64),
    /// Only for information.
    None,
}

struct Target {
    name: String,
    bound: Bound,
    /// One value per round.
    values: Vec<f64>,
}

impl Report {
    /// An empty report.
    pub fn new(name: &'static str) -> Self {
        Self { name, series: Vec::new(), targets: Vec::new(), notes: Vec::new() }
    }

    /// Adds the samples of one round.
    pub fn add(&mut self, name: &'static str, unit: &'static str, samples: Vec<f64>) {
        match self.series.iter_mut().find(|series| series.name == name) {
            Some(series) => series.rounds.push(samples),
            None => self.series.push(Series { name, unit, rounds: vec![samples] }),
        }
    }

    /// Sets the target of one series' round medians against another's, round by round.
    pub fn ratio(&mut self, over: &str, under: &str, bound: Bound) {
        let values = self.medians(over).iter().zip(self.medians(under)).map(|(a, b)| a / b).collect();
        self.targets.push(Target { name: format!("{over} / {under}"), bound, values });
    }

    /// Sets the target of a series itself.
    pub fn figure(&mut self, name: &str, bound: Bound) {
        self.targets.push(Target { name: name.to_owned(), bound, values: self.medians(name) });
    }

    /// Adds a line for the reader.
    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    /// Whether every target is met.
    pub fn met(&self) -> bool {
        self.targets.iter().all(Target::met)
    }

    /// Prints the table.
    pub fn print(&self) {
        let width = self.series.iter().map(|s| s.name.len()).chain(self.targets.iter().map(|t| t.name.len()));
        let width = width.max().unwrap_or(0);
        println!("\nbench {} on {}", self.name, machine::facts().line());
        println!("{:width$}  {:>10} {:>10} {:>10}  {:>7}", "", "p50", "p99", "min", "n");
        for series in &self.series {
            let all = series.all();
            let (p50, p99, least) = (percentile(&all, 0.5), percentile(&all, 0.99), min(&all));
            let (name, unit) = (series.name, series.unit);
            println!("{name:width$}  {p50:>10.1} {p99:>10.1} {least:>10.1}  {:>7} {unit}", all.len());
        }
        println!("\n{:width$}  {:>10} {:>10} {:>10}  target", "median of rounds", "median", "min", "max");
        for target in &self.targets {
            let values = &target.values;
            let verdict = target.verdict();
            let (name, bound) = (&target.name, target.bound);
            println!(
                "{name:width$}  {:>10.3} {:>10.3} {:>10.3}  {bound}{verdict}",
                median(values),
                min(values),
                max(values)
            );
        }
        self.notes.iter().for_each(|note| println!("{note}"));
    }

    /// Writes everything as JSON.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(&self.json())? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
    }

    fn json(&self) -> Value {
        json!({
            "bench": self.name,
            "machine": machine::facts().json(),
            "series": self.series.iter().map(Series::json).collect::<Vec<_>>(),
            "targets": self.targets.iter().map(Target::json).collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }

    fn medians(&self, name: &str) -> Vec<f64> {
        let series = self.series.iter().find(|series| series.name == name);
        series.map(|series| series.rounds.iter().map(|round| median(round)).collect()).unwrap_or_default()
    }
}

impl Series {
    fn all(&self) -> Vec<f64> {
        self.rounds.concat()
    }

    fn json(&self) -> Value {
        let all = self.all();
        json!({
            "name": self.name, "unit": self.unit, "n": all.len(),
            "p50": percentile(&all, 0.5), "p99": percentile(&all, 0.99), "min": min(&all), "max": max(&all),
            "round_medians": self.rounds.iter().map(|round| median(round)).collect::<Vec<_>>(),
        })
    }
}

impl Target {
    fn met(&self) -> bool {
        let value = median(&self.values);
        match self.bound {
            Bound::AtMost(bound) => value <= bound,
            Bound::AtLeast(bound) => value >= bound,
            Bound::None => true,
        }
    }

    fn verdict(&self) -> &'static str {
        match self.bound {
            Bound::None => "",
            _ if self.met() => "  ok",
            _ => "  MISS",
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name, "bound": self.bound.to_string(), "met": self.met(),
            "median": median(&self.values), "min": min(&self.values), "max": max(&self.values), "rounds": self.values,
        })
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtMost(bound) => write!(f, "<= {bound}"),
            Self::AtLeast(bound) => write!(f, ">= {bound}"),
            Self::None => f.write_str("-"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_taken_round_by_round() {
        let mut report = Report::new("test");
        for (ours, anchor) in [(1.0, 4.0), (1.0, 2.0), (3.0, 10.0)] {
            report.add("ours", "us", vec![ours; 3]);
            report.add("anchor", "us", vec![anchor; 3]);
        }
        report.ratio("ours", "anchor", Bound::AtMost(0.3));
        assert!(report.met());
        report.ratio("ours", "anchor", Bound::AtLeast(0.4));
        assert!(!report.met());
        let json = report.json();
        assert_eq!(json["targets"][0]["median"], 0.3);
        assert_eq!(json["targets"][1]["met"], false);
        assert_eq!(json["series"][0]["n"], 9);
    }

    #[test]
    fn a_target_without_values_is_missed() {
        let mut report = Report::new("test");
        report.figure("nothing", Bound::AtMost(1.0));
        assert!(!report.met());
    }
}
