//! The simulation itself: events in the order of their time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::Scenario;
use super::agent::{Agent, Job};
use super::outcome::{Outcome, Tally};
use super::workload::{Arrivals, Popularity};
use crate::Time;
use crate::balance::{Balance, Choice, Key, Known, Server, ServerId};
use crate::hash::Random;

/// The seed of each replica's own chance.
const REPLICA_SEED: u64 = 0x5eed;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives,
    /// A call (a place in the table of those under way) is over at an agent.
    Ends {
        agent: usize,
        job: usize,
    },
}

struct Simulation<'a> {
    scenario: &'a Scenario,
    random: Random,
    popularity: Popularity,
    names: Vec<String>,
    /// Whether the packages of each handler are known.
    known: Vec<bool>,
    agents: Vec<Agent>,
    lards: Vec<Box<dyn Balance>>,
    /// By time in ns; events of one moment in the order of their making.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    running: Vec<Option<Job>>,
    free: Vec<usize>,
    arrived: usize,
    tally: Tally,
    now: f64,
}

/// Runs a scenario.
pub fn run(scenario: &Scenario) -> Outcome {
    let mut simulation = Simulation::new(scenario);
    simulation.open();
    while let Some(Reverse((at, _, event))) = simulation.events.pop() {
        simulation.now = at as f64 / 1e6;
        match event {
            Event::Arrives => simulation.arrive(),
            Event::Ends { agent, job } => simulation.end(agent, job),
        }
    }
    simulation.tally.outcome(&simulation.agents, simulation.now)
}

impl<'a> Simulation<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let functions = match &scenario.arrivals {
            Arrivals::Trace(calls) => calls.iter().map(|c| c.function + 1).max().unwrap_or(0),
            _ => scenario.functions,
        };
        Self {
            scenario,
            random: Random::new(scenario.seed),
            popularity: Popularity::new(scenario.functions, scenario.zipf),
            names: (0..functions).map(|function| format!("f{function}")).collect(),
            known: vec![scenario.declared; functions as usize],
            agents: (0..scenario.agents).map(|_| Agent::new(scenario)).collect(),
            lards: (0..scenario.replicas as u64).map(|replica| lard(scenario, replica)).collect(),
            events: BinaryHeap::new(),
            made: 0,
            running: Vec::new(),
            free: Vec::new(),
            arrived: 0,
            tally: Tally::default(),
            now: 0.0,
        }
    }

    fn requests(&self) -> usize {
        match &self.scenario.arrivals {
            Arrivals::Trace(calls) => calls.len(),
            _ => self.scenario.requests,
        }
    }

    fn open(&mut self) {
        let first = match &self.scenario.arrivals {
            Arrivals::Closed => self.scenario.admitted(),
            _ => 1,
        };
        (0..first).for_each(|_| self.at(0.0, Event::Arrives));
    }

    fn at(&mut self, ms: f64, event: Event) {
        self.made += 1;
        self.events.push(Reverse(((ms * 1e6) as u64, self.made, event)));
    }

    fn arrive(&mut self) {
        if self.arrived >= self.requests() {
            return;
        }
        let number = self.arrived;
        self.arrived += 1;
        if number == self.requests() / 5 {
            self.tally = Tally::from(self.now);
            self.agents.iter_mut().for_each(|agent| agent.served = 0);
        }
        let ((function, exec), replica) = self.next(number);
        let packages = self.scenario.packages(function);
        let known = self.known[function as usize].then_some(packages);
        let key = Key { handler: &self.names[function as usize], packages: known };
        let lard = &mut self.lards[replica];
        let ranking = lard.rank(&key, time(self.now));
        self.tally.moves += u64::from(matches!(ranking.choice, Choice::Moved(_)));
        let server = ranking.candidates[0];
        lard.begin(server);
        let agent = server.0 as usize;
        self.agents[agent].enqueue(Job { function, packages, arrived: self.now, exec, tag: replica });
        self.serve(agent);
    }

    /// The next call, and the replica of lard that gets it.
    fn next(&mut self, number: usize) -> ((u32, f64), usize) {
        (self.draw(number), self.random.below(self.scenario.replicas))
    }

    /// The handler and the run time of a call; and when the one after it comes.
    fn draw(&mut self, number: usize) -> (u32, f64) {
        match &self.scenario.arrivals {
            Arrivals::Trace(calls) => {
                let call = calls[number];
                if let Some(next) = calls.get(number + 1) {
                    self.at(next.at_ms, Event::Arrives);
                }
                return (call.function, call.exec_ms);
            }
            Arrivals::Open(busy) => {
                let pause = self.random.exponential(self.scenario.pause_ms(*busy));
                self.at(self.now + pause, Event::Arrives);
            }
            Arrivals::Closed => {}
        }
        self.popularity.call(&mut self.random, self.scenario.exec_ms)
    }

    fn serve(&mut self, agent: usize) {
        let Some(started) = self.agents[agent].begin_next() else { return };
        let job = started.job;
        self.tally.started(started.start, self.now - job.arrived + started.cost);
        let place = self.free.pop().unwrap_or_else(|| {
            self.running.push(None);
            self.running.len() - 1
        });
        self.running[place] = Some(job);
        self.at(self.now + started.cost + job.exec, Event::Ends { agent, job: place });
    }

    fn end(&mut self, agent: usize, place: usize) {
        let Some(job) = self.running[place].take() else { return };
        self.free.push(place);
        self.agents[agent].finish(&job);
        self.tally.done += 1;
        self.known[job.function as usize] = true;
        let server = ServerId(agent as u32);
        let report = self.agents[agent].report();
        let lard = &mut self.lards[job.tag];
        lard.finish(server);
        lard.observe(server, Some(report), time(self.now));
        self.serve(agent);
        if self.scenario.arrivals == Arrivals::Closed {
            self.at(self.now, Event::Arrives);
        }
    }
}

fn lard(scenario: &Scenario, replica: u64) -> Box<dyn Balance> {
    // With the thresholds' defaults: T_high is 2.6 calls per slot.
    let max_conn = Some((f64::from(scenario.slots) * 6.5) as u32);
    let server = |id| Server { id: ServerId(id), name: format!("agent-{id}"), max_conn };
    let seed = scenario.seed ^ (REPLICA_SEED + replica);
    let mut lard = scenario.policy.build(scenario.settings, Known::default(), seed);
    lard.set_servers((0..scenario.agents).map(server).collect(), Time::ZERO);
    lard
}

fn time(ms: f64) -> Time {
    Duration::from_secs_f64(ms / 1000.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::PolicyKind;
    use crate::simulate::calls;

    #[test]
    fn a_driver_of_its_own_gets_the_calls_of_a_closed_loop() {
        let scenario = Scenario::new(PolicyKind::Lard, 2);
        let mut simulation = Simulation::new(&scenario);
        let drawn = (0..1000).map(|number| simulation.next(number).0);
        assert!(drawn.eq(calls(&scenario).take(1000)));
    }
}
