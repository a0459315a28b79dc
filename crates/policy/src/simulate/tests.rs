//! The simulator itself, and what the policies must reach in it.

use super::*;

fn scenario(policy: PolicyKind, agents: u32, cold_ms: f64) -> Scenario {
    Scenario { cold_ms, requests: 40_000, ..Scenario::new(policy, agents) }
}

fn throughput(policy: PolicyKind, agents: u32, cold_ms: f64) -> f64 {
    run(&scenario(policy, agents, cold_ms)).throughput
}

#[test]
fn equal_scenarios_have_equal_outcomes() {
    for policy in PolicyKind::ALL {
        let scenario = Scenario { requests: 5000, replicas: 2, ..Scenario::new(policy, 4) };
        assert_eq!(run(&scenario), run(&scenario), "{policy:?}");
        let other = Scenario { seed: 8, ..scenario.clone() };
        assert_ne!(run(&scenario), run(&other), "{policy:?}");
    }
}

/// One agent with one slot, one handler that runs 10 ms in the mean: a queue M/M/1. Half busy, a call waits
/// rho / (1 - rho) · 10 ms = 10 ms in the mean, and all calls but the first are warm.
#[test]
fn a_single_server_waits_as_theory_says() {
    let one = Scenario {
        slots: 1,
        functions: 1,
        exec_ms: 10.0,
        arrivals: Arrivals::Open(0.5),
        requests: 400_000,
        ..Scenario::new(PolicyKind::RoundRobin, 1)
    };
    let outcome = run(&one);
    assert!((outcome.start_mean_ms - 10.0).abs() < 0.5, "{outcome:?}");
    assert!((outcome.throughput - 50.0).abs() < 1.0, "{outcome:?}");
    assert_eq!((outcome.hit_rate, outcome.balance), (1.0, 1.0));
}

/// Two handlers, of one package set each or of one in common, called in turn on one agent with room for one sandbox
/// and one Zygote: no sandbox is ever found again; a Zygote is if they share it.
#[test]
fn room_for_one_is_room_for_one() {
    let call =
        |number: u32| Invocation { at_ms: f64::from(number) * 1000.0, function: number % 2, exec_ms: 5.0 };
    let trace = Scenario {
        sandboxes: 1,
        zygotes: 1,
        arrivals: Arrivals::Trace((0..100).map(call).collect()),
        ..Scenario::new(PolicyKind::Lard, 1)
    };
    let apart_sets = Scenario { package_sets: 100, ..trace.clone() };
    let apart = run(&apart_sets);
    let together = run(&Scenario { package_sets: 1, ..trace.clone() });
    assert_eq!((together.hit_rate, together.fork_rate, together.start_p50_ms), (0.0, 1.0, 3.0));
    assert_ne!(apart_sets.packages(0), apart_sets.packages(1), "each has its own set");
    assert_eq!((apart.hit_rate, apart.fork_rate, apart.start_p50_ms), (0.0, 0.0, 150.0));
    let roomy = run(&Scenario { sandboxes: 2, ..trace });
    assert_eq!((roomy.hit_rate, roomy.start_mean_ms), (1.0, 0.0), "after the warm-up all are warm");
}

#[test]
fn locality_pays_where_starts_are_dear() {
    let least = throughput(PolicyKind::LeastLoaded, 32, 150.0);
    let bounded = throughput(PolicyKind::BoundedLoads, 32, 150.0);
    let least_of_8 = throughput(PolicyKind::LeastLoaded, 8, 150.0);
    for policy in [PolicyKind::Lard, PolicyKind::LardReplicated, PolicyKind::CostAware] {
        let ours = throughput(policy, 32, 150.0);
        assert!(ours >= 2.9 * least, "{policy:?} of 32: {ours} against {least}");
        assert!(ours >= 1.4 * bounded, "{policy:?} of 32: {ours} against {bounded}");
        let ours = throughput(policy, 8, 150.0);
        assert!(ours >= 1.5 * least_of_8, "{policy:?} of 8: {ours} against {least_of_8}");
    }
}

#[test]
fn locality_costs_nothing_where_starts_are_cheap() {
    for agents in [8, 32] {
        let least = throughput(PolicyKind::LeastLoaded, agents, 3.0);
        for policy in [PolicyKind::Lard, PolicyKind::LardReplicated, PolicyKind::CostAware] {
            let ours = throughput(policy, agents, 3.0);
            assert!(ours >= 0.97 * least, "{policy:?} of {agents}: {ours} against {least}");
        }
        let busy = |policy| Scenario { arrivals: Arrivals::Open(0.7), ..scenario(policy, agents, 3.0) };
        let (least, ours) = (run(&busy(PolicyKind::LeastLoaded)), run(&busy(PolicyKind::CostAware)));
        assert!(ours.start_mean_ms <= least.start_mean_ms, "{agents}: {ours:?} against {least:?}");
    }
}

/// Starts of a second, after a minute of which calls wait by the hundred: who sends each call where the queue is shortest then
/// imports everywhere, and never catches up.
#[test]
fn a_fleet_that_fell_behind_catches_up() {
    let dear = |policy| Scenario { arrivals: Arrivals::Open(0.15), ..scenario(policy, 8, 1000.0) };
    let (lard, ours) = (run(&dear(PolicyKind::Lard)), run(&dear(PolicyKind::CostAware)));
    assert!(ours.throughput >= lard.throughput, "{ours:?} against {lard:?}");
    assert!(ours.start_mean_ms <= lard.start_mean_ms, "{ours:?} against {lard:?}");
}

/// As many calls as places: there is always one free somewhere, and to go there means to start there. Who does that each time is no
/// better than who goes by load alone.
#[test]
fn a_fleet_whose_places_are_all_taken_keeps_to_its_homes() {
    let full = |policy, seed| Scenario {
        slots: 2,
        under_way: Some(6),
        functions: 90,
        package_sets: 6,
        sandboxes: 30,
        zygotes: 4,
        fork_ms: 20.0,
        seed,
        ..scenario(policy, 3, 400.0)
    };
    for seed in 1..=5 {
        let least = run(&full(PolicyKind::LeastLoaded, seed));
        let ours = run(&full(PolicyKind::CostAware, seed));
        assert!(ours.throughput >= 1.25 * least.throughput, "{seed}: {ours:?} against {least:?}");
    }
}

/// What a handler needs is learnt from its first answer. Its home is then rarely where its packages are.
#[test]
fn packages_that_are_learnt_late_still_count() {
    let late = |policy| Scenario { declared: false, ..scenario(policy, 8, 150.0) };
    let (lard, ours) = (run(&late(PolicyKind::Lard)), run(&late(PolicyKind::CostAware)));
    assert!(ours.throughput >= 0.8 * lard.throughput, "{ours:?} against {lard:?}");
}

#[test]
fn replicas_agree_without_talking() {
    let closed = |agents| scenario(PolicyKind::CostAware, agents, 150.0);
    let open = Scenario { arrivals: Arrivals::Open(0.15), ..closed(32) };
    for one in [closed(8), closed(32), open] {
        let three = run(&Scenario { replicas: 3, ..one.clone() }).hit_rate;
        let one = run(&one).hit_rate;
        assert!(three >= 0.95 * one, "{three} against {one}");
    }
}
