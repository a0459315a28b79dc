//! `admin invoke`: calls a handler, as any client would.

use std::fs::File;
use std::io::{self, Read, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use openlambda_config::{ClusterDir, Process};

use crate::args::Invoke;
use crate::process::{self, State};
use crate::{cluster, ping, status};

/// The longest event that is sent and answer that is read.
const LIMIT: u64 = 1 << 30;
/// A handler may take an hour at most.
const ANSWER_WITHIN: Duration = Duration::from_secs(3660);

pub fn run(args: &Invoke, out: &mut dyn Write) -> Result<ExitCode> {
    let cluster = cluster::open(&args.cluster)?;
    let event = event(args.data.as_deref())?;
    let url = format!("{}/run/{}", entrance(&cluster)?, args.handler.handler.as_str());
    let mut request = ping::agent(ANSWER_WITHIN).post(&url).header("content-type", "application/json");
    if let Some(id) = &args.request_id {
        request = request.header("x-request-id", id);
    }
    let began = Instant::now();
    let mut answer = request.send(&event).with_context(|| format!("no answer of {url}"))?;
    let body = answer.body_mut().with_config().limit(LIMIT).read_to_vec();
    let body = body.with_context(|| format!("the answer of {url} broke off"))?;
    let took = began.elapsed();
    out.write_all(&body).context("cannot write to standard output")?;
    if body.last().is_some_and(|last| *last != b'\n') {
        let _ = writeln!(out);
    }
    let status = answer.status();
    if args.timing || !status.is_success() {
        let header = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let mut line = format!("{status} in {:.1} ms", took.as_secs_f64() * 1000.0);
        for name in ["x-request-id", "x-start-kind", "server-timing"] {
            if let Some(value) = header(name) {
                line += &format!(", {name}: {value}");
            }
        }
        let _ = writeln!(io::stderr(), "{line}");
    }
    Ok(if status.as_u16() < 400 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Where calls go in: the balancer if it runs, else the first worker that does.
fn entrance(cluster: &ClusterDir) -> Result<String> {
    let mut started = cluster.started()?;
    started.retain(|process| *process != Process::Registry);
    for process in started {
        if matches!(process::find(cluster, process)?, State::Runs(_)) {
            return Ok(status::local_url(cluster, process)?);
        }
    }
    bail!("no worker runs: admin workers --cluster {}", cluster.root().display())
}

fn event(data: Option<&str>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match data {
        None => bytes.extend_from_slice(b"null"),
        Some("-") => {
            let read = io::stdin().lock().take(LIMIT).read_to_end(&mut bytes);
            read.context("cannot read standard input")?;
        }
        Some(text) => match text.strip_prefix('@') {
            Some(path) => {
                let file = File::open(path).with_context(|| format!("--data {text}: cannot read {path}"))?;
                file.take(LIMIT).read_to_end(&mut bytes).with_context(|| format!("cannot read {path}"))?;
            }
            None => bytes.extend_from_slice(text.as_bytes()),
        },
    }
    Ok(bytes)
}
