//! Golden traces worked out by hand, and properties of all policies.

use super::*;
use crate::load::LoadFormula;

mod bounded;
mod cost_aware;
mod others;
mod properties;
mod replicated;
mod servers;

const NOW: Time = Time::from_secs(1000);

fn servers(count: u32, max_conn: Option<u32>) -> Vec<Server> {
    (0..count).map(|i| Server { id: ServerId(i), name: format!("worker-{i}"), max_conn }).collect()
}

fn policy(kind: PolicyKind, count: u32, max_conn: Option<u32>) -> Box<dyn Balance> {
    let mut policy = kind.build(Settings::default(), Known::default(), 1);
    policy.set_servers(servers(count, max_conn), NOW);
    policy
}

fn lard(count: u32, max_conn: Option<u32>) -> Box<dyn Balance> {
    policy(PolicyKind::Lard, count, max_conn)
}

fn rank(policy: &mut Box<dyn Balance>, handler: &str) -> Ranking {
    policy.rank(&Key::plain(handler), NOW)
}

fn first(policy: &mut Box<dyn Balance>, handler: &str) -> (u32, Choice) {
    let ranking = rank(policy, handler);
    (ranking.candidates[0].0, ranking.choice)
}

/// So many calls of ours are under way at each server, whatever there was before.
fn set_calls(policy: &mut Box<dyn Balance>, calls: &[u32]) {
    for (id, count) in (0..).map(ServerId).zip(calls) {
        while policy.fleet().get(id).unwrap().connections > 0 {
            policy.finish(id);
        }
        (0..*count).for_each(|_| policy.begin(id));
    }
}

fn begin(policy: &mut Box<dyn Balance>, server: u32, times: u32) {
    for _ in 0..times {
        policy.begin(ServerId(server));
    }
}

fn observe(policy: &mut Box<dyn Balance>, server: u32, report: Report) {
    policy.observe(ServerId(server), Some(report), NOW);
}

/// The default thresholds and MaxConn 10: load is connections / 10, high is 4 connections, 2·high is 8, low is 2.
///
/// | step | connections of 0, 1, 2 | rule | goes to |
/// |---|---|---|---|
/// | f is new | 3, 0, 1 | the least loaded | 1 |
/// | f again | 3, 3, 1 | load(1) = 0.3 < high: stays | 1 |
/// | f again | 3, 4, 2 | load(1) = 0.4 = high, but nobody < low: stays | 1 |
/// | f again | 3, 4, 1 | load(1) = high and load(2) = 0.1 < low: moves | 2 |
/// | f again | 5, 4, 7 | load(2) = 0.7 >= high, nobody < low, 0.7 < 2·high: stays | 2 |
/// | f again | 5, 4, 8 | load(2) = 0.8 = 2·high: moves to the least loaded | 1 |
/// | f again | 9, 10, 10 | 1 has MaxConn connections: moves to the only one below it | 0 |
/// | f again | 10, 10, 10 | all are full: stays, and there is a candidate | 0 |
#[test]
fn golden_trace_of_the_original_s_rules() {
    use Choice::{Assigned, Kept, Moved};
    let trace = [
        ([3, 0, 1], 1, Assigned),
        ([3, 3, 1], 1, Kept),
        ([3, 4, 2], 1, Kept),
        ([3, 4, 1], 2, Moved(MoveReason::Imbalance)),
        ([5, 4, 7], 2, Kept),
        ([5, 4, 8], 1, Moved(MoveReason::Overload)),
        ([9, 10, 10], 0, Moved(MoveReason::MaxConn)),
        ([10, 10, 10], 0, Kept),
    ];
    let mut lard = lard(3, Some(10));
    for (step, (connections, server, choice)) in trace.into_iter().enumerate() {
        set_calls(&mut lard, &connections);
        assert_eq!(first(&mut lard, "f"), (server, choice), "step {step}");
    }
}

#[test]
fn overloaded_fleet_does_not_trade_in_circles() {
    let mut lard = lard(2, Some(10));
    let (home, _) = first(&mut lard, "f");
    begin(&mut lard, 0, 9);
    begin(&mut lard, 1, 9);
    for _ in 0..10 {
        assert_eq!(first(&mut lard, "f"), (home, Choice::Kept));
    }
}

