//! What is known of servers: the unknown, the new, the failed.

use super::*;

fn loads(policy: &dyn Balance, formula: LoadFormula, now: Time) -> Vec<f64> {
    policy
        .fleet()
        .loads(formula, now)
        .into_iter()
        .map(|load| (load.get() * 1000.0).round() / 1000.0)
        .collect()
}

#[test]
fn one_never_heard_of_is_an_average_one() {
    let mut policy = policy(PolicyKind::LeastLoaded, 3, None);
    let formula = LoadFormula::DominantResource;
    assert_eq!(loads(&*policy, formula, NOW), [0.0; 3], "as long as nobody is known all are equal");
    observe(&mut policy, 0, Report { cpu: 0.2, ..Report::default() });
    observe(&mut policy, 1, Report { cpu: 0.8, ..Report::default() });
    assert_eq!(loads(&*policy, formula, NOW), [0.2, 0.8, 0.5]);
    // What lard knows itself is known.
    begin(&mut policy, 2, 120);
    assert_eq!(loads(&*policy, LoadFormula::Connections, NOW), [0.0, 0.0, 0.75]);
}

/// A new server counts for 10 % at first, half after 5 s, in full after 10 s: what it has is divided by that, and it
/// seems to have at least the rest of the mean.
#[test]
fn one_that_joins_others_gets_its_share_little_by_little() {
    let mut policy = policy(PolicyKind::LeastLoaded, 2, Some(100));
    for server in 0..2 {
        begin(&mut policy, server, 40);
        observe(&mut policy, server, Report { inflight: 40, ..Report::default() });
    }
    policy.set_servers(servers(3, Some(100)), NOW);
    begin(&mut policy, 2, 3);
    observe(&mut policy, 2, Report { inflight: 3, ..Report::default() });
    let after = |seconds| loads(&*policy, LoadFormula::Connections, NOW + Time::from_secs(seconds))[2];
    // The mean of 40, 40 and 3 is 27.7 of 100.
    assert_eq!(after(0), 0.3, "3 calls / 0.1");
    assert_eq!(after(5), 0.138, "half of the mean, since 3 / 0.5 is less");
    assert_eq!(after(10), 0.03);
    assert_eq!(loads(&*policy, LoadFormula::Connections, NOW)[..2], [0.4, 0.4]);
}

#[test]
fn the_first_servers_of_all_are_not_new() {
    let mut policy = policy(PolicyKind::LeastLoaded, 2, Some(100));
    begin(&mut policy, 0, 10);
    observe(&mut policy, 0, Report::default());
    assert_eq!(loads(&*policy, LoadFormula::Connections, NOW), [0.1, 0.1]);
}

#[test]
fn one_that_failed_is_probed_with_one_call_at_a_time() {
    let mut policy = policy(PolicyKind::LeastLoaded, 2, Some(100));
    begin(&mut policy, 1, 50);
    policy.failed(ServerId(0), NOW);
    assert_eq!(first(&mut policy, "f").0, 1);
    // The pause is over: the first call goes there, the second does not before it came back.
    let later = NOW + crate::backoff::FIRST;
    let at = |policy: &mut Box<dyn Balance>| policy.rank(&Key::plain("f"), later).candidates[0].0;
    assert_eq!(at(&mut policy), 0);
    policy.begin(ServerId(0));
    assert_eq!(at(&mut policy), 1);
    policy.observe(ServerId(0), None, later);
    assert_eq!(at(&mut policy), 0, "it answered: it is trusted again");
}

#[test]
fn one_that_is_mute_comes_last_until_it_says_something() {
    let mut policy = policy(PolicyKind::LeastLoaded, 2, Some(100));
    begin(&mut policy, 1, 50);
    policy.mute(ServerId(0), true);
    policy.set_servers(servers(2, Some(100)), NOW);
    assert_eq!(rank(&mut policy, "f").candidates, [ServerId(1), ServerId(0)]);
    policy.hear(ServerId(0), Report::default(), NOW);
    assert_eq!(first(&mut policy, "f").0, 0);
    policy.mute(ServerId(0), true);
    policy.observe(ServerId(0), None, NOW);
    assert_eq!(first(&mut policy, "f").0, 0);
    policy.mute(ServerId(0), true);
    policy.mute(ServerId(0), false);
    assert_eq!(first(&mut policy, "f").0, 0);
}
