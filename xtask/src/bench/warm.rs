//! `bench warm`: a warm call through the worker and through lard, against a bare hyper server.
//!
//! The client has a CPU of its own, and all that it calls shares the others, as with a client on another machine. Left to the
//! scheduler, client and hyper end up on one CPU in some rounds and not in others, which changes the anchor by a factor of six.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use serde_json::json;

use super::Bench;
use super::anchor::HyperHello;
use super::machine::{self, Side};
use super::report::{Bound, Report};
use super::subject::{Subject, calls, request, throughput};

const CALLS: u32 = 2000;
const CONNECTIONS: usize = 16;
const CALLS_EACH: u32 = 1000;

/// Measures.
pub fn run(bench: &Bench) -> Result<Report> {
    machine::run_on(Side::Servers)?;
    let hyper = HyperHello::start(bench)?;
    let subject = Subject::start(bench, "bench-warm", &json!({"response_details": false}), 1)?;
    let balancer = subject.load_balancer()?;
    let sides: [(SocketAddr, &'static str, &'static str); 3] = [
        (hyper.address, "hyper hello, 1 connection", "hyper hello, 16 connections"),
        (subject.worker, "worker, 1 connection", "worker, 16 connections"),
        (balancer, "through lard, 1 connection", "through lard, 16 connections"),
    ];
    machine::run_on(Side::Client)?;
    let request = request(0);
    let many = vec![request.clone(); CONNECTIONS];
    let mut report = Report::new("warm");
    for round in 1..=bench.rounds {
        eprintln!("round {round} of {}", bench.rounds);
        for (address, one, _) in sides {
            report.add(one, "us", calls(address, &request, CALLS, Duration::ZERO)?);
        }
        for (address, _, sixteen) in sides {
            report.add(sixteen, "/s", vec![throughput(address, &many, CALLS_EACH, false)?]);
        }
    }
    let [(_, hyper_one, hyper_many), (_, worker_one, worker_many), (_, lard_one, lard_many)] = sides;
    report.ratio(worker_one, hyper_one, Bound::AtMost(1.8));
    report.ratio(lard_one, hyper_one, Bound::AtMost(3.0));
    report.ratio(worker_many, hyper_many, Bound::None);
    report.ratio(lard_many, hyper_many, Bound::None);
    report.note("The client has one CPU; hyper, lard, worker and sandbox share the others.".into());
    Ok(report)
}
