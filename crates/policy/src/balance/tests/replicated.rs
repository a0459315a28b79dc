//! LARD/R.

use super::*;

/// The default thresholds and MaxConn 10, as in LARD's own trace: high is 4 connections, low is 2.
///
/// | time | connections of 0, 1, 2 | rule | goes to | servers of f |
/// |---|---|---|---|---|
/// | 0 s | 3, 0, 1 | f is new: the least loaded | 1 | 1 |
/// | 0 s | 3, 3, 1 | load(1) = 0.3 < high: stays | 1 | 1 |
/// | 0 s | 3, 4, 1 | load(1) = 0.4 = high and load(2) = 0.1 < low: 2 in addition | 2 | 1, 2 |
/// | 0 s | 3, 4, 3 | of 1 and 2 the less loaded, 2, is below high | 2 | 1, 2 |
/// | 0 s | 0, 3, 4 | of 1 and 2 the less loaded, 1, is below high: stays, though 0 is idle | 1 | 1, 2 |
/// | 1 s | 1, 5, 4 | the less loaded, 2, is at high and load(0) < low: 0 in addition | 0 | 1, 2, 0 |
/// | 20 s | 1, 5, 4 | 0 is the least loaded; 19 s without a change are too few to shrink | 0 | 1, 2, 0 |
/// | 21 s | 1, 5, 4 | 20 s without a change: the most loaded, 1, is given up | 0 | 2, 0 |
/// | 21 s | 5, 1, 6 | 1 is none of f's: the less loaded, 0, is above high, 1 is below low: 1 in addition | 1 | 2, 0, 1 |
/// | 21 s | 9, 8, 8 | of f's, 1 and 2 are equal and at 2·high, but nobody is less loaded: stays | 1 or 2 | 2, 0, 1 |
#[test]
fn golden_trace() {
    use Choice::{Assigned, Kept, Moved};
    let trace = [
        (0, [3, 0, 1], 1, Assigned, &[1][..]),
        (0, [3, 3, 1], 1, Kept, &[1]),
        (0, [3, 4, 1], 2, Moved(MoveReason::Imbalance), &[1, 2]),
        (0, [3, 4, 3], 2, Kept, &[1, 2]),
        (0, [0, 3, 4], 1, Kept, &[1, 2]),
        (1, [1, 5, 4], 0, Moved(MoveReason::Imbalance), &[1, 2, 0]),
        (20, [1, 5, 4], 0, Kept, &[1, 2, 0]),
        (21, [1, 5, 4], 0, Kept, &[2, 0]),
        (21, [5, 1, 6], 1, Moved(MoveReason::Imbalance), &[2, 0, 1]),
    ];
    let mut lard = policy(PolicyKind::LardReplicated, 3, Some(10));
    for (step, (seconds, connections, server, choice, homes)) in trace.into_iter().enumerate() {
        set_calls(&mut lard, &connections);
        let ranking = lard.rank(&Key::plain("f"), NOW + Time::from_secs(seconds));
        assert_eq!((ranking.candidates[0].0, ranking.choice), (server, choice), "step {step}");
        let expected: Vec<ServerId> = homes.iter().map(|id| ServerId(*id)).collect();
        assert_eq!(lard.assignments(), [(Label::Handler("f".into()), expected)], "step {step}");
    }
    set_calls(&mut lard, &[9, 8, 8]);
    let last = lard.rank(&Key::plain("f"), NOW + Time::from_secs(21));
    assert_eq!(last.choice, Kept);
    assert_ne!(last.candidates[0], ServerId(0));
}

#[test]
fn a_key_whose_servers_are_all_gone_gets_another() {
    let mut lard = policy(PolicyKind::LardReplicated, 3, None);
    let (home, _) = first(&mut lard, "f");
    let left = servers(3, None).into_iter().filter(|server| server.id.0 != home).collect();
    lard.set_servers(left, NOW);
    let (next, choice) = first(&mut lard, "f");
    assert_eq!(choice, Choice::Moved(MoveReason::Unavailable));
    assert_eq!(lard.assignments()[0].1, [ServerId(next)], "the one that is gone is forgotten");
}

#[test]
fn who_takes_a_call_over_is_one_more_server() {
    let mut lard = policy(PolicyKind::LardReplicated, 2, None);
    let (home, _) = first(&mut lard, "f");
    assert!(lard.took_over(&Key::plain("f"), ServerId(1 - home), NOW));
    assert!(!lard.took_over(&Key::plain("f"), ServerId(home), NOW));
    assert_eq!(lard.assignments()[0].1.len(), 2);
}
