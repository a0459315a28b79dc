//! Hand-worked cases, and a model: a plain list, least recently used first.

use proptest::prelude::*;

use super::*;

fn ms(milliseconds: u64) -> Time {
    Time::from_millis(milliseconds)
}

fn filled() -> Instances<&'static str> {
    let mut instances = Instances::new(100);
    for (id, handler, at) in [(1, "f", 0), (2, "g", 10), (3, "f", 20), (4, "f", 30)] {
        assert_eq!(instances.insert(id, &handler, 25, ms(at)), []);
    }
    instances
}

#[test]
fn the_most_recently_used_serves_next() {
    let mut instances = filled();
    let order: Vec<_> = std::iter::from_fn(|| instances.take(&"f")).map(|t| t.id).collect();
    assert_eq!(order, [4, 3, 1]);
    assert_eq!((instances.len(), instances.bytes()), (1, 25));
}

#[test]
fn the_awake_serve_before_the_paused() {
    let mut instances = filled();
    assert_eq!(instances.pause(ms(120), ms(100)), [1, 2, 3]);
    assert_eq!(instances.pause(ms(120), ms(100)), []);
    assert_eq!(instances.paused(), 3);
    assert_eq!(instances.take(&"f"), Some(Taken { id: 4, paused: false }));
    assert_eq!(instances.take(&"f"), Some(Taken { id: 3, paused: true }));
    assert_eq!(instances.insert(3, &"f", 25, ms(130)), []);
    assert_eq!(instances.take(&"f"), Some(Taken { id: 3, paused: false }));
}

#[test]
fn over_the_budget_the_least_recently_used_go() {
    let mut instances = filled();
    assert_eq!(instances.insert(5, &"h", 30, ms(40)), [1, 2]);
    assert_eq!(instances.bytes(), 80);
    // 60 + 25 + 30 is over the budget, and 3 itself is the least recently used.
    assert_eq!(instances.resize(3, 60), [3]);
    assert_eq!(instances.resize(5, 90), [4]);
}

#[test]
fn one_that_alone_is_too_big_costs_no_other() {
    let mut instances = filled();
    assert_eq!(instances.insert(5, &"h", 101, ms(40)), [5]);
    assert_eq!(instances.resize(2, 101), [2]);
    assert_eq!(instances.len(), 3);
}

#[test]
fn without_a_budget_nothing_is_kept() {
    let mut instances = Instances::new(0);
    assert_eq!(instances.insert(1, &"f", 0, ms(0)), [1]);
    assert_eq!(instances.take(&"f"), None);
}

#[test]
fn idle_ones_expire_and_the_next_due_is_known() {
    let mut instances = filled();
    assert_eq!(instances.next_due(ms(100), ms(500)), Some(ms(100)));
    instances.pause(ms(130), ms(100));
    assert_eq!(instances.next_due(ms(100), ms(500)), Some(ms(500)));
    assert_eq!(instances.expire(ms(510), ms(500)), [1, 2]);
    assert_eq!(instances.remove_handler(&"f"), [3, 4]);
    assert_eq!(instances.next_due(ms(100), ms(500)), None);
    assert!(instances.is_empty() && instances.handlers.is_empty() && instances.bytes() == 0);
}

#[derive(Clone, Debug)]
struct Row {
    id: u64,
    handler: u8,
    bytes: u64,
    since: Time,
    paused: bool,
}

#[derive(Default)]
struct Model(Vec<Row>);

impl Model {
    fn shrink(&mut self, budget: u64) -> Vec<u64> {
        let mut victims = Vec::new();
        while self.0.iter().map(|r| r.bytes).sum::<u64>() > budget {
            victims.push(self.0.remove(0).id);
        }
        victims
    }

    fn insert(&mut self, row: Row, budget: u64) -> Vec<u64> {
        self.0.retain(|r| r.id != row.id);
        if row.bytes > budget || budget == 0 {
            return vec![row.id];
        }
        self.0.push(row);
        self.shrink(budget)
    }

    fn take(&mut self, handler: u8) -> Option<Taken> {
        let of = |paused| move |r: &Row| r.handler == handler && r.paused == paused;
        let place = self.0.iter().rposition(of(false)).or_else(|| self.0.iter().rposition(of(true)))?;
        let row = self.0.remove(place);
        Some(Taken { id: row.id, paused: row.paused })
    }

