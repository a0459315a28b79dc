//! The results as a plot: a bar per policy, a row of charts per figure, a column per scenario.

use std::fmt::Write as _;

use openlambda_policy::balance::PolicyKind;
use openlambda_policy::simulate::Outcome;

use super::Row;

/// Of a full run these scenarios are shown: the others would not fit.
const FUNCTIONS: u32 = 2000;
const ZIPF: f64 = 0.9;

const CHART: (f64, f64) = (150.0, 90.0);
const GAP: (f64, f64) = (24.0, 34.0);
const MARGIN: (f64, f64) = (90.0, 80.0);
const COLOURS: [&str; 7] = ["#b0b0b0", "#7d8fa8", "#9ec1cf", "#e3b23c", "#d1704a", "#a63d40", "#2f6f4f"];

type Figure = (&'static str, fn(&Outcome) -> f64);

const FIGURES: [Figure; 6] = [
    ("calls/s", |o| o.throughput),
    ("hit rate, %", |o| o.hit_rate * 100.0),
    ("start mean, ms", |o| o.start_mean_ms),
    ("start p99, ms", |o| o.start_p99_ms),
    ("balance, most / mean", |o| o.balance),
    ("moves", |o| o.moves as f64),
];

/// The plot.
pub fn plot(rows: &[Row]) -> String {
    let shown: Vec<&Row> = rows.iter().filter(|row| is_shown(row)).collect();
    let columns: Vec<&[&Row]> = shown.chunk_by(|a, b| column(a) == column(b)).collect();
    let width = MARGIN.0 * 2.0 + columns.len() as f64 * (CHART.0 + GAP.0);
    let height = MARGIN.1 * 2.0 + FIGURES.len() as f64 * (CHART.1 + GAP.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    legend(&mut svg);
    for (x, rows) in columns.iter().enumerate() {
        let left = MARGIN.0 + x as f64 * (CHART.0 + GAP.0);
        text(&mut svg, left, MARGIN.1 - 14.0, &column(rows[0]));
        for (y, (name, figure)) in FIGURES.iter().enumerate() {
            let top = MARGIN.1 + y as f64 * (CHART.1 + GAP.1);
            if x == 0 {
                text(&mut svg, 4.0, top + CHART.1 / 2.0, name);
            }
            chart(&mut svg, (left, top), rows, *figure);
        }
    }
    svg + "</svg>\n"
}

fn is_shown(row: &Row) -> bool {
    let one = &row.scenario;
    row.mode() == "trace" || (one.functions == FUNCTIONS && one.zipf == ZIPF)
}

fn column(row: &Row) -> String {
    format!("{}, N = {}, cold {} ms", row.mode(), row.scenario.agents, row.scenario.cold_ms)
}

fn legend(svg: &mut String) {
    for (place, (policy, colour)) in PolicyKind::ALL.iter().zip(COLOURS).enumerate() {
        let x = MARGIN.0 + place as f64 * 190.0;
        // Writing to a String cannot fail.
        let _ = writeln!(svg, "<rect x=\"{x:.0}\" y=\"20\" width=\"12\" height=\"12\" fill=\"{colour}\"/>");
        text(svg, x + 18.0, 30.0, policy.name());
    }
}

/// The bars of one figure, on a scale of their own from 0 on; the greatest value is written beside them.
fn chart(svg: &mut String, (left, top): (f64, f64), rows: &[&Row], figure: fn(&Outcome) -> f64) {
    let greatest = rows.iter().map(|row| figure(&row.outcome)).fold(0.0, f64::max);
    let step = CHART.0 / PolicyKind::ALL.len() as f64;
    let bottom = top + CHART.1;
    let _ = writeln!(
        svg,
        "<line x1=\"{left:.1}\" y1=\"{bottom:.1}\" x2=\"{:.1}\" y2=\"{bottom:.1}\" stroke=\"#444\"/>",
        left + CHART.0
    );
    text(svg, left, top - 3.0, &format!("{greatest:.*}", usize::from(greatest < 100.0)));
    for row in rows {
        let place = PolicyKind::ALL.iter().position(|kind| *kind == row.scenario.policy).unwrap_or(0);
        let value = figure(&row.outcome);
        let tall = if greatest > 0.0 { value / greatest * CHART.1 } else { 0.0 };
        let _ = writeln!(
            svg,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{tall:.1}\" fill=\"{}\"><title>{}: {value:.2}</title></rect>",
            left + place as f64 * step + 1.0,
            bottom - tall,
            step - 2.0,
            COLOURS[place],
            row.scenario.policy.name(),
        );
    }
}

fn text(svg: &mut String, x: f64, y: f64, text: &str) {
    let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>");
}

#[cfg(test)]
mod tests {
    use openlambda_policy::simulate::Scenario;

    use super::*;

    #[test]
    fn each_policy_has_a_bar_in_each_chart() {
        let scenarios =
            PolicyKind::ALL.map(|policy| Scenario { requests: 100, ..Scenario::new(policy, 4) }).to_vec();
        let plot = plot(&super::super::run_all(scenarios));
        assert_eq!(plot.matches("<title>").count(), PolicyKind::ALL.len() * FIGURES.len());
        assert!(plot.contains("closed, N = 4, cold 150 ms") && plot.ends_with("</svg>\n"));
    }
}
