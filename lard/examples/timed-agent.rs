//! An agent whose sandboxes are timed, for `cargo xtask bench lard --live` and `bench overload`. It prints the addresses of its
//! ports, for calls and for the admin, on one line.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the addresses are its only output")]

use clap::Parser;

#[path = "../tests/support/timed_agent.rs"]
mod timed_agent;

fn main() -> std::io::Result<()> {
    timed_agent::run(&timed_agent::Arguments::parse(), |addresses| {
        println!("{addresses}");
        Ok(())
    })
}
