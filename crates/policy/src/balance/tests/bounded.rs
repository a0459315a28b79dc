//! `ConsistentHashBoundedLoads`.

use super::*;

/// Three servers; p0, p1, p2 is their order for f by hash. A server may have 1.25 times the mean, rounded up, the new
/// call counted.
///
/// | calls of p0, p1, p2 | most allowed | goes to |
/// |---|---|---|
/// | 0, 0, 0 | ⌈1.25 · 1 / 3⌉ = 1 | p0 |
/// | 1, 0, 0 | ⌈1.25 · 2 / 3⌉ = 1: p0 would have 2 | p1 |
/// | 1, 1, 0 | ⌈1.25 · 3 / 3⌉ = 2 | p0 |
/// | 2, 1, 0 | ⌈1.25 · 4 / 3⌉ = 2: p0 would have 3 | p1 |
/// | 2, 2, 0 | ⌈1.25 · 5 / 3⌉ = 3 | p0 |
/// | 3, 3, 0 | ⌈1.25 · 7 / 3⌉ = 3: p0 and p1 would have 4 | p2 |
#[test]
fn golden_trace() {
    let mut policy = policy(PolicyKind::BoundedLoads, 3, None);
    let order = rank(&mut policy, "f").candidates;
    let trace =
        [([0, 0, 0], 0), ([1, 0, 0], 1), ([1, 1, 0], 0), ([2, 1, 0], 1), ([2, 2, 0], 0), ([3, 3, 0], 2)];
    for (calls, expected) in trace {
        let mut of_server = [0; 3];
        order.iter().zip(calls).for_each(|(id, calls)| of_server[id.0 as usize] = calls);
        set_calls(&mut policy, &of_server);
        assert_eq!(rank(&mut policy, "f").candidates[0], order[expected], "{calls:?}");
    }
}

#[test]
fn the_hash_is_that_of_the_handler_and_a_server_that_leaves_moves_only_its_own() {
    let mut policy = policy(PolicyKind::BoundedLoads, 4, None);
    let names: Vec<String> = (0..100).map(|i| format!("handler-{i}")).collect();
    let before: Vec<u32> = names.iter().map(|name| first(&mut policy, name).0).collect();
    assert!((0..4).all(|server| (10..40).contains(&before.iter().filter(|s| **s == server).count())));
    policy.set_servers(servers(3, None), NOW);
    for (name, before) in names.iter().zip(before) {
        let (after, choice) = first(&mut policy, name);
        assert_eq!(choice, Choice::Unbound);
        assert!(before == 3 || after == before, "{name} went from {before} to {after}");
    }
}
