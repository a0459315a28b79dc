use proptest::prelude::*;

use super::*;

const NOW: Time = Time::ZERO;

fn ticket(verdict: Verdict) -> Ticket {
    let Verdict::Wait(ticket) = verdict else { panic!("it does not wait: {verdict:?}") };
    ticket
}

#[test]
fn what_fits_is_granted_and_the_rest_waits() {
    let mut memory = Memory::new(100, 2);
    assert_eq!(memory.request(&"a", 60, NOW), Verdict::Granted);
    assert_eq!(memory.request(&"a", 101, NOW), Verdict::TooLarge);
    let first = ticket(memory.request(&"a", 50, NOW));
    assert_eq!((memory.shortage(), memory.waiting()), (10, 1));
    // It would fit, but somebody waits.
    assert!(!memory.try_charge(40));
    let second = ticket(memory.request(&"b", 40, Time::from_secs(1)));
    assert_eq!(memory.request(&"b", 1, Time::from_secs(3)), Verdict::QueueFull(Time::from_secs(3)));
    assert_eq!(memory.release(10), [first]);
    assert_eq!(memory.release(50), [second]);
    assert_eq!((memory.charged(), memory.shortage(), memory.waiting()), (90, 0, 0));
}

#[test]
fn keys_take_turns() {
    let mut memory = Memory::new(10, 100);
    assert_eq!(memory.request(&"hot", 10, NOW), Verdict::Granted);
    let hot: Vec<_> = (0..3).map(|_| ticket(memory.request(&"hot", 10, NOW))).collect();
    let cold = ticket(memory.request(&"cold", 10, NOW));
    let order: Vec<_> = (0..4).flat_map(|_| memory.release(10)).collect();
    assert_eq!(order, [hot[0], cold, hot[1], hot[2]]);
}

#[test]
fn who_goes_away_holds_nobody_up() {
    let mut memory = Memory::new(10, 100);
    assert_eq!(memory.request(&"a", 6, NOW), Verdict::Granted);
    let large = ticket(memory.request(&"a", 10, NOW));
    let small = ticket(memory.request(&"b", 4, NOW));
    assert_eq!(memory.cancel(&"a", large), Some(vec![small]));
    assert_eq!(memory.cancel(&"b", small), None, "it was granted: its bytes are to be released");
    assert_eq!(memory.release(4), []);
    assert_eq!(memory.charged(), 6);
}

#[test]
fn what_is_there_is_charged_whether_it_fits_or_not() {
    let mut memory = Memory::<&str>::new(10, 1);
    memory.hold(15);
    assert_eq!((memory.charged(), memory.request(&"a", 1, NOW)), (15, Verdict::Wait(Ticket(0))));
    assert_eq!(memory.shortage(), 6);
    assert_eq!(memory.release(6), [Ticket(0)]);
}

proptest! {
    /// Whatever happens: nothing is granted that does not fit, nobody waits for nothing, order holds within a key, and what was granted
    /// and not released is what is charged.
    #[test]
    fn invariants(steps in prop::collection::vec((0_u8..4, 0_u64..120, 0_usize..8), 1..200)) {
        let mut memory = Memory::new(100, 16);
        let mut held: Vec<u64> = Vec::new();
        let mut waiting: Vec<(u64, Ticket, u64)> = Vec::new();
        for (what, bytes, pick) in steps {
            let key = bytes % 3;
            let granted = match what {
                0 | 1 => match memory.request(&key, bytes, NOW) {
                    Verdict::Granted => { held.push(bytes); vec![] }
                    Verdict::Wait(ticket) => { waiting.push((key, ticket, bytes)); vec![] }
                    Verdict::TooLarge => { prop_assert!(bytes > 100); vec![] }
                    Verdict::QueueFull(_) => { prop_assert_eq!(waiting.len(), 16); vec![] }
                },
                2 if !held.is_empty() => memory.release(held.remove(pick % held.len())),
                3 if !waiting.is_empty() => {
                    let (key, ticket, _) = waiting.remove(pick % waiting.len());
                    memory.cancel(&key, ticket).unwrap()
                }
                _ => vec![],
            };
            for ticket in granted {
                let place = waiting.iter().position(|(_, other, _)| *other == ticket).unwrap();
                let (key, _, bytes) = waiting.remove(place);
                prop_assert!(waiting[..place].iter().all(|(other, _, _)| *other != key), "overtaken");
                held.push(bytes);
            }
            prop_assert_eq!(memory.charged(), held.iter().sum::<u64>());
            prop_assert!(memory.charged() <= 100);
            prop_assert_eq!(memory.waiting(), waiting.len());
            prop_assert_eq!(memory.shortage() > 0, !waiting.is_empty());
        }
    }
}
