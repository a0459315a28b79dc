//! Has every worker of a cluster look at the registry, and says what each said.

use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use openlambda_api::HandlerName;
use openlambda_config::{ClusterDir, Process};
use serde_json::Value;

use crate::process::{self, State};
use crate::{ping, status};

/// A worker may take so long to fetch, install and try: it has limits of its own for each, and says so sooner.
const ANSWER_WITHIN: Duration = Duration::from_secs(660);

/// What every worker is to have.
#[derive(Clone, Copy, Debug)]
pub enum Wanted<'a> {
    /// A bundle of this digest.
    Serves(&'a str),
    /// Nothing.
    Gone,
}

/// What a worker said.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Well(String),
    Badly(String),
}

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
            let line = match said {
                Said::Well(text) => format!("{process}: {text}"),
                Said::Badly(text) => {
                    well = false;
                    format!("{process}: {text}")
                }
            };
            bar.suspend(|| drop(writeln!(out, "{line}")));
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
    let answer = ping::post(&format!("{base}/registry/{}", handler.as_str()), ANSWER_WITHIN);
    let log = cluster.log(process);
    match answer {
        Ok(answer) => said(answer.status, &answer.body, wanted, began.elapsed()),
        Err(error) => Said::Badly(format!("no answer: {error}; see {}", log.display())),
    }
}

fn said(status: u16, body: &str, wanted: Wanted<'_>, took: Duration) -> Said {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    match (text("state"), wanted) {
        ("Ready", Wanted::Serves(digest)) if text("digest") == digest => {
            Said::Well(format!("serves it after {} ms", took.as_millis()))
        }
        ("Ready", _) => Said::Badly(format!(
            "serves revision {} ({}) instead: somebody else was faster, or it has another registry",
            answer["revision"],
            text("digest")
        )),
        ("Missing", Wanted::Gone) => Said::Well("has it no more".to_owned()),
        ("Missing", Wanted::Serves(_)) => Said::Badly(
            "finds no such handler: it has another registry; end it and start it again".to_owned(),
        ),
        ("Failed", _) => Said::Badly(format!("keeps what it had: {}: {}", text("reason"), text("message"))),
        _ => Said::Badly(format!(
            "takes its handlers from elsewhere than the registry (status {status}): admin kill, then admin workers"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_workers_say_is_told() {
        let took = Duration::from_millis(41);
        let told = |status, body, wanted| match said(status, body, wanted, took) {
            Said::Well(text) => format!("well: {text}"),
            Said::Badly(text) => format!("badly: {text}"),
        };
        let ready = r#"{"state": "Ready", "revision": 3, "digest": "sha256:a"}"#;
        assert_eq!(told(200, ready, Wanted::Serves("sha256:a")), "well: serves it after 41 ms");
        assert!(
            told(200, ready, Wanted::Serves("sha256:b")).starts_with("badly: serves revision 3 (sha256:a)")
        );
        let missing = r#"{"state": "Missing"}"#;
        assert_eq!(told(404, missing, Wanted::Gone), "well: has it no more");
        assert!(told(404, missing, Wanted::Serves("x")).starts_with("badly: finds no such handler"));
        let failed = r#"{"state": "Failed", "reason": "ImportFailed", "message": "line 3"}"#;
        assert_eq!(told(200, failed, Wanted::Gone), "badly: keeps what it had: ImportFailed: line 3");
        assert!(told(404, "", Wanted::Gone).contains("from elsewhere"));
    }
}
