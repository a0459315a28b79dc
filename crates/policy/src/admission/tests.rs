//! Hand-worked cases, and a model: the same rules over one plain list, by exhaustive search.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits =
    Limits { key_running: 2, key_waiting: 2, running: 3, waiting: 3, timeout: Time::from_secs(10) };

fn s(seconds: u64) -> Time {
    Time::from_secs(seconds)
}

fn wait(verdict: Verdict) -> Ticket {
    match verdict {
        Verdict::Wait(ticket) => ticket,
        other => panic!("{other:?} is no wait"),
    }
}

#[test]
fn runs_up_to_the_limit_then_waits_then_rejects() {
    let mut admission = Admission::new(LIMITS);
    assert_eq!(admission.request(&'a', s(0), None), Verdict::Run);
    assert_eq!(admission.request(&'a', s(0), None), Verdict::Run);
    let first = wait(admission.request(&'a', s(0), None));
    let second = wait(admission.request(&'a', s(1), None));
    // The first in the queue has waited 4 s: so long does it take at the moment.
    let full = Verdict::Reject { reason: Rejection::KeyQueueFull, retry_after: s(4) };
    assert_eq!(admission.request(&'a', s(4), None), full);
    assert_eq!(admission.request(&'b', s(4), None), Verdict::Run, "another key has room");
    wait(admission.request(&'b', s(4), None));
    let full = Verdict::Reject { reason: Rejection::QueueFull, retry_after: s(5) };
    assert_eq!(admission.request(&'c', s(5), None), full);
    assert_eq!(admission.finish(&'a', s(5)), [Decision::Run(first)]);
    assert_eq!(admission.finish(&'a', s(5)), [Decision::Run(second)]);
    assert_eq!((admission.running(), admission.waiting()), (3, 1));
}

#[test]
fn room_in_all_goes_to_the_longest_waiting_whose_key_has_room() {
    let mut admission = Admission::new(LIMITS);
    for key in ['a', 'a', 'b'] {
        assert_eq!(admission.request(&key, s(0), None), Verdict::Run);
    }
    let (a, c, b) = (
        wait(admission.request(&'a', s(0), None)),
        wait(admission.request(&'c', s(0), None)),
        wait(admission.request(&'b', s(0), None)),
    );
    assert_eq!(admission.finish(&'b', s(1)), [Decision::Run(c)], "a came first but has two running");
    assert_eq!(admission.finish(&'a', s(1)), [Decision::Run(a)]);
    assert_eq!(admission.finish(&'c', s(1)), [Decision::Run(b)]);
}

#[test]
fn a_limit_that_moves_lets_in_who_waits_and_throws_nobody_out() {
    let mut admission = Admission::new(Limits { key_running: 9, key_waiting: 9, running: 1, ..LIMITS });
    assert_eq!(admission.request(&'a', s(0), None), Verdict::Run);
    let tickets = [0, 1, 2].map(|at| wait(admission.request(&'a', s(at), None)));
    assert_eq!(admission.set_running_limit(3, s(3)), [Decision::Run(tickets[0]), Decision::Run(tickets[1])]);
    assert_eq!(admission.set_running_limit(1, s(3)), []);
    assert_eq!(admission.running(), 3);
    assert_eq!(admission.finish(&'a', s(4)), []);
    assert_eq!(admission.finish(&'a', s(4)), []);
    assert_eq!(admission.finish(&'a', s(4)), [Decision::Run(tickets[2])]);
}

#[test]
fn who_waits_too_long_is_told_and_makes_no_room() {
    let mut admission = Admission::new(LIMITS);
    for _ in 0..2 {
        admission.request(&'a', s(0), None);
    }
    let (late, early) =
        (wait(admission.request(&'a', s(0), None)), wait(admission.request(&'a', s(0), Some(s(3)))));
    assert_eq!(admission.next_deadline(), Some(s(3)));
    assert_eq!(admission.expire(s(3)), [Decision::Expired(early)]);
    assert_eq!(admission.next_deadline(), Some(s(10)));
    assert_eq!(admission.finish(&'a', s(11)), [Decision::Expired(late)], "room came too late");
    let too_late = Verdict::Reject { reason: Rejection::TooLate, retry_after: s(1) };
    assert_eq!(admission.request(&'a', s(11), Some(s(11))), too_late);
}

#[test]
fn who_goes_away_frees_the_place_behind_it() {
    let mut admission = Admission::new(LIMITS);
    for _ in 0..2 {
        admission.request(&'a', s(0), None);
    }
    let (gone, next) = (wait(admission.request(&'a', s(0), None)), wait(admission.request(&'a', s(0), None)));
    assert!(admission.cancel(gone));
    assert!(!admission.cancel(gone));
    assert_eq!(admission.finish(&'a', s(1)), [Decision::Run(next)]);
    assert!(!admission.cancel(next));
}