#[test]
fn unlimited_servers_are_measured_against_the_default_capacity() {
    let mut lard = lard(2, None);
    let (home, _) = first(&mut lard, "f");
    begin(&mut lard, home, 63);
    assert_eq!(first(&mut lard, "f"), (home, Choice::Kept));
    begin(&mut lard, home, 1);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Moved(MoveReason::Imbalance)));
}

#[test]
fn replicas_agree_when_loads_are_equal() {
    let (mut one, mut two) = (lard(5, None), lard(5, None));
    // Small differences of load and another order of arrival change nothing.
    begin(&mut two, 3, 2);
    let keys: Vec<String> = (0..200).map(|i| format!("handler-{i}")).collect();
    for key in keys.iter().rev() {
        rank(&mut two, key);
    }
    let mut counts = [0_u32; 5];
    for key in &keys {
        let (server, _) = first(&mut one, key);
        assert_eq!(first(&mut two, key).0, server, "{key}");
        counts[server as usize] += 1;
    }
    assert!(counts.iter().all(|c| (20..=60).contains(c)), "200 handlers are spread as {counts:?}");
}

#[test]
fn a_server_that_leaves_takes_only_its_own_handlers_along() {
    let mut lard = lard(4, None);
    let keys: Vec<String> = (0..100).map(|i| format!("handler-{i}")).collect();
    let before: Vec<u32> = keys.iter().map(|key| first(&mut lard, key).0).collect();
    lard.set_servers(servers(3, None), NOW);
    for (key, before) in keys.iter().zip(before) {
        let (after, choice) = first(&mut lard, key);
        match before {
            3 => assert_eq!(choice, Choice::Moved(MoveReason::Unavailable)),
            _ => assert_eq!((after, choice), (before, Choice::Kept)),
        }
    }
}

#[test]
fn a_failed_server_is_set_aside_and_tried_again() {
    let mut lard = lard(2, None);
    let (home, _) = first(&mut lard, "f");
    lard.failed(ServerId(home), NOW);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Moved(MoveReason::Unavailable)));
    // All set aside: still candidates, and the handler stays.
    lard.failed(ServerId(1 - home), NOW);
    assert_eq!(rank(&mut lard, "f").candidates.len(), 2);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Kept));
    // A new handler is placed again on whatever is back.
    let later = NOW + crate::backoff::CAP;
    assert_eq!(lard.rank(&Key::plain("f"), later).choice, Choice::Kept);
    lard.observe(ServerId(1 - home), None, NOW);
    assert_eq!(lard.fleet().get(ServerId(1 - home)).unwrap().backoff.failures(), 0);
}

#[test]
fn a_call_taken_over_takes_its_key_along() {
    let mut lard = lard(2, None);
    let (home, _) = first(&mut lard, "f");
    assert!(lard.took_over(&Key::plain("f"), ServerId(1 - home), NOW));
    assert!(!lard.took_over(&Key::plain("f"), ServerId(1 - home), NOW));
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Kept));
}

#[test]
fn a_silent_server_s_report_fades() {
    let settings = Settings { formula: LoadFormula::DominantResource, ..Settings::default() };
    let mut lard = PolicyKind::Lard.build(settings, Known::default(), 0);
    lard.set_servers(servers(2, None), NOW);
    lard.observe(ServerId(0), Some(Report::default()), NOW);
    lard.observe(ServerId(1), Some(Report::default()), NOW);
    let (home, _) = first(&mut lard, "f");
    lard.observe(ServerId(home), Some(Report { cpu: 0.95, ..Report::default() }), NOW);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Moved(MoveReason::Imbalance)));
    let state = lard.fleet().get(ServerId(home)).unwrap();
    let load = |seconds| state.load(settings.formula, NOW + Time::from_secs(seconds)).get();
    assert!((load(5) - 0.95).abs() < 1e-9);
    assert!((load(10) - 0.475).abs() < 1e-9);
    assert!(load(60) < 0.01);
}

#[test]
fn calls_of_other_replicas_count() {
    let mut lard = lard(2, Some(10));
    let (home, _) = first(&mut lard, "f");
    begin(&mut lard, home, 1);
    lard.observe(ServerId(1 - home), Some(Report::default()), NOW);
    lard.observe(ServerId(home), Some(Report { inflight: 6, ..Report::default() }), NOW);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Moved(MoveReason::Imbalance)));
}
