//! `CostAware`.

use super::*;

const PACKAGES: u64 = 77;

/// Zygotes that save an import of so many ms each.
fn zygotes(sets: &[u64], import: u64) -> Option<std::sync::Arc<[Zygote]>> {
    Some(sets.iter().map(|set| Zygote { set: *set, import: Time::from_millis(import) }).collect())
}

fn costs(sets: &[u64]) -> Report {
    let ms = |ms| Some(Time::from_millis(ms));
    let costs = Costs { slots: 2, call: ms(20), fork: ms(3), import: ms(100), kept: Some(1.0) };
    Report { costs: Some(costs), zygotes: zygotes(sets, 100), ..Report::default() }
}

/// Three servers with 2 slots, 20 ms a call, 3 ms a fork, 100 ms an import; only 1 has a Zygote with f's packages.
/// With n calls there a call waits (n + 1 - 2) · 20 ms / 2, or not at all. An import counts three times; where calls
/// wait a start counts four times, and everywhere if at most two of the six places are free.
///
/// | call | calls of 0, 1, 2 | prices in ms | goes to |
/// |---|---|---|---|
/// | f is new | 0, 0, 0 | import 300, fork 3, import 300 | 1 |
/// | f | 0, 2, 0 | 300, home and wait 10, 300 | 1 |
/// | f | 0, 40, 2 | 4 · 100, home and wait 390, wait 10 + 4 · 100 | 1 |
/// | f | 0, 42, 2 | 4 · 100, home and wait 410, wait 10 + 4 · 100 | 0, at home there too now |
/// | f | 2, 1, 0 | home and wait 10, home 0, 300 | 1 |
/// | h, without packages, is new | 2, 2, 1 | wait 10 + 4 · 3 = 22, the same, fork 4 · 3 = 12 | 2 |
/// | h | 1, 2, 2 | fork 12, 22, home and wait 10 | 2 |
/// | h | 1, 2, 3 | fork 12, 22, home and wait 20 | 0 |
#[test]
fn golden_trace() {
    use Choice::{Assigned, Kept, Moved};
    let (f, h) = (Key { handler: "f", packages: Some(PACKAGES) }, Key::plain("h"));
    let trace = [
        (f, [0, 0, 0], 1, Assigned),
        (f, [0, 2, 0], 1, Kept),
        (f, [0, 40, 2], 1, Kept),
        (f, [0, 42, 2], 0, Moved(MoveReason::Wait)),
        (f, [2, 1, 0], 1, Kept),
        (h, [2, 2, 1], 2, Assigned),
        (h, [1, 2, 2], 2, Kept),
        (h, [1, 2, 3], 0, Moved(MoveReason::Wait)),
    ];
    let mut policy = policy(PolicyKind::CostAware, 3, None);
    for (server, zygotes) in [(0, &[][..]), (1, &[PACKAGES]), (2, &[1, 2])] {
        observe(&mut policy, server, costs(zygotes));
    }
    for (step, (key, calls, server, choice)) in trace.into_iter().enumerate() {
        set_calls(&mut policy, &calls);
        let ranking = policy.rank(&key, NOW);
        assert_eq!((ranking.candidates[0].0, ranking.choice), (server, choice), "step {step}");
    }
}

/// Where instances are not kept a home is worth no more than another server, and less than one with a Zygote.
#[test]
fn a_home_counts_for_as_much_as_is_kept_there() {
    for (kept, server) in [(1.0, 0), (0.9, 0), (0.5, 1), (0.0, 1)] {
        let mut policy = policy(PolicyKind::CostAware, 2, None);
        let with = |sets: &[u64], kept| {
            let report = costs(sets);
            let costs = report.costs.map(|costs| Costs { kept: Some(kept), ..costs });
            Report { costs, ..report }
        };
        policy.failed(ServerId(1), NOW);
        let key = Key { handler: "f", packages: Some(PACKAGES) };
        assert_eq!(policy.rank(&key, NOW).candidates[0], ServerId(0));
        // Its report is believed again.
        let later = NOW + Time::from_secs(3);
        policy.observe(ServerId(0), Some(with(&[], kept)), later);
        policy.observe(ServerId(1), Some(with(&[PACKAGES], 1.0)), later);
        // An import is 300 ms, a fork among waiting calls 12, and the 6 calls before it 50.
        set_calls(&mut policy, &[0, 6]);
        assert_eq!(policy.rank(&key, later).candidates[0], ServerId(server), "{kept} are kept");
    }
}

#[test]
fn handlers_with_the_same_packages_meet() {
    let mut policy = policy(PolicyKind::CostAware, 8, None);
    let mut servers = std::collections::BTreeSet::new();
    for handler in ["a", "b", "c", "d", "e"] {
        let ranking = policy.rank(&Key { handler, packages: Some(PACKAGES) }, NOW);
        servers.insert(ranking.candidates[0]);
    }
    assert_eq!(servers.len(), 1, "nobody has reported yet; they meet all the same");
    let others: std::collections::BTreeSet<_> =
        ('a'..='z').map(|name| rank(&mut policy, &name.to_string()).candidates[0]).collect();
    assert!(others.len() > 4, "handlers without packages spread: {others:?}");
}

