use super::super::*;
use super::rig::{MIB, Rig};
use crate::hash::Random;
fn cpu() -> f64 {
    let s = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    s.split(' ').next().unwrap().parse::<f64>().unwrap() / 1e3
}
#[test]
fn bench() {
    for (per, of) in [(8usize, 100usize), (50, 100), (50, 400)] {
        let mut r = Random::new(3);
        let wishes: Vec<Wish> = (0..500)
            .map(|_| {
                let i: Vec<u32> = (0..per).map(|_| r.below(of) as u32).collect();
                Wish::new(i.clone(), i, 0..60, [])
            })
            .collect();
        let mut rig =
            Rig::new(Settings { budget: 200 * 10 * per as u64 * MIB / 2, at_once: 4, ..Settings::default() });
        for p in 0..of as u32 {
            rig.misses.insert(p, vec![1000 + p, 2000 + p]);
            rig.modules.insert(p, vec![3000 + p]);
        }
        let (mut plans, mut worst, mut n) = (0.0, 0.0_f64, 0);
        for round in 0..300 {
            let now = Time::from_millis(200 * round);
            for _ in 0..20 {
                rig.start(&wishes[r.below(500)], now);
            }
            let a = cpu();
            let actions = rig.cache.plan(now);
            let t = cpu() - a;
            plans += t;
            worst = worst.max(t);
            n += 1;
            rig.finish(&actions, now);
        }
        let a = cpu();
        let mut x = 0;
        for _ in 0..4 {
            for w in &wishes {
                x += rig.cache.best(w);
            }
        }
        let best = (cpu() - a) / 2000.0;
        let a = cpu();
        for w in &wishes {
            rig.cache.started(w, s(60));
        }
        let started = (cpu() - a) / 500.0;
        println!(
            "{per} of {of}: nodes {} plan mean {:.0} us worst {:.0} us best {best:.2} us started {started:.2} us {x}",
            rig.held().len(),
            plans / n as f64,
            worst
        );
    }
}
use super::rig::s;
