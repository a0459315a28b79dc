//! Golden traces worked by hand from the original's rules, and properties of both policies.

use proptest::prelude::*;

use super::*;
use crate::load::LoadFormula;

const NOW: Time = Time::from_secs(1000);

fn servers(count: u32, max_conn: Option<u32>) -> Vec<Server> {
    (0..count).map(|i| Server { id: ServerId(i), name: format!("worker-{i}"), max_conn }).collect()
}

fn lard(count: u32, max_conn: Option<u32>) -> Lard {
    let mut lard = Lard::new(LardSettings::default());
    lard.set_servers(servers(count, max_conn));
    lard
}

fn first(policy: &mut dyn Balance, key: &str) -> (u32, Choice) {
    let ranking = policy.rank(key, NOW);
    (ranking.candidates[0].0, ranking.choice)
}

fn begin(policy: &mut dyn Balance, server: u32, times: u32) {
    for _ in 0..times {
        policy.begin(ServerId(server));
    }
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
        for (id, count) in (0..).zip(connections) {
            while lard.fleet().get(ServerId(id)).unwrap().connections > 0 {
                lard.finish(ServerId(id));
            }
            begin(&mut lard, id, count);
        }
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
        two.rank(key, NOW);
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
    lard.set_servers(servers(3, None));
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
    assert_eq!(lard.rank("f", NOW).candidates.len(), 2);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Kept));
    // A new handler is placed again on whatever is back.
    let later = NOW + crate::backoff::CAP;
    assert_eq!(lard.rank("f", later).choice, Choice::Kept);
    lard.observe(ServerId(1 - home), None, NOW);
    assert_eq!(lard.fleet().get(ServerId(1 - home)).unwrap().backoff.failures(), 0);
}

#[test]
fn a_call_taken_over_takes_its_key_along() {
    let mut lard = lard(2, None);
    let (home, _) = first(&mut lard, "f");
    assert!(lard.took_over("f", ServerId(1 - home)));
    assert!(!lard.took_over("f", ServerId(1 - home)));
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Kept));
}

#[test]
fn a_silent_server_s_report_fades() {
    let settings = LardSettings { formula: LoadFormula::DominantResource, ..LardSettings::default() };
    let mut lard = Lard::new(settings);
    lard.set_servers(servers(2, None));
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
    lard.observe(ServerId(home), Some(Report { inflight: 6, ..Report::default() }), NOW);
    assert_eq!(first(&mut lard, "f"), (1 - home, Choice::Moved(MoveReason::Imbalance)));
}

#[test]
fn round_robin_takes_turns_and_passes_over_the_failed_and_the_full() {
    let mut policy = RoundRobin::default();
    policy.set_servers(servers(3, Some(1)));
    let turns = |policy: &mut RoundRobin, n| (0..n).map(|_| first(policy, "f").0).collect::<Vec<_>>();
    assert_eq!(turns(&mut policy, 4), [0, 1, 2, 0]);
    policy.failed(ServerId(2), NOW);
    assert_eq!(turns(&mut policy, 4), [1, 0, 1, 0]);
    policy.begin(ServerId(0));
    assert_eq!(policy.rank("f", NOW).candidates, [1, 0, 2].map(ServerId));
    policy.set_servers(Vec::new());
    assert_eq!(policy.rank("f", NOW).candidates, []);
}

#[derive(Clone, Debug)]
enum Event {
    Rank(u8),
    Begin(u32),
    Finish(u32),
    Fail(u32),
    Observe(u32, f64, u32),
    Servers(u32),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u8>().prop_map(Event::Rank),
        3 => (0..6_u32).prop_map(Event::Begin),
        2 => (0..6_u32).prop_map(Event::Finish),
        1 => (0..6_u32).prop_map(Event::Fail),
        1 => (0..6_u32, 0.0..1.0, 0..50_u32).prop_map(|(s, cpu, n)| Event::Observe(s, cpu, n)),
        1 => (0..6_u32).prop_map(Event::Servers),
        1 => (0..5000_u64).prop_map(Event::Pass),
    ]
}

/// Whatever happened, a ranking has each server once, and a kept key is where the ranking before left it.
fn check(mut policy: impl Balance, events: Vec<Event>) -> Result<(), TestCaseError> {
    let mut now = NOW;
    let mut count = 0;
    let mut left = std::collections::HashMap::new();
    for event in events {
        match event {
            Event::Rank(key) => {
                let ranking = policy.rank(&key.to_string(), now);
                let mut ids: Vec<u32> = ranking.candidates.iter().map(|id| id.0).collect();
                if ranking.choice == Choice::Kept {
                    prop_assert_eq!(left.get(&key), Some(&ids[0]));
                }
                if let Some(id) = ids.first() {
                    left.insert(key, *id);
                }
                ids.sort_unstable();
                prop_assert_eq!(ids, (0..count).collect::<Vec<_>>());
            }
            Event::Begin(server) => policy.begin(ServerId(server)),
            Event::Finish(server) => policy.finish(ServerId(server)),
            Event::Fail(server) => policy.failed(ServerId(server), now),
            Event::Observe(server, cpu, inflight) => {
                policy.observe(ServerId(server), Some(Report { cpu, memory: 0.5, inflight }), now);
            }
            Event::Servers(n) => {
                count = n;
                policy.set_servers(servers(n, (n % 2 == 0).then_some(3)));
            }
            Event::Pass(milliseconds) => now += Time::from_millis(milliseconds),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn rank_is_a_permutation_of_the_servers(events in prop::collection::vec(event(), 0..200)) {
        for formula in LoadFormula::ALL {
            check(Lard::new(LardSettings { formula, ..LardSettings::default() }), events.clone())?;
        }
        check(RoundRobin::default(), events)?;
    }
}