#[test]
fn a_zygote_that_is_reported_gone_is_imported_again() {
    let mut policy = policy(PolicyKind::CostAware, 2, None);
    observe(&mut policy, 0, costs(&[]));
    observe(&mut policy, 1, costs(&[]));
    let key = |handler| Key { handler, packages: Some(PACKAGES) };
    let first = policy.rank(&key("a"), NOW).candidates[0];
    let other = ServerId(1 - first.0);
    observe(&mut policy, other.0, costs(&[PACKAGES]));
    // The server that was sent the import is trusted to have made it: two forks for the price of one.
    set_calls(&mut policy, &[0, 0]);
    policy.begin(other);
    policy.begin(other);
    assert_eq!(policy.rank(&key("b"), NOW).candidates[0], first);
    // It says long after that it has no Zygote: a wait of 10 ms and a start among others are cheaper.
    let later = NOW + Time::from_secs(10);
    policy.observe(first, Some(costs(&[])), later);
    policy.observe(other, Some(costs(&[PACKAGES])), later);
    assert_eq!(policy.rank(&key("c"), later).candidates[0], other);
}

#[test]
fn a_home_that_was_not_used_for_a_minute_is_given_up_but_not_the_last() {
    let mut policy = policy(PolicyKind::CostAware, 2, None);
    observe(&mut policy, 0, costs(&[]));
    observe(&mut policy, 1, costs(&[]));
    let (home, _) = first(&mut policy, "f");
    set_calls(&mut policy, &if home == 0 { [5, 0] } else { [0, 5] });
    assert_eq!(first(&mut policy, "f"), (1 - home, Choice::Moved(MoveReason::Wait)));
    assert_eq!(policy.assignments()[0].1.len(), 2);
    set_calls(&mut policy, &[0, 0]);
    policy.begin(ServerId(home));
    policy.begin(ServerId(home));
    for seconds in [30, 61] {
        let ranking = policy.rank(&Key::plain("f"), NOW + Time::from_secs(seconds));
        assert_eq!((ranking.candidates[0].0, ranking.choice), (1 - home, Choice::Kept));
    }
    assert_eq!(policy.assignments(), [(Label::Handler("f".into()), vec![ServerId(1 - home)])]);
    let ranking = policy.rank(&Key::plain("f"), NOW + Time::from_secs(3600));
    assert_eq!(ranking.choice, Choice::Kept);
}

/// The prices of starts: 3 ms, about that, nothing measured yet, and far more.
#[test]
fn servers_that_measure_about_the_same_share_what_is_new() {
    let mut policy = policy(PolicyKind::CostAware, 4, None);
    for (server, fork) in [(0, Some(3)), (1, Some(4)), (2, None), (3, Some(30))] {
        let report = costs(&[]);
        let costs = report.costs.map(|costs| Costs { fork: fork.map(Time::from_millis), ..costs });
        observe(&mut policy, server, Report { costs, ..report });
    }
    let mut firsts = [0; 4];
    for handler in 0..300 {
        firsts[first(&mut policy, &handler.to_string()).0 as usize] += 1;
    }
    assert!(firsts[..3].iter().all(|count| *count > 60) && firsts[3] == 0, "{firsts:?}");
}

#[test]
fn servers_that_say_no_prices_are_taken_for_the_median() {
    let mut policy = policy(PolicyKind::CostAware, 2, None);
    observe(&mut policy, 0, costs(&[]));
    let (home, _) = first(&mut policy, "f");
    // Two slots there as here: with two calls each wait as long, and home stays home.
    set_calls(&mut policy, &[2, 2]);
    assert_eq!(first(&mut policy, "f"), (home, Choice::Kept));
    // A fork, which counts four times 3 ms where hardly a place is free, is cheaper than a wait for two others.
    set_calls(&mut policy, &if home == 0 { [3, 1] } else { [1, 3] });
    assert_eq!(first(&mut policy, "f"), (1 - home, Choice::Moved(MoveReason::Wait)));
}

/// Server 1 has the packages and a queue: with 2 slots and 20 ms a call its 22 calls before this one wait 210 ms, and a
/// fork there counts 42 times 3. Server 2 would have to import, which counts four times: it has the only places that are free.
#[test]
fn the_price_of_an_import_is_that_of_the_set() {
    for (import, server) in [(10, 2), (300, 1)] {
        let mut policy = policy(PolicyKind::CostAware, 3, None);
        let having = Report { zygotes: zygotes(&[PACKAGES], import), ..costs(&[]) };
        for (server, report) in [(0, costs(&[])), (1, having), (2, costs(&[]))] {
            observe(&mut policy, server, report);
        }
        policy.failed(ServerId(0), NOW);
        set_calls(&mut policy, &[0, 22, 0]);
        let ranking = policy.rank(&Key { handler: "f", packages: Some(PACKAGES) }, NOW);
        assert_eq!(ranking.candidates[0].0, server, "with an import of {import} ms");
    }
}

#[test]
fn a_server_that_was_never_heard_of_is_no_idle_one() {
    let mut policy = policy(PolicyKind::CostAware, 3, None);
    observe(&mut policy, 0, Report { inflight: 600, ..Report::default() });
    observe(&mut policy, 1, Report { inflight: 0, ..Report::default() });
    let calls: Vec<f64> = policy.fleet().states().iter().map(policy.fleet().calls(NOW)).collect();
    assert_eq!(calls, [600.0, 0.0, 300.0]);
    for handler in 'a'..='z' {
        let order: Vec<_> = rank(&mut policy, &handler.to_string()).candidates;
        assert_eq!(order, [1, 2, 0].map(ServerId), "{handler}");
    }
}

#[test]
fn what_is_heard_otherwise_than_with_a_reply_takes_nobody_back() {
    let mut policy = policy(PolicyKind::CostAware, 2, None);
    policy.failed(ServerId(0), NOW);
    policy.hear(ServerId(0), Report { cpu: 0.5, ..Report::default() }, NOW);
    let state = policy.fleet().get(ServerId(0)).unwrap();
    assert_eq!((state.backoff.failures(), state.report.as_ref().unwrap().0.cpu), (1, 0.5));
}
