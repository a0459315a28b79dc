//! Calls in a closed loop, for live runs: what each was by its answer, and the simulator's figures of all of them.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, ensure};
use openlambda_policy::simulate::{Outcome, Start};

use crate::http::{Connection, Request, Response};

/// What a call was.
pub struct Made {
    ended: Instant,
    start: Start,
    /// Besides the time that its handler ran, in ms.
    waited: f64,
}

/// How calls look here: of a handler that runs so many ms, and what an answer says of its start.
pub struct Shape {
    /// The request.
    pub request: fn(u32, f64) -> Request,
    /// How the call started.
    pub start: fn(&Response) -> Result<Start>,
}

/// Keeps so many calls under way until all are made.
pub fn drive(
    lard: SocketAddr,
    under_way: usize,
    calls: impl Iterator<Item = (u32, f64)> + Send,
    shape: &Shape,
) -> Result<Vec<Made>> {
    let calls = Mutex::new(calls);
    let next = || calls.lock().unwrap_or_else(PoisonError::into_inner).next();
    let client = || {
        let (mut connection, mut made) = (Connection::open(lard)?, Vec::new());
        while let Some((function, exec)) = next() {
            let request = (shape.request)(function, exec);
            let begun = Instant::now();
            let response = connection.call(&request)?;
            let ended = Instant::now();
            let start = (shape.start)(&response)?;
            made.push(Made { ended, start, waited: (ended - begun).as_secs_f64() * 1000.0 - exec });
        }
        anyhow::Ok(made)
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..under_way).map(|_| scope.spawn(client)).collect();
        let mut made = Vec::new();
        for client in clients {
            made.extend(client.join().map_err(|_| anyhow!("a client panicked"))??);
        }
        Ok(made)
    })
}

/// The same figures as the simulator's, the first fifth left out.
pub fn outcome(mut made: Vec<Made>) -> Result<Outcome> {
    made.sort_by_key(|one| one.ended);
    ensure!(made.len() >= 5, "too few calls: {}", made.len());
    let counted = made.split_off(made.len() / 5);
    let since = made.last().map_or(counted[0].ended, |last| last.ended);
    let span = counted.last().map_or(Duration::ZERO, |last| last.ended - since);
    let count = counted.len() as f64;
    let share = |start| counted.iter().filter(|one| one.start == start).count() as f64 / count;
    let mut waits: Vec<f64> = counted.iter().map(|one| one.waited).collect();
    waits.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| waits[((waits.len() - 1) as f64 * q) as usize];
    Ok(Outcome {
        throughput: count / span.as_secs_f64(),
        hit_rate: share(Start::Warm),
        fork_rate: share(Start::Fork),
        start_mean_ms: waits.iter().sum::<f64>() / count,
        start_p50_ms: quantile(0.5),
        start_p99_ms: quantile(0.99),
        // What lard and the agents alone could tell.
        balance: f64::NAN,
        moves: 0,
    })
}

/// The mean of what calls with this start waited for, in ms; none if there was none.
pub fn mean_wait(made: &[Made], start: Start) -> Option<f64> {
    let waits: Vec<f64> = made.iter().filter(|one| one.start == start).map(|one| one.waited).collect();
    (!waits.is_empty()).then(|| waits.iter().sum::<f64>() / waits.len() as f64)
}