#[test]
fn idle_keys_are_forgotten() {
    let mut admission = Admission::new(LIMITS);
    for key in 0..1000 {
        assert_eq!(admission.request(&key, s(0), None), Verdict::Run);
        admission.finish(&key, s(0));
    }
    assert!(admission.keys.is_empty());
    admission.finish(&7, s(0));
    assert_eq!(admission.running(), 0, "a finish too many changes nothing");
}

/// The model: calls in order of arrival; waiting ones have a ticket and a deadline.
#[derive(Default)]
struct Model {
    running: Vec<u8>,
    waiting: Vec<(Ticket, u8, Time)>,
}

impl Model {
    fn has_room(&self, limits: &Limits, key: u8) -> bool {
        self.running.len() < limits.running
            && self.running.iter().filter(|k| **k == key).count() < limits.key_running
    }

    fn expire(&mut self, limits: &Limits, now: Time) -> Vec<Decision> {
        let mut expired: Vec<_> = self.waiting.iter().filter(|w| w.2 <= now).map(|w| (w.2, w.0)).collect();
        expired.sort();
        self.waiting.retain(|w| w.2 > now);
        let mut decisions: Vec<_> = expired.into_iter().map(|(_, t)| Decision::Expired(t)).collect();
        while let Some(place) = self.waiting.iter().position(|w| self.has_room(limits, w.1)) {
            let (ticket, key, _) = self.waiting.remove(place);
            self.running.push(key);
            decisions.push(Decision::Run(ticket));
        }
        decisions
    }
}

#[derive(Clone, Debug)]
enum Event {
    Request(u8, Option<u64>),
    Finish(usize),
    Cancel(usize),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (0..4_u8, prop::option::of(0..8_u64)).prop_map(|(key, deadline)| Event::Request(key, deadline)),
        3 => any::<usize>().prop_map(Event::Finish),
        1 => any::<usize>().prop_map(Event::Cancel),
        2 => (0..6_u64).prop_map(Event::Pass),
    ]
}

fn limits() -> impl Strategy<Value = Limits> {
    (1..4_usize, 0..4_usize, 1..6_usize, 0..6_usize, 1..12_u64).prop_map(
        |(key_running, key_waiting, running, waiting, timeout)| Limits {
            key_running,
            key_waiting,
            running,
            waiting,
            timeout: s(timeout),
        },
    )
}

proptest! {
    #[test]
    fn agrees_with_the_model(limits in limits(), events in prop::collection::vec(event(), 0..150)) {
        let (mut admission, mut model, mut now) = (Admission::new(limits), Model::default(), s(0));
        for event in events {
            match event {
                Event::Request(key, deadline) => {
                    let deadline = deadline.map(|d| now + s(d));
                    let of_key = model.waiting.iter().filter(|w| w.1 == key).count();
                    match admission.request(&key, now, deadline) {
                        Verdict::Run => {
                            prop_assert!(model.has_room(&limits, key) && of_key == 0);
                            model.running.push(key);
                        }
                        Verdict::Wait(ticket) => {
                            prop_assert!(!model.has_room(&limits, key) || of_key > 0);
                            prop_assert!(of_key < limits.key_waiting && model.waiting.len() < limits.waiting);
                            let until = deadline.unwrap_or(Time::MAX).min(now + limits.timeout);
                            model.waiting.push((ticket, key, until));
                        }
                        Verdict::Reject { reason, .. } => {
                            let rightly = match reason {
                                Rejection::TooLate => deadline.is_some_and(|d| d <= now),
                                Rejection::KeyQueueFull => of_key >= limits.key_waiting,
                                Rejection::QueueFull => model.waiting.len() >= limits.waiting,
                            };
                            prop_assert!(rightly, "{:?}", reason);
                        }
                    }
                }
                Event::Finish(n) if !model.running.is_empty() => {
                    let key = model.running.remove(n % model.running.len());
                    prop_assert_eq!(admission.finish(&key, now), model.expire(&limits, now));
                }
                Event::Cancel(n) if !model.waiting.is_empty() => {
                    let (ticket, _, _) = model.waiting.remove(n % model.waiting.len());
                    prop_assert!(admission.cancel(ticket));
                }
                Event::Pass(seconds) => {
                    now += s(seconds);
                    prop_assert_eq!(admission.expire(now), model.expire(&limits, now));
                }
                Event::Finish(_) | Event::Cancel(_) => {}
            }
            prop_assert_eq!(admission.running(), model.running.len());
            prop_assert_eq!(admission.waiting(), model.waiting.len());
            prop_assert_eq!(admission.next_deadline(), model.waiting.iter().map(|w| w.2).min());
        }
    }
}