    fn resize(&mut self, id: u64, bytes: u64, budget: u64) -> Vec<u64> {
        let Some(place) = self.0.iter().position(|r| r.id == id) else { return Vec::new() };
        self.0[place].bytes = bytes;
        if bytes > budget {
            self.0.remove(place);
            return vec![id];
        }
        self.shrink(budget)
    }

    fn pause(&mut self, due: impl Fn(&Row) -> bool) -> Vec<u64> {
        let mut ids = Vec::new();
        for row in self.0.iter_mut().filter(|r| !r.paused && due(r)) {
            row.paused = true;
            ids.push(row.id);
        }
        ids
    }

    fn expire(&mut self, due: impl Fn(&Row) -> bool) -> Vec<u64> {
        let ids = self.0.iter().filter(|r| due(r)).map(|r| r.id).collect();
        self.0.retain(|r| !due(r));
        ids
    }
}

#[test]
fn a_floor_is_given_up_last() {
    let mut instances = Instances::new(30);
    instances.set_floor(&"kept", 1);
    assert!(instances.insert(1, &"kept", 10, ms(0)).is_empty());
    assert!(instances.insert(2, &"kept", 10, ms(1)).is_empty());
    assert!(instances.is_above_floor(1) && instances.of_handler(&"kept") == 2);
    assert!(instances.insert(3, &"other", 10, ms(2)).is_empty());
    assert_eq!(instances.pop_victim(), Some(1));
    assert_eq!(instances.pop_victim(), Some(3), "the last of a floor is older, and stays");
    assert!(!instances.is_above_floor(2));
    assert_eq!(instances.pop_victim(), Some(2));
    assert_eq!(instances.pop_victim(), None);
    instances.set_floor(&"kept", 0);
    assert!(instances.insert(4, &"kept", 10, ms(3)).is_empty());
    assert!(instances.is_above_floor(4));
}

#[derive(Clone, Debug)]
enum Event {
    Insert(u64, u8, u64),
    Take(u8),
    Remove(u64),
    Resize(u64, u64),
    Pause(u64),
    Expire(u64),
    Pass(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        5 => (0..12_u64, 0..4_u8, 0..60_u64).prop_map(|(id, handler, bytes)| Event::Insert(id, handler, bytes)),
        3 => (0..4_u8).prop_map(Event::Take),
        1 => (0..12_u64).prop_map(Event::Remove),
        1 => (0..12_u64, 0..60_u64).prop_map(|(id, bytes)| Event::Resize(id, bytes)),
        2 => (0..40_u64).prop_map(Event::Pause),
        1 => (0..80_u64).prop_map(Event::Expire),
        3 => (0..20_u64).prop_map(Event::Pass),
    ]
}

proptest! {
    #[test]
    fn agrees_with_the_model(budget in 0..150_u64, events in prop::collection::vec(event(), 0..200)) {
        let (mut instances, mut model, mut now) = (Instances::new(budget), Model::default(), ms(0));
        for event in events {
            match event {
                Event::Insert(id, handler, bytes) => prop_assert_eq!(
                    instances.insert(id, &handler, bytes, now),
                    model.insert(Row { id, handler, bytes, since: now, paused: false }, budget)
                ),
                Event::Take(handler) => prop_assert_eq!(instances.take(&handler), model.take(handler)),
                Event::Remove(id) => {
                    prop_assert_eq!(instances.remove(id), model.0.iter().any(|r| r.id == id));
                    model.0.retain(|r| r.id != id);
                }
                Event::Resize(id, bytes) => {
                    prop_assert_eq!(instances.resize(id, bytes), model.resize(id, bytes, budget));
                }
                Event::Pause(after) => {
                    let paused = instances.pause(now, ms(after));
                    prop_assert_eq!(paused, model.pause(|r| r.since + ms(after) <= now));
                }
                Event::Expire(after) => {
                    prop_assert_eq!(instances.expire(now, ms(after)), model.expire(|r| r.since + ms(after) <= now));
                }
                Event::Pass(milliseconds) => now += ms(milliseconds),
            }
            prop_assert!(instances.bytes() <= budget);
            prop_assert_eq!(instances.bytes(), model.0.iter().map(|r| r.bytes).sum::<u64>());
            prop_assert_eq!((instances.len(), instances.oldest()), (model.0.len(), model.0.first().map(|r| r.id)));
        }
    }
}
