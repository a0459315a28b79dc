//! What holds of every policy, whatever happens.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::fleet::Fitness;
use super::*;

#[derive(Clone, Debug)]
enum Event {
    Rank(u8),
    Begin(u32),
    Finish(u32),
    Fail(u32),
    Observe(u32, f64, u32),
    Servers(u32),
    Pass(u64),
    Switch(usize),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => any::<u8>().prop_map(Event::Rank),
        3 => (0..6_u32).prop_map(Event::Begin),
        2 => (0..6_u32).prop_map(Event::Finish),
        1 => (0..6_u32).prop_map(Event::Fail),
        1 => (0..6_u32, 0.0..1.0, 0..50_u32).prop_map(|(s, cpu, n)| Event::Observe(s, cpu, n)),
        1 => (0..PolicyKind::ALL.len()).prop_map(Event::Switch),
        1 => (0..6_u32).prop_map(Event::Servers),
        1 => (0..5000_u64).prop_map(Event::Pass),
    ]
}

/// What must be true, kept beside the policy.
struct Model {
    policy: Box<dyn Balance>,
    settings: Settings,
    now: Time,
    servers: u32,
    calls: HashMap<u32, u32>,
}

impl Model {
    fn apply(&mut self, event: &Event) -> Result<(), TestCaseError> {
        match *event {
            Event::Rank(key) => self.rank(key)?,
            Event::Begin(server) => {
                self.policy.begin(ServerId(server));
                self.calls.entry(server).and_modify(|calls| *calls += 1);
            }
            Event::Finish(server) => {
                self.policy.finish(ServerId(server));
                self.calls.entry(server).and_modify(|calls| *calls = calls.saturating_sub(1));
            }
            Event::Fail(server) => self.policy.failed(ServerId(server), self.now),
            Event::Observe(server, cpu, inflight) => {
                let ms = Time::from_millis;
                let zygotes = Some([Zygote { set: inflight.into(), import: ms(cpu as u64) }].into());
                let costs = Costs {
                    slots: inflight,
                    call: Some(ms(20)),
                    fork: Some(ms(3)),
                    import: Some(ms(150)),
                    kept: Some(1.0),
                };
                let costs = (inflight % 2 == 0).then_some(costs);
                let report = Report { cpu, memory: 0.5, inflight, costs, zygotes };
                self.policy.observe(ServerId(server), Some(report), self.now);
            }
            Event::Servers(n) => {
                self.servers = n;
                self.calls = (0..n).map(|id| (id, self.calls.get(&id).copied().unwrap_or(0))).collect();
                self.policy.set_servers(servers(n, (n % 2 == 0).then_some(3)), self.now);
            }
            Event::Pass(milliseconds) => self.now += Time::from_millis(milliseconds),
            Event::Switch(kind) => {
                let known = std::mem::take(self.policy.known_mut());
                self.policy = PolicyKind::ALL[kind].build(self.settings, known, 3);
            }
        }
        for state in self.policy.fleet().states() {
            prop_assert_eq!(Some(&state.connections), self.calls.get(&state.server.id.0));
        }
        Ok(())
    }

    /// A ranking has each server once, those set aside after all others; a kept key is where it has been.
    fn rank(&mut self, key: u8) -> Result<(), TestCaseError> {
        let (name, packages) = (key.to_string(), (key % 3 != 1).then_some(u64::from(key % 7)));
        let key = Key { handler: &name, packages };
        let homes = self.homes(&key);
        let ranking = self.policy.rank(&key, self.now);
        let mut ids: Vec<u32> = ranking.candidates.iter().map(|id| id.0).collect();
        ids.sort_unstable();
        prop_assert_eq!(ids, (0..self.servers).collect::<Vec<_>>());
        let Some(first) = ranking.candidates.first() else { return Ok(()) };
        let aside = |id: &ServerId| {
            let state = self.policy.fleet().get(*id);
            state.is_some_and(|state| state.fitness(self.now) == Fitness::SetAside)
        };
        if aside(first) && ranking.choice != Choice::Kept {
            let kind = self.policy.kind();
            prop_assert!(ranking.candidates.iter().all(aside), "{kind:?} puts one set aside first");
        }
        if ranking.choice == Choice::Kept {
            let kind = self.policy.kind();
            prop_assert!(homes.contains(first), "{kind:?} keeps a key at {first:?}, not one of {homes:?}");
        }
        Ok(())
    }

    /// The servers that the policy says are the key's.
    fn homes(&self, key: &Key<'_>) -> Vec<ServerId> {
        let label = match self.policy.kind() {
            PolicyKind::CostAware => Label::Handler(key.handler.into()),
            _ => key.label(),
        };
        let mut all = self.policy.assignments().into_iter();
        all.find(|(one, _)| *one == label).map(|(_, servers)| servers).unwrap_or_default()
    }
}

proptest! {
    #[test]
    fn of_every_policy(events in prop::collection::vec(event(), 0..200), formula in 0..LoadFormula::ALL.len()) {
        for kind in PolicyKind::ALL {
            let settings = Settings { formula: LoadFormula::ALL[formula], ..Settings::default() };
            let policy = kind.build(settings, Known::default(), 1);
            let mut model = Model { policy, settings, now: NOW, servers: 0, calls: HashMap::new() };
            events.iter().try_for_each(|event| model.apply(event))?;
        }
    }
}
