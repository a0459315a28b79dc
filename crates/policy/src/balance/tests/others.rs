//! The policies without locality.

use super::*;

#[test]
fn round_robin_takes_turns_and_passes_over_the_failed_and_the_full() {
    let mut policy = policy(PolicyKind::RoundRobin, 3, Some(1));
    let turns = |policy: &mut Box<dyn Balance>, n| (0..n).map(|_| first(policy, "f").0).collect::<Vec<_>>();
    assert_eq!(turns(&mut policy, 4), [0, 1, 2, 0]);
    policy.failed(ServerId(2), NOW);
    assert_eq!(turns(&mut policy, 4), [1, 0, 1, 0]);
    policy.begin(ServerId(0));
    assert_eq!(rank(&mut policy, "f").candidates, [1, 0, 2].map(ServerId));
    policy.set_servers(Vec::new(), NOW);
    assert_eq!(rank(&mut policy, "f").candidates, []);
}

#[test]
fn the_least_loaded_is_taken_and_equals_take_turns() {
    let mut policy = policy(PolicyKind::LeastLoaded, 3, Some(100));
    set_calls(&mut policy, &[3, 2, 4]);
    assert_eq!(rank(&mut policy, "f").candidates, [1, 0, 2].map(ServerId));
    set_calls(&mut policy, &[0, 0, 0]);
    let turns: std::collections::BTreeSet<_> = (0..3).map(|_| first(&mut policy, "f").0).collect();
    assert_eq!(turns.len(), 3);
    // By the formula that is set: memory, though the other has more calls.
    let settings = Settings { formula: LoadFormula::DominantResource, ..Settings::default() };
    let mut policy = PolicyKind::LeastLoaded.build(settings, Known::default(), 0);
    policy.set_servers(servers(2, None), NOW);
    observe(&mut policy, 0, Report { memory: 0.5, ..Report::default() });
    observe(&mut policy, 1, Report { cpu: 0.4, ..Report::default() });
    begin(&mut policy, 1, 9);
    assert_eq!(first(&mut policy, "f"), (1, Choice::Unbound));
}

#[test]
fn of_two_at_random_the_less_loaded_is_taken() {
    let mut policy = policy(PolicyKind::PowerOfTwo, 4, Some(100));
    set_calls(&mut policy, &[1, 2, 3, 4]);
    let mut counts = [0_u32; 4];
    for _ in 0..6000 {
        counts[first(&mut policy, "f").0 as usize] += 1;
    }
    // Of the 6 pairs 0 wins 3, 1 wins 2, 2 wins 1, and 3, the most loaded, none.
    for (count, expected) in counts.into_iter().zip([3000_u32, 2000, 1000, 0]) {
        assert!(count.abs_diff(expected) < 200, "{counts:?}");
    }
    let draws = |seed| {
        let mut policy = PolicyKind::PowerOfTwo.build(Settings::default(), Known::default(), seed);
        policy.set_servers(servers(4, None), NOW);
        (0..20).map(|_| first(&mut policy, "f").0).collect::<Vec<_>>()
    };
    assert_eq!(draws(1), draws(1));
    assert_ne!(draws(1), draws(2));
}

#[test]
fn the_failed_and_the_full_come_last_with_all() {
    for kind in PolicyKind::ALL {
        let mut policy = policy(kind, 3, Some(5));
        begin(&mut policy, 0, 5);
        policy.failed(ServerId(1), NOW);
        for _ in 0..5 {
            assert_eq!(rank(&mut policy, "f").candidates, [2, 0, 1].map(ServerId), "{kind:?}");
        }
    }
}
