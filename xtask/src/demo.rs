//! `cargo xtask demo`: from a checkout to an answered call, and what to try next.

use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::json;

use crate::build::{Profile, build};
use crate::cluster::LocalCluster;
use crate::http::{self, Connection, Request, Response};
use crate::workspace::Workspace;
use crate::{ports, setup};

const WORKERS: u16 = 2;
const EVENT: &str = r#"{"name": "Alice"}"#;
const ANSWER: &str = "\"Hello, Alice!\"";
const PATH: &str = "/runLambda/hello";

/// Arguments of `cargo xtask demo`.
#[derive(clap::Args)]
pub struct Args {
    /// Leave the cluster running
    #[arg(long)]
    keep: bool,
}

/// `cargo xtask demo`.
pub fn run(args: &Args) -> Result<()> {
    setup::require_root("the demo")?;
    setup::run()?;
    let workspace = Workspace::find()?;
    let built = build(&workspace, Profile::Release)?;
    let cluster = LocalCluster::new(&built, "demo")?;
    println!("cluster directory: {}", cluster.directory().display());
    cluster.configure(&json!({"response_details": true}))?;
    let port = ports::free(8080, WORKERS)?;
    let workers = cluster.workers(WORKERS, port)?;
    let balancer = cluster.load_balancer(ports::free(7079, 1)?)?;
    let hello = workspace.path("quickstart/handlers/hello");
    cluster.deploy(&hello, "hello")?;
    println!(
        "workers: {}   lard: {balancer}",
        workers.iter().map(|w| w.to_string()).collect::<Vec<_>>().join(" ")
    );

    let mut connection = Connection::open(balancer)?;
    show("the first call", &call(&mut connection)?);
    show("the same again", &call(&mut connection)?);
    next_steps(&cluster, &hello, balancer.port(), port, args.keep);
    if args.keep {
        cluster.keep();
    }
    Ok(())
}

fn call(connection: &mut Connection) -> Result<Response> {
    let response = connection.call(&Request::post(PATH, EVENT)).context("cannot call hello through lard")?;
    if response.status != 200 || response.text().trim_end() != ANSWER {
        bail!("hello answered {} {}, not 200 {ANSWER}", response.status, response.text());
    }
    Ok(response)
}

fn show(which: &str, response: &Response) {
    println!("\n{which}: POST {PATH} {EVENT}");
    println!("{}", response.text().trim_end());
    let start = response.header(http::START_KIND).unwrap_or("not told");
    println!("  started: {start}");
    for (phase, time) in phases(response.header(http::SERVER_TIMING).unwrap_or_default()) {
        println!("  {phase:<10} {time:>9} ms");
    }
}

/// Name and milliseconds of each part of a `Server-Timing` header.
fn phases(header: &str) -> Vec<(String, String)> {
    header
        .split(',')
        .filter_map(|part| {
            let mut fields = part.split(';').map(str::trim);
            let name = fields.next().filter(|name| !name.is_empty())?;
            let time = fields.find_map(|field| field.strip_prefix("dur="))?;
            Some((name.to_owned(), time.to_owned()))
        })
        .collect()
}

fn next_steps(cluster: &LocalCluster, hello: &Path, balancer: u16, worker: u16, kept: bool) {
    println!();
    if !kept {
        println!("The cluster ends now. To leave it running and try things: cargo xtask demo --keep");
        return;
    }
    let registry = cluster.directory().join("registry");
    println!("The cluster runs on. Try:");
    println!("  curl -X POST localhost:{balancer}{PATH} -d '{EVENT}'          # through lard");
    println!("  curl -i -X POST localhost:{worker}{PATH} -d '{EVENT}'       # a worker, with headers");
    println!("  $EDITOR {}/hello/lambda_func.py    # then call again", registry.display());
    println!("  cp -r {} {}/mine    # then call /runLambda/mine", hello.display(), registry.display());
    println!("  curl localhost:{}/metrics", worker + 1000);
    println!("  {}", cluster.command_line("status"));
    println!("  {}    # ends it", cluster.command_line("kill"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_timing_is_taken_apart() {
        let got = phases("queue;dur=0.01, fork;desc=\"a fork\";dur=0.52, cached");
        let want = [("queue", "0.01"), ("fork", "0.52")].map(|(n, t)| (n.to_owned(), t.to_owned()));
        assert_eq!(got, want);
        assert!(phases("").is_empty());
    }
}
