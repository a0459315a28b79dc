//! A client that calls at a steady rate, whatever becomes of the calls before: each of its connections has moments of its own when
//! it calls; what it is late for, because a call before is not answered yet, is left out and counted.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

use crate::http::{Connection, Request};

/// What is called, and how often.
pub struct Pace<F> {
    /// Where.
    pub address: SocketAddr,
    /// Connections, a thread each.
    pub connections: u32,
    /// Calls per second over all of them.
    pub rate: f64,
    /// For how long.
    pub span: Duration,
    /// The call with this number; no two have the same.
    pub request: F,
}

/// A call.
pub struct Made {
    /// Its number.
    pub number: u64,
    /// When it was sent.
    pub sent: Instant,
    /// Until its answer was read, or its connection broke.
    pub took: Duration,
    /// The status; 0 if there was no answer.
    pub status: u16,
    /// Whether it is told when to come back.
    pub retry_after: bool,
}

impl<F: Fn(u64) -> Request + Sync> Pace<F> {
    /// Makes the calls; gives them with how many were left out.
    pub fn run(&self) -> Result<(Vec<Made>, u64)> {
        let begin = Instant::now();
        thread::scope(|scope| {
            let clients: Vec<_> =
                (0..self.connections).map(|place| scope.spawn(move || self.client(begin, place))).collect();
            let (mut made, mut late) = (Vec::new(), 0);
            for client in clients {
                let (more, left_out) = client.join().map_err(|_| anyhow!("a client panicked"))??;
                made.extend(more);
                late += left_out;
            }
            Ok((made, late))
        })
    }

    fn client(&self, begin: Instant, place: u32) -> Result<(Vec<Made>, u64)> {
        let (mut made, mut late) = (Vec::new(), 0);
        let mut connection = Some(Connection::open(self.address)?);
        let count = (self.rate * self.span.as_secs_f64()) as u64;
        for number in (u64::from(place)..count).step_by(self.connections as usize) {
            let due = begin + Duration::from_secs_f64(number as f64 / self.rate);
            let period = f64::from(self.connections) / self.rate;
            match due.checked_duration_since(Instant::now()) {
                Some(early) => thread::sleep(early),
                None if due.elapsed().as_secs_f64() > period => {
                    late += 1;
                    continue;
                }
                None => {}
            }
            let mut open = match connection.take() {
                Some(open) => open,
                None => Connection::open(self.address)?,
            };
            let request = (self.request)(number);
            let sent = Instant::now();
            let response = open.call(&request);
            let took = sent.elapsed();
            let (status, retry_after) = match &response {
                Ok(response) => (response.status, response.header("retry-after").is_some()),
                Err(_) => (0, false),
            };
            let closes = response.ok().is_none_or(|response| response.header("connection") == Some("close"));
            connection = Some(open).filter(|_| !closes);
            made.push(Made { number, sent, took, status, retry_after });
        }
        Ok((made, late))
    }
}
