//! `admin logs`: the lines of the workers' logs that are about a handler or a request.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

use anyhow::Result;
use openlambda_config::{ClusterDir, Process};

use crate::args::Logs;
use crate::cluster;

/// Time between two looks at the files: people read it.
const LOOK_EVERY: Duration = Duration::from_millis(200);

pub fn run(args: &Logs, out: &mut dyn Write) -> Result<()> {
    let cluster = cluster::open(&args.cluster)?;
    let marks = marks(args);
    let mut tails: Vec<Tail> = Vec::new();
    loop {
        for process in cluster.configured_workers()? {
            if !tails.iter().any(|tail| tail.process == process)
                && let Ok(file) = File::open(cluster.log(process))
            {
                tails.push(Tail { process, file: BufReader::new(file), part: Vec::new() });
            }
        }
        for tail in &mut tails {
            if tail.copy(&cluster, &marks, out).is_err() {
                // The reader has closed the pipe.
                return Ok(());
            }
        }
        if !args.follow {
            return Ok(());
        }
        // There is nothing to wait for but that somebody writes.
        std::thread::sleep(LOOK_EVERY);
    }
}

/// What a line must have: of each, one of the two forms that logs may have.
fn marks(args: &Logs) -> Vec<[String; 2]> {
    let forms = |key: &str, value: &str| [format!("{key}=\"{value}\""), format!("\"{key}\":\"{value}\"")];
    let handler = args.handler.as_ref().map(|handler| forms("handler", handler.as_str()));
    let request = args.request_id.as_ref().map(|id| forms("request", id));
    handler.into_iter().chain(request).collect()
}

/// A log that is read on.
struct Tail {
    process: Process,
    file: BufReader<File>,
    /// A line whose end is not written yet.
    part: Vec<u8>,
}

impl Tail {
    fn copy(&mut self, cluster: &ClusterDir, marks: &[[String; 2]], out: &mut dyn Write) -> Result<()> {
        while self.file.read_until(b'\n', &mut self.part)? > 0 && self.part.ends_with(b"\n") {
            let line = String::from_utf8_lossy(&self.part);
            if marks.iter().all(|forms| forms.iter().any(|form| line.contains(form.as_str()))) {
                write!(out, "{} {line}", self.process)?;
            }
            self.part.clear();
        }
        out.flush()?;
        // Shorter than what was read: somebody has emptied it.
        let length = std::fs::metadata(cluster.log(self.process)).map_or(0, |data| data.len());
        if std::io::Seek::stream_position(&mut self.file)? > length {
            self.file = BufReader::new(File::open(cluster.log(self.process))?);
            self.part.clear();
        }
        Ok(())
    }
}
