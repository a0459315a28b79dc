//! Has every worker of a cluster look at the registry, and says what each said.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use openlambda_api::HandlerName;
use openlambda_api::look::{self, Said, Wanted};
use openlambda_config::{ClusterDir, Process};

use crate::process::{self, State};
use crate::{ping, status};

/// A worker may take so long to fetch, install and try: it has limits of its own for each, and says so sooner.
const ANSWER_WITHIN: Duration = Duration::from_secs(660);

/// Asks all that run, at once. Code 1 if one of them has not what it should have.
pub fn run(
    cluster: &ClusterDir,
    handler: &HandlerName,
    wanted: Wanted<'_>,
    out: &mut dyn Write,
) -> Result<ExitCode> {
    let mut running = Vec::new();
    for process in cluster.started()? {
        if matches!(process, Process::Worker(_)) && matches!(process::find(cluster, process)?, State::Runs(_))
        {
            running.push(process);
        }
    }
    if running.is_empty() {
        let shown = cluster.root().display();
        let _ =
            writeln!(out, "no worker runs: it serves when one is started (admin workers --cluster {shown})");
        return Ok(ExitCode::SUCCESS);
    }
    let bar = progress(running.len());
    let (tell, told) = mpsc::channel();
    let mut well = true;
    std::thread::scope(|scope| {
        for process in &running {
            let tell = tell.clone();
            scope.spawn(move || {
                // Whoever listens does so until all have told.
                let _ = tell.send((*process, ask(cluster, *process, handler, wanted)));
            });
        }
        drop(tell);
        for (process, said) in told {
            well &= said.is_well();
            bar.suspend(|| drop(writeln!(out, "{process}: {}", said.text())));
            bar.inc(1);
        }
    });
    bar.finish_and_clear();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Shown on a terminal only.
fn progress(workers: usize) -> ProgressBar {
    if !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new(workers as u64);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos} of {len} workers") {
        bar.set_style(style);
    }
    bar
}

fn ask(cluster: &ClusterDir, process: Process, handler: &HandlerName, wanted: Wanted<'_>) -> Said {
    let Some(base) = status::admin_url(cluster, process) else {
        return Said::Badly(format!("{} cannot be read", cluster.config(process).display()));
    };
    let began = Instant::now();
    let answer = ping::post(&format!("{base}{}", look::path(handler)), ANSWER_WITHIN);
    let log = cluster.log(process);
    match answer {
        Ok(answer) => look::said(answer.status, answer.body.as_bytes(), wanted, began.elapsed()),
        Err(error) => Said::Badly(format!("no answer: {error}; see {}", log.display())),
    }
}
