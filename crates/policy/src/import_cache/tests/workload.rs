//! How much is saved when popularity rotates: a simulated node, with simulated time.

use std::collections::BTreeSet;

use super::super::*;
use super::rig::MIB;
use crate::hash::Random;

const HANDLERS: usize = 200;
const PACKAGES: u32 = 100;
/// Starts until other handlers are popular.
const ROTATION: usize = 2000;
const STARTS: usize = 4 * ROTATION;
/// Between two starts.
const PAUSE: Time = Time::from_millis(50);

struct World {
    random: Random,
    costs: Vec<Cost>,
    wishes: Vec<Wish>,
    /// Cumulated popularity by rank (Zipf).
    popularity: Vec<f64>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let costs = (0..PACKAGES).map(|_| Cost {
            micros: (2_000.0 + random.exponential(60_000.0)) as u64,
            bytes: MIB / 2 + (random.exponential(8.0 * MIB as f64)) as u64,
        });
        let costs = costs.collect();
        // A package needs some of those before it, most often one of the first few: numpy, say.
        let mut closures: Vec<BTreeSet<u32>> = Vec::new();
        for package in 0..PACKAGES {
            let mut closure = BTreeSet::from([package]);
            for _ in 0..random.below(3).min(package as usize) {
                let near = random.unit() * random.unit() * random.unit();
                closure.extend(&closures[(near * f64::from(package)) as usize]);
            }
            closures.push(closure);
        }
        let wishes = (0..HANDLERS).map(|_| Self::wish(&mut random, &closures)).collect();
        let mut sum = 0.0;
        let popularity = (1..=HANDLERS).map(|rank| {
            sum += 1.0 / rank as f64;
            sum
        });
        let popularity = popularity.collect();
        Self { random, costs, wishes, popularity }
    }

    fn wish(random: &mut Random, closures: &[BTreeSet<u32>]) -> Wish {
        let mut draw = |most: usize| {
            let n = random.below(most + 1);
            (0..n).flat_map(|_| closures[random.below(closures.len())].clone()).collect::<BTreeSet<u32>>()
        };
        let imports = draw(2);
        let imports = if imports.is_empty() { draw(1) } else { imports };
        let more = draw(2);
        Wish::new(imports.iter().copied().chain(more), imports.iter().copied(), [], [])
    }

    fn draw(&mut self, start: usize) -> Wish {
        let value = self.random.unit() * self.popularity[HANDLERS - 1];
        let rank = self.popularity.partition_point(|bound| *bound < value);
        // 73 has no factor in common with 200: with each rotation others lead.
        self.wishes[(rank + start / ROTATION * 73) % HANDLERS].clone()
    }

    fn micros<'a>(&self, packages: impl IntoIterator<Item = &'a PackageId>) -> u64 {
        packages.into_iter().map(|package| self.costs[*package as usize].micros).sum()
    }

    fn report(&self, packages: &[PackageId]) -> Ready {
        let costs: Vec<_> =
            packages.iter().map(|package| (*package, self.costs[*package as usize])).collect();
        let bytes = costs.iter().map(|(_, cost)| cost.bytes).sum();
        Ready { costs, bytes, ..Ready::default() }
    }
}

#[derive(Debug, Default)]
struct Outcome {
    /// Import time with the cache and without, of each start.
    paid: Vec<(u64, u64)>,
    created: usize,
    most_bytes: u64,
}

impl Outcome {
    fn share(&self, starts: std::ops::Range<usize>) -> f64 {
        let (paid, off) = self.paid[starts].iter().fold((0, 0), |(a, b), (x, y)| (a + x, b + y));
        paid as f64 / off.max(1) as f64
    }
}

fn run(seed: u64, settings: Settings) -> Outcome {
    let mut world = World::new(seed);
    let mut cache = ImportCache::new(settings);
    let mut outcome = Outcome::default();
    let mut creating: Vec<(Time, NodeId, Vec<PackageId>)> = Vec::new();
    for start in 0..STARTS {
        let now = PAUSE * start as u32;
        let (done, rest) = creating.into_iter().partition(|(at, ..)| *at <= now);
        creating = rest;
        for (_, node, packages) in done {
            cache.ready(node, world.report(&packages), now);
        }
        let wish = world.draw(start);
        let best = cache.best(&wish);
        let held = cache.view().into_iter().find(|node| node.id == best).unwrap().packages;
        let left = wish.imports().iter().filter(|package| !held.contains(package));
        outcome.paid.push((world.micros(left), world.micros(wish.imports())));
        cache.started(&wish, now);
        cache.forked(best, now);
        let plan = if start % 4 == 0 { cache.plan(now) } else { Vec::new() };
        for action in plan {
            if let Action::Create { node, packages, .. } = action {
                outcome.created += 1;
                creating.push((now + Time::from_micros(world.micros(&packages)), node, packages));
            }
        }
        outcome.most_bytes = outcome.most_bytes.max(cache.bytes());
    }
    outcome
}

/// What all packages take together, each once.
fn all(seed: u64) -> u64 {
    World::new(seed).costs.iter().map(|cost| cost.bytes).sum()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[test]
fn explore() {
    for part in [0.25, 0.5] {
        for (hl, margin, grace) in [
            (60, 1.5, 10),
            (30, 1.5, 10),
            (15, 1.5, 10),
            (60, 1.2, 10),
            (30, 1.2, 10),
            (60, 1.5, 2),
            (30, 1.5, 2),
            (60, 1.0, 0),
            (120, 1.5, 10),
        ] {
            let mut shares = vec![];
            let mut created = 0;
            for seed in 0..6 {
                let budget = (all(seed) as f64 * part) as u64;
                let o = run(
                    seed,
                    Settings {
                        budget,
                        half_life: Time::from_secs(hl),
                        margin,
                        grace: Time::from_secs(grace),
                        ..Settings::default()
                    },
                );
                shares.push(o.share(0..STARTS));
                created += o.created;
            }
            println!(
                "{part} hl {hl} margin {margin} grace {grace}: median {:.3} mean {:.3} created {created}",
                median(shares.clone()),
                shares.iter().sum::<f64>() / 6.0
            );
        }
    }
}
